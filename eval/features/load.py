"""The feature extractors by name, and what each needs of the data set."""

from collections.abc import Callable
from pathlib import Path

import data
from data.config import DatasetConfig
from eval.features.classifier import classifier_extractor, read_classifier
from eval.features.config import ExtractorConfig
from eval.features.efficientnet import efficientnet_extractor
from eval.features.extractor import Extractor
from eval.features.inception import inception_extractor
from eval.features.pixels import pixels_extractor
from runs.errors import checking


def load_extractor(cfg: ExtractorConfig, dataset: DatasetConfig) -> Extractor:
    """The extractor that `cfg.name` names: read from its file, or trained on the data set or taken from its cache."""
    with checking():
        return EXTRACTORS[cfg.name](cfg, dataset)


def _classifier(cfg: ExtractorConfig, dataset: DatasetConfig) -> Extractor:
    if cfg.weights is not None:
        return read_classifier(Path(cfg.weights).expanduser())
    train, test = data.load(dataset, "train"), data.load(dataset, "test")
    return classifier_extractor(train.images, train.labels, test.images, test.labels, cfg, dataset.name)


def _pixels(cfg: ExtractorConfig, dataset: DatasetConfig) -> Extractor:
    return pixels_extractor(data.load(dataset, "train").images.shape[1:], cfg)


EXTRACTORS: dict[str, Callable[[ExtractorConfig, DatasetConfig], Extractor]] = {
    "classifier": _classifier,
    "inception": lambda cfg, _: inception_extractor(cfg),
    "efficientnet_lite0": lambda cfg, _: efficientnet_extractor(cfg),
    "pixels": _pixels,
}
