"""Tables of FIDs: one of the paper's, computed here, or one of runs that are there. See: python -m eval.table --help

python -m eval.table paper=cifar10_vp checkpoint=RUN    computes all cells of conf/paper/cifar10_vp.yaml
python -m eval.table FOLDER                             gathers the runs of sample.py below FOLDER
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import MISSING, DictConfig

from data.config import DatasetConfig
from eval.features.config import ExtractorConfig, validate_extractor
from eval.figures import fid_vs_nfe_plot
from eval.metrics.measurement import Choice
from eval.paper import tables as paper_tables
from eval.paper.picture import samples_picture
from eval.paper.plan import Cell, cells
from eval.paper.spec import Paper, Record, validate
from eval.paper.sweep import write_table
from models.sampling.build import build_sde
from models.sampling.source import Source, find
from runs import cli, folder
from runs.errors import NonFiniteError, Stopped, checking, writing
from runs.jax_setup import configure_jax
from runs.log import Log, LoggerConfig, open_log
from runs.signals import stop_requests

if TYPE_CHECKING:
    from eval.paper.cells import Costs, Setup


@dataclass
class TableJob:
    """The options of a paper's table; conf/table.yaml explains them."""

    name: str = MISSING
    output_root: str = MISSING
    run_dir: str | None = MISSING
    checkpoint: str | None = MISSING
    step: int | None = MISSING
    dataset: DatasetConfig | None = None
    paper: Paper = MISSING
    num_samples: int = MISSING
    batch_size: int = MISSING
    rounding: str = MISSING
    extractor: ExtractorConfig = MISSING
    logger: LoggerConfig = MISSING


def paper_table(cfg: DictConfig) -> None:
    """Check the configuration, measure the cells that are not there yet, and write the table into the run's folder."""
    with checking():
        job: TableJob = cli.to_object(cfg)
        check(job)
        source = find(job.checkpoint, job.step, job.output_root)
        dataset = dataset_of(job, source)
        planned = cells(job.paper, build_sde(source.config["sde"]), job.num_samples)
    config, run_dir = cli.to_dict(cfg), choose_folder(job, cli.to_dict(cfg))
    with folder.occupy(run_dir, config, paper=job.paper.name), writing():
        print(f"{configure_jax(job.batch_size)}\noutput: {run_dir}", file=sys.stderr)
        from eval.paper.cells import Costs

        costs = Costs()
        with costs.of("setting up"):
            setup = set_up(job, source, dataset, run_dir, costs)
        names = [cell.file_name(setup.identity) for cell in planned]
        with open_log(job.logger, run_dir, "table", config) as log:
            records = measure_all(job, setup, planned, names, costs, log)
            about = {
                "dataset": dataset.name,
                "extractor": setup.extractor.name,
                "checkpoint": str(source.path if source.step is None else source.path.parent),
                "step": source.step,
            }
            text = write_results(job.paper, [record | about for record in records], run_dir)
            show_samples(setup, planned, names, run_dir / "grid.png")
            for picture in ("fid_vs_nfe", "grid"):
                if (run_dir / f"{picture}.png").is_file():
                    log.image(len(names), picture, run_dir / f"{picture}.png")
        print(f"{text}\n{costs}\n{run_dir}")
        if failed := [record["row"] for record in records if "error" in record]:
            raise NonFiniteError(f"{len(failed)} of {len(records)} cells gave NaN or infinite samples; see the table")


def check(job: TableJob) -> None:
    """Refuse with a ValueError what cannot work, before anything expensive starts."""
    validate(job.paper)
    validate_extractor(job.extractor)
    if job.batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {job.batch_size}")
    if job.num_samples < 2:
        raise ValueError(f"num_samples must be at least 2, got {job.num_samples}")
    if job.rounding not in ("floor", "round"):
        raise ValueError(f"rounding must be floor or round, got {job.rounding!r}")
    if job.extractor.name == "none":
        raise ValueError("a table of FIDs needs features: choose another extractor than extractor=none")


def dataset_of(job: TableJob, source: Source) -> DatasetConfig:
    """The images to measure against: the ones asked for, else those the network was trained on."""
    if job.dataset is not None:
        return job.dataset
    if not source.config["dataset"]:
        raise ValueError(f"{source.path} does not say what images the network was trained on; give dataset=NAME")
    return DatasetConfig(**source.config["dataset"])


