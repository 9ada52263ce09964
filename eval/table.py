"""Tables of FIDs: one of the paper's, computed here, or one of runs that are there. See: python -m eval.table --help

python -m eval.table                                    says what tables there are, and how long they take
python -m eval.table paper=cifar10_vp checkpoint=RUN    computes all cells of conf/paper/cifar10_vp.yaml
python -m eval.table FOLDER [logger=wandb]              gathers the runs of sample.py and train.py below FOLDER
"""

if not __package__:  # python eval/table.py, which finds no other package of the repository
    raise SystemExit("error: this command is typed as python -m eval.table")

import re
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from omegaconf import MISSING, DictConfig, OmegaConf, open_dict

from eval.job import MeasuringJob, check_measuring, check_shared, dataset_of, joined, origin
from eval.metrics.frechet import save_statistics
from eval.metrics.measurement import MetricConfig, validate_metrics
from eval.paper.outline import TIMED, outline, seconds_per_call
from eval.paper.plan import plan_cells
from eval.paper.spec import Paper, validate
from eval.paper.sweep import gather, log_table, write_table
from models.sampling.build import build_sde
from models.sampling.options import EpsOptions, check_eps
from models.sampling.source import find
from models.training.config import DistributedConfig
from runs import cli, folder, jax_setup
from runs.errors import NonFiniteError, checking, writing
from runs.log import Log, open_log


@dataclass
class TableJob(MeasuringJob, EpsOptions):
    """The options of a paper's table; conf/table.yaml explains them."""

    paper: Paper = MISSING
    distributed: DistributedConfig = MISSING


def paper_table(cfg: DictConfig) -> None:
    """Check the configuration, measure the cells that are not there yet, and write the table into the run's folder."""
    if OmegaConf.is_missing(cfg, "paper"):
        say_what_there_is(cfg)
        return
    with checking():
        job: TableJob = cli.to_object(cfg)
        check(job)
        check_shared(job.distributed, job.run_dir)
        source = find(job.checkpoint, job.step, job.output_root)
        dataset = dataset_of(source, job.dataset)
        planned = plan_cells(job.paper, build_sde(source.config["sde"]), job.num_samples, job)
        worse = {cell.eps.guidance_network: check_eps(cell.eps, source.config) for cell in planned}
        config = cli.to_dict(cfg)
        run_dir = None if job.run_dir is None else Path(job.run_dir).expanduser()
        run_dir = run_dir or folder.unfinished(job.output_root, job.name, config)
        run_dir = run_dir or folder.fresh(job.output_root, job.name)
    using = jax_setup.configure_jax(job.batch_size)
    from eval.paper import compute, page  # imports JAX, which is configured by now
    from models.training.devices import one_at_first

    with writing(), ExitStack() as owned:
        index, count = owned.enter_context(joined(job.distributed))
        if index == 0:  # it writes the table
            owned.enter_context(folder.occupy(run_dir, config, paper=job.paper.name))
            print(f"{using}\noutput: {run_dir}", file=sys.stderr)
        with one_at_first():
            setup = compute.set_up(source, worse, dataset, job, run_dir / "cells", job.paper.precision_recall)
        cells = {cell.file_name(setup.identity_of(cell)): cell for cell in planned}
        with open_log(job.logger, run_dir, "table", config, job.name) if index == 0 else Log(None) as log:
            records = compute.measure_cells(setup, cells, log, index, count)
            if index > 0:
                return
            about = {"dataset": dataset.name, "extractor": setup.extractor.name, **origin(source)}
            text = page.write_results(job.paper, [record | about for record in records], run_dir)
            page.show_samples(setup.folder, cells, run_dir / "grid.png")
            log.config(about | {"fid_name": next((r["fid_name"] for r in records if "fid_name" in r), None)})
            log.table(len(cells), "cells", page.logged_rows(setup.folder, cells, records))
            if job.logger.artifacts:
                save_statistics(run_dir / "reference.npz", setup.reference)
                log.artifact(f"{dataset.name}-train-statistics", "statistics", run_dir / "reference.npz")
            for picture in ("fid_vs_nfe", "precision_recall", "grid"):
                log.image(len(cells), picture, run_dir / f"{picture}.png")
        print(f"{text}\n{setup.costs}\n{run_dir}")
        if failed := [record["row"] for record in records if "error" in record]:
            raise NonFiniteError(f"{len(failed)} of {len(records)} cells gave NaN or infinite samples; see the table")


def logged_table(cfg: DictConfig, gathered: Path) -> None:
    """Write the table of the runs below the folder, and log it as one run whose files are in its folder table/."""
    with open_dict(cfg):
        if OmegaConf.is_interpolation(cfg.logger, "group"):
            cfg.logger.group = gathered.name
    with checking():
        if ignored := [text for text in folder.overrides() if not text.startswith("logger")]:
            raise ValueError(f"{ignored[0]} changes nothing of runs that are there: FOLDER takes logger= and logger.*")
        logger = cli.to_object(cfg.logger)
        gather(gathered)  # refused, if it holds no results
    with writing():
        print(f"{write_table(gathered)}\n{gathered}")
        place = gathered / "table"
        place.mkdir(exist_ok=True)
        with open_log(logger, place, "sweep", {}, gathered.name) as log:
            log_table(gathered, log)


def say_what_there_is(cfg: DictConfig) -> None:
    """Print every table of the paper, and how long it would take with the network that would be taken."""
    with checking():
        source = find(cfg.checkpoint, cfg.step, cfg.output_root)
        print(jax_setup.configure_jax(TIMED), file=sys.stderr)
        seconds = seconds_per_call(source.path, source.step)
    images = None if OmegaConf.is_interpolation(cfg, "num_samples") else cfg.num_samples
    print(outline(images, seconds))
    print(f"With the network in {source.path}, timed here: {1 / seconds:.3g} network calls of an image a second.")
    print("Next: python -m eval.table paper=cifar10_vp, or another of them; num_samples=1000 takes fewer images")


def check(job: TableJob) -> None:
    """Refuse with a ValueError what cannot work, before anything expensive starts."""
    validate(job.paper)
    check_measuring(job)
    validate_metrics(MetricConfig(["fid", "pr"] if job.paper.precision_recall else ["fid"]), job.num_samples)
    last = job.paper.first_seed + job.paper.repeats * job.num_samples - 1
    if last >= 2**32:
        raise ValueError(f"seeds must be below 2^32; the paper's {job.paper.repeats} set(s) of them end with {last}")
    if job.extractor is None or job.extractor.name == "none":
        raise ValueError("a table of FIDs needs features: choose another extractor than extractor=none")


def main(arguments: Sequence[str]) -> int:
    """The command; returns its exit code."""
    gathered = Path(arguments[0] if arguments else "").expanduser()
    if not arguments or (re.search("^-|=", arguments[0]) and not gathered.is_dir()):
        cli.run(paper_table, "table", TableJob)
    if arguments[1:]:
        sys.argv[1:] = arguments[1:]
        cli.run(lambda cfg: logged_table(cfg, gathered), "table", TableJob)
    try:
        print(f"{write_table(gathered)}\n{gathered}")
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2 if isinstance(error, ValueError | FileNotFoundError) else 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
