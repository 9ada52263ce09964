"""The options and checks that the commands with a trained network share."""

from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING

from data.config import DatasetConfig, as_trained
from eval.features.config import ExtractorConfig, validate_extractor
from models.sampling.source import Source
from runs.log import LoggerConfig


@dataclass
class NetworkJob:
    """The options of every command that writes a folder about a trained network; conf/sample.yaml explains them."""

    name: str = MISSING
    output_root: str = MISSING
    run_dir: str | None = MISSING
    checkpoint: str | None = MISSING
    step: int | None = MISSING
    logger: LoggerConfig = MISSING


@dataclass
class MeasuringJob(NetworkJob):
    """The options of the commands that draw samples and measure them."""

    dataset: DatasetConfig = field(default_factory=DatasetConfig)
    num_samples: int = MISSING
    batch_size: int = MISSING
    rounding: str = MISSING
    extractor: ExtractorConfig | None = None


def require_positive(job: Any, *keys: str) -> None:
    """Raise ValueError if one of these options is below 1; None passes."""
    for key in keys:
        if getattr(job, key) is not None and getattr(job, key) < 1:
            raise ValueError(f"{key} must be at least 1, got {getattr(job, key)}")


def check_measuring(job: MeasuringJob) -> None:
    """Raise ValueError for an option of these that cannot work."""
    require_positive(job, "num_samples", "batch_size")
    if job.extractor is not None:
        validate_extractor(job.extractor)
    if job.rounding not in ("floor", "round"):
        raise ValueError(f"rounding must be floor or round, got {job.rounding!r}")


def dataset_of(source: Source, asked: DatasetConfig, otherwise: str = "") -> DatasetConfig:
    """The data set asked for, else the one the network was trained on, with the options asked for, to measure against.

    otherwise: what else to do, as the end of the sentence of the ValueError that is raised if nobody knows it.
    Raises ValueError as well for a name without images.
    """
    if not asked.name and not source.config["dataset"]:
        raise ValueError(
            f"{source.path} does not say what images the network was trained on; give dataset=NAME to measure "
            f"against{otherwise}"
        )
    if asked.name and asked.tfds_name is None and asked.path is None:
        raise ValueError(
            f"dataset.name={asked.name} is a name without images: choose dataset=NAME, or dataset=images "
            "dataset.path=PATH"
        )
    return asked if asked.name else as_trained(source.config["dataset"], asked)


def origin(source: Source) -> dict[str, Any]:
    """The network of a result, as its file names it."""
    return {"checkpoint": str(source.path if source.step is None else source.path.parent), "step": source.step}
