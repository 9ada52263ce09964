"""JSON objects, safetensors, .npz and SHA-256 digests of files, and writing that leaves no half-written file."""

import contextlib
import hashlib
import json
import os
import shutil
import zipfile
import zlib
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import numpy as np


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object. Raises FileNotFoundError, or ValueError if the file is anything else."""
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist")
    try:
        found = json.loads(path.read_text())
    except ValueError:
        raise ValueError(f"{path} is not JSON") from None
    if not isinstance(found, dict):
        raise ValueError(f"{path} must hold a JSON object, got a {type(found).__name__}")
    return found


def read_safetensors(path: Path) -> dict[str, np.ndarray]:
    """Read all tensors of a file as NumPy arrays. Raises FileNotFoundError, or ValueError if it is damaged."""
    import ml_dtypes  # noqa: F401  gives NumPy the type bfloat16
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist")
    try:
        return load_file(path)
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged or not a safetensors file: {error}") from None


def read_npz(path: Path, names: Collection[str] | None = None) -> dict[str, np.ndarray]:
    """Read the arrays of an .npz file, without pickle; the checksums in a zip archive reveal damaged bytes.

    names: read these alone, as far as they are there; None for all.

    Raises FileNotFoundError, or ValueError if the file is damaged, is no .npz, or holds pickled objects.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist")
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in file.files if names is None or name in names}
    except (ValueError, EOFError, OSError, AttributeError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(f"{path} cannot be read as .npz ({error}); delete it to have it made anew") from error


def sha256(path: Path) -> str:
    """SHA-256 hex digest of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write a file so that a reader never sees a part of it."""
    with atomic_path(path) as partial:
        partial.write_bytes(content.encode() if isinstance(content, str) else content)


def write_npz(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """Write an .npz file so that a reader never sees a part of it; missing folders are made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as partial, partial.open("wb") as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]


@contextlib.contextmanager
def atomic_path(path: Path, partial: Path | None = None) -> Iterator[Path]:
    """Yield a temporary path beside `path`; the file or folder written there is renamed to `path` at the end.

    If the block raises, nothing is left of it. `partial` is the temporary path. Its default differs from process to
    process, so that several may write at once; a fixed one lets the next attempt overwrite what a killed process left.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}") if partial is None else partial
    try:
        yield partial
        os.replace(partial, path)
    finally:
        if partial.is_dir():
            shutil.rmtree(partial)
        partial.unlink(missing_ok=True)
