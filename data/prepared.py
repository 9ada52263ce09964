"""Data sets of tensorflow-datasets (TFDS), prepared and read without TensorFlow.

Decoded pixels are kept as .npy files beside the prepared data and are memory-mapped from then on.

TFDS reads array_record files without TensorFlow but cannot write them without it: its extractor and some builders open
files by `tf.io.gfile`, and an image given as an array is compressed by a TensorFlow op. It also waits for a dead
network without end. TFDS has no public option for either, hence the patches of its private names below.
"""

import contextlib
import importlib.util
import io
import logging
import os
import sys
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import IO, Any
from unittest import mock
from urllib.parse import quote

import numpy as np
import tensorflow_datasets as tfds
from filelock import AcquireReturnProxy, FileLock
from google.protobuf.json_format import ParseError
from PIL import Image
from tensorflow_datasets.core.download import downloader, extractor
from tensorflow_datasets.core.download.download_manager import DownloadManager, NonMatchingChecksumError
from tensorflow_datasets.core.download.extractor import ExtractError
from tensorflow_datasets.core.download.util import DownloadError
from tensorflow_datasets.core.features import image_feature
from tqdm import tqdm

import data.digits  # noqa: F401  registers the builder `digits`
from data.cifar10 import OTHER_FORMS, other_form, write_batches
from data.config import DatasetConfig, data_dir_of
from data.files import Loaded
from data.pictures import crop_resize, picture_of
from formats.files import atomic_path, sha256

log = logging.getLogger(__name__)

_TIMEOUT = (5, 60)  # seconds to connect and to read; TFDS sets none
_RETRIES = 2  # TFDS tries ten times, which takes minutes on a dead network


def load_prepared(cfg: DatasetConfig, split: str) -> Loaded:
    """Map the "train" or "test" split of the TFDS data set `cfg.tfds_name`, or "all" of both, into memory.

    The first call downloads, prepares and decodes. Where several processes call at once, one of them does the work.

    Raises FileNotFoundError if the data set is not prepared, and that is not allowed (`download`) or not possible;
    ValueError for an unknown data set or split, a folder that cannot be written, or data without usable images.
    """
    data_dir = data_dir_of(cfg)
    splits = {"train": cfg.train_split, "test": cfg.test_split, "all": f"{cfg.train_split}+{cfg.test_split}"}
    tfds_split = splits[split]
    with _quiet():
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
                    with _damage_named(Path(builder.data_dir), RuntimeError):  # array_record's
                        _decode(builder, tfds_split, cfg, images, labels)
    with _damage_named(images.parent, ValueError, EOFError, OSError):
        pixels, classes, label = np.load(images, mmap_mode="r"), np.load(labels), _label(builder)
    if label is None or classes.min() < 0:  # TFDS has -1 where a class is kept secret
        return pixels, None, 0
    return pixels, classes, label.num_classes


def _builder(cfg: DatasetConfig, data_dir: Path) -> Any:
    with _damage_named(data_dir / str(cfg.tfds_name), ParseError):
        try:
            builder = tfds.builder(cfg.tfds_name, data_dir=data_dir)
        except (tfds.core.DatasetNotFoundError, ValueError):
            raise ValueError(f"dataset.tfds_name={cfg.tfds_name} is unknown to tensorflow-datasets") from None
    image = dict(builder.info.features).get("image")
    if not isinstance(image, tfds.features.Image) or image.shape[-1] not in (1, 3) or image.np_dtype != np.uint8:
        raise ValueError(f"dataset.tfds_name={cfg.tfds_name} is not a data set of grey or RGB images of 8 bits")
    return builder


def _label(builder: Any) -> tfds.features.ClassLabel | None:
    """The labels of a data set, unless they are other than classes: numbers, texts, several a picture."""
    label = dict(builder.info.features).get("label")
    return label if isinstance(label, tfds.features.ClassLabel) else None


