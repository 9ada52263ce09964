"""Options of the feature extractor that FID is computed with."""

from dataclasses import dataclass

from eval.features.weights import efficientnet_file, inception_file

EXTRACTORS = ("classifier", "inception", "efficientnet_lite0", "pixels")
RESIZES = ("pytorch", "tf1")


@dataclass
class ExtractorConfig:
    """The `extractor` config group; the files in conf/extractor/ explain the fields."""

    name: str = "classifier"
    cache_dir: str = "outputs/extractors"
    # of the classifier
    steps: int = 600
    batch_size: int = 128
    learning_rate: float = 2e-3
    features: int = 64
    seed: int = 0
    # of networks with weights in a file
    weights: str | None = None
    resize: str = "pytorch"


def validate_extractor(cfg: ExtractorConfig) -> None:
    """Refuse values that no extractor can work with, before anything expensive.

    Raises:
        ValueError: naming the value and what is allowed.
        FileNotFoundError: the extractor's weights are not there; says where they are to be had.
    """
    if cfg.name not in (*EXTRACTORS, "none"):
        raise ValueError(f"extractor.name={cfg.name} is unknown; use {', '.join(EXTRACTORS)} or none")
    for field in ("steps", "batch_size", "learning_rate", "features"):
        if not getattr(cfg, field) > 0:
            raise ValueError(f"extractor.{field}={getattr(cfg, field)} must be greater than 0")
    if cfg.seed < 0:
        raise ValueError(f"extractor.seed={cfg.seed} must be 0 or more")
    if cfg.weights is not None and cfg.name in ("pixels", "none"):
        raise ValueError(f"extractor.weights={cfg.weights} does not go with extractor {cfg.name}, which has no weights")
    if cfg.resize not in RESIZES:
        raise ValueError(f"extractor.resize={cfg.resize} is unknown; use {' or '.join(RESIZES)}")
    if cfg.resize != "pytorch" and cfg.name != "inception":
        raise ValueError(f"extractor.resize={cfg.resize} belongs to inception, not {cfg.name}")
    if cfg.name == "inception":
        inception_file(cfg.weights)
    if cfg.name == "efficientnet_lite0":
        efficientnet_file(cfg.weights)
