"""The image files of a folder or of a .zip archive, their classes, and what was left out."""

import json
import logging
import os
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from functools import lru_cache, partial
from pathlib import Path
from typing import IO, Any, NamedTuple

from PIL import Image

from data.pictures import is_grey, read_picture, readable_formats

log = logging.getLogger(__name__)

LABELS_FILE = "dataset.json"  # of StyleGAN's and EDM's data sets


class Pictures(NamedTuple):
    """The image files of one place.

    path: the folder or archive. names: the files relative to it, parts separated by "/", in alphabetical order.
    open: opens a file by its name. labels: of `dataset.json`, by name; empty where that says there are none; None
        without such a file.
    left_out: the number of files that are no images, by the reason why.
    """

    path: Path
    names: list[str]
    open: Callable[[str], IO[bytes]]
    labels: dict[str, int] | None
    left_out: Counter[str]


def find_pictures(path: Path) -> Pictures:
    """Find the image files in a folder and below, or in a .zip archive, by the extensions of the formats Pillow reads.

    Links to folders are followed, but no folder is read twice. Hidden files, whose names begin with a dot, are left
    out. In an archive, a single folder that holds everything else counts as its root.
    Raises FileNotFoundError if there are no images, ValueError for a damaged archive or a wrong `dataset.json`.
    """
    left_out: Counter[str] = Counter()
    names, opener = _zip_files(path, left_out) if path.is_file() else _folder_files(path, left_out)
    labels = _read_labels(path, opener, len(names)) if LABELS_FILE in names else None
    images = []
    for name in names:
        extension = os.path.splitext(name)[1].lower()
        if extension in readable_formats():
            images.append(name)
        elif labels is None or name != LABELS_FILE:
            left_out[extension or "without an extension"] += 1
    if not images:
        instead = f"; {_counted(left_out)}" if left_out else ""
        raise FileNotFoundError(f"{path} holds no image files in a format that Pillow reads{instead}")
    return Pictures(path, sorted(images, key=lambda name: name.split("/")), opener, labels, left_out)


def read_pictures(pictures: Pictures, background: str, skip_damaged: bool) -> Iterator[tuple[str, Image.Image]]:
    """Yield (name, image of mode "L" or "RGB") for each file in order, and log in one line what was left out.

    skip_damaged: leave out, and count, a file that cannot be read. Raises ValueError, naming it, otherwise.
    """
    damaged: list[str] = []
    for name in pictures.names:
        try:
            yield name, read_named(pictures, name, background)
        except ValueError:
            if not skip_damaged:
                raise
            damaged.append(name)
    report_left_out(pictures, damaged)


def report_left_out(pictures: Pictures, damaged: list[str] | None = None) -> None:
    """Log in one line how many files are left out and why. damaged: those of them that cannot be read."""
    first = f" (first {damaged[0]})" if damaged else ""
    left_out = pictures.left_out + Counter({f"that cannot be read{first}": len(damaged or ())})
    if left_out:
        _log_once(f"{pictures.path}: {left_out.total()} files are left out, {_counted(left_out)}")


def all_grey(pictures: Pictures, background: str) -> bool:
    """Whether `read_picture` makes grey images of all files; reads their headers. Raises ValueError, naming a file."""
    return all(_named(pictures, name, partial(is_grey, background=background)) for name in pictures.names)


def read_named(pictures: Pictures, name: str, background: str) -> Image.Image:
    """Decode one of the files as `read_picture` does. Raises ValueError, naming the file."""
    return _named(pictures, name, partial(read_picture, background=background))


def _named(pictures: Pictures, name: str, read: Callable[[IO[bytes]], Any]) -> Any:
    try:
        with pictures.open(name) as file:
            return read(file)
    except Exception as error:  # zipfile raises many kinds
        said = f"{pictures.path / name} cannot be read as an image ({error})"
        raise ValueError(f"{said}; dataset.skip_damaged=true leaves such files out") from None


@lru_cache(maxsize=64)
def _log_once(text: str) -> None:
    """Log a line that another split of the same images would repeat."""
    log.info(text)


def _counted(left_out: Counter[str]) -> str:
    return ", ".join(f"{count} {why}" for why, count in left_out.most_common())


def _folder_files(root: Path, left_out: Counter[str]) -> tuple[list[str], Callable[[str], IO[bytes]]]:
    """The files below a folder, relative to it, and what opens them."""
    names, seen, top = list[str](), set[Path](), root.resolve()
    folders, links = [""], list[str]()
    while folders or links:  # all real folders before the first link, so that a link to one of them is the one left out
        folder = folders.pop() if folders else links.pop(0)
        real = (root / folder).resolve()
        if real in seen or (folder and top.is_relative_to(real)):
            left_out["linked folder that is read already"] += 1
            continue
        seen.add(real)
        try:
            entries = sorted(os.scandir(real), key=lambda entry: entry.name)
        except OSError as error:
            left_out[f"folder that cannot be read ({error.strerror})"] += 1
            continue
        for entry in entries:
            name = f"{folder}/{entry.name}" if folder else entry.name
            if entry.name.startswith("."):
                left_out["hidden"] += 1
            elif os.path.isdir(entry):
                (links if entry.is_symlink() else folders).append(name)
            elif os.path.isfile(entry):
                names.append(name)
            else:
                left_out["broken link"] += 1
    return names, lambda name: (root / name).open("rb")


def _zip_files(path: Path, left_out: Counter[str]) -> tuple[list[str], Callable[[str], IO[bytes]]]:
    """The files of an archive, relative to its root, and what opens them."""
    try:
        archive = zipfile.ZipFile(path)
    except (OSError, ValueError, NotImplementedError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} cannot be read as a .zip archive ({error})") from None
    names = []
    for name in dict.fromkeys(info.filename for info in archive.infolist() if not info.is_dir()):
        if any(part.startswith(".") or part == "__MACOSX" for part in name.split("/")):
            left_out["hidden"] += 1
        else:
            names.append(name)
    tops = {name.partition("/")[0] for name in names}
    root = f"{tops.pop()}/" if len(tops) == 1 and all("/" in name for name in names) else ""
    return [name.removeprefix(root) for name in names], lambda name: archive.open(root + name)


def _read_labels(path: Path, opener: Callable[[str], IO[bytes]], count: int) -> dict[str, int] | None:
    """The labels in `dataset.json`, {"labels": [[file name, class], ...] or null}; None if it is some other file."""
    most = 10_000_000 + 200 * count  # bytes; a label takes about 40
    try:
        with opener(LABELS_FILE) as file:
            content = file.read(most + 1)
        if len(content) > most:
            raise ValueError(f"it has more than {most:,} bytes for {count} files")
        found = json.loads(content)
    except Exception as error:  # json and zipfile raise many kinds
        raise ValueError(f"{path / LABELS_FILE} cannot be read as JSON ({error})") from None
    if not isinstance(found, dict) or "labels" not in found:
        return None
    try:
        labels = dict(found["labels"] or [])
    except (TypeError, ValueError):
        labels = {"": None}
    if not all(isinstance(name, str) and type(label) is int and 0 <= label < 2**31 for name, label in labels.items()):
        raise ValueError(
            f"`labels` in {path / LABELS_FILE} must be [file name, class] pairs, classes 0, 1, ..., or null"
        )
    return labels
