"""Loading of the user's own images from a folder of image files or an .npz file."""

import contextlib
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from jaxtyping import Bool, UInt8
from PIL import Image, ImageOps

from data.config import DatasetConfig

EXTENSIONS = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")
_GREY_MODES = ("1", "L", "LA")
_COLOUR_MODES = ("P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr")

Loaded = tuple[np.ndarray, np.ndarray | None, int]  # images, labels, number of classes (0: unlabelled)


def load_files(cfg: DatasetConfig, split: str) -> Loaded:
    """Read the "train" or "test" share of the images at `cfg.path` into memory.

    Folder: all image files in it and below. Where they all lie in two or more immediate sub-folders, these are the
    classes, numbered in alphabetical order; otherwise the images are unlabelled. Grey stays one channel if every file
    is grey, transparency is dropped, and a camera's orientation tag is obeyed.
    .npz: `images`, uint8 [n, h, w, c] or [n, h, w], and optionally `labels`, integers [n].

    Raises FileNotFoundError if there is no such path or no image in the folder; ValueError for a file that cannot be
    read, images of several sizes, wrong arrays, or fewer than two images.
    """
    path = Path(str(cfg.path)).expanduser()
    if not path.exists():
        raise FileNotFoundError(f"dataset.path={cfg.path} does not exist")
    if path.is_dir():
        return _load_folder(path, cfg, split)
    if path.suffix == ".npz":
        return _load_npz(path, cfg, split)
    raise ValueError(f"dataset.path={cfg.path} is neither a folder of images nor an .npz file")


def crop_resize(
    image: Image.Image, mode: str, center_crop: int | None, image_size: int | None
) -> UInt8[np.ndarray, "h w c"]:
    """Convert to `mode` ("L" or "RGB"), cut out the centre square of side `center_crop`, resize to side `image_size`.

    An image that is not square is cut to its largest centre square before it is resized. Resizing is bilinear with
    antialiasing (Pillow widens the filter when it shrinks an image).
    """
    image = image.convert(mode)
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
    return pixels[..., None] if mode == "L" else pixels


def _in_split(n: int, split: str, cfg: DatasetConfig) -> Bool[np.ndarray, " n"]:
    """Return which of `n` images belong to `split`; the test share is random, and the same every time."""
    if n < 2:
        raise ValueError(f"dataset.path={cfg.path} holds {n} image(s); at least 2 are needed, one of them held out")
    held_out = np.zeros(n, bool)
    shuffled = np.random.Generator(np.random.Philox(0)).permutation(n)
    held_out[shuffled[: min(max(round(n * cfg.test_fraction), 1), n - 1)]] = True
    return held_out if split == "test" else ~held_out


def _load_folder(folder: Path, cfg: DatasetConfig, split: str) -> Loaded:
    files = sorted(
        file
        for file in folder.rglob("*")
        if file.suffix.lower() in EXTENSIONS and not any(p.startswith(".") for p in file.relative_to(folder).parts)
    )
    if not files:
        raise FileNotFoundError(f"dataset.path={cfg.path} holds no image files (looked for {', '.join(EXTENSIONS)})")
    chosen = _in_split(len(files), split, cfg)
    mode = "L" if {_mode(file) for file in files} <= set(_GREY_MODES) else "RGB"
    images = _read_all(files, mode, cfg)[chosen]  # all, since images of the other split may differ in size

    classes = sorted({file.relative_to(folder).parts[0] for file in files})
    if len(classes) < 2 or any(file.parent == folder for file in files):
        return images, None, 0
    labels = np.array([classes.index(file.relative_to(folder).parts[0]) for file in files], np.int32)
    return images, labels[chosen], len(classes)


@contextlib.contextmanager
def _opened(file: Path) -> Iterator[Image.Image]:
    try:
        with Image.open(file) as image:
            yield image
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(f"{file} cannot be read as an image ({error})") from None


def _mode(file: Path) -> str:
    """Return Pillow's name for the kind of pixels in a file, read from its header."""
    with _opened(file) as image:
        mode = image.mode
    if mode not in _GREY_MODES + _COLOUR_MODES:
        raise ValueError(f"{file} does not have 8 bits per channel (its Pillow mode is {mode}); convert it first")
    return mode


def _read_all(files: list[Path], mode: str, cfg: DatasetConfig) -> UInt8[np.ndarray, "n h w c"]:
    def read(file: Path) -> np.ndarray:
        with _opened(file) as image:
            upright = ImageOps.exif_transpose(image)
        return crop_resize(upright, mode, cfg.center_crop, cfg.image_size)

    first = read(files[0])
    images = np.empty((len(files), *first.shape), np.uint8)
    for i, file in enumerate(files):
        pixels = read(file)
        if pixels.shape != first.shape:
            sizes = " and ".join(f"{n} is {a.shape[1]}x{a.shape[0]}" for n, a in ((files[0], first), (file, pixels)))
            raise ValueError(f"the images differ in size: {sizes}; resize all of them with dataset.image_size=64")
        images[i] = pixels
    return images


def _load_npz(file: Path, cfg: DatasetConfig, split: str) -> Loaded:
    try:
        with np.load(file, allow_pickle=False) as arrays:
            contents = {name: arrays[name] for name in ("images", "labels") if name in arrays}
            names = ", ".join(arrays.files)
    except (OSError, EOFError, ValueError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(f"{file} cannot be read as an .npz file of plain arrays ({error})") from None
    if "images" not in contents:
        raise ValueError(f"{file} has no array `images`; it has: {names or 'nothing'}")
    images = contents["images"]
    images = images[..., None] if images.ndim == 3 else images
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] not in (1, 3):
        found = f"{contents['images'].dtype} {list(contents['images'].shape)}"
        raise ValueError(f"`images` in {file} must be uint8 [n, h, w, c] with c 1 or 3, or [n, h, w]; it is {found}")
    chosen, labels = _in_split(len(images), split, cfg), contents.get("labels")
    if labels is not None and (
        labels.shape != images.shape[:1] or not np.issubdtype(labels.dtype, np.integer) or labels.min() < 0
    ):
        raise ValueError(
            f"`labels` in {file} must be {len(images)} integers from 0 up, one for each image; "
            f"they are {labels.dtype} {list(labels.shape)}"
        )
    images = images[chosen]
    if cfg.center_crop or cfg.image_size:
        mode = "L" if images.shape[3] == 1 else "RGB"
        pictures = (Image.fromarray(pixels[..., 0] if mode == "L" else pixels) for pixels in images)
        images = np.stack([crop_resize(picture, mode, cfg.center_crop, cfg.image_size) for picture in pictures])
    return (images, None, 0) if labels is None else (images, labels[chosen].astype(np.int32), int(labels.max()) + 1)
