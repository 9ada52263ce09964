"""The errors of fixed steps, without FID: the analysis of DEIS (arXiv 2204.13902, sections 3.1 and 3.2).

Everything is measured along trajectories of the probability-flow ODE that 1,000 steps make all but exact. Functions
return arrays, or rows: dicts from column to value.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Array, Float
from scipy.interpolate import krogh_interpolate

import deis
from deis import SDE, Table, tables
from deis.sampler import EpsFn

Row = dict[str, Any]
Points = Float[Array | np.ndarray, "batch *dims"]

FINE_STEPS = 1000
ORDERS = (0, 1, 2, 3)

SOLVERS: dict[str, Callable[[SDE, np.ndarray], Table]] = {
    "Euler": tables.euler,
    "EI-score": tables.ei_score,
    "DDIM": tables.ddim,
    "iPNDM": tables.ipndm,
    **{f"tAB{order}": partial(tables.t_ab, order=order) for order in ORDERS[1:]},
    **{f"rhoAB{order}": partial(tables.rho_ab, order=order) for order in ORDERS[1:]},
    "rho2Heun": partial(tables.rho_rk, rk_method="2heun"),
    "rho3Kutta": partial(tables.rho_rk, rk_method="3kutta"),
    "rho4RK": partial(tables.rho_rk, rk_method="4rk"),
}
"""The solvers of the paper's ablation and of its main table, by their names there."""


class Trajectory(NamedTuple):
    """All but exact solutions at the nodes t[0] > ... > t[n]; eps at all but the last."""

    t: Float[np.ndarray, " nodes"]
    sigma: Float[np.ndarray, " nodes"]
    rho: Float[np.ndarray, " nodes"]
    x: Float[np.ndarray, "nodes batch *dims"]
    eps: Float[np.ndarray, "steps batch *dims"]

    @property
    def score(self) -> Float[np.ndarray, "steps batch *dims"]:
        """Minus the score, eps / sigma, at all nodes but the last."""
        return self.eps / self.sigma[:-1].reshape(-1, *[1] * (self.eps.ndim - 1))


def fine_trajectory(sde: SDE, eps_fn: EpsFn, x_T: Points, phase: str = "t", order: float = 2.0) -> Trajectory:
    """The trajectories from x_T by tAB3 in FINE_STEPS steps, on the grid `deis.timesteps(sde, _, phase, order)`.

    Every FINE_STEPS / n-th of their nodes is a node of the grid of n steps. One compilation.
    Raises ValueError if s(T) = 0.
    """
    sde.refuse_noise("eps, whose changes are measured,")
    ts = deis.timesteps(sde, FINE_STEPS, phase, order)
    x, x_0 = map(np.asarray, deis.trajectory(tables.t_ab(sde, ts, order=3), eps_fn, x_T))
    sigma, rho = sde.sigma(ts), sde.rho(ts)
    along = (-1, *[1] * (x.ndim - 1))
    eps = (x[:-1] / sde.s(ts[:-1]).reshape(along) - x_0) / rho[:-1].reshape(along)
    return Trajectory(ts, sigma, rho, x, eps.astype(x.dtype))


def relative_change(values: Float[np.ndarray, "n batch *dims"], every: int) -> Float[np.ndarray, " m"]:
    """|values[i + every] - values[i]| / |values[i]| at i = 0, every, 2 every, ...; norms are over the whole batch."""
    flat = values[::every].reshape(len(values[::every]), -1)
    return np.linalg.norm(np.diff(flat, axis=0), axis=1) / np.linalg.norm(flat[:-1], axis=1)


def extrapolation_error(
    variable: Float[np.ndarray, " n"], values: Float[np.ndarray, "n batch *dims"], every: int, order: int
) -> Float[np.ndarray, " n"]:
    """Root mean square error, at every point, of the polynomial in `variable` through the last values at nodes.

    Nodes are the points 0, every, 2 every, ... A point i belongs to the step from node i // every, and the polynomial
    goes through that node and the `order` before it; through as many as there are in the first steps, as in tAB. The
    error is 0 at nodes.
    """
    errors = []
    for first in range(0, len(values), every):
        step = slice(first, first + every)
        nodes = [first - k * every for k in range(min(first // every, order) + 1)]
        error = krogh_interpolate(variable[nodes], values[nodes], variable[step]) - values[step]
        errors.append(np.sqrt(np.mean(error**2, axis=tuple(range(1, values.ndim)))))
    return np.concatenate(errors)


def rows_of(**columns: Any) -> list[Row]:
    """A row for each place of the columns, which are one-dimensional arrays, or single values for all rows."""
    arrays = np.broadcast_arrays(*columns.values())
    return [dict(zip(columns, values, strict=True)) for values in zip(*(a.tolist() for a in arrays), strict=True)]


def relative_change_rows(path: Trajectory, points: int = 50) -> list[Row]:
    """How much eps and the score change over 1/points of the grid, relative to their size."""
    every, rows = FINE_STEPS // points, []
    for name, values in (("eps", path.eps), ("score", path.score)):
        change = relative_change(values, every)
        t, rho = (column[::every][: len(change)] for column in (path.t, path.rho))
        rows += rows_of(t=t, rho=rho, quantity=name, relative_change=change)
    return rows


def holding_rows(path: Trajectory) -> list[Row]:
    """The error in eps of holding eps, or the score, as it was at the beginning of each of 10 steps; 10 points a step.

    The first is what DDIM does, the second the exponential integrator on the score. Constant score means eps in
    proportion to sigma, so its error in eps is sigma times that in the score.
    """
    every, t, sigma = FINE_STEPS // 10, path.t[:-1], path.sigma[:-1]
    of_eps = extrapolation_error(t, path.eps, every, 0)
    of_score = sigma * extrapolation_error(t, path.score, every, 0)
    shown = slice(None, None, every // 10)
    held = (("eps", of_eps), ("score", of_score))
    return [row for name, error in held for row in rows_of(t=t[shown], held=name, eps_error=error[shown])]


def extrapolation_rows(path: Trajectory) -> list[Row]:
    """The error of eps extrapolated in t by polynomials of each order, as tAB does: its mean over every step."""
    ts, rows = path.t[:-1], []
    for num_step in (5, 10, 20, 50, 100):
        every = FINE_STEPS // num_step
        for order in ORDERS:
            by_step = extrapolation_error(ts, path.eps, every, order).reshape(num_step, every).mean(axis=1)
            rows += rows_of(nfe=num_step, order=order, t=ts[::every], eps_error=by_step)
    return rows


def pixel_difference_rows(
    sde: SDE, eps_fn: EpsFn, x_T: Points, reference: Points, nfes: Sequence[int], phase: str = "t", order: float = 2.0
) -> list[Row]:
    """The mean of |x - reference| over the images x of every solver and their pixels, from the same noise x_T.

    nfes: network calls at most, as a row's "nfe_asked"; its "nfe" is what was made. A solver is left out where one step
    of it takes more. One compilation for all up to 64 calls.
    """
    rows: list[Row] = []
    for name, solver in SOLVERS.items():
        calls_a_step = solver(sde, deis.timesteps(sde, 1, phase, order)).nfe
        for nfe in (nfe for nfe in nfes if nfe >= calls_a_step):
            table = solver(sde, deis.timesteps(sde, nfe // calls_a_step, phase, order))
            difference = np.mean(np.abs(np.asarray(deis.sample(table, eps_fn, x_T), np.float64) - reference))
            rows.append({"sampler": name, "nfe_asked": nfe, "nfe": table.nfe, "pixel_difference": float(difference)})
    return rows
