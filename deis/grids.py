"""Grids that are made for one solver: the nodes at which it is most accurate on diffusions whose exact answer is known.

The diffusions are of mixtures of two normal distributions on a line, near and far apart, wide and narrow, of data of
size 1. Their eps is known, and so is where the probability-flow ODE ends: it keeps every point's quantile. A table of
N calls runs on all of them in N lines of NumPy, so that its error is a function of its nodes that can be minimised.

The idea of a grid from the solver's own weights and no network is that of DM-NonUniform (arXiv 2402.17376). Its bound
sums the network's errors at the nodes and leaves out how well the solver follows the ODE, which at few calls is most.
"""

from collections.abc import Callable
from functools import cache
from typing import NamedTuple

import numpy as np
from jaxtyping import Float64

from deis.errors import checked
from deis.schedule import Nodes, round_down, timesteps
from deis.sde import SDE
from deis.table import Table

APART = (0.5, 1.5, 5.0)
STD = (0.05, 0.2, 0.5)
WEIGHT = (0.5, 0.3)
POINTS = 64
KNOTS = 10
MOST = 5.0  # by which the logarithm of a gap may move, so that nodes stay apart

Array = Float64[np.ndarray, "..."]


@checked
def optimized(sde: SDE, num_step: int, solver: Callable[[SDE, Nodes], Table]) -> Nodes:
    """The nodes [num_step+1] from T to t_0 of the smallest geometric mean of the errors of `solver` on `mixtures`.

    The gaps of log rho between the ends are what moves, KNOTS of their logarithms and the others linearly between
    them, from those of the best schedule of `deis.timesteps`, by sequential least-squares programming: tenths of a
    second for 5 steps, seconds for 50. Another machine, or number of threads, may round otherwise and find nodes some
    hundredths away, of an error as small within a per cent: `Table.save` keeps the ones that were found.

    solver: from (sde, nodes) to a deterministic table. For a `DiscreteVPSDE` the nodes are whole times in the end.
    Raises ValueError for a stochastic solver, and where rho is 0 at t_0 or infinite at T.
    """
    from scipy.optimize import minimize

    log_T, log_0 = _ends(sde)
    starts = [timesteps(sde, num_step, *grid) for grid in _smooth_grids(sde)]
    mean_log_error(solver(sde, starts[0]))  # whatever is wrong with the solver is raised here

    steps, knots = np.linspace(0, 1, num_step), np.linspace(0, 1, min(num_step, KNOTS))

    def nodes(params: Array) -> Nodes:
        share = np.exp(np.interp(steps, knots, params - params.max()))
        ts = sde.t_of_rho(np.exp(log_T + (log_0 - log_T) * np.append(0.0, np.cumsum(share) / share.sum())))
        ts[0], ts[-1] = sde.T, sde.t_0
        return ts

    def cost(params: Array) -> float:
        try:
            return mean_log_error(solver(sde, nodes(params)))
        except ValueError:  # two nodes have become one
            return 100.0

    first = [np.interp(knots, steps, np.log(-np.diff(np.log(sde.rho(ts))))) for ts in starts]
    start = min(first, key=cost)
    bounds = [(gap - MOST, gap + MOST) for gap in start]
    found = nodes(minimize(cost, start, method="SLSQP", bounds=bounds, options={"ftol": 1e-4}).x)
    return round_down(found + 0.5, int(sde.T)) if sde.is_discrete else found


def mean_log_error(table: Table) -> float:
    """The mean over `mixtures` of the logarithm of the root mean square error at the table's end.

    Raises ValueError for a stochastic table.
    """
    if table.is_stochastic:
        raise ValueError(f"{table.name} adds noise; only the nodes of deterministic solvers can be optimized")
    error = run(table) - exact(float(table.rho[0]), float(table.rho[-1]))
    return float(np.mean(0.5 * np.log(np.mean(error**2, axis=-1) + 1e-18)))


class Mixtures(NamedTuple):
    """The mixtures w N(mean_0, std^2) + (1 - w) N(mean_1, std^2), of mean 0, and the noise at quantiles.

    mean: [2, mixtures, 1]; std: [mixtures, 1]; weight: [2, mixtures, 1]; noise: [points].
    """

    mean: Array
    std: Array
    weight: Array
    noise: Array


@cache
def mixtures() -> Mixtures:
    """Every distance in APART with every standard deviation in STD and weight in WEIGHT, at POINTS quantiles."""
    from scipy.special import ndtri

    apart, std, w = (np.ravel(grid)[:, None] for grid in np.meshgrid(APART, STD, WEIGHT))
    mean = np.stack([-(1 - w) * apart, w * apart])
    return Mixtures(mean, std, np.stack([w, 1 - w]), ndtri((np.arange(POINTS) + 0.5) / POINTS))


def run(table: Table) -> Array:
    """x / s [mixtures, points] where `table` ends, from rho_0 times the noise. The equations are in `deis.table`."""
    data = mixtures()
    u = v = table.rho[0] * data.noise + np.zeros_like(data.std)
    history = np.zeros((table.lags, u.size))
    for i in range(table.nfe):
        e = (u - _x_0(data, u, table.rho[i])) / table.rho[i]
        history = np.vstack([(table.a[i] * u + table.b[i] * e).ravel(), history[:-1]])
        u = table.p[i] * v + (table.P[i] @ history).reshape(u.shape)
        v = table.q[i] * v + (table.Q[i] @ history).reshape(u.shape)
    return u


def _x_0(data: Mixtures, v: Array, rho: float) -> Array:
    """The predicted x_0, E[x_0 | v], for v = x_0 + rho eps."""
    variance = data.std**2 + rho**2
    weight = np.log(data.weight) - (v - data.mean) ** 2 / (2 * variance)
    weight = np.exp(weight - weight.max(axis=0))
    x_0 = (data.mean * rho**2 + v * data.std**2) / variance
    return (weight * x_0).sum(axis=0) / weight.sum(axis=0)


@cache
def exact(rho_T: float, rho_0: float) -> Array:
    """v [mixtures, points] at rho_0 on the trajectories from rho_T times the noise: equal quantiles, by bisection."""
    from scipy.special import ndtr

    data = mixtures()

    def quantile(v: Array, rho: float) -> Array:
        return (data.weight * ndtr((v - data.mean) / np.hypot(data.std, rho))).sum(axis=0)

    wanted = quantile(rho_T * data.noise, rho_T)
    low, high = np.full(wanted.shape, -10.0), np.full(wanted.shape, 10.0)
    for _ in range(60):
        middle = (low + high) / 2
        below = quantile(middle, rho_0) < wanted
        low, high = np.where(below, middle, low), np.where(below, high, middle)
    return (low + high) / 2


def _ends(sde: SDE) -> tuple[float, float]:
    rho_T, rho_0 = sde.rho(np.array([sde.T, sde.t_0]))
    if not 0 < rho_0 < rho_T < np.inf:
        raise ValueError(
            f"optimized nodes need a noise-to-signal ratio above 0 at t_0={sde.t_0:g} and below infinity at "
            f"T={sde.T:g}, got {rho_0:g} and {rho_T:g}; move t_0 or T"
        )
    return float(np.log(rho_T)), float(np.log(rho_0))


def _smooth_grids(sde: SDE) -> list[tuple[str, float]]:
    quadratic = [("t", 2.0)] if sde.t_0 >= 0 else []
    return [("log", 1.0), ("edm", 1.0), *quadratic]
