"""What the files of a checkpoint were when they were written, so that one changed bit is noticed.

manifest.json    {"score", "arrays": {name: "float32[3, 5]"}, "files": {name: SHA-256}, "sha256": of all the rest}
"""

import hashlib
import json
from pathlib import Path
from typing import Any

from formats.files import read_json, sha256

NAME = "manifest.json"


def write(path: Path, arrays: dict[str, str], score: float | None) -> None:
    """Describe the files that are in the folder `path`. arrays: as `describe` gives them."""
    files = sorted(file for file in path.rglob("*") if file.is_file())
    content = {"score": score, "arrays": arrays, "files": {str(file.relative_to(path)): sha256(file) for file in files}}
    (path / NAME).write_text(json.dumps(content | {"sha256": _digest(content)}, indent=1) + "\n")


def read(path: Path) -> dict[str, Any]:
    """The manifest of the folder `path`. Raises FileNotFoundError, or ValueError if it is damaged itself."""
    content = read_json(path / NAME)
    if content.pop("sha256", None) != _digest(content):
        raise ValueError(f"{NAME} does not match its checksum")
    return content


def damage(path: Path) -> str | None:
    """What is wrong with a file in the folder `path`; None if every one is as it was written.

    Raises FileNotFoundError if there is no manifest.
    """
    try:
        files = read(path)["files"]
    except ValueError as error:
        return str(error).removeprefix(f"{path}/")
    for name, digest in files.items():
        if not (path / name).is_file():
            return f"{name} is missing"
        if sha256(path / name) != digest:
            return f"{name} does not match its checksum"
    return None


def describe(tree: Any) -> dict[str, str]:
    """{"params/down/bias": "float32[5]"} of every leaf of a pytree of arrays."""
    import jax

    leaves = jax.tree.leaves_with_path(tree)
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): f"{leaf.dtype}{list(leaf.shape)}"
        for path, leaf in leaves
    }


def misfit(saved: dict[str, str], expected: dict[str, str]) -> str | None:
    """In what the saved arrays are not the expected ones, within the entries that are expected at all; None: they are.

    saved, expected: as `describe` gives them; an entry is what the first part of a name says.
    """
    entries = {name.partition("/")[0] for name in expected}
    saved = {name: value for name, value in saved.items() if name.partition("/")[0] in entries}
    wrong = [
        f"{name} is {saved.get(name, 'absent')} there and {expected.get(name, 'absent')} here"
        for name in sorted({*saved, *expected})
        if saved.get(name) != expected.get(name)
    ]
    more = f", and {len(wrong) - 3} more" if len(wrong) > 3 else ""
    return "; ".join(wrong[:3]) + more if wrong else None


def _digest(content: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
