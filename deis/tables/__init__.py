"""Solvers as functions from (sde, nodes) to a `deis.table.Table`."""

from bisect import bisect_left
from collections.abc import Callable, Mapping
from functools import partial
from inspect import signature
from typing import Any

from deis.errors import annotations, as_type, checked, choice, require
from deis.grids import optimized
from deis.schedule import INTEGER_PHASES, PHASES, known_times, timesteps
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
from deis.tables.single_step import denoised, to_zero
from deis.tables.stochastic import dpm_solver_pp_sde, er_sde, sa_solver, t_ab_sde
from deis.tables.tableaus import TABLEAUS, Tableau
from deis.tables.unipc import unipc

__all__ = ["EXPONENTIAL", "METHODS", "TABLEAUS", "Tableau", "build", "estimate_eps_norm", "fewest_steps"]
__all__ += ["ddim", "dpm_solver", "dpm_solver_pp", "dpm_solver_singlestep", "exponential_rk", "gradient_estimation"]
__all__ += ["ipndm", "log_rho_ab", "named_solver", "pfdiff", "recommended", "rho_ab", "t_ab", "unipc"]
__all__ += ["dpm_2", "edm_heun", "ei_score", "euler", "f_pndm", "plms", "rho_rk", "s_pndm"]
__all__ += ["analytic_ddim", "ddim_eta", "ddpm", "dpm_solver_pp_sde", "er_sde", "lcm", "restart"]
__all__ += ["sa_solver", "t_ab_sde"]

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


@checked
def fewest_steps(table: Callable[[int], Table], nfe: int) -> int:
    """The fewest steps whose table makes at least `nfe` network calls, or `nfe` steps if none does.

    table: from a number of steps, of at least 1, to the solver's table; more steps must not make fewer calls.
    """
    return bisect_left(range(1, nfe), nfe, key=lambda num_step: table(num_step).nfe) + 1


PAPER_NAMES: dict[str, tuple[str, dict[str, Any]]] = {
    **{f"tab{order}": ("t_ab", {"order": order}) for order in range(4)},
    **{f"rhoab{order}": ("rho_ab", {"order": order}) for order in range(4)},
    **{f"rho{name}": ("rho_rk", {"rk_method": name}) for name in ("2heun", "3kutta", "4rk")},
}
"""The solvers of the paper's tables by their names there, in small letters: method and options."""


@checked
def build(
    sde: SDE,
    ts_phase: str = "t",
    ts_order: float = 2.0,
    num_step: int = 10,
    method: str = "t_ab",
    ab_order: int = 3,
    rk_method: str = "3kutta",
    **options: Any,
) -> Table:
    """The table that the published call `get_sampler` names: schedule and solver by their names.

    method: one of METHODS; a name of PAPER_NAMES, as "tab3", which says the order or the tableau as well; or
        "recommended", which has a schedule of its own.
    ab_order: `order` of the methods that have one, which for the Adams-Bashforth methods is the polynomial's degree;
        for "ipndm", whose order counts evaluations, degree 3 is its order 4. rk_method: that of "rho_rk".
    options: those of the method's function by their names there, as order, corrector or eta, which come before the
        arguments above; and denoise, as in `named_solver`.
    ts_phase: as in `deis.timesteps`, or "optimized", the nodes that `deis.grids.optimized` finds for the solver.
    For a `DiscreteVPSDE` the nodes are whole times: rounded down, equal ones moved apart.
    Raises ValueError for any name or number that is not allowed.
    """
    parameters = signature(build).parameters
    arguments = list(parameters)[1:-1]
    choice("ts_phase", ts_phase, (*PHASES, *INTEGER_PHASES, "optimized"))
    given = {"ts_phase": ts_phase, "ts_order": ts_order, "ab_order": ab_order, "rk_method": rk_method}
    given = {name: value for name, value in given.items() if value != parameters[name].default}
    if method == "recommended":
        require(not given, f"method='recommended' has a schedule and an order of its own: leave out {', '.join(given)}")
        _refuse_unknown(method, options, ["num_step"])
        return recommended(sde, num_step)
    function, named = _named(method, "recommended")
    _refuse_unknown(method, options, list(dict.fromkeys([*arguments, *[*annotations(function)][2:], "denoise"])))
    asked = {"order": given.get("ab_order"), "rk_method": given.get("rk_method")} | options
    if said := [name for name in named if asked[name] not in (None, named[name])]:
        raise ValueError(f"method={method!r} says {said[0]}={named[said[0]]!r} itself, got {asked[said[0]]!r}")
    if (not named and function is rho_rk) or ("rk_method" in given and function is exponential_rk):
        named = {"rk_method": rk_method}
    elif not named and "order" in signature(function).parameters:
        named = {"order": ab_order + (function is ipndm)}
    denoise = options.pop("denoise", False)
    table_of = named_solver(method, named | options)

    def solver(sde: SDE, ts: Any) -> Table:
        return table_of(sde, ts, denoise)

    if ts_phase == "optimized":
        return solver(sde, optimized(sde, num_step, solver))
    return solver(sde, known_times(sde, timesteps(sde, num_step, ts_phase, ts_order)))


@checked
def named_solver(method: str, options: Mapping[str, Any]) -> Callable[[SDE, Any, bool], Table]:
    """The method, a name as in `build`, with its own options: (sde, nodes, denoise) -> table.

    denoise: whether one more network call, at the last node, leads to sigma = 0, for methods without that option too,
        and from a single node on, which is all that is asked of a method of one step.
    Raises ValueError for an unknown name, or options that the method does not have.
    """
    function, named = _named(method)
    known = [*annotations(function)][2:]
    _refuse_unknown(method, options, known)
    solver = partial(function, **named | dict(options))

    def table_of(sde: SDE, ts: Any, denoise: bool) -> Table:
        denoise = as_type("denoise", denoise, bool)
        if denoise and len(ts) == 1:
            return to_zero(method, ts[0], *map(float, sde.evaluation(ts[0])))
        if "denoise" in known:
            return solver(sde, ts, denoise=denoise)
        return denoised(solver(sde, ts)) if denoise else solver(sde, ts)

    return table_of


def _named(method: str, *others: str) -> tuple[Callable[..., Table], dict[str, Any]]:
    """The function of a name in METHODS or PAPER_NAMES, and the options that the name says."""
    name, options = PAPER_NAMES.get(str(method).lower(), (method, {}))
    choice("method", name, (*METHODS, *PAPER_NAMES, *others))
    return METHODS[name], options


def _refuse_unknown(method: str, options: Mapping[str, Any], known: list[str]) -> None:
    for name in options:
        choice(f"option of {method}", name, known)
