"""The reference that samples are measured against: a data set's features, computed once and kept with the extractor.

A file is named by the extractor's identity, which covers weights and resizing, and by that of the images, which covers
the data set, its split and how they were cut to size: whatever changes, another file is made.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float32, UInt8
from tqdm import tqdm

from eval.features.extractor import Extractor, identity
from eval.metrics.frechet import UNKNOWN, Statistics, feature_statistics, load_statistics, save_statistics
from formats.files import atomic_path

CHUNK = 1024


class Reference(NamedTuple):
    """Statistics of the reference images, their features where a metric needs them, and their shape (h, w, c).

    data_name: data set and split, such as "cifar10-train".
    """

    data_name: str
    image_shape: tuple[int, ...]
    statistics: Statistics
    features: Float32[np.ndarray, "n d"] | None

    @property
    def all_features(self) -> Float32[np.ndarray, "n d"]:
        """The features, where they were asked for."""
        assert self.features is not None
        return self.features


def reference_statistics(
    extractor: Extractor,
    images: UInt8[np.ndarray, "n h w c"],
    data_name: str,
    features: Float32[np.ndarray, "n d"] | None = None,
) -> Statistics:
    """Statistics of a data set's images, from the cache where they are in it.

    `data` of the result is data_name@HASH.
    features: the features of these very images, if they are at hand.

    Raises ValueError for the wrong kind of images, fewer than two, or a damaged file in the cache.
    """
    data = identity(data_name, images)
    path = statistics_path(extractor, data)
    if not path.is_file():
        batches = _batches(extractor, images, data_name) if features is None else _cut(features)
        save_statistics(path, feature_statistics(batches, extractor.name, data))
    return load_statistics(path)


def reference_features(
    extractor: Extractor, images: UInt8[np.ndarray, "n h w c"], data_name: str
) -> Float32[np.ndarray, "n d"]:
    """Features of a data set's images, a read-only memory map of an .npy file in the cache.

    Raises ValueError for the wrong kind of images, or a damaged file in the cache.
    """
    path = extractor.cache_dir / f"features_{extractor.name}_{identity(data_name, images)}.npy"
    shape = (len(images), extractor.dim)
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(path) as partial:
            found = np.lib.format.open_memmap(partial, "w+", np.float32, shape)
            first = 0
            for batch in _batches(extractor, images, data_name):
                found[first : first + len(batch)] = batch
                first += len(batch)
            found.flush()
    try:
        found = np.load(path, mmap_mode="r")
    except (ValueError, EOFError, OSError) as error:
        raise ValueError(f"{path} cannot be read as .npy ({error}); delete it to have it made anew") from error
    if found.shape != shape or found.dtype != np.float32:
        raise ValueError(f"{path} holds {found.dtype} {list(found.shape)}, not float32 {list(shape)}; delete it")
    return found


def foreign_statistics(path: Path, extractor: Extractor) -> Statistics:
    """Statistics from a file that somebody gives, such as the published ones of pytorch-fid (mu and sigma only).

    Raises FileNotFoundError if there is no such file; ValueError if it is damaged, or of another extractor as far as it
    says.
    """
    stats = load_statistics(path)
    if stats.extractor not in (extractor.name, UNKNOWN):
        raise ValueError(
            f"reference={path} was measured with extractor {stats.extractor}, but the samples are measured with "
            f"{extractor.name}; choose that extractor, or leave reference out"
        )
    if stats.mean.size != extractor.dim:
        raise ValueError(
            f"reference={path} has {stats.mean.size} features, but extractor {extractor.name} has {extractor.dim}"
        )
    return stats


def chunk_size(extractor: Extractor) -> int:
    """The number of images to extract features of at a time: full batches, and enough to make a covariance cheap."""
    return max(1, CHUNK // extractor.batch_size) * extractor.batch_size


def statistics_path(extractor: Extractor, data: str) -> Path:
    """The file that keeps the statistics of the images with identity `data`."""
    return extractor.cache_dir / f"statistics_{extractor.name}_{data}.npz"


def _batches(extractor: Extractor, images: np.ndarray, data_name: str) -> Iterator[Float32[np.ndarray, "b d"]]:
    size = chunk_size(extractor)
    with tqdm(total=len(images), desc=f"features of {data_name}", unit="image", leave=False, disable=None) as bar:
        for first in range(0, len(images), size):
            chunk = images[first : first + size]
            yield extractor.features(chunk)
            bar.update(len(chunk))


def _cut(features: np.ndarray) -> Iterator[Float32[np.ndarray, "b d"]]:
    return (features[first : first + CHUNK] for first in range(0, len(features), CHUNK))
