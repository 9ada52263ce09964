"""Draw samples from a trained network with any solver, and measure them. See: python sample.py --help"""

import json
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from hydra.core.hydra_config import HydraConfig
from omegaconf import MISSING, DictConfig
from tqdm import tqdm

import data
import deis
from eval.figures import denoising_gif, image_grid, save_png
from eval.job import MeasuringJob, check_measuring, dataset_of, origin, require_positive
from eval.metrics.measurement import VALUES, Measurement, MetricConfig, lines, open_measurement, validate_metrics
from formats.files import write_atomically
from models.sampling.build import build_sde, build_table, parse_seeds
from models.sampling.source import SHIPPED, Source, find
from runs import cli, folder, jax_setup
from runs.errors import NonFiniteError, Stopped, checking, stop_requests
from runs.log import open_log

NEXT = """Next: python sample.py sampler=ddim sampler.nfe=5              another solver, fewer network calls
      python sample.py gif=true extractor=none                 the images as they come out of the noise
      python sample.py -m sampler=ddim,tab3 sampler.nfe=5,10   a comparison; then python -m eval.table FOLDER
      python train.py                                          a network of your own, in minutes"""


@dataclass
class SampleJob(MeasuringJob):
    """The options of sample.py; conf/sample.yaml explains them."""

    sampler: Any = MISSING
    seeds: str | None = MISSING
    label: int | None = MISSING
    guidance: float | None = MISSING
    keep_samples: bool = MISSING
    metrics: list[str] = MISSING
    kid_subsets: int = MISSING
    kid_subset_size: int = MISSING
    grid_samples: int = MISSING
    gif: bool = MISSING
    gif_samples: int = MISSING


def main(cfg: DictConfig) -> None:
    """Check the configuration, then draw, measure, and write into the run's folder."""
    with checking():
        job: SampleJob = cli.to_object(cfg)
        seeds, metrics = check(job)
        source = find(job.checkpoint, job.step, job.output_root)
        dataset = job.dataset if job.dataset.name else None
        if metrics is not None or source.config["dataset"]:
            dataset = dataset_of(source, job.dataset, otherwise=", or extractor=none")
        classes = source.config["model"].get("num_classes", 0)
        if job.label is not None and not 0 <= job.label < classes:
            allowed = f"0 to {classes - 1}" if classes else "null: this network was trained without classes"
            raise ValueError(f"label must be {allowed} (model.num_classes={classes}), got {job.label}")
        if job.guidance is not None and not source.config["model"].get("null_class"):
            raise ValueError(f"guidance={job.guidance:g} needs a network trained with model.null_class=true")
        table = build_table(job.sampler, build_sde(source.config["sde"]))
        job.batch_size = min(job.batch_size, len(seeds))  # no more is computed than what is asked for
    config, run_dir = cli.to_dict(cfg), folder.of_job(job.run_dir, job.output_root, job.name)
    with folder.occupy(run_dir, config, sampler=table.name, nfe_asked=job.sampler["nfe"]):
        print(jax_setup.configure_jax(job.batch_size), file=sys.stderr)
        measurement = None
        if metrics is not None and dataset is not None:
            published = source.path if source.step is None and not job.dataset.name else None
            measurement = open_measurement(job.extractor, dataset, metrics, published)
        result = draw_images(job, source, table, seeds, run_dir, measurement)
        result |= {"dataset": dataset.name if dataset else None, "overrides": list(HydraConfig.get().overrides.task)}
        if measurement is not None:
            with checking():
                result |= measurement.result()
        write_atomically(run_dir / "result.json", json.dumps(result, indent=2) + "\n")
        with open_log(job.logger, run_dir, "sample", config) as log:
            measured = ("nfe", *VALUES, "images_per_s", "seconds", "num_samples")
            log.metrics(source.step or 0, {key: result[key] for key in measured if key in result})
            log.image(source.step or 0, "samples", run_dir / "grid.png")
    print(f"{summary(result)}, {run_dir}")
    if source.path == SHIPPED:
        print(NEXT, file=sys.stderr)


