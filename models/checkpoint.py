"""Checkpoints: a folder per step that is there whole or not at all.

<folder>/<step>/state/         arrays, by Orbax
<folder>/<step>/config.json    the resolved configuration
<folder>/<step>/manifest.json  SHA-256 of every file, shape and dtype of every array

Orbax and JAX are imported when arrays are read or written, so that a command can be refused without them.
"""

import hashlib
import json
import logging
import os
import shutil
from pathlib import Path
from typing import Any

State = Any  # a dict or NamedTuple of pytrees of arrays


def save(folder: Path, step: int, state: State, config: dict[str, Any], keep: int) -> None:
    """Write the checkpoint of `step` and delete all but the newest `keep`.

    Killed at any moment, it leaves the earlier checkpoints as they were and no half one under a step's name.
    """
    import jax

    folder = folder.absolute()
    partial, final = folder / f".partial-{step}", folder / f"{step:08d}"
    for leftover in folder.glob(".partial-*"):
        shutil.rmtree(leftover)
    partial.mkdir(parents=True)
    entries = _entries(state)
    with _checkpointer() as checkpointer:
        checkpointer.save(partial / "state", entries)
    (partial / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    arrays = {name: _describe(leaf) for name, leaf in _named_leaves(jax.device_get(entries))}
    manifest = {"arrays": arrays, "files": _checksums(partial)}
    (partial / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n")
    if final.exists():
        _delete(final)
    os.replace(partial, final)
    for old in steps(folder)[:-keep]:
        _delete(folder / f"{old:08d}")


def steps(folder: Path) -> list[int]:
    """The steps whose checkpoints are complete, in order."""
    found = (path.parent for path in folder.glob("*/manifest.json") if path.parent.name.isdigit())
    return sorted(int(path.name) for path in found)


def latest_step(folder: Path) -> int | None:
    """The newest step with a complete checkpoint; None if there is none."""
    return max(steps(folder), default=None)


def read_config(folder: Path, step: int) -> dict[str, Any]:
    """The configuration saved with the checkpoint.

    Raises FileNotFoundError if there is no such checkpoint, ValueError if the file is damaged.
    """
    return _read_json(folder, step, "config.json")


def restore(folder: Path, step: int, like: State) -> State:
    """The arrays of a checkpoint, bit for bit, as a pytree like `like`.

    like: the state as it was saved, or a dict of some of its entries; its leaves give shapes and dtypes.
    Raises FileNotFoundError if there is no such checkpoint, ValueError if a file is damaged or missing, or if an array
    is not what `like` expects.
    """
    import jax

    folder = folder.absolute()
    manifest = _read_json(folder, step, "manifest.json")
    path = folder / f"{step:08d}"
    _verify(path, manifest["files"])
    entries = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), _entries(like))
    _compare(path, manifest["arrays"], {name: _describe(leaf) for name, leaf in _named_leaves(entries)})
    import orbax.checkpoint as ocp

    with _checkpointer() as checkpointer:
        arguments = ocp.args.PyTreeRestore(
            item=entries, restore_args=ocp.checkpoint_utils.construct_restore_args(entries), partial_restore=True
        )
        restored = checkpointer.restore(path / "state", arguments)
    return restored if isinstance(like, dict) else type(like)(**restored)


def _delete(checkpoint: Path) -> None:
    """First take the step's name away, in one move: a kill leaves no half checkpoint under it."""
    partial = checkpoint.with_name(f".partial-old-{checkpoint.name}")
    os.replace(checkpoint, partial)
    shutil.rmtree(partial)


def _checkpointer() -> Any:
    import orbax.checkpoint as ocp

    logging.getLogger("absl").setLevel(logging.ERROR)
    return ocp.Checkpointer(ocp.PyTreeCheckpointHandler())


def _entries(state: State) -> dict[str, Any]:
    return state if isinstance(state, dict) else state._asdict()


def _named_leaves(tree: Any) -> list[tuple[str, Any]]:
    import jax

    leaves = jax.tree.leaves_with_path(tree)
    return [(jax.tree_util.keystr(path, simple=True, separator="/"), leaf) for path, leaf in leaves]


def _describe(leaf: Any) -> str:
    return f"{leaf.dtype}{list(leaf.shape)}"


def _read_json(folder: Path, step: int, name: str) -> dict[str, Any]:
    path = folder / f"{step:08d}" / name
    if not path.is_file():
        have = ", ".join(map(str, steps(folder))) or "none"
        raise FileNotFoundError(f"no checkpoint of step {step} in {folder}; there are: {have}")
    try:
        return json.loads(path.read_text())
    except ValueError:
        raise _damage(path.parent, name, "is not JSON") from None


def _damage(path: Path, name: str, what: str) -> ValueError:
    return ValueError(f"checkpoint {path} is damaged: {name} {what}; delete it to use an earlier one")


def _checksums(path: Path) -> dict[str, str]:
    files = sorted(file for file in path.rglob("*") if file.is_file() and file.name != "manifest.json")
    return {str(file.relative_to(path)): _sha256(file) for file in files}


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _verify(path: Path, expected: dict[str, str]) -> None:
    found = _checksums(path)
    bad = [name for name, digest in expected.items() if found.get(name) != digest]
    if bad:
        what = "does not match its checksum" if bad[0] in found else "is missing"
        raise _damage(path, bad[0], what)


def _compare(path: Path, saved: dict[str, str], expected: dict[str, str]) -> None:
    """Raise ValueError if an expected array is not in the checkpoint, or another array is in an expected entry."""
    entries = {name.partition("/")[0] for name in expected}
    saved = {name: value for name, value in saved.items() if name.partition("/")[0] in entries}
    wrong = [
        f"{name} is {saved.get(name, 'absent')} there and {expected.get(name, 'absent')} here"
        for name in sorted({*saved, *expected})
        if saved.get(name) != expected.get(name)
    ]
    if wrong:
        more = f", and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        raise ValueError(
            f"checkpoint {path} does not fit this network: {'; '.join(wrong[:3])}{more}; "
            "check model.channels, model.multipliers, model.num_blocks and model.attention_resolutions"
        )
