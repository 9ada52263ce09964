"""Bits per dimension of 8-bit images under a network, by the probability-flow ODE (DEIS, arXiv 2204.13902)."""

import math
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Float, Int32, UInt8

from deis import SDE
from deis.likelihood import Flow, bits_per_dim, dequantise, log_prob
from deis.sampler import EpsFn, State

EpsFnOf = Callable[[Array | None], EpsFn]
"""A function from the labels of a batch (None without labels) to its eps_fn."""


def relative_to_x_0(flow: Flow) -> Flow:
    """`flow` for `deis.likelihood.log_prob`, with the part of the log-density's change that is known done exactly.

    With D the predicted x_0 = v - rho eps, in d dimensions and v = x / s(t),

        div_v eps = (d - div_v D) / rho

    The first term integrates to d log(rho_T / rho_0); `flow` integrates the second alone, which falls as rho^-3 at high
    noise. The limit is the same. With few steps it is closer to it: over a step that doubles rho, Kutta's weights
    miss the integral of 1 / rho by 0.002 bits in every dimension, and always to the same side.
    The steps should be even in log rho. Raises ValueError, when called, for an SDE without noise at t_0.
    """

    def relative(sde: SDE, eps_and_divergence: Any, state: State) -> tuple[State, int]:
        rho_0, rho_T = sde.rho(np.array([sde.t_0, sde.T])).tolist()
        if rho_0 == 0:
            raise ValueError(f"a log-density needs noise at the smallest time, but sigma is 0 at t_0={sde.t_0:g}")
        (x_T, change), nfe = flow(sde, jax.tree_util.Partial(_without_1_over_rho(sde), eps_and_divergence), state)
        known = state[0][0].size * math.log(rho_T / rho_0)
        return (x_T, change + float(sde.s(np.array(sde.T))) * known), nfe

    return relative


@lru_cache  # one function, so one compilation, for each SDE
def _without_1_over_rho(sde: SDE) -> Callable:
    def rest(eps_and_divergence: Callable, state: State, t: Array) -> State:
        e, divergence = eps_and_divergence(state, t)
        return e, divergence - state[0][0].size / sde.rho(t)

    return rest


def bits_of_batches(
    sde: SDE,
    eps_fn_of: EpsFnOf,
    images: UInt8[np.ndarray, "n h w c"],
    labels: Int32[np.ndarray, " n"] | None,
    flow: Flow,
    batch_size: int,
    seed: int = 0,
    trace: str = "rademacher",
    num_probes: int = 1,
) -> Iterator[tuple[Float[np.ndarray, " batch"], int]]:
    """(bits/dim of each image, network calls), batch after batch; the last one is filled up, so that all compile once.

    An image's dequantisation noise and probes depend on (seed, its index in `images`) alone, not on its batch. An
    adaptive flow takes the steps that its batch needs, and so depends on it within its tolerance.
    flow, trace: as in `deis.likelihood.log_prob`. num_probes: random probes that are averaged over; the exact trace
        has none. The network calls are those of one probe.
    Raises ValueError for images that are not uint8, no probes, an unknown trace, or an SDE without noise at t_0.
    """
    if num_probes < 1:
        raise ValueError(f"num_probes must be at least 1, got {num_probes}")
    flow, dim = relative_to_x_0(flow), images[0].size
    for first in range(0, len(images), batch_size):
        index = np.minimum(np.arange(first, first + batch_size), len(images) - 1)
        noise_keys, *probe_keys = _keys(seed, index, 1 + (1 if trace == "exact" else num_probes))
        x_0 = dequantise(images[index], noise_keys)
        eps_fn = eps_fn_of(None if labels is None else jax.numpy.asarray(labels[index]))
        results = [log_prob(sde, eps_fn, x_0, flow, trace, keys) for keys in probe_keys]
        log_p = np.mean([np.asarray(log_p, np.float64) for log_p, _ in results], axis=0)
        yield np.asarray(bits_per_dim(log_p, dim))[: len(images) - first], results[0][1]


def _keys(seed: int, index: np.ndarray, count: int) -> Array:
    """[count, batch] independent keys for the images at `index`."""
    fold = jax.vmap(jax.random.fold_in, (None, 0))
    return jax.vmap(lambda key: jax.random.split(key, count), out_axes=1)(fold(jax.random.key(seed), index))


def standard_error(values: Float[np.ndarray, " n"]) -> float:
    """The standard error of the mean of independent values; NaN for fewer than two."""
    return float(np.std(values, ddof=1) / math.sqrt(len(values))) if len(values) > 1 else math.nan
