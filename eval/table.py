"""Tables of FIDs: one of the paper's, computed here, or one of runs that are there. See: python -m eval.table --help

python -m eval.table paper=cifar10_vp checkpoint=RUN    computes all cells of conf/paper/cifar10_vp.yaml
python -m eval.table FOLDER                             gathers the runs of sample.py below FOLDER
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import MISSING, DictConfig

from data.config import DatasetConfig
from eval.features.config import ExtractorConfig, validate_extractor
from eval.job import NetworkJob, origin, require_dataset, require_positive, require_rounding
from eval.paper.plan import plan_cells
from eval.paper.spec import Paper, validate
from eval.paper.sweep import write_table
from models.sampling.build import build_sde
from models.sampling.source import find
from runs import cli, folder
from runs.errors import NonFiniteError, checking, writing
from runs.jax_setup import configure_jax
from runs.log import LoggerConfig, open_log


@dataclass
class TableJob(NetworkJob):
    """The options of a paper's table; conf/table.yaml explains them."""

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
        dataset = require_dataset(source, job.dataset)
        planned = plan_cells(job.paper, build_sde(source.config["sde"]), job.num_samples)
    config, run_dir = cli.to_dict(cfg), choose_folder(job, cli.to_dict(cfg))
    with folder.occupy(run_dir, config, paper=job.paper.name), writing():
        print(f"{configure_jax(job.batch_size)}\noutput: {run_dir}", file=sys.stderr)
        from eval.paper import compute  # imports JAX, which is configured by now

        costs = compute.Costs()
        with costs.of("setting up"):
            options = {"batch_size": job.batch_size, "rounding": job.rounding, "folder": run_dir / "cells"}
            setup = compute.set_up(source, job.extractor, dataset, job.dataset is None, costs, **options)
        cells = {cell.file_name(setup.identity): cell for cell in planned}
        with open_log(job.logger, run_dir, "table", config) as log:
            records = compute.measure_cells(setup, cells, costs, log)
            about = {"dataset": dataset.name, "extractor": setup.extractor.name, **origin(source)}
            text = compute.write_results(job.paper, [record | about for record in records], run_dir)
            compute.show_samples(setup.folder, cells, run_dir / "grid.png")
            for picture in ("fid_vs_nfe", "grid"):
                if (run_dir / f"{picture}.png").is_file():
                    log.image(len(cells), picture, run_dir / f"{picture}.png")
        print(f"{text}\n{costs}\n{run_dir}")
        if failed := [record["row"] for record in records if "error" in record]:
            raise NonFiniteError(f"{len(failed)} of {len(records)} cells gave NaN or infinite samples; see the table")


def check(job: TableJob) -> None:
    """Refuse with a ValueError what cannot work, before anything expensive starts."""
    validate(job.paper)
    validate_extractor(job.extractor)
    require_positive(job, "batch_size")
    require_rounding(job.rounding)
    if job.num_samples < 2:
        raise ValueError(f"num_samples must be at least 2, got {job.num_samples}")
    if job.extractor.name == "none":
        raise ValueError("a table of FIDs needs features: choose another extractor than extractor=none")


def choose_folder(job: TableJob, config: dict[str, Any]) -> Path:
    """run_dir if it is given, else the newest unfinished table of this configuration, else a fresh folder."""
    if job.run_dir is not None:
        return Path(job.run_dir).expanduser()
    found = folder.unfinished(job.output_root, job.name, config)
    return found or folder.fresh(job.output_root, job.name)


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
