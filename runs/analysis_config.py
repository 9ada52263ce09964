"""The options of eval/likelihood.py and eval/analysis.py; conf/likelihood.yaml and conf/analysis.yaml explain them."""

from dataclasses import dataclass
from typing import Any

from omegaconf import MISSING

from data.config import DatasetConfig


@dataclass
class LikelihoodJob:
    """Options of eval/likelihood.py."""

    name: str = MISSING
    output_root: str = MISSING
    run_dir: str | None = None
    checkpoint: str | None = None
    step: int | None = None
    dataset: DatasetConfig | None = None
    methods: list[str] = MISSING
    sampler: Any = MISSING
    nfe: list[int] | None = None
    tolerance: float = MISSING
    trace: str = MISSING
    num_probes: int = MISSING
    num_images: int | None = None
    batch_size: int = MISSING
    seed: int = MISSING


@dataclass
class AnalysisJob:
    """Options of eval/analysis.py."""

    name: str = MISSING
    output_root: str = MISSING
    run_dir: str | None = None
    problem: str = MISSING
    checkpoint: str | None = None
    step: int | None = None
    nfe: list[int] = MISSING
    ts_phase: str = MISSING
    ts_order: float = MISSING
    num_samples: int = MISSING
    seed: int = MISSING
    fit_steps: int = MISSING
