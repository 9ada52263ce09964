"""A paper's table computed cell by cell in one process; each is a file, so that a stopped run goes on where it was."""

import hashlib
import json
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, reduce
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float
from tqdm import tqdm

import data
import deis
from data.config import DatasetConfig
from deis import adaptive
from eval.features.extractor import Extractor
from eval.job import MeasuringJob
from eval.metrics.frechet import Statistics, empty_statistics, frechet_distance, merge, metric_name, rank_warning
from eval.metrics.jackknife import BLOCKS, distances_without, extend_blocks, standard_error
from eval.metrics.measurement import MetricConfig, open_measurement
from eval.metrics.precision_recall import precision_recall
from eval.metrics.reference import kept_radii
from eval.paper.grid import Record
from eval.paper.plan import Adaptive, Analytic, Cell, shared_out
from formats.files import read_json, read_npz, write_atomically, write_npz
from models.sampling.draw import Start, Trained, changed_eps, draw, guided, load_trained, starts, warm_up
from models.sampling.options import given
from models.sampling.source import Source, identity
from models.training.devices import gather, wait_for_all, warn_of_idle
from runs.errors import Stopped, checking, stop_requests
from runs.log import Log

SHOWN = 4  # images of each cell that are kept for the picture
STATISTIC_IMAGES = 512  # training images that Analytic-DDIM's statistic is estimated on


class Costs:
    """The seconds that a table takes, by what for; what is computed `now`; and what the network was compiled for."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self.compiled: list[str] = []
        self.now = ""
        self._last = time.perf_counter()

    def lap(self, what: str) -> None:
        """Count the seconds since the last lap, or since the start, as spent on `what`."""
        last, self._last = self._last, time.perf_counter()
        self.seconds[what] += self._last - last

    def counting(self, net: Trained) -> Trained:
        """The same network, which notes here what it is compiled for: JAX then traces it, some solvers repeatedly."""

        def apply(*arguments: Any) -> Any:
            if self.now not in self.compiled[-1:]:
                self.compiled.append(self.now)
            return net.network.apply(*arguments)

        return net._replace(network=net.network._replace(apply=apply))

    def __str__(self) -> str:
        """Two lines: where the time went, and the compilations."""
        spent = ", ".join(f"{what} {self.seconds[what]:.1f} s" for what in ("network", "features", "all else"))
        before = ", ".join(f"{what} {self.seconds[what]:.1f} s" for what in ("setting up", "compiling"))
        compiled = f": {', '.join(self.compiled)}" if self.compiled else ""
        return f"{spent}; before that {before}\nnetwork compiled {len(self.compiled)} time(s){compiled}"


@dataclass(frozen=True)
class Setup:
    """The network, the extractor and all else that the cells share.

    sde: the options of the network's SDE. reference: statistics of the data set's training images. rounding: how
    samples become uint8, as in `data.to_uint8`. folder: it holds the files of finished cells. worse: the networks of
    autoguidance by `guidance_network`. reference_features: those of every training image, for precision and recall.
    """

    net: Trained
    sde: dict[str, Any]
    extractor: Extractor
    reference: Statistics
    dataset: DatasetConfig
    batch_size: int
    rounding: str
    folder: Path
    costs: Costs
    worse: dict[str | None, Source | None] = field(default_factory=dict)
    reference_features: np.ndarray | None = None

    def net_of(self, cell: Cell) -> Trained:
        """The network, with the worse one that guides it in this cell."""
        return guided(self.net, self.worse.get(cell.eps.guidance_network))

    def identity_of(self, cell: Cell) -> dict[str, Any]:
        """All that the cell's number depends on besides its options, as plain values."""
        worse = self.worse.get(cell.eps.guidance_network)
        return self.identity | ({} if worse is None else {"worse": identity(worse)})

    @cached_property
    def identity(self) -> dict[str, Any]:
        """All that a number depends on besides its cell's options, as plain values."""
        weights = hashlib.sha256()
        for path, leaf in jax.tree.leaves_with_path(self.net.params):
            weights.update(f"{jax.tree_util.keystr(path)}{leaf.dtype}{leaf.shape}".encode())
            weights.update(np.asarray(leaf).tobytes())
        measured = {"images": self.reference.data, "features": self.extractor.name, "rounding": self.rounding}
        more = {} if self.reference_features is None else {"precision_recall": True}
        return {"weights": weights.hexdigest(), "sde": self.sde, **measured, **more}


