"""The options of training, and their checks. JAX is not imported; conf/ explains every option."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from omegaconf import MISSING

from models.config import UNetConfig

if TYPE_CHECKING:
    from deis import SDE


@dataclass
class TrainConfig:
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
    keep_checkpoints: int = MISSING
    keep_best: bool = MISSING


@dataclass
class OptimizerConfig:
    learning_rate: float = MISSING
    warmup_steps: int = MISSING
    cosine_decay: bool = MISSING
    b1: float = MISSING
    b2: float = MISSING
    clip_norm: float = MISSING


@dataclass
class DistributedConfig:
    mode: str = MISSING
    coordinator: str | None = None
    num_processes: int | None = None
    process_id: int | None = None


@dataclass
class ObjectiveConfig:
    """What training minimises; conf/objective/eps.yaml explains every option."""

    weight: str = "eps"
    snr_gamma: float = 5.0
    times: str = "uniform"
    num_times: int = 1000
    log_sigma_mean: float = -1.2
    log_sigma_std: float = 1.2
    label_dropout: float = 0.0


OBJECTIVE_CHOICES = {
    "weight": ("eps", "likelihood", "min_snr", "edm", "output"),
    "times": ("uniform", "importance", "discrete", "log_normal"),
}


def validate_objective(cfg: ObjectiveConfig, model: UNetConfig, sde: "SDE") -> None:
    """Raise ValueError, naming the option and what is allowed, for what cannot be minimised by this network."""
    for name, allowed in OBJECTIVE_CHOICES.items():
        if getattr(cfg, name) not in allowed:
            raise ValueError(f"objective.{name} must be one of {', '.join(allowed)}, got {getattr(cfg, name)!r}")
    if cfg.snr_gamma <= 0 or cfg.log_sigma_std <= 0:
        raise ValueError(
            "objective.snr_gamma and objective.log_sigma_std must be positive, "
            f"got {cfg.snr_gamma:g} and {cfg.log_sigma_std:g}"
        )
    if cfg.num_times < 2:
        raise ValueError(f"objective.num_times must be at least 2, got {cfg.num_times}")
    if not 0 <= cfg.label_dropout < 1:
        raise ValueError(f"objective.label_dropout must be in [0, 1), got {cfg.label_dropout}")
    if cfg.label_dropout and not model.null_class:
        raise ValueError("objective.label_dropout puts the null class for labels: it needs model.null_class=true")
    unbounded = "weight=likelihood" if cfg.weight == "likelihood" else "times=importance"
    if (cfg.weight == "likelihood" or cfg.times == "importance") and not sde.rho(sde.t_0) > 0:
        raise ValueError(f"objective.{unbounded} needs noise at the smallest time, got sigma = 0 there: raise sde.t_0")
