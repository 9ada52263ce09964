"""Samples on disk: an .npz file of uint8 images, a folder of image files, or the folder of a run of sample.py."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from formats.files import npz_names, read_npz
from formats.short import named
from models.sampling.single_files import FOLDER

EXTENSIONS = (".png", ".jpg", ".jpeg")
BATCH = 512


class Samples(NamedTuple):
    """n: how many. rounding: how they became uint8, None if nobody wrote it down. batches: all of them, in order,
    at most BATCH at a time; images of a folder are read as they are asked for.
    """

    n: int
    rounding: str | None
    batches: Iterator[UInt8[np.ndarray, "b h w c"]]


def open_samples(path: Path, num_samples: int | None = None) -> Samples:
    """The images at `path`, or the first `num_samples` of them.

    .npz: `images`, uint8 [n, h, w, c] or [n, h, w]. A folder: its samples.npz if it has one, else all .png, .jpg and
    .jpeg files in it and below, in alphabetical order; grey ones get one channel.

    Raises FileNotFoundError if there is no such path, or no image in the folder; ValueError for a file that cannot be
    read, something other than uint8 images, or fewer of them than asked for.
    """
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist; give a folder of images, an .npz file, or a run of sample.py")
    if path.is_dir() and (path / "samples.npz").is_file():
        path = path / "samples.npz"
    elif path.is_dir() and (path / "origin.json").is_file() and (path / FOLDER).is_dir():
        path = path / FOLDER
    elif path.is_dir() and (path / "result.json").is_file():
        raise FileNotFoundError(f"{path} is a run of sample.py that kept no images; sample with keep_samples=true")
    if path.is_dir():
        items: Any = sorted(file for file in path.rglob("*") if file.suffix.lower() in EXTENSIONS)
        if not items:
            raise FileNotFoundError(f"{path} holds no images (looked for {', '.join(EXTENSIONS)} and samples.npz)")
        rounding = None
    else:
        items, rounding = _read_npz(path)
    if num_samples is not None and num_samples < 2:
        raise ValueError(f"num_samples must be at least 2, got {num_samples}")
    if len(items) < (num_samples or 2):
        needed = num_samples or "at least 2"
        raise ValueError(f"{path} holds {len(items)} image(s), but {needed} are needed; draw more samples")
    count = num_samples or len(items)
    batches = (items[first : min(first + BATCH, count)] for first in range(0, count, BATCH))
    return Samples(count, rounding, map(_read_files, batches) if path.is_dir() else batches)


def _read_npz(path: Path) -> tuple[UInt8[np.ndarray, "n h w c"], str | None]:
    try:
        arrays = read_npz(path, ("images", "rounding"))
    except ValueError as error:
        raise ValueError(f"{path} is damaged, or not an .npz file of plain arrays") from error
    if "images" not in arrays:
        raise ValueError(f"{path} has no array `images`; it has: {named(npz_names(path)) or 'nothing'}")
    images = arrays["images"]
    if images.dtype != np.uint8:
        raise ValueError(f"`images` in {path} must be uint8 from 0 to 255, but {_described(images)}")
    if images.ndim == 3:
        images = images[..., None]
    if images.ndim != 4 or images.shape[3] not in (1, 3):
        raise ValueError(
            f"`images` in {path} must be [n, h, w, c] with c 1 or 3, or [n, h, w]; they are {list(images.shape)}"
        )
    return images, str(arrays["rounding"]) if "rounding" in arrays else None


def _described(images: np.ndarray) -> str:
    """A clause that says what was found instead of uint8 images, and what to do about it."""
    if not np.issubdtype(images.dtype, np.number) or images.size == 0:
        return f"they are {images.dtype} {list(images.shape)}"
    if bad := int((~np.isfinite(images.reshape(len(images), -1))).any(axis=1).sum()):
        return f"{bad} of its {len(images)} {images.dtype} images hold NaN or infinity; the sampler failed"
    advice = "data.to_uint8(images, 'floor' or 'round') makes uint8 of images in [-1, 1]"
    if np.abs(images).max() > 1:
        advice = "write uint8 images"
    return f"they are {images.dtype} from {images.min():g} to {images.max():g}; {advice}"


def _read_files(files: list[Path]) -> UInt8[np.ndarray, "b h w c"]:
    images = [_read_file(file) for file in files]
    shape = images[0].shape
    for file, image in zip(files, images, strict=True):
        if image.shape != shape:
            raise ValueError(f"the samples differ in shape: {files[0]} is {list(shape)}, {file} is {list(image.shape)}")
    return np.stack(images)


def _read_file(file: Path) -> UInt8[np.ndarray, "h w c"]:
    try:
        with Image.open(file) as image:
            mode, pixels = image.mode, np.asarray(image.convert("RGB") if image.mode == "P" else image)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(f"{file} cannot be read as an image ({error})") from None
    if mode not in ("L", "P", "RGB"):
        raise ValueError(f"{file} is not an 8-bit grey or RGB image (its Pillow mode is {mode}); convert it first")
    return pixels[..., None] if mode == "L" else pixels
