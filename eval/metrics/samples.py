"""Samples on disk: an .npz file of uint8 images, a folder or .zip of image files, or a run of sample.py."""

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import UInt8

from data.arrays import read_images
from data.folders import Pictures, all_grey, find_pictures, read_named, read_pictures, report_left_out
from models.sampling.single_files import FOLDER

BATCH = 512


class Samples(NamedTuple):
    """n: how many. rounding: how they became uint8, None if nobody wrote it down. batches: all of them, in order,
    at most BATCH at a time, or as `batches(index, count)` one of so many shares of these batches; images of a folder
    are read as they are asked for.
    """

    n: int
    rounding: str | None
    batches: Callable[..., Iterator[UInt8[np.ndarray, "b h w c"]]]


def open_samples(
    path: Path, num_samples: int | None = None, background: str = "white", skip_damaged: bool = False
) -> Samples:
    """The images at `path`, or the first `num_samples` of them.

    .npz: `images` or `arr_0`, uint8 [n, h, w, c] or [n, h, w]. A folder: its samples.npz if it has one, else the image
    files in it and below, in alphabetical order. Those are found and read as a data set's are: see
    `data.folders.find_pictures` and `read_pictures`. They have one channel if all are grey.

    Raises FileNotFoundError if there is no such path, or no image in the folder; ValueError for a file that cannot be
    read, something other than uint8 images, or fewer of them than asked for.
    """
    if not path.exists():
        raise FileNotFoundError(
            f"{path} does not exist; give a folder or .zip of images, an .npz file, or a run of sample.py"
        )
    if path.is_dir() and (path / "samples.npz").is_file():
        path = path / "samples.npz"
    elif path.is_dir() and (path / "origin.json").is_file() and (path / FOLDER).is_dir():
        path = path / FOLDER
    elif path.is_dir() and (path / "result.json").is_file():
        raise FileNotFoundError(f"{path} is a run of sample.py that kept no images; sample with keep_samples=true")
    items: Any
    if path.is_dir() or path.suffix.lower() == ".zip":
        pictures, rounding = find_pictures(path), None
        if skip_damaged:  # which ones are, only reading them tells
            pictures = pictures._replace(names=[name for name, _ in read_pictures(pictures, background, True)])
        else:
            report_left_out(pictures)
        items = pictures.names
    else:
        items, _, rounding = read_images(path, background)
    if num_samples is not None and num_samples < 2:
        raise ValueError(f"num_samples must be at least 2, got {num_samples}")
    if len(items) < (num_samples or 2):
        needed = num_samples or "at least 2"
        raise ValueError(f"{path} holds {len(items)} image(s), but {needed} are needed; draw more samples")
    count = num_samples or len(items)
    if isinstance(items, np.ndarray):
        return Samples(count, rounding, partial(_cut, items[:count]))
    return Samples(count, rounding, partial(_batches, pictures._replace(names=items[:count]), background))


def _cut(items: Any, index: int = 0, count: int = 1) -> Iterator[Any]:
    """Share `index` of `count` of the batches of BATCH items."""
    batches = -(-len(items) // BATCH)
    for i in range(batches * index // count, batches * (index + 1) // count):
        yield items[i * BATCH : (i + 1) * BATCH]


def _batches(
    pictures: Pictures, background: str, index: int = 0, count: int = 1
) -> Iterator[UInt8[np.ndarray, "b h w c"]]:
    """Read the files of the batches of a share; a grey one among coloured ones becomes RGB."""
    first: tuple[str, np.ndarray] | None = None
    mode = "L" if all_grey(pictures, background) else "RGB"
    for names in _cut(pictures.names, index, count):
        images = [np.asarray(read_named(pictures, name, background).convert(mode)) for name in names]
        first = first or (names[0], images[0])
        for name, image in zip(names, images, strict=True):
            if image.shape != first[1].shape:
                raise ValueError(
                    f"the samples differ in size: {pictures.path / first[0]} is {_size(first[1])}, "
                    f"{pictures.path / name} is {_size(image)}"
                )
        yield np.stack(images)[..., None] if mode == "L" else np.stack(images)


def _size(image: np.ndarray) -> str:
    return f"{image.shape[1]}x{image.shape[0]}"
