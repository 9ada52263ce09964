"""The options and checks that the commands with a trained network share."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import MISSING

import deis
from data.config import DatasetConfig, as_trained
from eval.features.config import ExtractorConfig, validate_extractor
from models.sampling.source import Source
from models.training.config import DistributedConfig
from runs.errors import ConfigError, NonFiniteError, checking
from runs.folder import of_sweep
from runs.hints import option_of
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


def require_seed(seed: int, count: int = 1) -> None:
    """Raise ValueError unless the seeds seed, seed + 1, ..., `count` of them, are those that 32 bits hold."""
    if not 0 <= seed <= 2**32 - count:
        raise ValueError(f"seed must be from 0 to {2**32 - count}, got {seed}")


def require_signal(sde: deis.SDE) -> None:
    """Raise ValueError if the diffusion begins with pure noise, where the ODE from images to noise has no end."""
    if sde.starts_at_noise:
        raise ValueError(
            f"the network's diffusion is pure noise at T={sde.T:g}, where nothing can be measured along the way from "
            "images to noise; give a network whose diffusion keeps something of the image, as sde=vp_linear does"
        )


def check_measuring(job: MeasuringJob) -> None:
    """Raise ValueError for an option of `MeasuringJob` that cannot work."""
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


def check_shared(cfg: DistributedConfig, run_dir: str | None) -> None:
    """Raise ConfigError if several processes could not know that they are at the same thing."""
    if cfg.mode != "none" and (run_dir is None or of_sweep()):
        raise ConfigError("several processes need one folder that all can reach, and no sweep: give run_dir=FOLDER")


@contextmanager
def joined(cfg: DistributedConfig) -> Iterator[tuple[int, int]]:
    """Within this block, which starts JAX when all processes have come, it is (this process, how many there are).

    Raises ConfigError for options that `models.training.devices.connect` refuses.
    """
    import jax

    from models.training import devices

    with checking():
        devices.connect(**asdict(cfg), survives=True)
    yield jax.process_index(), jax.process_count()
    devices.leave()


def require_finite(x_0: np.ndarray, seeds: list[int], table: deis.Table) -> None:
    """Raise NonFiniteError for samples with NaN or infinite values, which would become black images without a word."""
    bad = np.flatnonzero(~np.isfinite(x_0).all(axis=(1, 2, 3)))
    if len(bad):
        raise NonFiniteError(
            f"{table.name} with {table.nfe} network calls gave NaN or infinite values for {len(bad)} of {len(x_0)} "
            f"images, seed {seeds[bad[0]]} first; the network or the schedule is at fault"
        )


def origin(source: Source) -> dict[str, Any]:
    """The network of a result, as its file names it."""
    return {"checkpoint": str(source.path if source.step is None else source.path.parent), "step": source.step}


def say_next(table: Path, source: Source) -> None:
    """Print the command that samples with the solver in a file."""
    options = f"{option_of('sampler.table', str(table))} {option_of('checkpoint', origin(source)['checkpoint'])}"
    print(f"Next: python sample.py sampler=learned {options}", file=sys.stderr)