def check(job: SampleJob) -> tuple[list[int], MetricConfig | None]:
    """Refuse with a ValueError what cannot work, before anything expensive starts; returns (seeds, what to measure)."""
    check_measuring(job)
    require_positive(job, "grid_samples", "gif_samples")
    seeds = parse_seeds(job.seeds or f"0-{job.num_samples - 1}")
    if job.extractor.name == "none":
        return seeds, None
    metrics = MetricConfig(job.metrics, job.kid_subsets, job.kid_subset_size)
    validate_metrics(metrics, len(seeds))
    return seeds, metrics


def draw_images(
    job: SampleJob, source: Source, table: deis.Table, seeds: list[int], run_dir: Path, measurement: Measurement | None
) -> dict[str, Any]:
    """Draw the images, measure them, write samples.npz, grid.png and the animation, and say what was done."""
    from models.sampling.draw import draw, draw_trajectory, load_trained  # imports JAX, which is configured by now

    with checking():
        net = load_trained(source.path, source.step)
    how = (job.batch_size, job.label, job.guidance)
    next(draw(net, deis.tables.ddim(net.sde, table.t[[0, -1]]), seeds[:1], *how))  # compiles before the clock runs

    kept, drawn, seconds = [], 0, 0.0
    with stop_requests() as stop_signal, tqdm(total=len(seeds), unit="image", leave=False) as bar:
        clock = time.perf_counter()
        for x_0 in draw(net, table, seeds, *how):
            bad = np.flatnonzero(~np.isfinite(x_0).all(axis=(1, 2, 3)))
            if len(bad):  # they would become black images without a word
                raise NonFiniteError(
                    f"{table.name} with {table.nfe} network calls gave NaN or infinite values for {len(bad)} of "
                    f"{len(x_0)} images, seed {seeds[drawn + bad[0]]} first; the network or the schedule is at "
                    "fault, and nothing was written"
                )
            images = data.to_uint8(x_0, job.rounding)
            seconds += time.perf_counter() - clock
            if measurement is not None:
                with checking():
                    measurement.add(images)
            kept.append(images if job.keep_samples else images[: max(job.grid_samples - drawn, 0)])
            drawn += len(x_0)
            bar.update(len(x_0))
            if stop_signal():
                raise Stopped(stop_signal(), f"stopped after {drawn} of {len(seeds)} images; none are kept")
            clock = time.perf_counter()

    images = np.concatenate(kept)
    if job.keep_samples:
        rounding, numbers = np.array(job.rounding), np.array(seeds, np.uint32)
        np.savez_compressed(run_dir / "samples.npz", images=images, seeds=numbers, rounding=rounding)
    save_png(run_dir / "grid.png", image_grid(images[: job.grid_samples]))
    if job.gif:
        animated = draw_trajectory(net, table, seeds[: job.gif_samples], job.label, job.guidance)
        denoising_gif(run_dir / "denoising.gif", *animated)
    return {
        "sampler": table.name,
        "method": job.sampler["method"],
        "order": job.sampler.get("order"),
        "nfe": table.nfe,
        "nfe_asked": job.sampler["nfe"],
        "num_samples": drawn,
        "seconds": seconds,
        "images_per_s": drawn / seconds,
        "seeds": job.seeds or f"0-{job.num_samples - 1}",
        "label": job.label,
        "rounding": job.rounding,
        **origin(source),
    }


def summary(result: dict[str, Any]) -> str:
    """One line for people: the solver, its network calls, the metrics and the speed."""
    asked = f" ({result['nfe_asked']} asked)" if result["nfe"] != result["nfe_asked"] else ""
    rate = result["images_per_s"]
    parts = [*lines(result), f"{rate:.{0 if rate >= 10 else 1}f} images/s"]
    return f"{result['sampler']}, {result['nfe']} NFE{asked}: {', '.join(parts)}"


if __name__ == "__main__":
    cli.run(main, "sample", SampleJob)
