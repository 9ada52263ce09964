"""The options and checks that the commands with a trained network share."""

from dataclasses import dataclass
from typing import Any

from omegaconf import MISSING

from data.config import DatasetConfig
from models.sampling.source import Source


@dataclass
class NetworkJob:
    """The options of every command that writes a folder about a trained network; conf/sample.yaml explains them."""

    name: str = MISSING
    output_root: str = MISSING
    run_dir: str | None = MISSING
    checkpoint: str | None = MISSING
    step: int | None = MISSING


def require_positive(job: Any, *keys: str) -> None:
    """Raise ValueError if one of these options is below 1; None passes."""
    for key in keys:
        if getattr(job, key) is not None and getattr(job, key) < 1:
            raise ValueError(f"{key} must be at least 1, got {getattr(job, key)}")


def require_rounding(rounding: str) -> None:
    """Raise ValueError for an unknown way of rounding samples to uint8."""
    if rounding not in ("floor", "round"):
        raise ValueError(f"rounding must be floor or round, got {rounding!r}")


def dataset_of(source: Source, asked: DatasetConfig | None) -> DatasetConfig | None:
    """The data set asked for, else the one the network was trained on; None if nobody knows that."""
    return asked or (DatasetConfig(**source.config["dataset"]) if source.config["dataset"] else None)


def require_dataset(source: Source, asked: DatasetConfig | None, otherwise: str = "") -> DatasetConfig:
    """The `dataset_of` a network, to measure against. otherwise: what else to do, as the end of the sentence.

    Raises ValueError if it is not known.
    """
    if (found := dataset_of(source, asked)) is None:
        raise ValueError(
            f"{source.path} does not say what images the network was trained on; give dataset=NAME to measure "
            f"against{otherwise}"
        )
    return found


def origin(source: Source) -> dict[str, Any]:
    """The network of a result, as its file names it."""
    return {"checkpoint": str(source.path if source.step is None else source.path.parent), "step": source.step}
