"""Draw samples from a trained network with any solver, and measure them. See: python sample.py --help"""

import json
import sys
import time
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import MISSING, DictConfig
from tqdm import tqdm

import data
import deis
from eval.figures import denoising_gif, samples_picture, save_class_grid
from eval.job import (
    MeasuringJob,
    check_measuring,
    check_shared,
    dataset_of,
    joined,
    origin,
    require_finite,
    require_positive,
)
from eval.metrics.frechet import save_statistics
from eval.metrics.measurement import VALUES, Measurement, MetricConfig, lines, measurement_of, validate_metrics
from eval.metrics.solver_distance import check_distance, distance, distance_lines, mean_squares
from formats.files import write_atomically, write_npz
from models.sampling import single_files
from models.sampling.build import build_sde, build_table, name_seeds, parse_seeds, parse_shard, share
from models.sampling.options import EpsOptions, check_eps, values_of
from models.sampling.source import SHIPPED, Source, find
from models.training.config import DistributedConfig
from runs import cli, folder, jax_setup
from runs.errors import Stopped, checking, stop_requests, writing
from runs.log import WANDB_ID, open_log

WRITTEN = ("samples.npz", "result.json", "statistics.npz", "metrics.jsonl", "guidance.png", "denoising.gif")
"""Files that an earlier run may have left in the folder; not every run writes each of them."""
NEXT = """Next, with checkpoint=checkpoints/fashion_mnist as well:
      python sample.py sampler=ddim sampler.nfe=5              another solver, fewer network calls
      python sample.py gif=true extractor=none                 the images as they come out of the noise
      python sample.py -m sampler=ddim,tab3 sampler.nfe=5,10   a comparison; then python -m eval.table FOLDER"""


@dataclass
class SampleJob(MeasuringJob, EpsOptions):
    """The options of sample.py; conf/sample.yaml explains them."""

    sampler: Any = MISSING
    seeds: str | None = MISSING
    shard: str | None = MISSING
    keep_samples: bool = MISSING
    save: str = MISSING
    metrics: list[str] | None = MISSING
    kid_subsets: int = MISSING
    kid_subset_size: int = MISSING
    grid_samples: int = MISSING
    distance_to_nfe: int | None = MISSING
    guidance_sheet: list[float] | None = MISSING
    gif: bool = MISSING
    gif_samples: int = MISSING
    distributed: DistributedConfig = MISSING

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


