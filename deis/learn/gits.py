"""Nodes from a network's own trajectories: the path of least Euler error over a fine grid (GITS, arXiv 2405.11326)."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Float64

from deis import tables
from deis.errors import checked
from deis.learn.batches import Condition, batches
from deis.sampler import State, trajectory
from deis.schedule import Nodes, known_times, timesteps
from deis.sde import SDE

FINE = 60  # steps of the trajectories
GROWTH = 1.15  # by which errors of later steps weigh more than the one before them, as published


class StepErrors(NamedTuple):
    """What one step costs on a network's trajectories.

    ts: [nodes] FINE + 1 in number, or all times of a discrete model that has fewer. error: [nodes, nodes] root mean
    square of v where one step of DDIM ends, from node i to node j of a later time, minus v of the trajectory there;
    infinite for j <= i.
    """

    ts: Nodes
    error: Float64[np.ndarray, "nodes nodes"]


@checked
def step_errors(
    sde: SDE, eps_fn: Callable[..., State], x_T: State, batch_size: int = 8, condition: Condition | None = None
) -> StepErrors:
    """The errors of all steps, from one trajectory of iPNDM for each of x_T [batch, ...]: FINE network calls for each.

    Arguments are those of `deis.choose`. Raises ValueError for fewer trajectories than `batch_size`, values that are
    not finite, and if s(T) = 0.
    """
    sde.refuse_noise("the error of a step in x / s")
    fine = min(FINE, int(sde.T)) if sde.is_discrete else FINE
    table = tables.ipndm(sde, known_times(sde, timesteps(sde, fine, "edm")), order=4)
    squares, s, rho = np.zeros((fine + 1, fine + 1)), table.s, table.rho
    found = batches(eps_fn, x_T, x_T, condition, batch_size)
    for batch in found:
        x_t, x_0 = (_flat(x) for x in trajectory(table, batch.network, batch.x_T))
        v = x_t / s[:, None]
        for i in range(fine):
            e = (v[i] - x_0[i]) / rho[i]
            step = v[i] + (rho[i + 1 :, None] - rho[i]) * e
            squares[i, i + 1 :] += np.mean((step - v[i + 1 :]) ** 2, axis=1) / len(found)
    later = np.triu(np.ones_like(squares, dtype=bool), 1)
    if not np.all(np.isfinite(squares[later])):
        raise ValueError("eps_fn or x_T gave NaN or infinite values on the way of iPNDM; no nodes follow from them")
    return StepErrors(table.t, np.where(later, np.sqrt(squares), np.inf))


@checked
def gits(errors: StepErrors, num_step: int) -> Nodes:
    """The num_step + 1 of the nodes, both ends among them, whose steps have the least error in all.

    The error of a path is that of its first step plus GROWTH times that of the rest. Raises ValueError for more steps
    than there are between the nodes.
    """
    last = len(errors.ts) - 1
    if not 1 <= num_step <= last:
        raise ValueError(f"num_step must be from 1 to {last}, got {num_step}")
    rest, choice = errors.error[:, -1], []
    for _ in range(num_step - 1):
        through = errors.error + GROWTH * rest
        choice.append(through.argmin(axis=1))
        rest = through.min(axis=1)
    path = [0]
    for best in reversed(choice):
        path.append(int(best[path[-1]]))
    return errors.ts[[*path, last]]


def _flat(x: State) -> Float64[np.ndarray, "nodes elements"]:
    """[nodes, elements] of every leaf [nodes, batch, ...] together."""
    leaves = [np.asarray(leaf, np.float64) for leaf in jax.tree.leaves(x)]
    return np.concatenate([leaf.reshape(len(leaf), -1) for leaf in leaves], axis=1)
