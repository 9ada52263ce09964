"""JSON objects, safetensors, .npz and SHA-256 digests of files, and writing that leaves no half-written file."""

import contextlib
import hashlib
import json
import os
import secrets
import shutil
import zipfile
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from formats.npz import read_entry
from formats.short import short

_MOST_JSON = 10_000_000  # bytes; in memory they may become twenty-five times as many
_LARGE, _DENSEST = 100_000_000, 200  # bytes from which on arrays must not have been compressed 200-fold


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object. Raises FileNotFoundError, or ValueError if the file is anything else or above 10 MB."""
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist")
    if (size := path.stat().st_size) > _MOST_JSON:
        raise ValueError(
            f"{path} is too large for a configuration: {size:,} bytes, and at most {_MOST_JSON:,} are read"
        )
    try:
        found = json.loads(path.read_text())
    except (ValueError, RecursionError):
        raise ValueError(f"{path} is not JSON") from None
    if not isinstance(found, dict):
        raise ValueError(f"{path} must hold a JSON object, got a {type(found).__name__}")
    return found


def read_safetensors(path: Path) -> dict[str, np.ndarray]:
    """Read all tensors of a file as NumPy arrays. Raises FileNotFoundError, or ValueError if damaged or of float8."""
    import ml_dtypes  # noqa: F401  gives NumPy the type bfloat16
    from safetensors.numpy import load_file

    with _errors_of_safetensors(path):
        return load_file(path)


def read_safetensors_header(path: Path) -> dict[str, str]:
    """Read the type of every tensor, as safetensors names it ("F32"). Raises as `read_safetensors` does."""
    from safetensors import safe_open

    with _errors_of_safetensors(path), safe_open(path, framework="numpy") as file:
        return {name: file.get_slice(name).get_dtype() for name in file.keys()}  # noqa: SIM118  it is no mapping


@contextlib.contextmanager
def _errors_of_safetensors(path: Path) -> Iterator[None]:
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist")
    try:
        yield
    except (KeyError, AttributeError) as error:
        raise ValueError(f"{path} holds numbers of a type that is not read, such as float8 ({short(error)})") from None
    except Exception as error:
        raise ValueError(f"{path} is damaged or not a safetensors file: {short(error, 200)}") from None


def read_npz(path: Path, names: Collection[str] | None = None) -> dict[str, np.ndarray]:
    """Read the arrays of an .npz file, without pickle; the checksums in a zip archive reveal damaged bytes.

    names: those to read, where they are there; others take no time and no memory. None reads all.
    Raises FileNotFoundError, or ValueError if the file is damaged, is no .npz, holds pickled objects, or an array that
    a small file unpacks into much memory.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist")
    try:
        with zipfile.ZipFile(path) as archive:
            entries = {entry.filename.removesuffix(".npy"): entry for entry in archive.infolist()}
            if sum(entry.compress_size for entry in archive.infolist()) > path.stat().st_size:
                raise ValueError("its entries overlap")
            wanted = {name: entry for name, entry in entries.items() if names is None or name in names}
            size = sum(entry.file_size for entry in wanted.values())
            if size > max(_LARGE, _DENSEST * path.stat().st_size):
                raise ValueError(f"it would unpack from {path.stat().st_size:,} to {size:,} bytes")
            return {name: read_entry(archive, entry) for name, entry in wanted.items()}
    except Exception as error:  # damaged bytes can fail in any way
        said = short(error, 200) or type(error).__name__
        raise ValueError(f"{path} cannot be read as .npz ({said}); delete it to have it made anew") from error


def require_empty(folder: Path) -> None:
    """Raise FileExistsError unless there is nothing of this name, or an empty folder."""
    if folder.is_file() or (folder.is_dir() and any(folder.iterdir())):
        raise FileExistsError(f"{folder} is not empty; choose another folder")


def sha256(path: Path) -> str:
    """SHA-256 hex digest of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write a file so that a reader never sees a part of it."""
    with atomic_path(path) as partial:
        partial.write_bytes(content.encode() if isinstance(content, str) else content)


def write_npz(path: Path, arrays: dict[str, np.ndarray], compress: bool = False) -> None:
    """Write an .npz file so that a reader never sees a part of it; missing folders are made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as partial, partial.open("wb") as file:
        (np.savez_compressed if compress else np.savez)(file, **arrays)  # type: ignore[arg-type]


@contextlib.contextmanager
def atomic_path(path: Path, partial: Path | None = None) -> Iterator[Path]:
    """Yield a temporary path beside `path`; the file or folder written there is renamed to `path` at the end.

    If the block raises, nothing is left of it. `partial` is the temporary path. Its default is random, so that several
    processes may write at once, of several machines too, where their numbers may be equal; a fixed one lets the next
    attempt overwrite what a killed process left.
    """
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}") if partial is None else partial
    try:
        yield partial
        os.replace(partial, path)
    finally:
        if partial.is_dir():
            shutil.rmtree(partial)
        partial.unlink(missing_ok=True)
