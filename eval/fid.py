"""Measure samples against a data set: FID, KID, Inception Score, precision and recall.

    python -m eval.fid ref dataset=cifar10
    python -m eval.fid calc SAMPLES dataset=cifar10 metrics=[fid,kid,is,pr]

See: python -m eval.fid --help
"""

if not __package__:  # python eval/fid.py, which finds no other package of the repository
    raise SystemExit("error: this command is typed as python -m eval.fid")

import json
import re
import sys
from dataclasses import dataclass, field
from pathlib import Path

from omegaconf import MISSING, DictConfig
from tqdm import tqdm

from data.config import DatasetConfig
from eval.features.config import ExtractorConfig, load_extractor, validate_extractor
from eval.metrics.frechet import save_statistics
from eval.metrics.measurement import VALUES, Measurement, MetricConfig, lines, validate_metrics
from eval.metrics.reference import load_reference, statistics_path
from eval.metrics.samples import BATCH, open_samples
from formats.files import write_atomically
from runs import cli, jax_setup
from runs.errors import checking, writing
from runs.hints import quoted
from runs.log import LoggerConfig, open_log

SHARED_BATCH = 32  # divides the batches of all extractors


@dataclass
class FidJob:
    """The options of this command; conf/fid.yaml explains them."""

    action: str | None = MISSING
    samples: str | None = MISSING
    dataset: DatasetConfig = field(default_factory=DatasetConfig)
    split: str = MISSING
    reference: str | None = MISSING
    extractor: ExtractorConfig = MISSING
    metrics: list[str] = MISSING
    num_samples: int | None = MISSING
    kid_subsets: int = MISSING
    kid_subset_size: int = MISSING
    dest: str | None = MISSING
    logger: LoggerConfig = MISSING


def main(cfg: DictConfig) -> None:
    """Check the configuration, then make the reference or measure the samples; one line for each metric."""
    with checking():
        job: FidJob = cli.to_object(cfg)
        check(job)
        reading = (job.num_samples, job.dataset.background, job.dataset.skip_damaged)
        samples = None if job.samples is None else open_samples(Path(job.samples).expanduser(), *reading)
        metrics = MetricConfig(job.metrics, job.kid_subsets, job.kid_subset_size)
        validate_metrics(metrics, None if samples is None else samples.n)
    print(jax_setup.configure_jax(SHARED_BATCH), file=sys.stderr)
    extractor = load_extractor(job.extractor, job.dataset)
    path = None if job.reference is None else Path(job.reference).expanduser()
    reference = load_reference(extractor, job.dataset, metrics.need("features"), job.split, path)
    if samples is None:
        stats, kept = reference.statistics, statistics_path(extractor, reference.statistics.data)
        if job.dest is not None:
            with writing():
                save_statistics(Path(job.dest).expanduser(), stats)
        print(f"{stats.n} images of {stats.data} by {stats.extractor}: {job.dest or kept}")
        return
    with checking():
        measurement = Measurement(extractor, reference, metrics)
        for images in tqdm(samples.batches, total=-(-samples.n // BATCH), unit="batch", leave=False, disable=None):
            measurement.add(images)
        found = measurement.result()
    print("\n".join(lines(found)))
    with open_log(job.logger, None, "fid", cli.to_dict(cfg)) as log:
        log.metrics(0, {key: found[key] for key in VALUES if key in found})
    if job.dest is not None:
        about = {"samples": job.samples, "num_samples": samples.n, "rounding": samples.rounding}
        with writing():
            write_atomically(Path(job.dest).expanduser(), json.dumps(found | about, indent=2) + "\n")


def check(job: FidJob) -> None:
    """Refuse with a ValueError what cannot work, before anything expensive starts."""
    if job.action not in ("ref", "calc") or (job.action == "calc") != (job.samples is not None):
        raise ValueError(
            "say what to do first: python -m eval.fid ref dataset=NAME, or python -m eval.fid calc SAMPLES dataset=NAME"
        )
    if not job.dataset.name:
        raise ValueError("give dataset=NAME, the images to measure against; python -m eval.fid --help lists them")
    if job.split not in ("train", "test", "all"):
        raise ValueError(f"split must be train, test or all, got {job.split!r}")
    if job.extractor.name == "none":
        raise ValueError("extractor=none has no features to measure with; leave it out, or choose another")
    validate_extractor(job.extractor)
    if job.reference is not None and job.samples is None:
        raise ValueError(f"reference={job.reference} is already one; give it to: python -m eval.fid calc SAMPLES")
    dest = None if job.dest is None else Path(job.dest).expanduser()
    if dest is not None and (dest.is_dir() or not dest.absolute().parent.is_dir()):
        raise ValueError(f"dest={job.dest} must be the name of a file in a folder that is there")


def overrides(words: list[str]) -> list[str]:
    """Arguments for Hydra, which has no positional words: `ref` and `calc SAMPLES` in front become options."""
    match words:
        case ["ref", *rest]:
            return ["action=ref", *rest]
        case ["calc", path, *rest] if Path(path).exists() or not re.match(r"-|[\w.]+=", path):
            return ["action=calc", f"samples={quoted(path)}", *rest]
        case [word, *_] if "=" not in word and not word.startswith("-"):
            return []  # `check` then says what to type
    return words


if __name__ == "__main__":
    sys.argv[1:] = overrides(sys.argv[1:])
    cli.run(main, "fid", FidJob)