def names_of_labels(cfg: DatasetConfig) -> list[str]:
    """The names of the classes of the data set, which need not be prepared; empty where they are numbers."""
    with _quiet():
        label = _label(_builder(cfg, data_dir_of(cfg)))
    return [] if label is None or label.names[0].isdigit() else label.names


def _locked(data_dir: Path, name: str) -> AcquireReturnProxy:
    try:
        data_dir.mkdir(parents=True, exist_ok=True)
        return FileLock(data_dir / name).acquire()
    except OSError as error:
        raise ValueError(f"dataset.data_dir={data_dir} cannot be written ({error.strerror}); choose another") from None


def _prepare(builder: Any, cfg: DatasetConfig, data_dir: Path) -> None:
    """Download and write the data set. TFDS renames the finished folder into place, so there is never half of one."""
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
        with _without_tensorflow(builder), _other_forms(builder, data_dir):
            builder.download_and_prepare(file_format="array_record")
    except ImportError as error:
        reason = str(error).splitlines()[0]
        raise FileNotFoundError(
            f"data set {cfg.tfds_name} cannot be prepared: {reason}; install that package with pip and run again"
        ) from None
    except (OSError, DownloadError, ExtractError, NonMatchingChecksumError) as error:
        manual = data_dir / "downloads" / "manual"
        for info in urls.values() if isinstance(error, NonMatchingChecksumError) else ():
            file = manual / str(info.filename)
            if file.is_file() and (found := sha256(file)) != info.checksum:
                raise ValueError(
                    f"{file} is not the file of that name that data set {cfg.tfds_name} is made from: it has "
                    f"{file.stat().st_size:,} bytes and SHA-256 {found}, not {info.size:,} bytes and {info.checksum}; "
                    "replace or delete it, and run again"
                ) from None
        request = getattr(error, "request", None)  # set by network errors, whose own text is a page long
        cause = f"{type(error).__name__} at {request.url}" if request else str(error).splitlines()[0].rstrip(".:")
        files = " or ".join([", ".join(info.filename for info in urls.values()), *_forms_of(builder)])
        raise FileNotFoundError(
            f"data set {cfg.tfds_name} is not in {data_dir} and could not be prepared ({cause}); check the network, "
            f"or put {files} into {manual}, and run again"
        ) from None


def _decode(builder: Any, tfds_split: str, cfg: DatasetConfig, images_file: Path, labels_file: Path) -> None:
    """Write the labels and then, atomically, the pixels of a split as .npy files."""
    try:
        examples = builder.as_data_source(tfds_split, decoders={"image": tfds.decode.SkipDecoding()})
        first = examples[0]
    except ValueError:
        known = ", ".join(builder.info.splits)
        raise ValueError(
            f"data set {cfg.tfds_name} has no split {tfds_split!r}, or no image in it; its splits are {known}"
        ) from None
    except NotImplementedError:
        raise ValueError(
            f"{builder.data_dir} is not in array_record format and cannot be read without TensorFlow; "
            "prepare the data set in another folder with dataset.data_dir=..."
        ) from None
    mode = "L" if builder.info.features["image"].shape[-1] == 1 else "RGB"

    def pixels(example: dict[str, Any]) -> np.ndarray:
        try:
            image = Image.open(io.BytesIO(example["image"])).convert(mode)
        except OSError:  # which is not the disk's
            raise RuntimeError("an image cannot be read") from None
        return crop_resize(image, cfg.center_crop, cfg.image_size)

    shape, labels = pixels(first).shape, np.zeros(len(examples), np.int32)
    has_classes = _label(builder) is not None
    header = {"descr": "|u1", "fortran_order": False, "shape": (len(examples), *shape)}
    try:
        images_file.parent.mkdir(exist_ok=True)
        # `_locked` keeps other processes away, so a fixed name is safe, and what a killed one left is overwritten
        with atomic_path(images_file, images_file.with_suffix(".unfinished")) as unfinished:
            with unfinished.open("wb") as file:
                np.lib.format.write_array_header_1_0(file, header)
                for i, example in enumerate(tqdm(examples, f"decoding {cfg.name} {tfds_split}", disable=None)):
                    image, labels[i] = pixels(example), example["label"] if has_classes else 0
                    if image.shape != shape:
                        raise ValueError(f"the images of {cfg.tfds_name} differ in size; give dataset.image_size=64")
                    file.write(image.tobytes())
            np.save(labels_file, labels)
    except OSError as error:
        reason = error.strerror or error
        raise ValueError(f"the images of {cfg.tfds_name} cannot be decoded into {images_file} ({reason})") from None


