"""Samples measured against the images of a data set."""

from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

import data
from data.config import DatasetConfig
from eval.features.classifier import read_classifier
from eval.features.config import ExtractorConfig
from eval.features.extractor import Extractor
from eval.features.load import load_extractor
from eval.metrics.measurement import Choice, Measurement
from eval.metrics.reference import Reference, foreign_statistics, reference_features, reference_statistics
from runs.errors import checking


def load_reference(
    extractor: Extractor, dataset: DatasetConfig, choice: Choice, split: str = "train", path: Path | None = None
) -> Reference:
    """What samples are measured against: a split of the data set, through the extractor unless it is in the cache.

    path: a file of statistics to take instead; a data set's images then only say what shape samples have.
    Raises ConfigError for images or files that cannot be used.
    """
    with checking():
        images = data.load(dataset, split).images
        name = f"{dataset.name}-{dataset.train_split if split == 'train' else dataset.test_split}"
        if path is not None:
            return Reference(name, images.shape[1:], foreign_statistics(path, extractor), None)
        features = reference_features(extractor, images, name) if choice.need_features else None
        statistics = reference_statistics(extractor, images, name, features)
        return Reference(name, images.shape[1:], statistics, features)


def open_measurement(
    cfg: ExtractorConfig, dataset: DatasetConfig, choice: Choice, published: Path | None
) -> tuple[Extractor, Reference]:
    """The extractor, and what samples are measured against: the data set's training images.

    published: folder of a published network that the data set is that of. It may hold a classifier of its own with the
    statistics of these images; then no images are needed, unless another extractor or more than FID is asked for.
    """
    own = None if published is None else published / "classifier.npz"
    if own is None or not own.is_file() or choice.need_features or (cfg.name, cfg.weights) != ("classifier", None):
        extractor = load_extractor(cfg, dataset)
        return extractor, load_reference(extractor, dataset, choice)
    with checking():
        extractor = read_classifier(own)
        statistics = foreign_statistics(own.with_name("statistics.npz"), extractor)
        assert extractor.image_shape is not None
        return extractor, Reference(statistics.data.partition("@")[0], extractor.image_shape, statistics, None)


def measure(images: UInt8[np.ndarray, "n h w c"], extractor: Extractor, dataset: DatasetConfig) -> dict[str, Any]:
    """FID of the images against the data set's training images, with the name it goes by."""
    with checking():
        measurement = Measurement(extractor, load_reference(extractor, dataset, Choice()), Choice())
        measurement.add(images)
        return measurement.result()
