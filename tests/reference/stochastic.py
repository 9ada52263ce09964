"""The stochastic tables, by the order with which they approach the lambda-SDE."""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from deis import tables

from . import noise

GAUSSIAN = noise.Gaussian(variance=0.25)

LAMBDAS = (0.3, 1.0)


def first_order(lam: float) -> dict[str, Callable]:
    """Tables that approach the lambda-SDE with order 1."""
    ddpm: dict[str, Callable] = {"ddpm": tables.ddpm, "ddpm large": partial(tables.ddpm, variance="large")}
    family: dict[str, Callable] = {
        "ddim_eta": partial(tables.ddim_eta, eta=lam),
        "t_ab_sde 0": partial(tables.t_ab_sde, order=0, lam=lam),
    }
    return family | ddpm if lam == 1 else family


def second_order(lam: float) -> dict[str, Callable]:
    """Tables that approach it with order 2."""
    dpm_solver: dict[str, Callable] = {
        f"dpm_solver_pp_sde {variant}": partial(tables.dpm_solver_pp_sde, eta=lam**2, variant=variant)
        for variant in ("midpoint", "heun")
    }
    return dpm_solver | {f"t_ab_sde {order}": partial(tables.t_ab_sde, order=order, lam=lam) for order in (1, 2, 3)}


def field(lam: float) -> dict[str, tuple[Callable, int]]:
    """Further tables that approach the lambda-SDE, and the order with which mean and variance do."""
    sde = partial(tables.exponential_rk, eta=lam**2)
    return {
        "sa_solver 1": (partial(tables.sa_solver, order=1, tau=lam), 2),
        "sa_solver 2, P": (partial(tables.sa_solver, order=2, tau=lam, corrector=False), 2),
        "sa_solver 3": (partial(tables.sa_solver, order=3, tau=lam), 2),
        "dpm_solver_pp_sde 3": (partial(tables.dpm_solver_pp_sde, order=3, eta=lam**2, variant="heun"), 2),
        **{f"exponential_rk {name}": (partial(sde, rk_method=name), 2) for name in tables.EXPONENTIAL},
    }


def _restart(sde: Any, ts: np.ndarray, **options: Any) -> Any:
    """As many steps of each descent as a tenth of all."""
    return tables.restart(sde, ts, num_step=len(ts) // 10, **{"denoise": False} | options)


def other(eta: float) -> dict[str, tuple[Callable, int]]:
    """Tables with noise of other kinds, and the order with which they approach the marginal, from the marginal."""
    ancestral = partial(tables.exponential_rk, ancestral=True, eta=eta)
    return {
        **{f"er_sde {order}": (partial(tables.er_sde, order=order), min(order, 2)) for order in (1, 2, 3)},
        **{
            f"ancestral {name} {prediction}": (partial(ancestral, rk_method=name, prediction=prediction), order)
            for name, order in (("2s", 2), ("3s", 3))
            for prediction in ("x_0", "eps")
        },
        "restart": (_restart, 2),
    }


def optimal(eta: float) -> Callable:
    """Analytic-DDIM for GAUSSIAN and its perfect network, E|eps|^2 / d = rho^2 / (variance + rho^2)."""

    def build(sde, ts, **options):
        rho = sde.rho(ts)
        return tables.analytic_ddim(sde, ts, rho**2 / (GAUSSIAN.variance + rho**2), eta, **options)

    return build


BUILDERS = {
    f"{name}, {lam}": build for lam in LAMBDAS for name, build in (first_order(lam) | second_order(lam)).items()
} | {"analytic 0": optimal(0.0), "analytic 1": optimal(1.0)}