def main(cfg: DictConfig) -> float | None:
    """Check the configuration, then draw, measure, and write into the run's folder; returns the FID."""
    with checking():
        job: SampleJob = cli.to_object(cfg)
        seeds, metrics = check(job)
        source = find(job.checkpoint, job.step, job.output_root)
        dataset = job.dataset if job.dataset.name else None
        if source.config["dataset"] or (metrics is not None and job.fid_is_asked):
            dataset = dataset_of(source, job.dataset, otherwise=", or extractor=none")
        worse = check_eps(job, source.config)
        if job.guidance_sheet and not source.config["model"].get("num_classes"):
            raise ValueError("guidance_sheet has a column for each class, and this network was trained without classes")
        for weight in job.guidance_sheet or ():
            check_eps(replace(job, label=0, guidance=weight), source.config)
        names = data.class_names(dataset) if job.guidance_sheet and dataset else []
        table = build_table(job.sampler, build_sde(source.config["sde"]))
        check_distance(table, job.distance_to_nfe)
        job.batch_size = min(job.batch_size, len(seeds))  # no more is computed than what is asked for
        if job.shard is not None:
            seeds = share(seeds, *parse_shard(job.shard), job.batch_size)
            if not seeds:
                raise ValueError(f"shard={job.shard} gets none of the batches of batch_size={job.batch_size}; lower it")
        config, run_dir = cli.to_dict(cfg), folder.of_job(job.run_dir, job.output_root, job.name)
        if before := folder.finished(run_dir, config, source.path):
            return before.get("metric")
        made_by = single_files.origin_of_images(source, worse, job.sampler, job, job.rounding)
        done = single_files.drawn_before(run_dir, seeds, made_by)
    using = jax_setup.configure_jax(job.batch_size)
    with writing(), ExitStack() as owned:
        index, count = owned.enter_context(joined(job.distributed))
        from models.training import devices  # imports JAX, which is configured by now

        devices.warn_of_idle(job.batch_size)
        if index == 0:  # it writes all but the other processes' PNG files
            facts = {"sampler": table.name, "nfe_asked": nfe_asked(job, table)}
            status = owned.enter_context(folder.occupy(run_dir, config, **facts))
            for earlier in (*WRITTEN, WANDB_ID):  # so that wandb has another run too
                (run_dir / earlier).unlink(missing_ok=True)
            if job.in_files or job.shard is not None:
                single_files.write_origin(run_dir, made_by)
            print(using, file=sys.stderr)
        with devices.one_at_first():
            asked = (len(seeds), job.fid_is_asked, job.label)
            measurement = measurement_of(job.extractor, dataset, metrics, *asked) if metrics else None
        mine = share(seeds, index, count, job.batch_size)
        parts = devices.gather(draw_images(job, source, worse, table, mine, done, run_dir, measurement))
        if measurement is not None:
            measurement.gather()
        if index > 0:
            return None
        result = write_images(job, source, worse, table, seeds, parts, run_dir, names)
        result |= {"dataset": dataset.name if dataset else None, "overrides": folder.overrides()}
        if measurement is not None and job.shard is not None:
            save_statistics(run_dir / "statistics.npz", measurement.statistics)
        elif measurement is not None:
            with checking():
                result |= measurement.result()
        write_atomically(run_dir / "result.json", json.dumps(result, indent=2) + "\n")
        with open_log(job.logger, run_dir, "sample", config, f"{table.name} @ {table.nfe}") as log:
            log.config(origin(source) | {"fid_name": result.get("fid_name")})
            measured = ("nfe", *VALUES, "rmse", "psnr", "images_per_s", "seconds", "num_samples")
            log.metrics(source.step or 0, {key: result[key] for key in measured if result.get(key) is not None})
            log.image(source.step or 0, "samples", run_dir / "grid.png")
            if measurement is not None and job.logger.artifacts:
                save_statistics(run_dir / "reference.npz", measurement.reference.statistics)
                log.artifact(f"{measurement.reference.data_name}-statistics", "statistics", run_dir / "reference.npz")
        status["metric"] = result.get("fid")
    grid = f"grid.png ({result['grid_samples']} of {len(seeds)} images)"
    pictures = {grid: True, "guidance.png": job.guidance_sheet, "denoising.gif": job.gif}
    print(f"{summary(result)}; pictures in {run_dir}: {', '.join(name for name, asked in pictures.items() if asked)}")
    if source.path.resolve() == SHIPPED.resolve() and folder.of_sweep() is None:
        print(NEXT, file=sys.stderr)
    return result.get("fid")


def check(job: SampleJob) -> tuple[list[int], MetricConfig | None]:
    """Refuse with a ValueError what cannot work, before anything expensive starts; returns (seeds, what to measure)."""
    check_measuring(job)
    require_positive(job, "grid_samples", "gif_samples")
    if job.save not in ("npz", "png", "both"):
        raise ValueError(f"save must be npz, png or both, got {job.save!r}")
    check_shared(job.distributed, job.run_dir)
    if job.shard is not None and (job.distributed.mode != "none" or list(job.metrics or ["fid"]) != ["fid"]):
        raise ValueError("shard= is for one process, and its mean and covariance for metrics=[fid] alone")
    seeds = parse_seeds(job.seeds or f"0-{job.num_samples - 1}")
    names = ["fid"] if job.metrics is None else job.metrics
    if job.extractor is not None and job.extractor.name == "none":
        if job.metrics is not None:
            raise ValueError(f"metrics={','.join(names)} needs features: choose another extractor than none")
        return seeds, None
    metrics = MetricConfig(names, job.kid_subsets, job.kid_subset_size)
    validate_metrics(metrics, len(seeds) if job.fid_is_asked else None)
    return seeds, metrics


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
) -> dict[str, np.ndarray]:
    """Draw and measure the images of a process, write PNG files, and gather what `write_images` needs.

    done: seeds whose images are in their files already; these are read.
    """
    import jax

    from models.sampling.draw import draw, guided, labels_of, load_trained, warm_up

    with checking():
        net = guided(load_trained(source.path, source.step), worse)
    place, there = {seed: i for i, seed in enumerate(seeds)}, set(done)
    before, missing = ([seed for seed in seeds if (seed in there) == found] for found in (True, False))
    kept = np.empty((len(seeds) if job.in_npz else min(job.grid_samples, len(seeds)), *net.image_shape), np.uint8)

    def take(these: list[int], images: np.ndarray) -> None:
        if measurement is not None:
            with checking():
                measurement.add(images, labels_of(net, these, job.label))
        for seed, image in zip(these, images, strict=True):
            if place[seed] < len(kept):
                kept[place[seed]] = image

    for first in range(0, len(before), job.batch_size):
        these = before[first : first + job.batch_size]
        with checking():
            take(these, single_files.read_images(run_dir, these))
    if missing:  # compiles before the clock runs
        warm_up(net, table.is_stochastic, job.batch_size, job)

    drawn, seconds, hidden = 0, 0.0, jax.process_index() > 0
    with stop_requests() as stop_signal, tqdm(total=len(missing), unit="image", leave=False, disable=hidden) as bar:
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
                raise Stopped(stop_signal(), f"stopped after {len(before) + drawn} of {len(seeds)} images; {then}")
            clock = time.perf_counter()

    squares = mean_squares(net, table, seeds, job.batch_size, job, job.distance_to_nfe)
    return {"images": kept, "drawn": np.array(drawn), "seconds": np.array(seconds), "squares": squares}


