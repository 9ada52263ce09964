"""Pixels themselves as features, for tests and tiny images."""

import math

import numpy as np

import data
from data.config import DatasetConfig
from eval.features.config import ExtractorConfig
from eval.features.extractor import Extractor, identity


def extractor(cfg: ExtractorConfig, dataset: DatasetConfig) -> Extractor:
    """The pixels of images of the data set's shape."""
    return pixels_extractor(data.load(dataset, "train").images.shape[1:], cfg)


def pixels_extractor(image_shape: tuple[int, ...], cfg: ExtractorConfig) -> Extractor:
    """The h w c pixel values of an image in [0, 1], row by row."""
    return Extractor(
        name=identity("pixels", str(image_shape)),
        distance="FD",
        dim=math.prod(image_shape),
        batch_size=256,
        cache_dir=cfg.cache,
        embed=lambda images: (images.reshape(len(images), -1).astype(np.float32) / 255.0, None),
        image_shape=image_shape,
    )
