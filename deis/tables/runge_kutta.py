"""rhoRK-DEIS: explicit Runge-Kutta methods on dv/drho = eps (DEIS, arXiv 2204.13902, section 3.3)."""

import numpy as np

from deis.errors import choice
from deis.schedule import check_nodes
from deis.sde import SDE
from deis.table import Table, eps_table
from deis.tables.pure_noise import from_noise
from deis.tables.tableaus import TABLEAUS, Tableau


def _tableau(rk_method: str | Tableau) -> Tableau:
    if not isinstance(rk_method, Tableau):
        choice("rk_method", rk_method, TABLEAUS)
    rk = rk_method if isinstance(rk_method, Tableau) else TABLEAUS[rk_method]
    if np.any(rk.c < 0) or np.any(rk.c > 1):
        raise ValueError(f"tableau {rk.name}: stages must stand within the step, got c = {rk.c}")
    return rk


@from_noise(lambda rk_method: {"rk": _tableau(rk_method)})
def rho_rk(sde: SDE, ts: np.ndarray, rk_method: str | Tableau = "3kutta") -> Table:
    """rhoRK-DEIS: `rk_method` on dv/drho = eps over each step; as many NFE a step as the method has stages.

    ts: [N+1] decreasing nodes; rk_method: a name in TABLEAUS or a user's tableau.
    Raises ValueError for an unknown name or a stage outside the step, where the network is not defined.
    """
    rk, ts = _tableau(rk_method), check_nodes(sde, ts)
    rho_n = sde.rho(ts)
    h = np.diff(rho_n)

    rho = rho_n[:-1, None] + h[:, None] * rk.c
    t = np.asarray(sde.t_of_rho(rho), np.float64)
    t[:, 0] = ts[:-1]
    on_end = rk.c == 1  # evaluated at the node itself, not where rounding puts it
    t[:, on_end], rho[:, on_end] = ts[1:, None], rho_n[1:, None]

    P = np.zeros((len(h), rk.stages, rk.stages))
    Q = np.zeros_like(P)
    for i, row in enumerate((*rk.rows, rk.b)):
        P[:, i, : i + 1] = h[:, None] * np.array(row[::-1])
    Q[:, -1] = P[:, -1]
    name, t_all, rho_all = f"rho{rk.stages}{rk.name}", np.append(t, ts[-1]), np.append(rho, rho_n[-1])
    return eps_table(name, t_all, sde.s(t_all), rho_all, P.reshape(-1, rk.stages), Q.reshape(-1, rk.stages))