def write_images(
    job: SampleJob,
    source: Source,
    worse: Source | None,
    table: deis.Table,
    seeds: list[int],
    parts: list[dict[str, np.ndarray]],
    run_dir: Path,
    names: list[str],
) -> dict[str, Any]:
    """Write samples.npz and pictures, and say what was done. parts: what each process has drawn. names: of classes."""
    from models.sampling.draw import draw_by_guidance, draw_trajectory, guided, labels_of, load_trained

    net = guided(load_trained(source.path, source.step), worse)
    kept, labels = np.concatenate([part["images"] for part in parts]), labels_of(net, seeds, job.label)
    drawn, seconds = sum(int(part["drawn"]) for part in parts), max(float(part["seconds"]) for part in parts)
    if job.in_npz:
        arrays: dict[str, Any] = {} if labels is None else {"labels": labels}
        arrays |= {"seeds": np.array(seeds, np.uint32), "rounding": np.array(job.rounding)}
        write_npz(run_dir / "samples.npz", {"images": kept} | arrays, compress=True)
    shown = save_class_grid(run_dir / "grid.png", kept, labels, job.grid_samples)
    if job.guidance_sheet:
        sheet = draw_by_guidance(net, table, seeds[: 4 if len(seeds) >= 4 else 1], job, job.guidance_sheet, names)
        samples_picture(run_dir / "guidance.png", {key: data.to_uint8(x, job.rounding) for key, x in sheet.items()})
    if job.gif:
        denoising_gif(run_dir / "denoising.gif", *draw_trajectory(net, table, seeds[: job.gif_samples], job))
    return {
        "sampler": table.name,
        "method": job.sampler["method"],
        "order": job.sampler.get("order"),
        "nfe": table.nfe,
        "nfe_asked": nfe_asked(job, table),
        "num_samples": len(seeds),
        "grid_samples": shown,
        "seconds": seconds,
        "images_per_s": drawn / seconds if drawn else None,
        "seeds": name_seeds(seeds) if job.shard else job.seeds or f"0-{job.num_samples - 1}",
        **values_of(job),
        "rounding": job.rounding,
        **distance(np.concatenate([part["squares"] for part in parts]), job.distance_to_nfe),
        **origin(source),
    }


def summary(result: dict[str, Any]) -> str:
    """One line for people: the solver, its network calls, the metrics and the speed."""
    asked = f" ({result['nfe_asked']} asked)" if result["nfe"] != result["nfe_asked"] else ""
    rate = result["images_per_s"]
    speed = "all drawn before" if rate is None else f"{rate:.{0 if rate >= 10 else 1}f} images/s"
    measured = ", ".join([*lines(result), *distance_lines(result), speed])
    return f"{result['sampler']}, {result['nfe']} NFE{asked}: {measured}"


if __name__ == "__main__":
    cli.run(main, "sample", SampleJob)
