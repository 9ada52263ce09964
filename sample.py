"""Draw samples from a trained network with any solver, and measure them. See: python sample.py --help"""

import json
import sys
import time
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from omegaconf import MISSING, DictConfig
from tqdm import tqdm

import data
import deis
from data.config import DatasetConfig
from eval.features.config import ExtractorConfig
from eval.figures import denoising_gif, image_grid, samples_picture, save_png
from eval.job import MeasuringJob, check_measuring, dataset_of, origin, require_positive
from eval.metrics.measurement import VALUES, Measurement, MetricConfig, lines, open_measurement, validate_metrics
from eval.metrics.reference import missing_features
from formats.files import write_atomically
from models.sampling import single_files
from models.sampling.build import build_sde, build_table, parse_seeds
from models.sampling.options import EpsOptions, check_eps, values_of
from models.sampling.source import SHIPPED, Source, find, identity
from runs import cli, folder, jax_setup
from runs.errors import NonFiniteError, Stopped, checking, stop_requests
from runs.log import open_log

if TYPE_CHECKING:
    from models.sampling.draw import Trained

NEXT = """Next: python sample.py sampler=ddim sampler.nfe=5              another solver, fewer network calls
      python sample.py gif=true extractor=none                 the images as they come out of the noise
      python sample.py -m sampler=ddim,tab3 sampler.nfe=5,10   a comparison; then python -m eval.table FOLDER
      python train.py                                          a network of your own, in minutes"""


@dataclass
class SampleJob(MeasuringJob, EpsOptions):
    """The options of sample.py; conf/sample.yaml explains them."""

    sampler: Any = MISSING
    seeds: str | None = MISSING
    keep_samples: bool = MISSING
    save: str = MISSING
    metrics: list[str] | None = MISSING
    kid_subsets: int = MISSING
    kid_subset_size: int = MISSING
    grid_samples: int = MISSING
    guidance_sheet: list[float] | None = MISSING
    gif: bool = MISSING
    gif_samples: int = MISSING

    @property
    def fid_is_asked(self) -> bool:
        """Whether the samples are to be measured, whatever has to be made for it first."""
        return self.extractor is not None or self.metrics is not None

    @property
    def in_files(self) -> bool:
        """Whether every image becomes a PNG file."""
        return self.keep_samples and self.save != "npz"

    @property
    def in_npz(self) -> bool:
        """Whether all images are written to samples.npz."""
        return self.keep_samples and self.save != "png"


def main(cfg: DictConfig) -> None:
    """Check the configuration, then draw, measure, and write into the run's folder."""
    with checking():
        job: SampleJob = cli.to_object(cfg)
        seeds, metrics = check(job)
        source = find(job.checkpoint, job.step, job.output_root)
        dataset = job.dataset if job.dataset.name else None
        if source.config["dataset"] or (metrics is not None and job.fid_is_asked):
            dataset = dataset_of(source, job.dataset, otherwise=", or extractor=none")
        worse = check_eps(job, source.config)
        for weight in job.guidance_sheet or ():
            check_eps(replace(job, label=0, guidance=weight), source.config)
        table = build_table(job.sampler, build_sde(source.config["sde"]))
        job.batch_size = min(job.batch_size, len(seeds))  # no more is computed than what is asked for
        config, run_dir = cli.to_dict(cfg), folder.of_job(job.run_dir, job.output_root, job.name)
        done = single_files.drawn_before(run_dir, seeds, origin_of_images(job, source, worse)) if job.in_files else []
    with folder.occupy(run_dir, config, sampler=table.name, nfe_asked=nfe_asked(job, table)):
        print(jax_setup.configure_jax(job.batch_size), file=sys.stderr)
        measurement = None if metrics is None else measurement_of(job, dataset, metrics, len(seeds))
        result = draw_images(job, source, worse, table, seeds, done, run_dir, measurement)
        result |= {"dataset": dataset.name if dataset else None, "overrides": folder.overrides()}
        if measurement is not None:
            with checking():
                result |= measurement.result()
        write_atomically(run_dir / "result.json", json.dumps(result, indent=2) + "\n")
        with open_log(job.logger, run_dir, "sample", config) as log:
            measured = ("nfe", *VALUES, "images_per_s", "seconds", "num_samples")
            log.metrics(source.step or 0, {key: result[key] for key in measured if result.get(key) is not None})
            log.image(source.step or 0, "samples", run_dir / "grid.png")
    print(f"{summary(result)}, {run_dir}")
    if source.path == SHIPPED:
        print(NEXT, file=sys.stderr)


