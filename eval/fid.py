"""Measure samples against a data set: FID, KID, Inception Score, precision and recall; and show what they are nearest.

    python -m eval.fid ref dataset=cifar10
    python -m eval.fid calc SAMPLES dataset=cifar10 metrics=[fid,kid,is,pr]
    python -m eval.fid calc RUN                              of sample.py, which knows its data set
    python -m eval.fid merge PARTS... dataset=cifar10
    python -m eval.fid nearest SAMPLES dataset=cifar10

See: python -m eval.fid --help
"""

if not __package__:  # python eval/fid.py, which finds no other package of the repository
    raise SystemExit("error: this command is typed as python -m eval.fid")

import json
import re
import sys
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from omegaconf import MISSING, DictConfig
from tqdm import tqdm

from data.config import DatasetConfig, as_trained
from eval.features.config import ExtractorConfig, load_extractor, validate_extractor
from eval.features.extractor import Extractor
from eval.figures import image_grid, save_png
from eval.job import dataset_of, joined, require_positive
from eval.metrics.frechet import Statistics, load_statistics, save_statistics
from eval.metrics.measurement import VALUES, Measurement, MetricConfig, lines, validate_metrics
from eval.metrics.precision_recall import nearest
from eval.metrics.reference import Reference, images_of, load_reference, statistics_path
from eval.metrics.samples import BATCH, Samples, open_samples
from formats.files import read_json, write_atomically
from models.sampling.build import parse_seeds
from models.sampling.source import find
from models.training.config import DistributedConfig
from runs import cli, jax_setup
from runs.errors import checking, writing
from runs.folder import read_config
from runs.hints import choices_of, quoted
from runs.log import LoggerConfig, open_log, refuse_tensorboard

SHARED_BATCH = 32  # divides the batches of all extractors
SHOWN = 16  # samples in the picture of nearest images, unless num_samples says how many


@dataclass
class FidJob:
    """The options of this command; conf/fid.yaml explains them."""

    action: str | None = MISSING
    samples: str | None = MISSING
    parts: list[str] = MISSING
    dataset: DatasetConfig = field(default_factory=DatasetConfig)
    split: str = MISSING
    reference: str | None = MISSING
    extractor: ExtractorConfig = MISSING
    metrics: list[str] = MISSING
    num_samples: int | None = MISSING
    kid_subsets: int = MISSING
    kid_subset_size: int = MISSING
    neighbours: int = MISSING
    dest: str | None = MISSING
    distributed: DistributedConfig = MISSING
    logger: LoggerConfig = MISSING


def main(cfg: DictConfig) -> None:
    """Check the configuration, then make the reference or measure the samples; one line for each metric."""
    with checking():
        job: FidJob = cli.to_object(cfg)
        of_run = None if job.dataset.name else dataset_of_run(job)
        job.dataset = of_run or job.dataset
        check(job)
        reading = (job.num_samples, job.dataset.background, job.dataset.skip_damaged)
        samples = None if job.samples is None else open_samples(Path(job.samples).expanduser(), *reading)
        metrics = MetricConfig(job.metrics, job.kid_subsets, job.kid_subset_size)
        validate_metrics(metrics, None if samples is None else samples.n)
        merged = statistics_of_parts(job.parts) if job.parts else None
    if of_run:
        print(f"Measuring against {of_run.name}, as sample.py does; another is dataset=NAME", file=sys.stderr)
    print(jax_setup.configure_jax(SHARED_BATCH), file=sys.stderr)
    with writing(), joined(job.distributed) as (index, count):
        measure(job, cfg, samples, merged, metrics, index, count)


