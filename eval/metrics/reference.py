"""The reference that samples are measured against: a data set's features, computed once and kept with the extractor.

A file is named by the extractor's identity, which covers weights and resizing, and by that of the images, which covers
the data set, its split and how they were cut to size: whatever changes, another file is made.
"""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float32, UInt8
from tqdm import tqdm

import data
from data.config import DatasetConfig
from eval.features.config import ExtractorConfig, shipped_for
from eval.features.extractor import Extractor, identity
from eval.metrics.frechet import UNKNOWN, Statistics, feature_statistics, load_statistics, save_statistics
from eval.metrics.precision_recall import reference_radii
from formats.files import atomic_path, read_npz, write_npz
from runs.errors import checking

CHUNK = 1024


class Reference(NamedTuple):
    """Reference images by data set and split ("cifar10-train"): shape (h, w, c), statistics, features where needed.

    split: "train", "test" or "all", which the names of numbers say; "train" for statistics that somebody gives.
    """

    data_name: str
    image_shape: tuple[int, ...]
    statistics: Statistics
    features: Float32[np.ndarray, "n d"] | None
    split: str = "train"


def load_reference(
    extractor: Extractor,
    dataset: DatasetConfig,
    with_features: bool = False,
    split: str = "train",
    path: Path | None = None,
) -> Reference:
    """The reference that samples are measured against: a split of the data set, through the extractor unless cached.

    Statistics of the training images that ship with a network need no images, unless features are asked for.
    split: "train", "test", or "all" images of both.
    path: a file of statistics to take instead; a data set's images then only say what shape samples have.
    Raises ConfigError for images or files that cannot be used.
    """
    with checking():
        if path is None and split == "train" and not with_features and (folder := shipped_for(dataset)):
            statistics = load_statistics(folder / "statistics.npz")
            if statistics.extractor == extractor.name and extractor.image_shape is not None:
                return Reference(statistics.data.partition("@")[0], extractor.image_shape, statistics, None)
        images, name = images_of(dataset, split), _name_of(dataset, split)
        if path is not None:
            return Reference(name, images.shape[1:], foreign_statistics(path, extractor), None)
        return reference_of(extractor, images, name, with_features)._replace(split=split)


def images_of(dataset: DatasetConfig, split: str) -> UInt8[np.ndarray, "n h w c"]:
    """The data set's images of the split "train", "test" or, of both, "all". Raises as `data.load`."""
    parts = [part.images for part in data.load_splits(dataset, *(("train", "test") if split == "all" else (split,)))]
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def missing_features(cfg: ExtractorConfig, dataset: DatasetConfig) -> str | None:
    """What is missing for a FID by the data set's classifier without making anything first, as a clause; None: nothing.

    Imports JAX. Raises ValueError for a damaged file in the cache.
    """
    if shipped_for(dataset):
        return None
    untrained = f"no classifier was trained on {dataset.name} yet"
    if not any(cfg.cache.glob(f"{identity(dataset.name).partition('@')[0]}-classifier*@*.npz")):
        return untrained
    from eval.features.classifier import path_of, read_classifier

    try:
        train, test = data.load_splits(replace(dataset, download=False), "train", "test")
    except (ValueError, OSError) as error:
        return str(error)
    path = path_of(train, test, cfg, dataset.name)
    if not path.is_file():
        return untrained
    statistics = statistics_path(read_classifier(path), identity(_name_of(dataset, "train"), train.images))
    return None if statistics.is_file() else f"the features of {dataset.name} were not taken yet"


def _name_of(dataset: DatasetConfig, split: str) -> str:
    known = {"train": dataset.train_split, "test": dataset.test_split}
    return f"{dataset.name}-{known.get(split, split)}"


def reference_of(
    extractor: Extractor, images: UInt8[np.ndarray, "n h w c"], data_name: str, with_features: bool = False
) -> Reference:
    """The reference that a data set's images are, from the cache where it is there; its features are a memory map.

    The statistics' `data` is data_name@HASH.

    Raises ValueError for the wrong kind of images, fewer than two, or a damaged file in the cache.
    """
    name = identity(data_name, images)
    features = _features(extractor, images, name) if with_features else None
    path = statistics_path(extractor, name)
    if not path.is_file():
        if features is None:
            batches = _batches(extractor, images, name)
        else:
            batches = iter(np.split(features, range(CHUNK, len(features), CHUNK)))
        save_statistics(path, feature_statistics(batches, extractor.name, name))
    return Reference(data_name, images.shape[1:], load_statistics(path), features)


def _features(extractor: Extractor, images: UInt8[np.ndarray, "n h w c"], name: str) -> Float32[np.ndarray, "n d"]:
    """The features of the images with this identity, a read-only memory map of an .npy file in the cache."""
    path = extractor.cache_dir / f"features_{extractor.name}_{name}.npy"
    shape = (len(images), extractor.dim)
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(path) as partial, partial.open("wb") as file:  # a full disk would end a memory map by SIGBUS
            np.lib.format.write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": shape})
            for batch in _batches(extractor, images, name):
                file.write(batch.tobytes())
    try:
        found = np.load(path, mmap_mode="r")
    except (ValueError, EOFError, OSError) as error:
        raise ValueError(f"{path} cannot be read as .npy ({error}); delete it to have it made anew") from error
    if found.shape != shape or found.dtype != np.float32:
        raise ValueError(f"{path} holds {found.dtype} {list(found.shape)}, not float32 {list(shape)}; delete it")
    return found


def kept_radii(extractor: Extractor, data: str, features: Float32[np.ndarray, "m d"]) -> Float32[np.ndarray, "2 m"]:
    """`reference_radii` of the features of the images with identity `data`, from the cache where they are there."""
    path = extractor.cache_dir / f"radii_{extractor.name}_{data}.npz"
    if not path.is_file():
        write_npz(path, {"radii": reference_radii(features)})
    return read_npz(path)["radii"]


def _batches(extractor: Extractor, images: np.ndarray, name: str) -> Iterator[Float32[np.ndarray, "b d"]]:
    size, data_name = chunk_size(extractor), name.partition("@")[0]
    with tqdm(total=len(images), desc=f"features of {data_name}", unit="image", leave=False, disable=None) as bar:
        for first in range(0, len(images), size):
            chunk = images[first : first + size]
            yield extractor.features(chunk)
            bar.update(len(chunk))


def chunk_size(extractor: Extractor) -> int:
    """The number of images to extract features of at a time: full batches, and enough to make a covariance cheap."""
    return max(1, CHUNK // extractor.batch_size) * extractor.batch_size


def statistics_path(extractor: Extractor, data: str) -> Path:
    """The file that keeps the statistics of the images with identity `data`."""
    return extractor.cache_dir / f"statistics_{extractor.name}_{data}.npz"


def foreign_statistics(path: Path, extractor: Extractor) -> Statistics:
    """Statistics from a file that somebody gives, such as the published ones of pytorch-fid (mu and sigma only).

    Raises FileNotFoundError if there is no such file; ValueError if it is damaged, or of another extractor as far as it
    says.
    """
    stats = load_statistics(path, spatial=extractor.distance == "sFID")
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