def check(job: SampleJob) -> tuple[list[int], MetricConfig | None]:
    """Refuse with a ValueError what cannot work, before anything expensive starts; returns (seeds, what to measure)."""
    check_measuring(job)
    require_positive(job, "grid_samples", "gif_samples")
    if job.save not in ("npz", "png", "both"):
        raise ValueError(f"save must be npz, png or both, got {job.save!r}")
    seeds = parse_seeds(job.seeds or f"0-{job.num_samples - 1}")
    if job.extractor is not None and job.extractor.name == "none":
        return seeds, None
    names = ["fid"] if job.metrics is None else job.metrics
    metrics = MetricConfig(names, job.kid_subsets, job.kid_subset_size)
    validate_metrics(metrics, len(seeds) if job.fid_is_asked else None)
    return seeds, metrics


def measurement_of(
    job: SampleJob, dataset: DatasetConfig | None, metrics: MetricConfig, num_samples: int
) -> Measurement | None:
    """What measures the samples; None, with one line that says why, if nobody asked and something has to be made first.

    Raises ConfigError for anything that cannot be used.
    """
    extractor = job.extractor or ExtractorConfig()
    if not job.fid_is_asked:
        missing = "nobody wrote down what images the network learned; give dataset=NAME"
        if num_samples < 2:
            missing = "it needs at least 2 images"
        elif dataset is not None:
            with checking():
                missing = missing_features(extractor, dataset) or ""
        if missing:
            print(f"no FID: {missing}; extractor=classifier makes what it needs and measures it", file=sys.stderr)
            return None
    assert dataset is not None
    return open_measurement(extractor, dataset, metrics)


def origin_of_images(job: SampleJob, source: Source, worse: Source | None) -> dict[str, Any]:
    """All that an image depends on beside its seed, as plain values."""
    network = identity(source) | {f"guidance_{key}": value for key, value in (identity(worse) if worse else {}).items()}
    sampler = {f"sampler.{key}": value for key, value in job.sampler.items()}
    return network | sampler | values_of(job) | {"rounding": job.rounding}


def nfe_asked(job: SampleJob, table: deis.Table) -> int:
    """The network calls that were asked for; own nodes, and a table in a file, ask for those that they make."""
    return table.nfe if job.sampler.get("ts") or "nfe" not in job.sampler else job.sampler["nfe"]


