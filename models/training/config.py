"""The options of training, and their checks. JAX is not imported; conf/ explains every option."""

import math
from dataclasses import asdict, dataclass

from omegaconf import MISSING


@dataclass
class TrainConfig:
    """The `train` config group; conf/train/default.yaml explains every option."""

    steps: int = MISSING
    batch_size: int = MISSING
    accumulate: int = MISSING
    ema_decay: float = MISSING
    max_skipped: int = MISSING
    placement: str = MISSING
    fsdp: bool = MISSING
    log_every: int = MISSING
    eval_every: int = MISSING
    eval_batches: int = MISSING
    sample_every: int = MISSING
    num_samples: int = MISSING
    fid_every: int = MISSING
    fid_samples: int = MISSING
    checkpoint_every: int = MISSING
    keep_checkpoints: int | None = MISSING
    keep_best: bool = MISSING


@dataclass
class OptimizerConfig:
    """The `optimizer` config group; conf/optimizer/adam.yaml explains every option."""

    learning_rate: float = MISSING
    warmup_steps: int = MISSING
    cosine_decay: bool = MISSING
    b1: float = MISSING
    b2: float = MISSING
    clip_norm: float = MISSING


@dataclass
class DistributedConfig:
    """The `distributed` config group, how processes find each other; conf/distributed/explicit.yaml explains it."""

    mode: str = MISSING
    coordinator: str | None = None
    num_processes: int | None = None
    process_id: int | None = None


@dataclass
class ObjectiveConfig:
    """The training objective; conf/objective/eps.yaml explains every option."""

    weight: str = "eps"
    snr_gamma: float = 5.0
    times: str = "uniform"
    num_times: int = 1000
    log_sigma_mean: float = -1.2
    log_sigma_std: float = 1.2
    label_dropout: float = 0.0


PLACEMENTS = ("auto", "device", "stream")
LEAST = dict.fromkeys(("sample_every", "fid_every", "ema_decay", "fsdp", "keep_best"), 0) | {"fid_samples": 2}
"""The smallest values of options of TrainConfig; of the others it is 1."""


def validate_training(train: TrainConfig, optimizer: OptimizerConfig) -> None:
    """Raise ValueError, naming the option and what is allowed, for numbers that no training can have."""
    for key, value in asdict(train).items():
        least = LEAST.get(key, 1)
        if not isinstance(value, str | None) and not value >= least:
            raise ValueError(f"train.{key} must be at least {least}, got {value}")
    if not train.ema_decay < 1:
        raise ValueError(f"train.ema_decay must be below 1, got {train.ema_decay}")
    if train.placement not in PLACEMENTS:
        raise ValueError(f"train.placement must be one of {', '.join(PLACEMENTS)}, got {train.placement!r}")
    if train.batch_size % train.accumulate:
        raise ValueError(f"train.accumulate={train.accumulate} must divide train.batch_size={train.batch_size}")
    by, every = ("fid_every", train.fid_every) if train.fid_every else ("eval_every", train.eval_every)
    if train.keep_best and every % train.checkpoint_every and train.checkpoint_every % every:
        raise ValueError(
            f"train.keep_best=true needs checkpoints that are measured, so that one of train.{by}={every} and "
            f"train.checkpoint_every={train.checkpoint_every} must divide the other"
        )
    for key, holds, allowed in (
        ("learning_rate", 0 < optimizer.learning_rate < math.inf, "positive and finite"),
        ("warmup_steps", optimizer.warmup_steps >= 0, "0 or more"),
        ("b1", 0 <= optimizer.b1 < 1, "at least 0 and below 1"),
        ("b2", 0 <= optimizer.b2 < 1, "at least 0 and below 1"),
        ("clip_norm", optimizer.clip_norm > 0, "positive"),
    ):
        if not holds:
            raise ValueError(f"optimizer.{key} must be {allowed}, got {getattr(optimizer, key)}")
