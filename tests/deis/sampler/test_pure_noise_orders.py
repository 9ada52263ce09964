"""Orders of convergence from T itself where s(T) = 0: flow matching and zero terminal SNR."""

from collections.abc import Callable
from functools import cache, partial

import numpy as np
import pytest
from reference import problem
from reference.loop import RUNGE_KUTTA
from reference.mixture import MIXTURE

import deis
from deis import SDE, Table, tables

SDES = {"flow": deis.flow(t_0=0.02), "vp_zero_snr": deis.vp_zero_snr(t_0=0.1)}
sdes = pytest.mark.parametrize("sde_name", SDES)


def nodes(sde: SDE, num_step: int) -> np.ndarray:
    return deis.timesteps(sde, num_step, "t", 1.0)


ORDERS: dict[str, tuple[Callable[..., Table], int]] = {
    **{f"rho_rk {name}": (partial(tables.rho_rk, rk_method=name), order) for name, (_, order) in RUNGE_KUTTA.items()},
    **{f"dpm_solver {k}": (partial(tables.dpm_solver, order=k), k) for k in (1, 2, 3)},
    **{name: (partial(tables.METHODS[name], denoise=False), 2) for name in ("edm_heun", "dpm_2")},
    **{name: (tables.METHODS[name], 1) for name in ("ddim", "euler")},
    **{f"t_ab {k}": (partial(tables.t_ab, order=k), 2) for k in (1, 2, 3)},
    **{f"t_ab {k}+C": (partial(tables.t_ab, order=k, corrector=True), 2) for k in (0, 3)},
    **{name: (tables.METHODS[name], 2) for name in ("rho_ab", "log_rho_ab", "s_pndm", "unipc", "dpm_solver_pp")},
    "unipc 3": (partial(tables.unipc, order=3, lower_order_final=False), 3),
}


@cache
def flow(name: str, num_step: int = 1) -> np.ndarray:
    """[num_step + 1, 8, 2] the exact states at all nodes, x_T first."""
    sde, z = SDES[name], np.random.default_rng(0).normal(size=(8, 2))
    return MIXTURE.flow(sde, z, nodes(sde, num_step))


@sdes
@pytest.mark.parametrize("name", ORDERS)
def test_orders_of_convergence(sde_name, name):
    """From T itself. A multistep method's usual first steps are of order 2, here as from finite rho."""
    sde, (x_T, exact), (build, order), num_steps = SDES[sde_name], flow(sde_name), ORDERS[name], [40, 120]
    errors = []
    for num_step in num_steps:
        x = problem.run(build(sde, nodes(sde, num_step)), MIXTURE.eps_fn(sde), x_T)
        errors.append(float(np.sqrt(np.mean((x - exact) ** 2))))
    slope = problem.slopes(num_steps, errors)[0]
    assert slope > order - 0.35
    assert slope < order + 0.25 or not name.startswith(("rho_rk", "dpm_solver 1", "ddim"))


POLYNOMIAL = ("t_ab", "rho_ab", "log_rho_ab")
MULTISTEP: dict[str, tuple[Callable[..., Table], float, bool]] = {
    **{f"{name} {k}": (partial(tables.METHODS[name], order=k), k + 1, False) for name in POLYNOMIAL for k in (1, 2, 3)},
    **{f"t_ab {k}+C": (partial(tables.t_ab, order=k, corrector=True), k + 2, True) for k in (1, 2)},
    **{f"unipc {k}": (partial(tables.unipc, order=k, lower_order_final=False), k + 1, True) for k in (1, 2, 3)},
    "dpm_solver_pp": (partial(tables.dpm_solver_pp, order=2, lower_order_final=False), 2, False),
    "ipndm": (tables.ipndm, 2, False),  # its constant weights have no higher order on nodes that are uneven in rho
}


@sdes
@pytest.mark.parametrize("name", MULTISTEP)
def test_full_orders_after_the_first_steps(sde_name, name):
    """A multistep table that begins at T has its full order from a quarter of its nodes on, if all before is exact."""
    sde, (build, order, corrected), num_steps = SDES[sde_name], MULTISTEP[name], [40, 80]
    errors = []
    for num_step in num_steps:
        states, first = flow(sde_name, num_step), num_step // 4
        table = build(sde, nodes(sde, num_step))
        states = np.concatenate([states[: first + 1], states[-1:]])
        errors.append(problem.error_after(sde, table, first, corrected, states))
    assert problem.slopes(num_steps, errors)[0] == pytest.approx(order, abs=0.5 if order == 4 else 0.35)
