"""One image file, in any format that Pillow reads, as pixels."""

import contextlib
import warnings
from collections.abc import Iterator
from functools import lru_cache
from typing import IO

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageColor, ImageOps, UnidentifiedImageError

GREY_MODES = ("1", "L", "LA", "La")
# Pillow knows these by name only, or hands them to other programs
_NOT_READ = {"BUFR", "EPS", "GRIB", "HDF5", "MPEG", "WMF"}


@lru_cache(maxsize=1)
def readable_formats() -> dict[str, str]:
    """Pillow's name of the format for each file name extension (".png") that promises a readable image."""
    known = Image.registered_extensions()
    return {ext: name for ext, name in known.items() if name in Image.OPEN and name not in _NOT_READ}


@lru_cache(maxsize=1)
def _formats() -> list[str]:
    allowed = set(readable_formats().values())
    return [name for name in Image.ID if name in allowed]  # in the order in which Pillow tries them


def is_grey(file: IO[bytes], background: str) -> bool:
    """Whether `read_picture` makes a grey image of a file; only its header is read. Raises ValueError as that does."""
    with _one_sentence(), _open(file) as image:
        return _stays_grey(image, background)


def read_picture(file: IO[bytes], background: str) -> Image.Image:
    """Decode an image file, its first frame, as a Pillow image of mode "L" or "RGB".

    Transparency is composed on the colour `background`, a name or #rrggbb, and a camera's orientation tag is obeyed.
    Raises ValueError, in one sentence without the file's name, for what is damaged, no image, of more than
    Image.MAX_IMAGE_PIXELS pixels, or grey of more than 8 bits; of colours of 16 bits Pillow gives the upper 8.
    """
    with _one_sentence(), _open(file) as image:
        return opaque(ImageOps.exif_transpose(image), background)


def opaque(image: Image.Image, background: str) -> Image.Image:
    """The image on the colour `background` where it is transparent, of mode "L" or "RGB"; it has 8 bits per channel."""
    mode = "L" if _stays_grey(image, background) else "RGB"
    if image.has_transparency_data:
        canvas = Image.new("RGBA", image.size, background)
        canvas.alpha_composite(image.convert("RGBA"))
        image = canvas
    return image.convert(mode)


def picture_of(pixels: UInt8[np.ndarray, "h w c"]) -> Image.Image:
    """The image of mode "L" or "RGB" that has these pixels, c = 1 or 3."""
    return Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)


def crop_resize(image: Image.Image, center_crop: int | None, image_size: int | None) -> UInt8[np.ndarray, "h w c"]:
    """Cut the centre square of side `center_crop` out of an image of mode "L" or "RGB", resize it to side `image_size`.

    An image that is not square is cut to its largest centre square before it is resized. Resizing is bilinear with
    antialiasing (Pillow widens the filter when it shrinks an image).
    """
    width, height = image.size
    side = center_crop or (min(width, height) if image_size else None)
    if side is not None:
        if side > min(width, height):
            raise ValueError(f"dataset.center_crop={side} is larger than an image of {width}x{height}")
        left, top = (width - side) // 2, (height - side) // 2
        image = image.crop((left, top, left + side, top + side))
    if image_size is not None and image.width != image_size:
        image = image.resize((image_size, image_size), Image.Resampling.BILINEAR)
    pixels = np.asarray(image)
    return pixels[..., None] if image.mode == "L" else pixels


def _open(file: IO[bytes]) -> Image.Image:
    image = Image.open(file, formats=_formats())
    if image.mode.startswith(("I", "F")):
        raise ValueError(f"it does not have 8 bits per channel, its Pillow mode is {image.mode}; convert it first")
    return image


def _stays_grey(image: Image.Image, background: str) -> bool:
    red, green, blue = ImageColor.getrgb(background)[:3]
    return image.mode in GREY_MODES and (red == green == blue or not image.has_transparency_data)


@contextlib.contextmanager
def _one_sentence() -> Iterator[None]:
    """Turn whatever Pillow raises at a damaged file into a ValueError of one line, and keep its warnings quiet."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        try:
            yield
        except UnidentifiedImageError:
            raise ValueError("it is in no format that Pillow reads") from None
        except Exception as error:  # plugins raise many kinds, struct.error and IndexError among them
            said = str(error).strip().splitlines() or ["damaged"]
            plain = isinstance(error, OSError | ValueError | SyntaxError | Warning | Image.DecompressionBombError)
            raise ValueError(said[0] if plain else f"{type(error).__name__}: {said[0]}") from None