def draw_images(
    job: SampleJob,
    source: Source,
    worse: Source | None,
    table: deis.Table,
    seeds: list[int],
    done: list[int],
    run_dir: Path,
    measurement: Measurement | None,
) -> dict[str, Any]:
    """Draw the images, measure them, write them, grid.png and the animation, and say what was done.

    done: seeds whose images are in their files already; these are read.
    """
    from models.sampling.draw import (  # imports JAX, which is configured by now
        draw,
        draw_trajectory,
        guided,
        labels_of,
        load_trained,
    )

    with checking():
        net = guided(load_trained(source.path, source.step), worse)
    place = {seed: i for i, seed in enumerate(seeds)}
    before = set(done)
    missing = [seed for seed in seeds if seed not in before]
    kept = np.empty((len(seeds) if job.in_npz else min(job.grid_samples, len(seeds)), *net.image_shape), np.uint8)
    labels = labels_of(net, seeds, job.label)

    def take(these: list[int], images: np.ndarray) -> None:
        if measurement is not None:
            with checking():
                measurement.add(images)
        for seed, image in zip(these, images, strict=True):
            if place[seed] < len(kept):
                kept[place[seed]] = image

    for first in range(0, len(done), job.batch_size):
        these = done[first : first + job.batch_size]
        with checking():
            take(these, single_files.read_images(run_dir, these))
    if job.in_files:
        single_files.write_origin(run_dir, origin_of_images(job, source, worse))
    if missing:  # compiles before the clock runs
        next(draw(net, deis.tables.ddim(net.sde, table.t[[0, -1]]), seeds[:1], job.batch_size, job))

    drawn, seconds = 0, 0.0
    with stop_requests() as stop_signal, tqdm(total=len(missing), unit="image", leave=False) as bar:
        clock = time.perf_counter()
        for x_0 in draw(net, table, missing, job.batch_size, job):
            these = missing[drawn : drawn + len(x_0)]
            require_finite(x_0, these, table)
            images = data.to_uint8(x_0, job.rounding)
            seconds += time.perf_counter() - clock
            if job.in_files:
                single_files.write_images(run_dir, these, images)
            take(these, images)
            drawn += len(x_0)
            bar.update(len(x_0))
            if stop_signal():
                then = f"the same command with run_dir={run_dir} goes on" if job.in_files else "none are kept"
                raise Stopped(stop_signal(), f"stopped after {len(done) + drawn} of {len(seeds)} images; {then}")
            clock = time.perf_counter()

    if job.in_npz:
        rounding, numbers = np.array(job.rounding), np.array(seeds, np.uint32)
        arrays: dict[str, Any] = {"images": kept, "seeds": numbers, "rounding": rounding}
        if labels is not None:
            arrays["labels"] = labels
        np.savez_compressed(run_dir / "samples.npz", **arrays)
    save_png(run_dir / "grid.png", grid(kept, labels, job))
    if job.guidance_sheet:
        samples_picture(run_dir / "guidance.png", sheet(net, table, seeds, job))
    if job.gif:
        denoising_gif(run_dir / "denoising.gif", *draw_trajectory(net, table, seeds[: job.gif_samples], job))
    return {
        "sampler": table.name,
        "method": job.sampler["method"],
        "order": job.sampler.get("order"),
        "nfe": table.nfe,
        "nfe_asked": nfe_asked(job, table),
        "num_samples": len(seeds),
        "seconds": seconds,
        "images_per_s": drawn / seconds if drawn else None,
        "seeds": job.seeds or f"0-{job.num_samples - 1}",
        **values_of(job),
        "rounding": job.rounding,
        **origin(source),
    }


def grid(images: np.ndarray, labels: np.ndarray | None, job: SampleJob) -> np.ndarray:
    """The picture of `job.grid_samples` images at most: the first ones, or of several classes a row each."""
    present = np.unique(labels) if labels is not None else np.empty(0)
    columns = job.grid_samples // max(len(present), 1)
    if labels is None or len(present) < 2 or columns == 0:
        return image_grid(images[: job.grid_samples])
    rows = [np.flatnonzero(labels[: len(images)] == label)[:columns] for label in present]
    columns = min(map(len, rows))
    if columns == 0:
        return image_grid(images[: job.grid_samples])
    return image_grid(images[np.concatenate([row[:columns] for row in rows])], columns)


def sheet(net: "Trained", table: deis.Table, seeds: list[int], job: SampleJob) -> dict[tuple[str, str], np.ndarray]:
    """The images of the first seed, or of the first four, by class and by weight of guidance."""
    from models.sampling.draw import draw

    shown, cells = seeds[: 4 if len(seeds) >= 4 else 1], {}
    for label, weight in product(range(net.num_classes), job.guidance_sheet or ()):
        options = replace(job, label=label, guidance=weight)
        (x_0,) = draw(net, table, shown, len(shown), options)
        cells[f"class {label}", f"guidance {weight:g}"] = data.to_uint8(x_0, job.rounding)
    return cells


def require_finite(x_0: np.ndarray, seeds: list[int], table: deis.Table) -> None:
    """Raise NonFiniteError for samples with NaN or infinite values, which would become black images without a word."""
    bad = np.flatnonzero(~np.isfinite(x_0).all(axis=(1, 2, 3)))
    if len(bad):
        raise NonFiniteError(
            f"{table.name} with {table.nfe} network calls gave NaN or infinite values for {len(bad)} of {len(x_0)} "
            f"images, seed {seeds[bad[0]]} first; the network or the schedule is at fault"
        )


def summary(result: dict[str, Any]) -> str:
    """One line for people: the solver, its network calls, the metrics and the speed."""
    asked = f" ({result['nfe_asked']} asked)" if result["nfe"] != result["nfe_asked"] else ""
    rate = result["images_per_s"]
    parts = [*lines(result), "all drawn before" if rate is None else f"{rate:.{0 if rate >= 10 else 1}f} images/s"]
    return f"{result['sampler']}, {result['nfe']} NFE{asked}: {', '.join(parts)}"


if __name__ == "__main__":
    cli.run(main, "sample", SampleJob)
