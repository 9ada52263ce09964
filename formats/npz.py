"""Arrays in .npz files, which are written atomically and read without pickle."""

import zipfile
import zlib
from pathlib import Path

import numpy as np

from formats.files import atomic_path


def write_npz(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """Write `arrays` to `path` so that a reader never sees a part of them; missing folders are made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as partial, partial.open("wb") as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]


def read_npz(path: Path) -> dict[str, np.ndarray]:
    """Read every array of `path`; the checksums in a zip archive reveal damaged bytes.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is damaged, is no .npz, or holds pickled objects.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist")
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except (ValueError, EOFError, OSError, AttributeError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(f"{path} cannot be read as .npz ({error}); delete it to have it made anew") from error
