"""What every feature extractor is to the rest of the program, and the statistics of a data set under it."""

import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Array, Float, UInt8

from eval.frechet import Statistics, feature_statistics, load_statistics, save_statistics


@dataclass(frozen=True)
class Extractor:
    """A frozen map from images to feature vectors.

    `name` is its identity, NAME@HASH; `embed` maps exactly `batch_size` images of `image_shape` (h, w, c);
    `accuracy` is the held-out accuracy of the classifier behind it, in [0, 1].
    """

    name: str
    dim: int
    image_shape: tuple[int, ...]
    accuracy: float
    batch_size: int
    cache_dir: Path
    embed: Callable[[UInt8[np.ndarray, "batch h w c"]], Float[Array, "batch d"]]

    def features(self, images: UInt8[np.ndarray, "n h w c"]) -> Float[np.ndarray, "n d"]:
        """Features of any number of images, float32, in batches padded to one size (one compilation).

        Raises:
            ValueError: the images are not uint8 of the shape this extractor was made for.
        """
        if images.dtype != np.uint8 or images.shape[1:] != self.image_shape:
            raise ValueError(
                f"extractor {self.name} takes uint8 images of shape {self.image_shape}, "
                f"not {images.dtype} of shape {images.shape[1:]}"
            )
        result = np.empty((len(images), self.dim), np.float32)
        for start in range(0, len(images), self.batch_size):
            chunk = images[start : start + self.batch_size]
            padding = np.zeros((self.batch_size - len(chunk), *self.image_shape), np.uint8)
            embedded = np.asarray(self.embed(np.concatenate([chunk, padding])))
            result[start : start + len(chunk)] = embedded[: len(chunk)]
        return result


def identity(name: str, *parts: np.ndarray | str) -> str:
    """NAME@HASH, where the hash covers dtype, shape and content of every part."""
    digest = hashlib.sha256()
    for part in parts:
        array = np.ascontiguousarray(part)
        digest.update(f"{array.dtype.str}{array.shape}".encode())
        digest.update(array.data)
    return f"{re.sub(r'[^A-Za-z0-9_.-]+', '-', name)}@{digest.hexdigest()[:12]}"


def reference_statistics(extractor: Extractor, images: UInt8[np.ndarray, "n h w c"], data_name: str) -> Statistics:
    """Statistics of a data set, computed once and kept beside the extractor.

    Raises:
        ValueError: wrong kind of images, fewer than two, or a damaged file in the cache.
    """
    data = identity(data_name, images)
    path = extractor.cache_dir / f"statistics_{extractor.name}_{data}.npz"
    if path.is_file():
        return load_statistics(path)
    stats = feature_statistics([extractor.features(images)], extractor.name, data)
    save_statistics(path, stats)
    return stats
