"""Files as they come: JSON objects, safetensors, and the digest that says whether one is whole."""

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object. Raises FileNotFoundError, or ValueError if the file is anything else."""
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
    """All tensors of a file as NumPy arrays. Raises FileNotFoundError, or ValueError if it is damaged."""
    import ml_dtypes  # noqa: F401  NumPy knows bfloat16 by it
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist")
    try:
        return load_file(path)
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged or not a safetensors file: {error}") from None


def sha256(path: Path) -> str:
    """The SHA-256 hex digest of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write a file so that it is there whole or not at all."""
    with replacing(path) as partial:
        partial.write_bytes(content.encode() if isinstance(content, str) else content)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path; the file written there becomes `path` when the block ends without an error."""
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        yield partial
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
