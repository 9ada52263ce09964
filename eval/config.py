"""Options of the feature extractor that FID is computed with."""

from dataclasses import dataclass


@dataclass
class ExtractorConfig:
    """The `extractor` config group; every field is explained in conf/extractor/classifier.yaml."""

    name: str = "classifier"
    steps: int = 600
    batch_size: int = 128
    learning_rate: float = 2e-3
    features: int = 64
    cache_dir: str = "outputs/extractors"
    seed: int = 0


def validate_extractor(cfg: ExtractorConfig) -> None:
    """Refuse values that no extractor can work with, before anything expensive.

    Raises:
        ValueError: naming the value and what is allowed.
    """
    if cfg.name not in ("classifier", "none"):
        raise ValueError(f"extractor.name={cfg.name} is unknown; use classifier or none")
    for field in ("steps", "batch_size", "learning_rate", "features"):
        if not getattr(cfg, field) > 0:
            raise ValueError(f"extractor.{field}={getattr(cfg, field)} must be greater than 0")
    if cfg.seed < 0:
        raise ValueError(f"extractor.seed={cfg.seed} must be 0 or more")
