"""Solvers as functions from (sde, nodes) to a `deis.table.Table`."""

from deis.schedule import timesteps
from deis.sde import SDE
from deis.table import Table
from deis.tables.adams_bashforth import ddim, ipndm, log_rho_ab, rho_ab, t_ab
from deis.tables.runge_kutta import TABLEAUS, Tableau, rho_rk

__all__ = [
    "METHODS",
    "TABLEAUS",
    "Tableau",
    "build",
    "ddim",
    "ipndm",
    "log_rho_ab",
    "rho_ab",
    "rho_rk",
    "t_ab",
]

METHODS = ("ddim", "t_ab", "rho_ab", "log_rho_ab", "ipndm", "rho_rk")


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

    ab_order: the polynomial's degree; for "ipndm", whose order counts evaluations, degree 3 is its order 4.
    Raises ValueError for any name or number that is not allowed.
    """
    ts = timesteps(sde, num_step, ts_phase, ts_order)
    match method:
        case "ddim":
            return ddim(sde, ts)
        case "t_ab":
            return t_ab(sde, ts, ab_order)
        case "rho_ab":
            return rho_ab(sde, ts, ab_order)
        case "log_rho_ab":
            return log_rho_ab(sde, ts, ab_order)
        case "ipndm":
            return ipndm(sde, ts, ab_order + 1)
        case "rho_rk":
            return rho_rk(sde, ts, rk_method)
        case _:
            raise ValueError(f"method must be one of {', '.join(METHODS)}, got {method!r}")
