"""Loading of the user's own images from a folder or archive of image files, or an .npz file."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Bool

from data.arrays import read_images
from data.config import DatasetConfig
from data.folders import LABELS_FILE, Pictures, find_pictures, read_pictures
from data.pictures import crop_resize, picture_of

Loaded = tuple[np.ndarray, np.ndarray | None, int]  # images, labels, number of classes (0: unlabelled)


def load_files(cfg: DatasetConfig, splits: Sequence[str]) -> list[Loaded]:
    """Read the "train" or "test" share of the images at `cfg.path`, or "all" of them, into memory: each of `splits`.

    Folder or .zip archive: all image files in it and below. Labels are those of a `dataset.json`, as StyleGAN's and
    EDM's data sets have it. Without one, and where all images lie in two or more immediate sub-folders, these are the
    classes, numbered in alphabetical order; otherwise the images are unlabelled. They have one channel if every file
    is grey.
    .npz: as `data.arrays.read_images` reads them, and optionally the classes, integers [n].

    Raises FileNotFoundError if there is no such path or no image in the folder; ValueError for a file that cannot be
    read, images of several sizes, wrong arrays, or fewer than two images.
    """
    path = Path(str(cfg.path)).expanduser()
    if not path.exists():
        raise FileNotFoundError(f"dataset.path={cfg.path} does not exist")
    if path.is_dir() or path.suffix.lower() == ".zip":
        images, labels = _read_pictures(path, cfg)
    elif path.suffix.lower() == ".npz":
        images, labels = _read_npz(path, cfg)
    else:
        raise ValueError(f"dataset.path={cfg.path} is neither a folder or .zip archive of images nor an .npz file")
    held_out = _held_out(len(images), cfg)
    channels = max(pixels.shape[2] for pixels in images)
    shares = {"train": ~held_out, "test": held_out, "all": np.ones(len(images), bool)}
    found: list[Loaded] = []
    for chosen in (np.flatnonzero(shares[split]) for split in splits):
        share = np.empty((len(chosen), *images[0].shape[:2], channels), np.uint8)
        for i, index in enumerate(chosen):
            share[i] = images[index]  # grey pixels become three equal channels among colours
        found.append((share, None, 0) if labels is None else (share, labels[chosen], int(labels.max()) + 1))
    return found


def _held_out(n: int, cfg: DatasetConfig) -> Bool[np.ndarray, " n"]:
    """Return which of `n` images are for testing, a random share that is the same every time."""
    if n < 2:
        raise ValueError(f"dataset.path={cfg.path} holds {n} image(s); at least 2 are needed, one of them held out")
    held_out = np.zeros(n, bool)
    shuffled = np.random.Generator(np.random.Philox(0)).permutation(n)
    held_out[shuffled[: min(max(round(n * cfg.test_fraction), 1), n - 1)]] = True
    return held_out


def _read_pictures(path: Path, cfg: DatasetConfig) -> tuple[list[np.ndarray], np.ndarray | None]:
    """Return all images of a folder or archive, [h, w, 1 or 3] each, and their labels."""
    pictures = find_pictures(path)
    names, images = [], list[np.ndarray]()
    for name, image in read_pictures(pictures, cfg.background, cfg.skip_damaged):
        names.append(name)
        try:
            images.append(crop_resize(image, cfg.center_crop, cfg.image_size))
        except ValueError as error:
            raise ValueError(f"{path / name}: {error}") from None
        if images[-1].shape[:2] != images[0].shape[:2]:
            sizes = " and ".join(f"{path / names[i]} is {images[i].shape[1]}x{images[i].shape[0]}" for i in (0, -1))
            raise ValueError(f"the images differ in size: {sizes}; resize all of them with dataset.image_size=64")
    return images, _labels(pictures, names)


def _labels(pictures: Pictures, names: list[str]) -> np.ndarray | None:
    """The class of each file, int32 [n]; None if there are no classes."""
    if pictures.labels is None:
        number = {folder: i for i, folder in enumerate(sub_folders(pictures.names))}  # damaged ones too
        return np.array([number[name.split("/")[0]] for name in names], np.int32) if number else None
    if not pictures.labels:
        return None
    if absent := [name for name in names if name not in pictures.labels]:
        raise ValueError(
            f"{pictures.path / LABELS_FILE} has no label for {len(absent)} of {len(names)} images, first {absent[0]}"
        )
    return np.array([pictures.labels[name] for name in names], np.int32)


def sub_folders(names: list[str]) -> list[str]:
    """The classes of files by their folders, in alphabetical order; none unless all lie in two folders or more."""
    classes = sorted({name.split("/")[0] for name in names})
    return classes if len(classes) > 1 and all("/" in name for name in names) else []


def _read_npz(file: Path, cfg: DatasetConfig) -> tuple[list[np.ndarray], np.ndarray | None]:
    """Return all images of an .npz file, [h, w, 1 or 3] each, and their labels."""
    images, labels, _ = read_images(file, cfg.background)
    if labels is not None and (
        labels.shape != images.shape[:1]
        or not np.issubdtype(labels.dtype, np.integer)
        or not 0 <= labels.min(initial=0) <= labels.max(initial=0) < 2**31
    ):
        raise ValueError(
            f"the labels in {file} must be {len(images)} integers from 0 to 2^31 - 1, one for each image; "
            f"they are {labels.dtype} {list(labels.shape)}"
        )
    labels = None if labels is None else labels.astype(np.int32)
    if cfg.center_crop or cfg.image_size:
        return [crop_resize(picture_of(image), cfg.center_crop, cfg.image_size) for image in images], labels
    return list(images), labels
