"""Single-step tables: one builder for methods whose steps share no evaluations."""

from collections.abc import Callable

import numpy as np

from deis.sde import SDE
from deis.table import Table, eps_table

Stages = Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]
"""(start, end) of the steps in rho, [steps] -> (rho of the evaluations [steps, k], weights [steps, k, k]).

Row j of the weights leads from v at the start to evaluation j + 1, the last row to the end; oldest evaluation first.
"""


def single_step(
    name: str, sde: SDE, nodes: tuple[np.ndarray, ...], stages: Stages, start: np.ndarray | None = None
) -> Table:
    """The table of a method on dv/drho = eps with k NFE a step, but 1 for a step to sigma = 0, which is DDIM's.

    nodes: (t, s, rho) of `deis.tables.multistep.extended_nodes`, [N+1].
    start: [N] rho where the steps start, if not at the nodes.
    """
    t, s, rho = nodes
    start = rho[:-1] if start is None else start
    t_start = np.where(start == rho[:-1], t[:-1], sde.t_of_rho(start))
    full = len(start) - int(rho[-1] == 0)
    start_full, end = start[:full], rho[1 : full + 1]

    rho_k, weights = stages(start_full, end)
    t_k = np.where(rho_k == end[:, None], t[1 : full + 1, None], sde.t_of_rho(rho_k))
    t_k[:, 0] = t_start[:full]  # the nodes' own times, not what rounding makes of them
    k = weights.shape[1]
    P = np.zeros((full, k, k))
    for j in range(k):
        P[:, j, : j + 1] = weights[:, j, j::-1]
    Q = np.zeros_like(P)
    Q[:, -1] = P[:, -1]

    to_zero = np.zeros((len(start) - full, k))
    to_zero[:, 0] = -start[full:]
    t_rows = np.concatenate([t_k.ravel(), t_start[full:], t[-1:]]).astype(np.float64)
    rho_rows = np.concatenate([rho_k.ravel(), start[full:], rho[-1:]])
    P, Q = (np.concatenate([rows.reshape(-1, k), to_zero]) for rows in (P, Q))
    return eps_table(name, t_rows, np.append(sde.s(t_rows[:-1]), s[-1]), rho_rows, P, Q)