def choose_folder(job: TableJob, config: dict[str, Any]) -> Path:
    """run_dir if it is given, else the newest unfinished table of this configuration, else a fresh folder."""
    if job.run_dir is not None:
        return Path(job.run_dir).expanduser()
    found = folder.unfinished(job.output_root, job.name, config)
    return found or folder.fresh(job.output_root, job.name)


def set_up(job: TableJob, source: Source, dataset: DatasetConfig, run_dir: Path, costs: "Costs") -> "Setup":
    """Load the network and the feature extractor."""
    from eval.metrics.measuring import open_measurement
    from eval.paper.cells import counting, prepare
    from models.sampling.draw import load_trained

    with checking():
        net = counting(load_trained(source.path, source.step), costs)
        published = source.path if source.step is None and job.dataset is None else None
        extractor, reference = open_measurement(job.extractor, dataset, Choice(), published)
        sde, place = source.config["sde"], run_dir / "cells"
        return prepare(net, sde, extractor, reference.statistics, dataset, job.batch_size, job.rounding, place)


def measure_all(
    job: TableJob, setup: "Setup", planned: Sequence[Cell], names: Sequence[str], costs: "Costs", log: Log
) -> list[Record]:
    """The records of all cells. Those of an earlier start are read; a signal ends the run between two batches."""
    from tqdm import tqdm

    from eval.paper.cells import measure, read, warm_up

    records = {name: record for name in names if (record := read(setup.folder, name)) is not None}
    missing = {name: cell for name, cell in zip(names, planned, strict=True) if name not in records}
    print(f"{len(records)} of {len(planned)} cells are done", file=sys.stderr)
    with costs.of("compiling"):
        warm_up(setup, list(missing.values()), costs)
    calls = sum(cell.nfe for cell in missing.values()) * -(-job.num_samples // job.batch_size)
    with stop_requests() as stop_signal, tqdm(total=calls, unit="call") as bar, costs.of("cells"):
        for name, cell in missing.items():
            bar.set_description(f"{cell} ({len(records) + 1} of {len(planned)})", refresh=False)

            def progress(calls: int, is_new: bool = cell.nfe == 0) -> None:
                bar.total += calls if is_new else 0
                bar.update(calls)
                if stop_signal():
                    done = f"stopped with {len(records)} of {len(planned)} cells done"
                    raise Stopped(stop_signal(), f"{done}; the same command goes on from there")

            records[name] = record = measure(setup, cell, name, costs, progress)
            if "error" not in record:
                log.metrics(names.index(name), {f"{cell}/{key}": record[key] for key in ("fid", "nfe", "images_per_s")})
    return [records[name] for name in names]


def write_results(paper: Paper, records: Sequence[Record], run_dir: Path) -> str:
    """Write results.csv, table.md, table.tex and the plots; returns the Markdown."""
    text = paper_tables.markdown(paper, records)
    (run_dir / "table.md").write_text(text)
    (run_dir / "table.tex").write_text(paper_tables.latex(paper, records))
    paper_tables.write_csv(run_dir / "results.csv", paper, records)
    points = [
        record | {"sampler": record["row"], "nfe_asked": record["nfe_asked"] or record["nfe"]}
        for record in records
        if "fid" in record and record["repeat"] == 0
    ]
    if points:
        for kind in ("png", "svg"):
            fid_vs_nfe_plot(run_dir / f"fid_vs_nfe.{kind}", points)
    return text


def show_samples(setup: "Setup", planned: Sequence[Cell], names: Sequence[str], path: Path) -> None:
    """The first images of every cell in one picture, the same noise in each."""
    from eval.paper.cells import read, read_shown

    first = [(cell, name) for cell, name in zip(planned, names, strict=True) if cell.repeat == 0]
    done = [(cell, name) for cell, name in first if read(setup.folder, name) is not None]
    if done:
        images = {(cell.row, cell.column): read_shown(setup.folder, name) for cell, name in done}
        rows, columns = (list(dict.fromkeys(words)) for words in zip(*images, strict=True))
        samples_picture(path, images, rows, columns)


def main(arguments: Sequence[str]) -> int:
    """The command; returns its exit code."""
    if len(arguments) != 1 or "=" in arguments[0] or arguments[0].startswith("-"):
        cli.run(paper_table, "table", TableJob)
    try:
        print(write_table(Path(arguments[0])))
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
