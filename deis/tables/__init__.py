"""Solvers as functions from (sde, nodes) to a `deis.table.Table`."""

from bisect import bisect_left
from collections.abc import Callable
from functools import partial
from typing import Any

from deis.grids import optimized
from deis.schedule import round_down, timesteps
from deis.sde import SDE
from deis.table import Table
from deis.tables.ablation import ei_score, euler
from deis.tables.adams_bashforth import ddim, gradient_estimation, ipndm, log_rho_ab, pfdiff, rho_ab, t_ab
from deis.tables.ancestral import analytic_ddim, ddim_eta, ddpm, estimate_eps_norm, lcm
from deis.tables.dpm_solver import dpm_solver, dpm_solver_pp, dpm_solver_singlestep
from deis.tables.edm import dpm_2, edm_heun, restart
from deis.tables.exponential import EXPONENTIAL, exponential_rk
from deis.tables.pndm import f_pndm, plms, s_pndm
from deis.tables.recommended import recommended
from deis.tables.runge_kutta import rho_rk
from deis.tables.stochastic import dpm_solver_pp_sde, er_sde, sa_solver, t_ab_sde
from deis.tables.tableaus import TABLEAUS, Tableau
from deis.tables.unipc import unipc

__all__ = ["EXPONENTIAL", "METHODS", "TABLEAUS", "Tableau", "build", "estimate_eps_norm", "fewest_steps", "recommended"]
__all__ += ["ddim", "dpm_solver", "dpm_solver_pp", "ipndm", "log_rho_ab", "rho_ab", "t_ab", "unipc"]
__all__ += ["dpm_2", "edm_heun", "ei_score", "euler", "f_pndm", "plms", "rho_rk", "s_pndm"]
__all__ += [
    "analytic_ddim",
    "ddim_eta",
    "ddpm",
    "dpm_solver_pp_sde",
    "er_sde",
    "lcm",
    "restart",
    "sa_solver",
    "t_ab_sde",
]
__all__ += ["dpm_solver_singlestep", "exponential_rk", "gradient_estimation", "pfdiff"]

METHODS: dict[str, Callable[..., Table]] = {
    method.__name__: method
    for method in (
        *(ddim, t_ab, rho_ab, log_rho_ab, ipndm, rho_rk),
        *(dpm_solver, dpm_solver_pp, unipc, edm_heun, dpm_2, s_pndm, f_pndm, plms, euler, ei_score),
        *(dpm_solver_singlestep, exponential_rk, gradient_estimation, pfdiff),
        *(ddim_eta, ddpm, t_ab_sde, dpm_solver_pp_sde, sa_solver, er_sde, lcm, restart),
    )
}
"""The solvers by name: functions of (sde, nodes) and their own options."""


def fewest_steps(table: Callable[[int], Table], nfe: int) -> int:
    """The fewest steps whose table makes at least `nfe` network calls, or `nfe` steps if none does.

    table: from a number of steps, of at least 1, to the solver's table; more steps must not make fewer calls.
    """
    return bisect_left(range(1, nfe), nfe, key=lambda num_step: table(num_step).nfe) + 1


PAPER_NAMES: dict[str, tuple[str, dict[str, Any]]] = {
    **{f"tab{order}": ("t_ab", {"ab_order": order}) for order in range(4)},
    **{f"rhoab{order}": ("rho_ab", {"ab_order": order}) for order in range(4)},
    **{f"rho{name}": ("rho_rk", {"rk_method": name}) for name in ("2heun", "3kutta", "4rk")},
}
"""The solvers of the paper's tables by their names there, in small letters: method and arguments of `build`."""

_WITH_ORDER = ("t_ab", "rho_ab", "log_rho_ab", "dpm_solver", "dpm_solver_pp", "unipc", "t_ab_sde")


def build(
    sde: SDE,
    ts_phase: str = "t",
    ts_order: float = 2.0,
    num_step: int = 10,
    method: str = "t_ab",
    ab_order: int = 3,
    rk_method: str = "3kutta",
) -> Table:
    """The table that the published call `get_sampler` names: schedule and solver by their names.

    method: one of METHODS; or a name of PAPER_NAMES, as "tab3", which says the order or the tableau as well.
    ab_order: the polynomial's degree; for "ipndm", whose order counts evaluations, degree 3 is its order 4; for
        "dpm_solver", "dpm_solver_pp" and "unipc", the order in their names. The others have none.
    ts_phase: as in `deis.timesteps`, or "optimized", the nodes that `deis.grids.optimized` finds for the solver.
    For a `DiscreteVPSDE` the nodes are whole times: rounded down, equal ones moved apart.
    Raises ValueError for any name or number that is not allowed.
    """
    if method.lower() in PAPER_NAMES:
        method, arguments = PAPER_NAMES[method.lower()]
        ab_order, rk_method = arguments.get("ab_order", ab_order), arguments.get("rk_method", rk_method)
    if method not in METHODS:
        raise ValueError(f"method must be one of {', '.join((*METHODS, *PAPER_NAMES))}, got {method!r}")
    solver = partial(METHODS[method], **_published_options(method, ab_order, rk_method))
    if ts_phase == "optimized":
        return solver(sde, optimized(sde, num_step, solver))
    ts = timesteps(sde, num_step, ts_phase, ts_order)
    return solver(sde, round_down(ts, int(sde.T)) if sde.is_discrete else ts)


def _published_options(method: str, ab_order: int, rk_method: str) -> dict[str, Any]:
    if method == "rho_rk":
        return {"rk_method": rk_method}
    if method == "ipndm":
        return {"order": ab_order + 1}
    return {"order": ab_order} if method in _WITH_ORDER else {}
