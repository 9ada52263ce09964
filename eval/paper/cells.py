"""Measuring the cells of a paper's table, one after the other, in one process.

Each finished cell is a file in the run's folder, so that a run that was stopped goes on where it was.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, UInt8

import data
import deis
from data.config import DatasetConfig
from deis import adaptive
from eval.features.extractor import Extractor
from eval.metrics.frechet import Statistics, empty_statistics, extend, frechet_distance, metric_name, rank_warning
from eval.paper.costs import Costs
from eval.paper.plan import Adaptive, Analytic, Cell
from eval.paper.spec import Record
from formats.files import write_atomically
from formats.npz import read_npz, write_npz
from models.sampling.draw import Trained, draw, starts
from models.score import eps_fn

SHOWN = 4  # images of each cell that are kept for the picture
STATISTIC_IMAGES = 512  # training images that Analytic-DDIM's statistic is estimated on


class Setup(NamedTuple):
    """The network, the extractor and all else that the cells share.

    dataset: `reference` are the statistics of its training images. rounding: how samples become uint8, as in
    `data.to_uint8`. folder: it holds the files of finished cells. identity: all that a number depends on besides its
    cell's options, as plain values.
    """

    net: Trained
    extractor: Extractor
    reference: Statistics
    dataset: DatasetConfig
    batch_size: int
    rounding: str
    folder: Path
    identity: dict[str, Any]


def warm_up(setup: Setup, cells: Sequence[Cell], costs: Costs) -> None:
    """Compile what the cells share, so that their clocks do not count it: the sampler, and with noise where needed."""
    ends = np.array([setup.net.sde.T, setup.net.sde.t_0])
    for noise in sorted({cell.is_stochastic for cell in cells if not isinstance(cell.solver, Adaptive)}):
        costs.now = "samplers that add noise" if noise else "deterministic samplers"
        table = deis.tables.ddim_eta(setup.net.sde, ends, eta=float(noise))
        next(draw(setup.net, table, [0], setup.batch_size))
    if cells:
        setup.extractor.features(np.zeros((1, *setup.net.image_shape), np.uint8))


def prepare(
    net: Trained,
    sde: dict[str, Any],
    extractor: Extractor,
    reference: Statistics,
    dataset: DatasetConfig,
    batch_size: int,
    rounding: str,
    folder: Path,
) -> Setup:
    """The setup of a network with an SDE of these options, measured against the data set's training images."""
    weights = hashlib.sha256()
    for path, leaf in jax.tree.leaves_with_path(net.params):
        weights.update(f"{jax.tree_util.keystr(path)}{leaf.dtype}{leaf.shape}".encode())
        weights.update(np.asarray(leaf).tobytes())
    identity = {"weights": weights.hexdigest(), "sde": sde, "images": reference.data, "features": extractor.name}
    return Setup(net, extractor, reference, dataset, batch_size, rounding, folder, identity | {"rounding": rounding})


def read_record(folder: Path, name: str) -> Record | None:
    """The record of a finished cell, None if it is not there."""
    path = folder / f"{name}.json"
    return json.loads(path.read_text()) if path.is_file() else None


def read_images(folder: Path, name: str) -> UInt8[np.ndarray, "n h w c"]:
    """The first images of a finished cell."""
    return read_npz(folder / f"{name}.npz")["images"]


