"""Trajectories to choose or learn by, in batches of one size, each with the network under its own condition."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from deis.errors import require
from deis.sampler import State, as_partial

Condition = Any  # a pytree of arrays [batch, ...]: labels, embeddings of text


class Batch(NamedTuple):
    """network(x, t), and noise with the samples that the network gives from it, [batch, ...] both."""

    network: jax.tree_util.Partial
    x_T: State
    x_0: State


def batches(
    eps_fn: Callable[..., State], x_T: State, x_0: State, condition: Condition | None, batch_size: int
) -> list[Batch]:
    """All whole batches; one compilation serves them all.

    eps_fn: of (x, t), or where there is a condition of (x, t, condition).
    Raises ValueError for a batch_size below 1, less than one batch, or arrays of different shapes.
    """
    require(batch_size >= 1, f"batch_size must be at least 1, got {batch_size}")
    num, network = len(jax.tree.leaves(x_T)[0]), as_partial(eps_fn)
    if others := {len(leaf) for leaf in jax.tree.leaves((x_T, x_0, condition))} - {num}:
        raise ValueError(f"x_T, x_0 and condition must hold as many trajectories each, got {num} and {others.pop()}")
    expected, got = (jax.tree.map(np.shape, one) for one in (x_T, x_0))
    require(expected == got, f"x_0 must have the shape of x_T, {expected}, got {got}")
    if num < batch_size:
        raise ValueError(f"{num} trajectories are fewer than batch_size={batch_size}")

    def batch(first: int) -> Batch:
        noise, target, given = jax.tree.map(lambda leaf: leaf[first : first + batch_size], (x_T, x_0, condition))
        return Batch(network if condition is None else jax.tree_util.Partial(_under, network, given), noise, target)

    return [batch(first) for first in range(0, num - batch_size + 1, batch_size)]


def _under(network: jax.tree_util.Partial, condition: Condition, x: State, t: jax.Array) -> State:
    return network(x, t, condition)