@contextlib.contextmanager
def _damage_named(folder: Path, *errors: type[Exception]) -> Iterator[None]:
    """Say what to delete when a file that was written by an earlier run cannot be read, which raises these errors."""
    try:
        yield
    except errors as error:
        said = str(error).splitlines()[0]
        raise ValueError(f"{folder} is damaged ({said}); delete it to have it made anew") from None


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep messages to programmers off the console: TFDS prints, and absl and urllib3 log warnings."""
    logging.getLogger("urllib3").setLevel(logging.ERROR)  # for good: its threads may outlive a failed download
    absl = logging.getLogger("absl")
    level = absl.level
    absl.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        absl.setLevel(level)


@contextlib.contextmanager
def _without_tensorflow(builder: Any) -> Iterator[None]:
    """Replace what TFDS and this builder use of TensorFlow, unless that is installed, and limit waiting and retries."""
    patches = [
        (downloader, "_open_url", partial(downloader._open_url, timeout=_TIMEOUT)),
        (downloader, "MAX_RETRIES", _RETRIES),
    ]
    if importlib.util.find_spec("tensorflow") is None:
        tf = _Absent(io=_Absent(gfile=_Absent(GFile=_open)), compat=_Absent(as_text=str))
        modules = [extractor, sys.modules[type(builder).__module__]]
        patches += [(module, "tf", tf) for module in modules if hasattr(module, "tf")]
        patches += [(image_feature._ImageEncoder, "_encode_image", encode_png)]
    with contextlib.ExitStack() as stack:
        for owner, name, value in patches:
            stack.enter_context(mock.patch.object(owner, name, value))
        yield


def _forms_of(builder: Any) -> tuple[str, ...]:
    return OTHER_FORMS if builder.name == "cifar10" else ()


@contextlib.contextmanager
def _other_forms(builder: Any, data_dir: Path) -> Iterator[None]:
    """Hand the builder what it would download and unpack, where that is there in another form."""
    source = other_form(data_dir / "downloads" / "manual") if _forms_of(builder) else None
    if source is None:
        yield
        return
    with tempfile.TemporaryDirectory(dir=data_dir) as folder:
        write_batches(source, Path(folder))
        with mock.patch.object(DownloadManager, "download_and_extract", return_value=folder):
            yield


class _Absent(SimpleNamespace):
    """A part of TensorFlow that has the attributes given, and reports TensorFlow as missing for any other."""

    def __getattr__(self, name: str) -> Any:
        raise ModuleNotFoundError("No module named 'tensorflow'", name="tensorflow")


def _open(path: os.PathLike[str], mode: str = "r") -> contextlib.AbstractContextManager[IO[Any]]:
    """Stand in for `tf.io.gfile.GFile`, which can still be read after its `with` block: CelebA's builder needs that."""
    file = open(path, mode)  # noqa: SIM115
    return contextlib.nullcontext(file) if mode.startswith("r") else file


def encode_png(encoder: Any, image: np.ndarray) -> bytes:
    """Stand in for `_ImageEncoder._encode_image`: uint8 [h, w, c] to the bytes of a PNG file."""
    png = io.BytesIO()
    picture_of(image).save(png, "PNG")
    return png.getvalue()
