"""The options of train.py and sample.py as typed schemas for the YAML files in conf/, which document them.

Every group's file in conf/ starts from the schema named here, so that Hydra refuses misspelt keys and wrong types.
"""

from dataclasses import dataclass
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING, DictConfig, OmegaConf

from data.config import DatasetConfig
from eval.config import ExtractorConfig
from eval.paper import Paper
from models.config import ObjectiveConfig, UNetConfig
from runs.analysis_config import AnalysisJob, LikelihoodJob
from runs.solver_config import SAMPLERS, DiscreteVPConfig, EDMConfig, VEConfig, VPCosineConfig, VPLinearConfig


@dataclass
class OptimizerConfig:
    learning_rate: float = MISSING
    warmup_steps: int = MISSING
    cosine_decay: bool = MISSING
    b1: float = MISSING
    b2: float = MISSING
    clip_norm: float = MISSING


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
class DistributedConfig:
    mode: str = MISSING
    coordinator: str | None = None
    num_processes: int | None = None
    process_id: int | None = None


@dataclass
class LoggerConfig:
    name: str = MISSING
    project: str = "deis"
    entity: str | None = None
    group: str | None = None
    mode: str = "auto"
    init_timeout: int = 5


@dataclass
class TrainJob:
    """Options of train.py."""

    name: str = MISSING
    seed: int = MISSING
    output_root: str = MISSING
    run_dir: str | None = None
    resume: bool = MISSING
    allow_changes: bool = MISSING
    dataset: DatasetConfig = MISSING
    model: UNetConfig = MISSING
    sde: Any = MISSING
    objective: ObjectiveConfig = MISSING
    optimizer: OptimizerConfig = MISSING
    train: TrainConfig = MISSING
    sampler: Any = MISSING
    extractor: ExtractorConfig = MISSING
    distributed: DistributedConfig = MISSING
    logger: LoggerConfig = MISSING


@dataclass
class SummaryJob:
    """Options of runs/model_summary.py."""

    dataset: DatasetConfig = MISSING
    model: UNetConfig = MISSING


@dataclass
class FidJob:
    """Options of eval/fid.py."""

    action: str | None = None
    samples: str | None = None
    dataset: DatasetConfig | None = None
    split: str = MISSING
    reference: str | None = None
    extractor: ExtractorConfig = MISSING
    metrics: list[str] = MISSING
    num_samples: int | None = None
    kid_subsets: int = MISSING
    kid_subset_size: int = MISSING
    dest: str | None = None


@dataclass
class SampleJob:
    """Options of sample.py."""

    name: str = MISSING
    output_root: str = MISSING
    run_dir: str | None = None
    checkpoint: str | None = None
    step: int | None = None
    dataset: DatasetConfig | None = None
    sampler: Any = MISSING
    num_samples: int = MISSING
    seeds: str | None = None
    batch_size: int = MISSING
    label: int | None = None
    guidance: float | None = None
    rounding: str = MISSING
    keep_samples: bool = MISSING
    metrics: list[str] = MISSING
    kid_subsets: int = MISSING
    kid_subset_size: int = MISSING
    grid_samples: int = MISSING
    gif: bool = MISSING
    gif_samples: int = MISSING
    extractor: ExtractorConfig = MISSING
    logger: LoggerConfig = MISSING


@dataclass
class TableJob:
    """Options of eval/table.py, where it computes a paper's table."""

    name: str = MISSING
    output_root: str = MISSING
    run_dir: str | None = None
    checkpoint: str | None = None
    step: int | None = None
    dataset: DatasetConfig | None = None
    paper: Paper = MISSING
    num_samples: int = MISSING
    batch_size: int = MISSING
    rounding: str = MISSING
    extractor: ExtractorConfig = MISSING
    logger: LoggerConfig = MISSING


def register() -> None:
    """Make the schemas known to Hydra under the names that the files in conf/ start from."""
    store = ConfigStore.instance().store
    store(name="train_schema", node=TrainJob)
    store(name="sample_schema", node=SampleJob)
    store(name="fid_schema", node=FidJob)
    store(name="model_summary_schema", node=SummaryJob)
    store(name="likelihood_schema", node=LikelihoodJob)
    store(name="analysis_schema", node=AnalysisJob)
    store(name="table_schema", node=TableJob)
    store(group="dataset", name="dataset_schema", node=DatasetConfig)
    store(group="model", name="model_schema", node=UNetConfig)
    store(group="sde", name="vp_linear_schema", node=VPLinearConfig)
    store(group="sde", name="vp_cosine_schema", node=VPCosineConfig)
    store(group="sde", name="ve_schema", node=VEConfig)
    store(group="sde", name="edm_schema", node=EDMConfig)
    store(group="sde", name="discrete_vp_schema", node=DiscreteVPConfig)
    for name, node in SAMPLERS.items():
        store(group="sampler", name=f"{name}_schema", node=node)
    store(group="objective", name="objective_schema", node=ObjectiveConfig)
    store(group="distributed", name="distributed_schema", node=DistributedConfig)
    store(group="optimizer", name="optimizer_schema", node=OptimizerConfig)
    store(group="train", name="train_schema", node=TrainConfig)
    store(group="extractor", name="extractor_schema", node=ExtractorConfig)
    store(group="logger", name="logger_schema", node=LoggerConfig)
    store(group="paper", name="paper_schema", node=Paper)


def to_object(cfg: DictConfig) -> Any:
    """The composed configuration as the dataclasses above."""
    return OmegaConf.to_object(cfg)


def to_dict(cfg: DictConfig) -> dict[str, Any]:
    """The composed configuration as plain values, for JSON and YAML files."""
    container = OmegaConf.to_container(cfg, resolve=True)
    assert isinstance(container, dict)
    return {str(key): value for key, value in container.items()}
