"""The probability-flow ODE run from images to noise by several solvers, and the bits per dimension each gives."""

import time
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from tqdm import tqdm

import data
import deis
from deis import adaptive
from deis.likelihood import Flow, encoding
from eval.metrics.bits_per_dim import bits_of_batches, standard_error
from models.sampling.build import build_table, check_sampler, solver_of
from models.sampling.draw import load_trained
from models.sampling.source import Source
from models.score import eps_fn
from runs.errors import NonFiniteError, checking

NamedFlow = tuple[str, Flow]
"""The solver's name, and what carries images to noise with it."""


def table_flow(sampler: Mapping[str, Any], sde: deis.SDE) -> NamedFlow:
    """The flow of a `sampler` group's solver. Raises ValueError for one that does not run from images to noise."""
    table = encoding_table(sampler, sde)
    return table.name, lambda sde, eps_fn, state: (deis.sample(table, eps_fn, state), table.nfe)


def adaptive_flow(tolerance: float) -> NamedFlow:
    """The flow of DOPRI5 with this relative and absolute tolerance."""
    return "DOPRI5", partial(adaptive.encode, rtol=tolerance, atol=tolerance)


def encoding_table(sampler: Mapping[str, Any], sde: deis.SDE) -> deis.Table:
    """The table of a `sampler` group run from x_0 to x_T, of as many network calls as when it samples.

    Raises ValueError for a solver that does not run this way.
    """
    options, nfe = check_sampler(sampler), build_table(sampler, sde).nfe

    def table(num_step: int) -> deis.Table:
        ts = deis.timesteps(sde, num_step, options["ts_phase"], options["ts_order"])
        return encoding(sde, ts, solver_of(options))

    return table(deis.tables.fewest_steps(table, nfe))


def measure_bits(
    source: Source, sde: deis.SDE, split: data.Split, flows: Sequence[NamedFlow], batch_size: int, **options: Any
) -> tuple[list[dict[str, Any]], list[np.ndarray]]:
    """(one row of numbers, bits/dim of each image) for every flow. options: the rest of `bits_of_batches`'s.

    Raises ConfigError for a network that cannot be used, NonFiniteError for NaN or infinite bits.
    """
    with checking():
        net = load_trained(source.path, source.step)
    labels = split.labels if net.num_classes else None
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
            bad = int(np.flatnonzero(~np.isfinite(bits))[0])
            raise NonFiniteError(
                f"{name} gave NaN or infinite bits/dim, first for image {bad}; the network is at fault"
            )
        all_bits.append(bits)
        rows.append(
            {
                "solver": name,
                "nfe": float(np.mean(nfes)),
                "bits_per_dim": float(np.mean(bits)),
                "standard_error": standard_error(bits),
                "seconds": time.perf_counter() - clock,
            }
        )
    return rows, all_bits


def paired_difference(first: np.ndarray, second: np.ndarray) -> dict[str, float]:
    """The difference of the first method's bits/dim from the second's, on the same images, noise and probes."""
    difference = first - second
    return {
        "mean": float(np.mean(difference)),
        "standard_error": standard_error(difference),
        "largest": float(np.max(np.abs(difference))),
    }