def set_up(
    source: Source,
    worse: dict[str | None, Source | None],
    dataset: DatasetConfig,
    job: MeasuringJob,
    folder: Path,
    with_features: bool,
) -> Setup:
    """Load the network, the extractor and the reference statistics. Raises ConfigError for what cannot be used."""
    costs = Costs()
    with checking():
        net = costs.counting(load_trained(source.path, source.step))
        assert job.extractor is not None
        found = open_measurement(job.extractor, dataset, MetricConfig(["fid", "pr"] if with_features else ["fid"]))
    sde, reference, batch_size = source.config["sde"], found.reference, min(job.batch_size, job.num_samples)
    warn_of_idle(batch_size)
    shared = (dataset, batch_size, job.rounding, folder, costs, worse, reference.features)
    return Setup(net, sde, found.extractor, reference.statistics, *shared)


def compile_shared(setup: Setup, cells: Sequence[Cell]) -> None:
    """Compile what the cells share, so that their clocks do not count it: the sampler, and with noise where needed."""
    fixed = [cell for cell in cells if not isinstance(cell.solver, Adaptive)]
    kinds = {(cell.solver.is_stochastic, *given(cell.eps), cell.eps.guidance_network or ""): cell for cell in fixed}
    for _, cell in sorted(kinds.items()):
        changed = f" with {', '.join(given(cell.eps))}" if given(cell.eps) else ""
        noise = cell.solver.is_stochastic
        setup.costs.now = f"{'samplers that add noise' if noise else 'deterministic samplers'}{changed}"
        warm_up(setup.net_of(cell), noise, setup.batch_size, cell.eps)
    if cells:
        setup.extractor.features(np.zeros((1, *setup.net.image_shape), np.uint8))
    setup.costs.lap("compiling")


