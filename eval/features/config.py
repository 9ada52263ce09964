"""Options of the feature extractor that FID is computed with, and the extractor that they name.

A new extractor is a module here, with a function `extractor` of (ExtractorConfig, DatasetConfig), and a file of the
same name in conf/extractor.
"""

from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path

from data.config import DatasetConfig
from eval.features.extractor import Extractor
from eval.features.weights import dinov2_file, efficientnet_file, inception_file
from formats.files import read_json
from models.sampling.source import SHIPPED
from runs.errors import checking

CONF = Path(__file__).parents[2] / "conf" / "extractor"


@dataclass
class ExtractorConfig:
    """The `extractor` config group; the files in conf/extractor/ explain the fields."""

    name: str = "classifier"
    cache_dir: str = "outputs/extractors"
    # classifier
    steps: int | None = None
    batch_size: int = 128
    learning_rate: float = 3e-3
    features: int = 64
    seed: int = 0
    # networks whose weights are in a file
    weights: str | None = None
    resize: str = "pytorch"
    spatial: bool = False

    @property
    def cache(self) -> Path:
        """The folder `cache_dir`, in which ~ is the user's."""
        return Path(self.cache_dir).expanduser()


def validate_extractor(cfg: ExtractorConfig) -> None:
    """Refuse values that no extractor can work with, before anything expensive.

    Raises ValueError naming the value and what is allowed, and FileNotFoundError saying where to get missing weights.
    """
    if cfg.name not in (known := sorted(path.stem for path in CONF.glob("*.yaml"))):
        raise ValueError(f"extractor.name={cfg.name} is unknown; use {', '.join(known)}")
    for field in ("steps", "batch_size", "learning_rate", "features"):
        if (value := getattr(cfg, field)) is not None and not value > 0:
            raise ValueError(f"extractor.{field}={value} must be greater than 0")
    if cfg.seed < 0:
        raise ValueError(f"extractor.seed={cfg.seed} must be 0 or more")
    if cfg.weights is not None and cfg.name in ("pixels", "none"):
        raise ValueError(f"extractor.weights={cfg.weights} does not go with extractor {cfg.name}, which has no weights")
    if cfg.resize not in ("pytorch", "tf1"):
        raise ValueError(f"extractor.resize={cfg.resize} is unknown; use pytorch or tf1")
    owners = dict.fromkeys(("steps", "batch_size", "learning_rate", "features", "seed"), "classifier")
    for field, owner in (owners | {"resize": "inception", "spatial": "inception"}).items():
        if cfg.name != owner and (value := getattr(cfg, field)) != getattr(ExtractorConfig, field):
            raise ValueError(f"extractor.{field}={value} belongs to {owner}, not {cfg.name}")
    files = {"inception": inception_file, "efficientnet_lite0": efficientnet_file, "dinov2": dinov2_file}
    if file_of := files.get(cfg.name):
        file_of(cfg.weights)


def load_extractor(cfg: ExtractorConfig, dataset: DatasetConfig) -> Extractor:
    """The extractor that `cfg.name` names: read from its file, or trained on the data set or taken from its cache.

    A classifier that ships with a network of this data set is taken instead of training the same one.
    Imports JAX. Raises ConfigError for options, weights or a data set that cannot be used.
    """
    with checking():
        validate_extractor(cfg)
        if (folder := shipped_for(dataset)) and replace(cfg, cache_dir="") == ExtractorConfig(cache_dir=""):
            cfg = replace(cfg, weights=str(folder / "classifier.npz"))
        return import_module(f"eval.features.{cfg.name}").extractor(cfg, dataset)


def shipped_for(dataset: DatasetConfig) -> Path | None:
    """The folder in checkpoints/ whose network learned the images of this data set, if it holds their classifier.

    Beside classifier.npz it holds statistics.npz, mean and covariance of the training images' features.
    """

    def images(dataset: DatasetConfig) -> DatasetConfig:
        return replace(dataset, data_dir="", download=False, flip=False)  # none of these changes an image

    for file in sorted(SHIPPED.parent.glob("*/classifier.npz")):
        saved = read_json(file.with_name("config.json"))["dataset"]
        if saved and images(DatasetConfig(**saved)) == images(dataset):
            return file.parent
    return None
