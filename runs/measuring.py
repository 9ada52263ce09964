"""FID of samples against a data set's training images."""

import sys
from typing import Any

import numpy as np

import data
from data.config import DatasetConfig
from eval.classifier import classifier_extractor
from eval.config import ExtractorConfig
from eval.extractor import Extractor, reference_statistics
from eval.frechet import feature_statistics, frechet_distance, metric_name, rank_warning
from runs.errors import checking


def load_extractor(cfg: ExtractorConfig, dataset: DatasetConfig) -> Extractor:
    """The feature extractor, trained on the data set or taken from its cache."""
    with checking():
        train, test = data.load(dataset, "train"), data.load(dataset, "test")
        return classifier_extractor(train.images, train.labels, test.images, test.labels, cfg, dataset.name)


def measure(images: np.ndarray, extractor: Extractor, dataset: DatasetConfig) -> dict[str, Any]:
    """FID of the images against the data set's training images, with the name it goes by."""
    reference = reference_statistics(extractor, data.load(dataset, "train").images, dataset.name)
    stats = feature_statistics([extractor.features(images)], extractor.name, "samples")
    if warning := rank_warning(stats):
        print(f"warning: {warning}", file=sys.stderr)
    return {
        "fid": frechet_distance(stats, reference),
        "fid_name": metric_name(stats),
        "extractor": extractor.name,
        "extractor_accuracy": extractor.accuracy,
    }