def measure_cell(setup: Setup, cell: Cell, name: str, costs: Costs, progress: Callable[[int], None]) -> Record:
    """Draw the cell's images, measure them batch by batch, and write its record, last and at once.

    progress: called with the network calls of every batch; may end the run by an exception, which leaves no record.
    A cell whose samples are not finite has an "error" instead of a FID, and no file.
    """
    costs.now = str(cell)
    record, before = description(cell), dict(costs.seconds)
    stats, calls = empty_statistics(setup.extractor.name, costs.now), []
    shown = np.zeros((0, *setup.net.image_shape), np.uint8)
    for x_0, nfe in costs.each("network", samples(setup, cell)):
        if not np.isfinite(x_0).all():
            return record | {"error": f"NaN or infinite samples at {cell.column}"}
        images = data.to_uint8(x_0, setup.rounding)
        shown = shown if len(shown) else images[:SHOWN]
        with costs.of("features"):
            features = setup.extractor.features(images)
        stats = extend(stats, features)
        calls.append(nfe)
        progress(nfe)
    network_s, features_s = (costs.seconds[what] - before.get(what, 0.0) for what in ("network", "features"))
    record |= {
        "nfe": cell.nfe or round(sum(calls) / len(calls)),
        "fid": frechet_distance(stats, setup.reference),
        "fid_name": metric_name(stats, setup.extractor.distance),
        "warning": rank_warning(stats, setup.extractor.distance),
        "images_per_s": len(cell.seeds) / (network_s + features_s),
        "network_s": network_s,
        "features_s": features_s,
    }
    write_npz(setup.folder / f"{name}.npz", {"images": shown})
    write_atomically(setup.folder / f"{name}.json", json.dumps(record, indent=1) + "\n")
    return record


def description(cell: Cell) -> Record:
    """The fields of a cell's record that are known before it is measured."""
    return {
        "row": cell.row,
        "sampler": cell.options.get("sampler", "DOPRI5"),
        "method": cell.method,
        "nfe_asked": cell.nfe_asked,
        "tolerance": cell.tolerance,
        "repeat": cell.repeat,
        "seeds": f"{cell.seeds[0]}-{cell.seeds[-1]}",
        "num_samples": len(cell.seeds),
        "options": cell.options,
    }


def samples(setup: Setup, cell: Cell) -> Iterator[tuple[Float[np.ndarray, "b h w c"], int]]:
    """(samples, network calls of each) of the cell's seeds in order, up to batch_size at a time."""
    seeds = list(cell.seeds)
    if isinstance(cell.solver, Adaptive):
        yield from _adaptive_samples(setup, cell.solver, seeds)
        return
    table = cell.solver.table(eps_norm(setup, cell.solver)) if isinstance(cell.solver, Analytic) else cell.solver
    for x_0 in draw(setup.net, table, seeds, setup.batch_size):
        yield x_0, table.nfe


def _adaptive_samples(
    setup: Setup, solver: Adaptive, seeds: list[int]
) -> Iterator[tuple[Float[np.ndarray, "b h w c"], int]]:
    net = setup.net
    for first in range(0, len(seeds), setup.batch_size):
        chunk = seeds[first : first + setup.batch_size]
        at = starts(net, chunk + [0] * (setup.batch_size - len(chunk)))
        network = eps_fn(net.network, net.sde, net.params, at.label)
        x_0, calls = adaptive.sample(solver.sde, network, at.x_T, solver.variable, solver.tolerance, solver.tolerance)
        yield np.asarray(x_0)[: len(chunk)], calls


def eps_norm(setup: Setup, solver: Analytic) -> Float[np.ndarray, " nodes"]:
    """Analytic-DDIM's statistic at the solver's nodes, from training images; estimated once and kept in the folder."""
    digest = hashlib.sha256(solver.ts.tobytes() + json.dumps(setup.identity, sort_keys=True).encode())
    path = setup.folder / f"eps_norm_{digest.hexdigest()[:10]}.npz"
    if path.is_file():
        return read_npz(path)["eps_norm"]
    train = data.load(setup.dataset, "train")
    count = min(STATISTIC_IMAGES, len(train.images))
    x_0 = data.to_float(jnp.asarray(train.images[:count]))
    labels = train.labels
    label = jnp.asarray(labels[:count]) if setup.net.num_classes and labels is not None else None
    network = jax.jit(eps_fn(setup.net.network, setup.net.sde, setup.net.params, label))
    z = jax.random.normal(jax.random.key(0), x_0.shape)
    norm = deis.tables.estimate_eps_norm(solver.sde, solver.ts, network, x_0, z)
    write_npz(path, {"eps_norm": norm})
    return norm