def measure_cells(
    setup: Setup, cells: Mapping[str, Cell], log: Log, process: int = 0, num_processes: int = 1
) -> list[Record]:
    """The records of all cells, by file name; earlier ones are read, and the others shared out over the processes.

    Raises Stopped between two batches on a signal, and at the end ConnectionError if a process has been lost.
    """
    files = {name: setup.folder / f"{name}.json" for name in cells}
    with checking():
        records: dict[str, Record] = {name: read_json(file) for name, file in files.items() if file.is_file()}
    missing = {name: cell for name, cell in cells.items() if name not in records}
    wait_for_all()  # so that all have seen the same files
    missing = shared_out(missing, process, num_processes)
    if process == 0:
        print(f"{len(records)} of {len(cells)} cells are done", file=sys.stderr)
    setup.costs.lap("setting up")
    compile_shared(setup, list(missing.values()))
    calls = sum(cell.solver.nfe * -(-len(cell.seeds) // setup.batch_size) for cell in missing.values())
    with stop_requests() as stop_signal, tqdm(total=calls, unit="call", disable=process > 0) as bar:
        for name, cell in missing.items():
            bar.set_description(f"{cell} ({len(records) + 1} of {len(cells)})", refresh=False)

            def progress(calls: int, is_new: bool = isinstance(cell.solver, Adaptive)) -> None:
                bar.total += calls if is_new else 0
                bar.update(calls)
                if stop_signal():
                    done = f"stopped with {len(records)} of {len(cells)} cells done"
                    raise Stopped(stop_signal(), f"{done}; the same command goes on from there")

            records[name] = record = measure_cell(setup, cell, name, progress)
            log_cell(log, len(records), record)
    found = np.frombuffer(json.dumps(records).encode(), np.uint8)
    for part in gather({"records": found}):
        for name, record in json.loads(part["records"].tobytes()).items():
            if name not in records:
                records[name] = record
                log_cell(log, len(records), record)
    return [records[name] for name in cells]


def log_cell(log: Log, step: int, record: Record) -> None:
    """One point of the plot of FID against NFE, in the line of the cell's row."""
    if "error" not in record:
        log.metrics(step, {f"fid/{record['row']}": record["fid"], "nfe": record["nfe"]})


def measure_cell(setup: Setup, cell: Cell, name: str, progress: Callable[[int], None]) -> Record:
    """Draw the cell's images, measure them batch by batch, and write its record, last and at once.

    progress: called with the network calls of every batch; may end the run by an exception, which leaves no record.
    A cell whose samples are not finite has an "error" instead of a FID, and no file.
    """
    costs, extractor = setup.costs, setup.extractor
    costs.now = str(cell)
    record: Record = {
        "row": cell.row,
        "sampler": cell.options.get("sampler", "DOPRI5"),
        "method": cell.options.get("method", "dopri5"),
        "nfe_asked": cell.nfe_asked,
        "tolerance": cell.tolerance,
        "repeat": cell.repeat,
        "seeds": f"{cell.seeds[0]}-{cell.seeds[-1]}",
        "num_samples": len(cell.seeds),
        "options": cell.options,
    }
    kept: list[np.ndarray] = []
    blocks, calls = [empty_statistics(extractor.name, costs.now)] * min(BLOCKS, len(cell.seeds)), []
    shown = np.zeros((0, *setup.net.image_shape), np.uint8)
    costs.lap("all else")
    before = dict(costs.seconds)
    for x_0, nfe in samples(setup, cell):
        costs.lap("network")
        if not np.isfinite(x_0).all():
            return record | {"error": f"NaN or infinite samples at {cell.column}"}
        images = data.to_uint8(x_0, setup.rounding)
        shown = shown if len(shown) else images[:SHOWN]
        costs.lap("all else")
        features = extractor.features(images)
        costs.lap("features")
        blocks = extend_blocks(blocks, features)
        kept += [features] if setup.reference_features is not None else []
        calls.append(nfe)
        progress(nfe)
        costs.lap("all else")
    network_s, features_s = (costs.seconds[what] - before.get(what, 0.0) for what in ("network", "features"))
    stats, without = reduce(merge, blocks), distances_without(blocks, setup.reference)
    record |= {
        "nfe": round(sum(calls) / len(calls)),
        "fid": frechet_distance(stats, setup.reference),
        "fid_standard_error": standard_error(without),
        "fid_without_block": without,
        "fid_name": metric_name(stats, extractor.distance),
        "warning": rank_warning(stats, setup.reference),
        "images_per_s": len(cell.seeds) / (network_s + features_s),
        "network_s": network_s,
        "features_s": features_s,
    }
    if setup.reference_features is not None:
        radii = kept_radii(extractor, setup.reference.data, setup.reference_features)
        record |= precision_recall(np.concatenate(kept), setup.reference_features, radii=radii)._asdict()
    write_npz(setup.folder / f"{name}.npz", {"images": shown})
    write_atomically(setup.folder / f"{name}.json", json.dumps(record, indent=1) + "\n")
    costs.lap("all else")
    return record


def samples(setup: Setup, cell: Cell) -> Iterator[tuple[Float[np.ndarray, "b h w c"], int]]:
    """(samples, network calls of each) of the cell's seeds in order, up to batch_size at a time."""
    net, solver, seeds = setup.net_of(cell), cell.solver, list(cell.seeds)
    if not isinstance(solver, Adaptive):
        table = solver.table(eps_norm(setup, cell)) if isinstance(solver, Analytic) else solver
        for x_0 in draw(net, table, seeds, setup.batch_size, cell.eps):
            yield x_0, table.nfe
        return
    for first in range(0, len(seeds), setup.batch_size):
        chunk = seeds[first : first + setup.batch_size]
        at = starts(net, chunk + [0] * (setup.batch_size - len(chunk)), cell.eps.label)
        network = changed_eps(net, at, cell.eps)
        x_0, calls = adaptive.sample(solver.sde, network, at.x_T, solver.variable, solver.tolerance, solver.tolerance)
        yield np.asarray(x_0)[: len(chunk)], calls


def eps_norm(setup: Setup, cell: Cell) -> Float[np.ndarray, " nodes"]:
    """Analytic-DDIM's statistic at the cell's nodes, from training images; estimated once and kept in the folder."""
    solver = cell.solver
    assert isinstance(solver, Analytic)
    about = json.dumps(setup.identity_of(cell) | given(cell.eps), sort_keys=True)
    digest = hashlib.sha256(solver.ts.tobytes() + about.encode())
    path = setup.folder / f"eps_norm_{digest.hexdigest()[:10]}.npz"
    if path.is_file():
        return read_npz(path)["eps_norm"]
    train = data.load(setup.dataset, "train")
    x_0 = data.to_float(jnp.asarray(train.images[:STATISTIC_IMAGES]))
    labels = train.labels if setup.net.num_classes else None
    label = None if labels is None else jnp.asarray(labels[:STATISTIC_IMAGES])
    z = jax.random.normal(jax.random.key(0), x_0.shape)
    network = jax.jit(changed_eps(setup.net_of(cell), Start(z, label, jax.random.key(0)), cell.eps))
    norm = deis.tables.estimate_eps_norm(solver.sde, solver.ts, network, x_0, z)
    write_npz(path, {"eps_norm": norm})
    return norm
