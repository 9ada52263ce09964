"""The options of a data set."""

import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any


@dataclass
class DatasetConfig:
    """The source of a data set's images, and how they are cropped and resized.

    A data set is either one of tensorflow-datasets (`tfds_name` is given) or the user's own images (`path` is given).
    The number of channels and of classes is not configured: `data.load` reports what the images have.
    """

    name: str = ""  # short name for output folders and logs; empty: no data set is chosen
    tfds_name: str | None = None  # builder of tensorflow-datasets, "name" or "name/config"; null: own images
    path: str | None = None  # own images: a folder or .zip of image files, or an .npz holding `images` (and `labels`)
    data_dir: str | None = None  # folder of prepared data; null: TFDS_DATA_DIR, or else ~/tensorflow_datasets
    download: bool = True  # fetch a data set that is not prepared yet
    train_split: str = "train"  # TFDS split string for training, such as "train" or "train[:90%]"
    test_split: str = "test"  # TFDS split string held out for evaluation
    test_fraction: float = 0.1  # own images: share held out for evaluation, in (0, 1)
    background: str = "white"  # own images: colour that transparent ones are composed on, a name or #rrggbb
    skip_damaged: bool = False  # own images: leave out, and count, files that cannot be read; false: stop at the first
    center_crop: int | None = None  # side in pixels of a centre square to cut out first; null: none
    image_size: int | None = None  # side in pixels to resize to (non-square: centre square first); null: as stored
    flip: bool = False  # mirror training images left to right at random


def data_dir_of(cfg: DatasetConfig) -> Path:
    """The folder of prepared data."""
    return Path(cfg.data_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets").expanduser()


def as_trained(saved: dict[str, Any], asked: DatasetConfig | None = None) -> DatasetConfig:
    """The data set that a network was trained on, from its options as they were saved, on this machine and now.

    The saved `data_dir` counts if that folder is here and TFDS_DATA_DIR names no other.
    asked: options given now, of which those other than the defaults come before the saved ones.
    Raises ValueError for a saved option that is not known.
    """
    given = asdict(asked or DatasetConfig())
    if unknown := sorted(saved.keys() - given.keys()):
        raise ValueError(f"the network was trained with dataset.{unknown[0]}, an option that is not known here")
    here = DatasetConfig(**saved)
    if os.environ.get("TFDS_DATA_DIR") or not data_dir_of(here).is_dir():
        saved = saved | {"data_dir": None}
    return DatasetConfig(**saved | {key: value for key, value in given.items() if value != getattr(DatasetConfig, key)})
