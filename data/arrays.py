"""Images in an .npz file, ours or guided-diffusion's."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from data.pictures import opaque
from formats.files import read_npz
from formats.short import named


class ImageArrays(NamedTuple):
    """images: uint8 [n, h, w, c], c 1 or 3. labels: as stored, or None. rounding: how they became uint8, if it says."""

    images: UInt8[np.ndarray, "n h w c"]
    labels: np.ndarray | None
    rounding: str | None


def read_images(path: Path, background: str = "white") -> ImageArrays:
    """Read `images`, uint8 [n, h, w, c] or [n, h, w], and `labels` from an .npz file.

    guided-diffusion's names are `arr_0` and `arr_1`; they are read where there are no `images`. c is 1 or 3, or with
    transparency 2 or 4: such images are composed on the colour `background`, as image files are.
    Raises ValueError for a file that cannot be read, or something other than uint8 images.
    """
    try:
        arrays = read_npz(path, ("images", "labels", "arr_0", "arr_1", "rounding"))
    except ValueError as error:
        raise ValueError(f"{path} is damaged, or not an .npz file of plain arrays") from error
    name, labels = ("images", "labels") if "images" in arrays else ("arr_0", "arr_1")
    if name not in arrays:
        with np.load(path) as file:
            there = named(file.files) or "nothing"
        raise ValueError(f"{path} has no array `images` or `arr_0`; it has: {there}")
    images = arrays[name]
    if images.dtype != np.uint8:
        raise ValueError(f"`{name}` in {path} must be uint8 from 0 to 255, but {_described(images)}")
    shape = images.shape
    images = images[..., None] if images.ndim == 3 else images
    if images.ndim != 4 or images.shape[3] not in (1, 2, 3, 4) or images.size == 0:
        raise ValueError(
            f"`{name}` in {path} must be [n, h, w, c] with c 1 (grey), 3 (RGB), or 2 or 4 (these with transparency), "
            f"or [n, h, w]; they are {list(shape)}"
        )
    if images.shape[3] in (2, 4):
        images = np.stack([np.atleast_3d(np.asarray(opaque(Image.fromarray(one), background))) for one in images])
    return ImageArrays(images, arrays.get(labels), str(arrays["rounding"]) if "rounding" in arrays else None)


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
