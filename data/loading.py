"""Loading of any data set: `load(cfg, "train")` returns its images, wherever they come from."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Int32, UInt8
from PIL import ImageColor

from data.config import DatasetConfig
from data.files import load_files, sub_folders
from data.folders import find_pictures

_OF_OWN, _OF_NAMED = ("path", "test_fraction"), ("train_split", "test_split")


@dataclass(frozen=True, eq=False)
class Split:
    """The images of one split, in a fixed order."""

    images: UInt8[np.ndarray, "n h w c"]  # square, h = w; c is 1 (grey) or 3 (RGB); may be a read-only memory map
    labels: Int32[np.ndarray, " n"] | None  # class of every image, 0 .. num_classes - 1
    num_classes: int  # 0: unlabelled


def load(cfg: DatasetConfig, split: str) -> Split:
    """Return the "train" or the "test" split of a data set, or "all" of both, prepared first where that is to be done.

    Raises ValueError for an option out of range or images that do not fit together, and FileNotFoundError if there are
    no images in the place named and none to be had.
    """
    return load_splits(cfg, split)[0]


def load_splits(cfg: DatasetConfig, *splits: str) -> list[Split]:
    """Return several splits as `load` does, of which own images are read once."""
    _check(cfg, splits)
    if cfg.tfds_name is None:
        found = load_files(cfg, splits)
    else:
        from data.prepared import load_prepared  # tensorflow-datasets takes seconds to import

        found = [load_prepared(cfg, split) for split in splits]
    for images, _, _ in found:
        _, height, width, _ = images.shape
        if height != width:
            raise ValueError(
                f"the images of data set {cfg.name} are {width}x{height}, not square; "
                f"cut and resize them with dataset.image_size={min(height, width)}"
            )
    return [Split(*one) for one in found]


def class_names(cfg: DatasetConfig) -> list[str]:
    """The names of a data set's classes by their numbers, without reading its images; empty where numbers are all."""
    if cfg.tfds_name is not None:
        from data.prepared import names_of_labels

        return names_of_labels(cfg)
    path = Path(str(cfg.path)).expanduser()
    pictures = find_pictures(path) if path.exists() and path.suffix.lower() != ".npz" else None
    return sub_folders(pictures.names) if pictures and pictures.labels is None else []


def _check(cfg: DatasetConfig, splits: Sequence[str]) -> None:
    if unknown := set(splits) - {"train", "test", "all"}:
        raise ValueError(f'split={unknown.pop()!r} is not one of "train", "test", "all"')
    for option in ("center_crop", "image_size"):
        value = getattr(cfg, option)
        if value is not None and value < 1:
            raise ValueError(f"dataset.{option}={value} must be at least 1, or null to leave the images as they are")
    try:
        ImageColor.getrgb(cfg.background)
    except ValueError:
        raise ValueError(
            f"dataset.background={cfg.background} must be a colour: a name, or 'hsl(...)' or #rrggbb"
        ) from None
    if not 0 < cfg.test_fraction < 1:
        raise ValueError(f"dataset.test_fraction={cfg.test_fraction} must lie between 0 and 1, ends excluded")
    if cfg.tfds_name is None and not cfg.path:
        raise ValueError(
            "dataset.path is not set; give a folder or .zip of images or an .npz file, as in dataset.path=photos"
        )
    of_others, owner = (_OF_NAMED, "a named data set") if cfg.tfds_name is None else (_OF_OWN, "dataset=images")
    if given := [name for name in of_others if getattr(cfg, name) != getattr(DatasetConfig, name)]:
        raise ValueError(f"dataset.{given[0]} belongs to {owner}, not to dataset={cfg.name}; leave one of them out")
