"""Single-step tables: one builder for methods whose steps share no evaluations, with or without noise.

In v = x / s and rho, a step integrates eps, or the predicted x_0 = v - rho eps; a step to sigma = 0 is DDIM's, 1 NFE.
Noise comes in two ways. The reverse SDE with eta = lambda^2 (`deis.tables.stochastic`) adds it on the way, so that
each evaluation has its own. An ancestral step ends below its node, churn and Restart start above it, and noise fills
the gap between two steps.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from deis.errors import choice, require
from deis.sde import SDE
from deis.table import Table, eps_table

Stages = Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]
"""(start, end) of the steps in rho, [steps] -> (rho of the evaluations [steps, k], weights [steps, k, k]).

Row j of the weights leads from v at the start to evaluation j + 1, the last row to the end; oldest evaluation first.
"""


def single_step(
    name: str,
    sde: SDE,
    nodes: tuple[np.ndarray, ...],
    stages: Stages,
    prediction: str = "eps",
    *,
    start: np.ndarray | None = None,
    end: np.ndarray | None = None,
    eta: float = 0.0,
    s_noise: float = 1.0,
) -> Table:
    """The table of a method with k NFE a step.

    nodes: (t, s, rho) of `deis.tables.multistep.extended_nodes`, [N+1].
    prediction: what the weights are for, "eps" or "x_0".
    start, end: [N] rho where the steps start and end, before noise, if not at the nodes.
    eta: lambda^2 of the reverse SDE within a step, for predicted x_0.
    s_noise: the standard deviation of all noise is this many times what the level asks for.
    Raises ValueError for an unknown prediction.
    """
    choice("prediction", prediction, ("eps", "x_0"))
    require(0 <= s_noise < np.inf, f"s_noise must be 0 or more and finite, got {s_noise:g}")
    t, s, rho = nodes
    start, end = rho[:-1] if start is None else start, rho[1:] if end is None else end
    t_start = np.where(start == rho[:-1], t[:-1], sde.t_of_rho(start))
    full = len(start) - int(end[-1] == 0)

    levels, weights = stages(start[:full], end[:full])
    t_k = np.where(levels == rho[1 : full + 1, None], t[1 : full + 1, None], sde.t_of_rho(levels))
    t_k[:, 0] = t_start[:full]  # the nodes' own times, not what rounding makes of them
    k = weights.shape[1]
    P = np.zeros((full, k, k))
    for j in range(k):
        P[:, j, : j + 1] = weights[:, j, j::-1]
    Q = np.zeros_like(P)
    Q[:, -1] = P[:, -1]
    p, g = np.ones(full * k), np.zeros(full * k)
    if prediction == "x_0":
        ratio = np.append(levels[:, 1:], end[:full, None], axis=1) / levels
        p = (ratio ** (1 + eta)).ravel()
        g = (ratio * levels * np.sqrt(1 - ratio ** (2 * eta))).ravel()

    to_zero = np.zeros((len(start) - full, k))
    to_zero[:, 0] = 1.0 if prediction == "x_0" else -start[full:]
    at_zero = np.full(len(to_zero), 0.0 if prediction == "x_0" else 1.0)
    t_rows = np.concatenate([t_k.ravel(), t_start[full:], t[-1:]]).astype(np.float64)
    rho_rows = np.concatenate([levels.ravel(), start[full:], rho[-1:]])
    P, Q = (np.concatenate([rows.reshape(-1, k), to_zero]) for rows in (P, Q))
    p, g = np.append(p, at_zero), np.append(g, np.zeros(len(to_zero)))
    last = np.append(k * np.arange(1, full + 1), np.full(len(to_zero), len(p))) - 1  # the steps' last rows
    g[last] = np.hypot(g[last], np.sqrt(np.append(start[1:], rho[-1]) ** 2 - end**2))
    a, b = (np.ones(len(p)), -rho_rows[:-1]) if prediction == "x_0" else (np.zeros(len(p)), np.ones(len(p)))
    return Table(name, t_rows, np.append(sde.s(t_rows[:-1]), s[-1]), rho_rows, a, b, p, p, P, Q, s_noise * g)


def denoised(table: Table) -> Table:
    """The table with one more row, which evaluates at the result and steps to sigma = 0: x is the predicted x_0.

    Raises ValueError for a table that ends there already.
    """
    require(table.rho[-1] > 0, f"the timesteps already end at sigma = 0, at t={table.t[-1]:g}; give denoise=False")
    return join(table.name, [table, to_zero("", table.t[-1], table.s[-1], table.rho[-1])])


def to_zero(name: str, t: float, s: float, rho: float) -> Table:
    """The table of one evaluation, which steps to sigma = 0: x is the predicted x_0."""
    return eps_table(name, np.array([t, t]), np.array([s, 1.0]), np.array([rho, 0.0]), np.array([[-rho]]))


def join(name: str, parts: Sequence[Table]) -> Table:
    """Tables one after the other, each from where the one before it ends; none sees another's history."""
    lags = max(part.lags for part in parts)
    columns: dict[str, Any] = {}
    for key, shape in parts[0].shapes().items():
        found = [getattr(part, key) for part in parts]
        if key in ("t", "s", "rho"):
            found = [*(column[:-1] for column in found[:-1]), found[-1]]
        if len(shape) == 2:
            found = [np.pad(column, [(0, 0), (0, lags - column.shape[1])]) for column in found]
        columns[key] = np.concatenate(found)
    return Table(name, **columns)
