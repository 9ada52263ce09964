"""Data sets of tensorflow-datasets (TFDS), prepared and read without TensorFlow.

Decoded pixels are kept as .npy files beside the prepared data and are memory-mapped from then on.
"""

from __future__ import annotations

import contextlib
import io
import logging
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
from filelock import FileLock
from PIL import Image
from tqdm import tqdm

from data.config import DatasetConfig
from data.files import Loaded, crop_resize
from data.tfds_patches import quiet, without_tensorflow
from formats.files import atomic_path

log = logging.getLogger(__name__)


def load_prepared(cfg: DatasetConfig, split: str) -> Loaded:
    """Map the "train" or "test" split of the TFDS data set `cfg.tfds_name` into memory.

    The first call downloads, prepares and decodes. Where several processes call at once, one of them does the work.

    Raises:
        FileNotFoundError: the data set is not prepared, and that is not allowed (`download`) or not possible.
        ValueError: unknown data set or split, a folder that cannot be written, or data without usable images.
    """
    data_dir = Path(cfg.data_dir).expanduser()
    tfds_split = cfg.train_split if split == "train" else cfg.test_split
    with quiet():
        builder = _builder(cfg, data_dir)
        stem = f"{quote(tfds_split, safe='')}-crop{cfg.center_crop or 0}-size{cfg.image_size or 0}"
        images = Path(builder.data_dir) / "decoded" / f"{stem}.images.npy"
        labels = images.with_name(f"{stem}.labels.npy")
        if not images.exists():
            with _locked(data_dir, f".{builder.name}.lock"):
                builder = _builder(cfg, data_dir)  # another process may have prepared it in the meantime
                if not Path(builder.data_dir).exists():
                    _prepare(builder, cfg, data_dir)
                if not images.exists():
                    _decode(builder, tfds_split, cfg, images, labels)
    if "label" not in builder.info.features:
        return np.load(images, mmap_mode="r"), None, 0
    return np.load(images, mmap_mode="r"), np.load(labels), builder.info.features["label"].num_classes


def _builder(cfg: DatasetConfig, data_dir: Path) -> Any:
    import tensorflow_datasets as tfds

    import data.digits  # noqa: F401  registers the builder `digits`

    try:
        builder = tfds.builder(cfg.tfds_name, data_dir=data_dir)
    except (tfds.core.DatasetNotFoundError, ValueError):
        raise ValueError(f"dataset.tfds_name={cfg.tfds_name} is unknown to tensorflow-datasets") from None
    if "image" not in builder.info.features:
        raise ValueError(f"dataset.tfds_name={cfg.tfds_name} is not a data set of images")
    return builder


@contextlib.contextmanager
def _locked(data_dir: Path, name: str) -> Iterator[None]:
    try:
        data_dir.mkdir(parents=True, exist_ok=True)
        lock = FileLock(data_dir / name)
        lock.acquire()
    except OSError as error:
        raise ValueError(f"dataset.data_dir={data_dir} cannot be written ({error.strerror}); choose another") from None
    try:
        yield
    finally:
        lock.release()


def _prepare(builder: Any, cfg: DatasetConfig, data_dir: Path) -> None:
    """Download and write the data set. TFDS renames the finished folder into place, so there is never half of one."""
    import tensorflow_datasets as tfds
    from tensorflow_datasets.core.download.download_manager import NonMatchingChecksumError
    from tensorflow_datasets.core.download.extractor import ExtractError
    from tensorflow_datasets.core.download.util import DownloadError

    urls = builder.url_infos or {}
    if urls and not cfg.download:
        raise FileNotFoundError(
            f"data set {cfg.tfds_name} is not prepared in {data_dir}, and dataset.download=false; "
            "run once with dataset.download=true, or name the right folder with dataset.data_dir=..."
        )
    log.info("preparing data set %s in %s (once)", cfg.tfds_name, builder.data_dir)
    if not sys.stderr.isatty():
        tfds.disable_progress_bar()
    try:
        with without_tensorflow(builder):
            builder.download_and_prepare(file_format="array_record")
    except ImportError as error:
        reason = str(error).splitlines()[0]
        raise FileNotFoundError(
            f"data set {cfg.tfds_name} cannot be prepared: {reason}; install that package with pip and run again"
        ) from None
    except (OSError, DownloadError, ExtractError, NonMatchingChecksumError) as error:
        request = getattr(error, "request", None)  # set by network errors, whose own text is a page long
        cause = f"{type(error).__name__} at {request.url}" if request else str(error).splitlines()[0].rstrip(".:")
        files = ", ".join(info.filename for info in urls.values())
        raise FileNotFoundError(
            f"data set {cfg.tfds_name} is not in {data_dir} and could not be prepared ({cause}); check the network, "
            f"or put {files} into {data_dir / 'downloads' / 'manual'}, and run again"
        ) from None


def _decode(builder: Any, tfds_split: str, cfg: DatasetConfig, images_file: Path, labels_file: Path) -> None:
    """Write the labels and then, atomically, the pixels of a split as .npy files."""
    import tensorflow_datasets as tfds

    try:
        examples = builder.as_data_source(tfds_split, decoders={"image": tfds.decode.SkipDecoding()})
    except ValueError:
        known = ", ".join(builder.info.splits)
        raise ValueError(f"data set {cfg.tfds_name} has no split {tfds_split!r}; its splits are {known}") from None
    except NotImplementedError:
        raise ValueError(
            f"{builder.data_dir} is not in array_record format and cannot be read without TensorFlow; "
            "prepare the data set in another folder with dataset.data_dir=..."
        ) from None
    mode = "L" if builder.info.features["image"].shape[-1] == 1 else "RGB"

    def pixels(example: dict[str, Any]) -> np.ndarray:
        return crop_resize(Image.open(io.BytesIO(example["image"])), mode, cfg.center_crop, cfg.image_size)

    shape, labels = pixels(examples[0]).shape, np.zeros(len(examples), np.int32)
    header = {"descr": "|u1", "fortran_order": False, "shape": (len(examples), *shape)}
    try:
        images_file.parent.mkdir(exist_ok=True)
        # `_locked` keeps other processes away, so a fixed name is safe, and what a killed one left is overwritten
        with atomic_path(images_file, images_file.with_suffix(".unfinished")) as unfinished:
            with unfinished.open("wb") as file:
                np.lib.format.write_array_header_1_0(file, header)
                for i, example in enumerate(tqdm(examples, f"decoding {cfg.name} {tfds_split}", disable=None)):
                    image, labels[i] = pixels(example), example.get("label", 0)
                    if image.shape != shape:
                        raise ValueError(f"the images of {cfg.tfds_name} differ in size; give dataset.image_size=64")
                    file.write(image.tobytes())
            np.save(labels_file, labels)
    except OSError as error:
        reason = error.strerror or error
        raise ValueError(f"the images of {cfg.tfds_name} cannot be decoded into {images_file} ({reason})") from None