def measure(
    job: FidJob,
    cfg: DictConfig,
    samples: Samples | None,
    merged: list[Statistics] | None,
    metrics: MetricConfig,
    index: int,
    count: int,
) -> None:
    """Make the reference, and measure against it what was given, in process `index` of `count`."""
    from models.training.devices import one_at_first

    with one_at_first():
        extractor = load_extractor(job.extractor, job.dataset)
        path = None if job.reference is None else Path(job.reference).expanduser()
        with_features = metrics.need("features") or job.action == "nearest"
        reference = load_reference(extractor, job.dataset, with_features, job.split, path)
    if job.action == "nearest":
        assert samples is not None
        if index == 0:
            with checking():
                count = job.num_samples or SHOWN
                images = np.concatenate([*islice(samples.batches(), -(-count // BATCH))])[:count]
            show_nearest(job, extractor, reference, images)
        return
    if job.action == "ref":
        stats, kept = reference.statistics, statistics_path(extractor, reference.statistics.data)
        if job.dest is not None and index == 0:
            save_statistics(Path(job.dest).expanduser(), stats)
        if index == 0:
            print(f"{stats.n} images of {stats.data} by {stats.extractor}: {job.dest or kept}")
        return
    with checking():
        measurement = Measurement(extractor, reference, metrics)
        if merged is not None:
            for part, stats in zip(job.parts, merged, strict=True):
                if stats.extractor != extractor.name:
                    raise ValueError(
                        f"{part} was measured with extractor {stats.extractor}, but the images of "
                        f"{reference.data_name} with {extractor.name}; choose the extractor that sample.py had"
                    )
            measurement.blocks = merged if index == 0 else []  # every process has read all parts
        elif samples is not None:
            batches, total = samples.batches(index, count), -(-samples.n // BATCH // count)
            for images in tqdm(batches, total=total, unit="batch", leave=False, disable=None if index == 0 else True):
                measurement.add(images)
    measurement.gather()
    if index > 0:  # process 0 says it
        return
    with checking():
        found = measurement.result()
    print("\n".join(lines(found)))
    with open_log(job.logger, None, "fid", cli.to_dict(cfg)) as log:
        log.metrics(0, {key: found[key] for key in VALUES if key in found})
    if job.dest is not None:
        about: dict[str, Any] = {"parts": job.parts} if samples is None else {"samples": job.samples}
        about |= {"num_samples": measurement.statistics.n, "rounding": samples.rounding if samples else None}
        write_atomically(Path(job.dest).expanduser(), json.dumps(found | about, indent=2) + "\n")


def show_nearest(
    job: FidJob, extractor: Extractor, reference: Reference, samples: UInt8[np.ndarray, "n h w c"]
) -> None:
    """Write a picture with a row for each sample: first itself, then the reference images nearest to it."""
    with checking():
        images = images_of(job.dataset, job.split)
        if samples.shape[1:] != images.shape[1:]:
            shapes = f"{list(samples.shape[1:])}, but the images of {reference.data_name} are {list(images.shape[1:])}"
            raise ValueError(f"samples are {shapes}")
        assert reference.features is not None
        numbers, distances = nearest(extractor.features(samples), reference.features, job.neighbours)
    rows = np.concatenate([samples[:, None], images[numbers]], axis=1)
    dest = Path(job.dest or "nearest.png").expanduser()
    save_png(dest, image_grid(rows.reshape(-1, *images.shape[1:]), 1 + job.neighbours))
    space = "pixel values" if job.extractor.name == "pixels" else f"features of {extractor.name}"
    print(
        f"{dest}: {len(samples)} samples, each beside its {job.neighbours} nearest of {len(images)} images of "
        f"{reference.data_name} in {space}; the nearest is {distances[:, 0].mean():.4g} away on average"
    )


def check(job: FidJob) -> None:
    """Refuse with a ValueError what cannot work, before anything expensive starts."""
    given = {"merge": bool(job.parts), "ref": job.samples is None and not job.parts}
    if not given.get(str(job.action), job.samples is not None and job.action in ("calc", "nearest")):
        raise ValueError(
            "say what to do first: python -m eval.fid ref dataset=NAME, python -m eval.fid calc SAMPLES dataset=NAME, "
            "python -m eval.fid merge PARTS... dataset=NAME, or python -m eval.fid nearest SAMPLES dataset=NAME"
        )
    require_positive(job, "neighbours")
    if job.action == "merge" and list(job.metrics) != ["fid"]:
        raise ValueError(f"parts hold a mean and a covariance, of which only fid follows: metrics={job.metrics}")
    if "classes" in job.metrics:
        raise ValueError("metrics=classes needs the class that each sample was asked for: give it to sample.py")
    if not job.dataset.name:
        raise ValueError(f"give dataset=NAME, the images to measure against: {', '.join(choices_of('dataset'))}")
    if job.split not in ("train", "test", "all"):
        raise ValueError(f"split must be train, test or all, got {job.split!r}")
    if job.extractor.name == "none":
        raise ValueError("extractor=none has no features to measure with; leave it out, or choose another")
    validate_extractor(job.extractor)
    refuse_tensorboard(job.logger)
    if job.reference is not None and job.action in ("ref", "nearest"):
        raise ValueError(f"reference={job.reference} holds no images; give it to: python -m eval.fid calc SAMPLES")
    dest = None if job.dest is None else Path(job.dest).expanduser()
    if job.action == "nearest" and dest is not None and dest.suffix != ".png":
        raise ValueError(f"dest={job.dest} is a picture, whose name must end in .png")
    if dest is not None and (dest.is_dir() or not dest.absolute().parent.is_dir()):
        raise ValueError(f"dest={job.dest} must be the name of a file in a folder that is there")


def dataset_of_run(job: FidJob) -> DatasetConfig | None:
    """The data set that sample.py measures against in the run that drew the samples; None if they are of no run.

    Raises ValueError as `dataset_of`, and if the network that was drawn from is not there.
    """
    path = Path(job.samples or next(iter(job.parts), "")).expanduser()
    run = next((each for each in (path, path.parent) if (each / "result.json").is_file()), path)
    config = read_config(run) or {}
    if config.get("dataset", {}).get("name"):
        return as_trained(config["dataset"], job.dataset)
    result = read_json(run / "result.json") if config else {}
    if "checkpoint" not in result:
        return None
    try:
        source = find(result["checkpoint"], result["step"], "")
    except FileNotFoundError:
        network = result["checkpoint"]
        raise ValueError(f"give dataset=NAME: the network of {run}, {network}, is not there to tell it") from None
    return dataset_of(source, job.dataset)


def statistics_of_parts(parts: list[str]) -> list[Statistics]:
    """The statistics of the samples of each part, a folder that sample.py wrote for its shard.

    Raises FileNotFoundError or ValueError if they are anything else, or not of one set of samples.
    """
    folders = [Path(part).expanduser() for part in parts]
    for folder in folders:
        if not (folder / "statistics.npz").is_file():
            raise FileNotFoundError(f"{folder} has no statistics.npz; give the folders that sample.py shard=... wrote")
    origins = [read_json(folder / "origin.json") for folder in folders]
    for key in origins[0]:
        if len(found := sorted({str(origin.get(key)) for origin in origins})) > 1:
            raise ValueError(f"the parts differ in {key} ({', '.join(found)}), so they are not of one set of samples")
    seeds = [seed for folder in folders for seed in parse_seeds(read_json(folder / "result.json")["seeds"])]
    if len(set(seeds)) < len(seeds):
        raise ValueError("the parts have seeds in common, so an image would count twice")
    return [load_statistics(folder / "statistics.npz") for folder in folders]


def overrides(words: list[str]) -> list[str]:
    """Arguments for Hydra, which has no positional words: `calc SAMPLES`, `merge PARTS...` and so on become options."""
    match words:
        case ["ref", *rest]:
            return ["action=ref", *rest]
        case ["calc" | "nearest" as action, path, *rest] if Path(path).exists() or not re.match(r"-|[\w.]+=", path):
            return [f"action={action}", f"samples={quoted(path)}", *rest]
        case ["merge", *rest] if rest:
            paths = [word for word in rest if Path(word).exists() or "=" not in word]
            parts = ",".join(map(quoted, paths))
            return ["action=merge", f"parts=[{parts}]", *(word for word in rest if word not in paths)]
        case [word, *_] if "=" not in word and not word.startswith("-"):
            return []  # `check` then says what to type
    return words


if __name__ == "__main__":
    sys.argv[1:] = overrides(sys.argv[1:])
    cli.run(main, "fid", FidJob)
