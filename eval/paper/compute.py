"""A paper's table computed on a network: its cells one after the other, then the pages and pictures."""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from data.config import DatasetConfig
from eval.features.config import ExtractorConfig
from eval.figures import fid_vs_nfe_plot
from eval.metrics.measurement import MetricConfig, open_measurement
from eval.paper import tables
from eval.paper.cells import Setup, measure_cell, prepare, read_images, read_record, warm_up
from eval.paper.costs import Costs
from eval.paper.picture import samples_picture
from eval.paper.plan import Cell
from eval.paper.spec import Paper, Record
from models.sampling.draw import load_trained
from models.sampling.source import Source
from runs.errors import Stopped, checking
from runs.log import Log
from runs.signals import stop_requests


def set_up(
    source: Source, extractor: ExtractorConfig, dataset: DatasetConfig, is_its_own: bool, costs: Costs, **options: Any
) -> Setup:
    """Load the network, the feature extractor and the reference statistics. options: the rest of `prepare`'s.

    is_its_own: whether the data set is the one that the network comes with. Raises ConfigError for what cannot be used.
    """
    with checking():
        net = costs.counting(load_trained(source.path, source.step))
        published = source.path if source.step is None and is_its_own else None
        found = open_measurement(extractor, dataset, MetricConfig(), published)
        return prepare(net, source.config["sde"], found.extractor, found.reference.statistics, dataset, **options)


def measure_cells(setup: Setup, cells: Mapping[str, Cell], costs: Costs, log: Log) -> list[Record]:
    """The records of all cells, given by file name. Those of an earlier start are read.

    Raises Stopped between two batches if a signal arrived.
    """
    records = {name: record for name in cells if (record := read_record(setup.folder, name)) is not None}
    missing = {name: cell for name, cell in cells.items() if name not in records}
    print(f"{len(records)} of {len(cells)} cells are done", file=sys.stderr)
    with costs.of("compiling"):
        warm_up(setup, list(missing.values()), costs)
    calls = sum(cell.nfe * -(-len(cell.seeds) // setup.batch_size) for cell in missing.values())
    with stop_requests() as stop_signal, tqdm(total=calls, unit="call") as bar, costs.of("cells"):
        for name, cell in missing.items():
            bar.set_description(f"{cell} ({len(records) + 1} of {len(cells)})", refresh=False)

            def progress(calls: int, is_new: bool = cell.nfe == 0) -> None:
                bar.total += calls if is_new else 0
                bar.update(calls)
                if stop_signal():
                    done = f"stopped with {len(records)} of {len(cells)} cells done"
                    raise Stopped(stop_signal(), f"{done}; the same command goes on from there")

            records[name] = record = measure_cell(setup, cell, name, costs, progress)
            if "error" not in record:
                logged = {f"{cell}/{key}": record[key] for key in ("fid", "nfe", "images_per_s")}
                log.metrics(list(cells).index(name), logged)
    return [records[name] for name in cells]


def write_results(paper: Paper, records: Sequence[Record], run_dir: Path) -> str:
    """Write results.csv, table.md, table.tex and the plots; returns the Markdown."""
    text = tables.paper_page(paper, records)
    (run_dir / "table.md").write_text(text)
    (run_dir / "table.tex").write_text(tables.latex(paper, records))
    tables.write_records(run_dir / "results.csv", paper, records)
    points = [
        record | {"sampler": record["row"], "nfe_asked": record["nfe_asked"] or record["nfe"]}
        for record in records
        if "fid" in record and record["repeat"] == 0
    ]
    if points:
        for kind in ("png", "svg"):
            fid_vs_nfe_plot(run_dir / f"fid_vs_nfe.{kind}", points)
    return text


def show_samples(folder: Path, cells: Mapping[str, Cell], path: Path) -> None:
    """Draw the first images of every finished cell into one picture, the same noise in each. folder: of the cells."""
    images = {
        (cell.row, cell.column): read_images(folder, name)
        for name, cell in cells.items()
        if cell.repeat == 0 and read_record(folder, name) is not None
    }
    if images:
        rows, columns = (list(dict.fromkeys(words)) for words in zip(*images, strict=True))
        samples_picture(path, images, rows, columns)
