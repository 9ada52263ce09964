"""rhoRK-DEIS: explicit Runge-Kutta methods on dv/drho = eps (DEIS, arXiv 2204.13902, section 3.3).

A method is its Butcher tableau: `a` [stages, stages] strictly lower triangular, `b` [stages], `c` [stages].
"""

from dataclasses import dataclass

import numpy as np

from deis.schedule import check_nodes
from deis.sde import SDE
from deis.table import Table, eps_table


@dataclass(frozen=True)
class Tableau:
    """An explicit Runge-Kutta method. rows: the lower triangle of `a`, from the second stage on; b: [stages]."""

    name: str
    rows: tuple[tuple[float, ...], ...]
    b: tuple[float, ...]

    def __post_init__(self) -> None:
        if [len(row) for row in self.rows] != list(range(1, self.stages)):
            raise ValueError(
                f"tableau {self.name}: {self.stages} weights need rows of length 1 to {self.stages - 1}, "
                f"got {[len(row) for row in self.rows]}"
            )
        if abs(sum(self.b) - 1) > 1e-12:
            raise ValueError(f"tableau {self.name}: the weights b must sum to 1, got {sum(self.b):g}")

    @property
    def stages(self) -> int:
        return len(self.b)

    @property
    def c(self) -> np.ndarray:
        """[stages] where in the step the stages stand: the row sums."""
        return np.array([0.0, *(sum(row) for row in self.rows)])


TABLEAUS = {
    "1euler": Tableau("Euler", (), (1.0,)),
    "2heun": Tableau("Heun", ((1.0,),), (1 / 2, 1 / 2)),
    "3kutta": Tableau("Kutta", ((1 / 2,), (-1.0, 2.0)), (1 / 6, 2 / 3, 1 / 6)),
    "3ral": Tableau("Ralston", ((1 / 2,), (0.0, 3 / 4)), (2 / 9, 1 / 3, 4 / 9)),
    "3heun": Tableau("Heun", ((1 / 3,), (0.0, 2 / 3)), (1 / 4, 0.0, 3 / 4)),
    "3vdh": Tableau("vdHouwen", ((8 / 15,), (1 / 4, 5 / 12)), (1 / 4, 0.0, 3 / 4)),
    "3ssprk": Tableau("SSPRK", ((1.0,), (1 / 4, 1 / 4)), (1 / 6, 1 / 6, 2 / 3)),
    "4rk": Tableau("RK", ((1 / 2,), (0.0, 1 / 2), (0.0, 0.0, 1.0)), (1 / 6, 1 / 3, 1 / 3, 1 / 6)),
}
"""The named methods: forward Euler; Heun; Kutta, Ralston, Heun, van der Houwen/Wray, Shu-Osher SSP (order 3);
classical Runge-Kutta (order 4). Source: Hairer, Norsett & Wanner I, II.1; Shu & Osher 1988."""


def rho_rk(sde: SDE, ts: np.ndarray, rk_method: str | Tableau = "3kutta") -> Table:
    """rhoRK-DEIS: `rk_method` on dv/drho = eps over each step; as many NFE a step as the method has stages.

    ts: [N+1] decreasing nodes; rk_method: a name in TABLEAUS or a user's tableau.
    Raises ValueError for an unknown name or a stage outside the step, where the network is not defined.
    """
    if isinstance(rk_method, str) and rk_method not in TABLEAUS:
        raise ValueError(f"rk_method must be one of {', '.join(TABLEAUS)}, got {rk_method!r}")
    rk = TABLEAUS[rk_method] if isinstance(rk_method, str) else rk_method
    if np.any(rk.c < 0) or np.any(rk.c > 1):
        raise ValueError(f"tableau {rk.name}: stages must stand within the step, got c = {rk.c}")
    ts = check_nodes(sde, ts)
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
