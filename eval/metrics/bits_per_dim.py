"""Bits per dimension of 8-bit images under a network, by the probability-flow ODE (DEIS, arXiv 2204.13902).

The ODE is run from images to noise by each of several solvers.
"""

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache, partial
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Float, Int32, UInt8
from tqdm import tqdm

import data
import deis
from deis import SDE
from deis.likelihood import Flow, bits_per_dim, dequantise, encoding, log_prob
from deis.sampler import EpsFn, State
from models.sampling.build import build_table, check_sampler, nodes_of, solver_of
from models.sampling.draw import load_trained
from models.sampling.source import Source
from models.score import eps_fn
from runs.errors import NonFiniteError, checking


def table_flow(sampler: Mapping[str, Any], sde: deis.SDE) -> tuple[str, Flow]:
    """The name and flow of a `sampler` group's solver. Raises as `encoding_table` does."""
    table = encoding_table(sampler, sde)
    return table.name, lambda sde, eps_fn, state: (deis.sample(table, eps_fn, state), table.nfe)


def encoding_table(sampler: Mapping[str, Any], sde: deis.SDE) -> deis.Table:
    """The table of a `sampler` group run from x_0 to x_T, of as many network calls as when it samples.

    Raises ValueError for a solver that does not run this way.
    """
    options, nfe = check_sampler(sampler), build_table(sampler, sde).nfe

    def table(num_step: int) -> deis.Table:
        return encoding(sde, nodes_of(options, sde, num_step), solver_of(options))

    return table(deis.tables.fewest_steps(table, nfe))


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
    eps_fn_of: Callable[[Array | None], EpsFn],
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
    eps_fn_of: from the labels of a batch (None without labels) to its eps_fn.
    flow, trace: as in `deis.likelihood.log_prob`. num_probes: random probes that are averaged over; the exact trace
        has none. The network calls are those of one probe.
    Raises ValueError for images that are not uint8, no probes, an unknown trace, or an SDE without noise at t_0.
    """
    if num_probes < 1:
        raise ValueError(f"num_probes must be at least 1, got {num_probes}")
    flow, count = relative_to_x_0(flow), 1 + (1 if trace == "exact" else num_probes)
    for first in range(0, len(images), batch_size):
        index = np.minimum(np.arange(first, first + batch_size), len(images) - 1)
        keys = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(seed), index)
        noise_keys, *probe_keys = jax.vmap(partial(jax.random.split, num=count), out_axes=1)(keys)
        x_0 = dequantise(images[index], noise_keys)
        network = eps_fn_of(None if labels is None else jax.numpy.asarray(labels[index]))
        results = [log_prob(sde, network, x_0, flow, trace, keys) for keys in probe_keys]
        log_p = np.mean([np.asarray(log_p, np.float64) for log_p, _ in results], axis=0)
        yield np.asarray(bits_per_dim(log_p, images[0].size))[: len(images) - first], results[0][1]


def standard_error(values: Float[np.ndarray, " n"]) -> float | None:
    """The standard error of the mean of independent values; None for fewer than two."""
    return float(np.std(values, ddof=1) / math.sqrt(len(values))) if len(values) > 1 else None


def measure_bits(
    source: Source, sde: deis.SDE, split: data.Split, flows: Sequence[tuple[str, Flow]], batch_size: int, **options: Any
) -> tuple[list[dict[str, Any]], list[np.ndarray]]:
    """(one row of numbers, bits/dim of each image) for every named flow. options: the rest of `bits_of_batches`'s.

    Raises ConfigError for a network that cannot be used, NonFiniteError for NaN or infinite bits.
    """
    with checking():
        net = load_trained(source.path, source.step)
    labels = split.labels if net.num_classes else None
    batch_size = min(batch_size, len(split.images))  # no more is computed than what is asked for
    rows, all_bits = [], []
    for name, flow in flows:
        clock, chunks, nfes = time.perf_counter(), [], []
        eps_fn_of = partial(eps_fn, net.network, sde, net.params)
        batches = bits_of_batches(sde, eps_fn_of, split.images, labels, flow, batch_size, **options)
        with tqdm(total=len(split.images), desc=name, unit="image", leave=False) as bar, checking():
            for chunk, nfe in batches:
                chunks.append(chunk)
                nfes.append(nfe)
                bar.update(len(chunk))
        bits = np.concatenate(chunks)
        if not np.all(np.isfinite(bits)):
            bad = int(np.argmin(np.isfinite(bits)))
            raise NonFiniteError(
                f"{name} gave NaN or infinite bits/dim, first for image {bad}; the network is at fault"
            )
        all_bits.append(bits)
        mean, seconds = float(np.mean(bits)), time.perf_counter() - clock
        row = {"solver": name, "nfe": float(np.mean(nfes)), "bits_per_dim": mean}
        rows.append(row | {"standard_error": standard_error(bits), "seconds": seconds})
    return rows, all_bits


def paired_difference(first: np.ndarray, second: np.ndarray) -> dict[str, float | None]:
    """The difference of the first method's bits/dim from the second's, on the same images, noise and probes."""
    difference = first - second
    return {
        "mean": float(np.mean(difference)),
        "standard_error": standard_error(difference),
        "largest": float(np.max(np.abs(difference))),
    }
