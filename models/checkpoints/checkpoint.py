"""Reading checkpoints: every bit as it was written, or one sentence that says what is wrong.

<folder>/<step>/state/           the arrays, written by Orbax
<folder>/<step>/config.json      the resolved configuration
<folder>/<step>/unlogged.json    the metrics of single steps that the next line of the log will sum up
<folder>/<step>/manifest.json    {"score", "files": {name: SHA-256 digest}, "sha256": digest of the rest}
<folder>/<step>.damaged/         a checkpoint that `restore_latest` passed over

Orbax and JAX are imported when arrays are read, so that a command can be refused without them.
"""

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from formats.files import read_json, sha256

MANIFEST = "manifest.json"
UNLOGGED = "unlogged.json"
Records = Sequence[dict[str, Any]]
State = Any  # a dict or NamedTuple of pytrees of arrays

log = logging.getLogger(__name__)


def steps(folder: Path) -> list[int]:
    """The steps that have a complete checkpoint, in increasing order."""
    return [step for step in _numbered(folder) if (path_of(folder, step) / MANIFEST).is_file()]


def latest_step(folder: Path) -> int | None:
    """The newest step with a complete checkpoint; None if there is none."""
    return max(steps(folder), default=None)


def locate(folder: Path) -> tuple[Path, int | None]:
    """The checkpoints in a run's folder or in its folder of checkpoints, and the newest step, None if there is none.

    The folder of one checkpoint, RUN/checkpoints/00001000, is located as that step.
    """
    path = folder.absolute()  # which has a name where the folder is "."
    if path.name.isdecimal() and path.parent.name == "checkpoints":
        return path.parent, int(path.name)
    checkpoints = path if path.name == "checkpoints" else folder / "checkpoints"
    return checkpoints, latest_step(checkpoints)


def scores(folder: Path) -> dict[int, float | None]:
    """The scores of all complete checkpoints, by step, but for those whose manifest is damaged."""
    found = {}
    for step in steps(folder):
        with suppress(ValueError):
            found[step] = _read_manifest(path_of(folder, step))["score"]
    return found


def read_config(folder: Path, step: int) -> dict[str, Any]:
    """The configuration of a checkpoint. Raises FileNotFoundError if there is none, ValueError if it is damaged."""
    path = _require(folder, step)
    config = read_json(path / "config.json")
    if _read_manifest(path)["files"].get("config.json") != sha256(path / "config.json"):
        raise ValueError(f"checkpoint {path} is damaged: config.json does not match its checksum; delete it")
    return config


def refuse_other_images(folder: Path, step: int, count: int) -> None:
    """Raise ValueError if a checkpoint was trained on another number of images: others are held out of `count`."""
    seen = read_config(folder, step).get("num_images", count)  # older checkpoints do not say
    if seen != count:
        raise ValueError(
            f"checkpoint {path_of(folder, step)} was trained on {seen:,} images, and there are {count:,} now; choose "
            "another run_dir, or go on all the same with allow_changes=true"
        )


def manifest_digest(folder: Path, step: int) -> str:
    """SHA-256 hex digest of a checkpoint's manifest, so of all its files. Raises as `read_config` does."""
    return _digest(_read_manifest(_require(folder, step)))


def read_unlogged(folder: Path, step: int) -> Records:
    """The `unlogged` metrics that a checkpoint was saved with; none if it is older than that file."""
    path = path_of(folder, step) / UNLOGGED
    return json.loads(path.read_text()) if path.is_file() else []


def restore(folder: Path, step: int, like: State) -> State:
    """The arrays of a checkpoint, bit for bit, as a pytree like `like` of NumPy arrays.

    like: the state as it was saved, or a dict of some of its entries; its leaves give shapes and dtypes.
    Raises FileNotFoundError if there is no such checkpoint, ValueError if a file is damaged or missing, or if an array
    is not what `like` expects.
    """
    path = _require(folder, step)
    if what := damage(path):
        _require(folder, step)  # a training that is under way may have deleted it meanwhile
        raise ValueError(f"checkpoint {path} is damaged: {what}; delete it to use an earlier one")
    return _read(path, like)


def restore_latest(folder: Path, like: State) -> tuple[int, State] | None:
    """(step, state) of the newest checkpoint that is not damaged; None if there is no checkpoint.

    The damaged ones after it are named in a warning and renamed, so that their steps can be saved again. With several
    processes each must call this, and sees the same folder; every one reads the whole state into its own memory.
    Raises ValueError if all checkpoints are damaged, or if an array is not what `like` expects.
    """
    import jax
    from jax.experimental import multihost_utils

    good, damaged = -1, dict[int, str]()
    for step in reversed(_numbered(folder)):
        if not (what := damage(path_of(folder, step))):
            good = step
            break
        damaged[step] = what
    if damaged and good < 0:
        said = ", ".join(f"{step} ({what})" for step, what in damaged.items())
        raise ValueError(f"every checkpoint in {folder} is damaged: {said}; delete the folder to begin again")
    good = int(multihost_utils.broadcast_one_to_all(jax.numpy.int32(good)))
    if jax.process_index() == 0:  # and here every process has looked
        for unfinished in folder.glob("[0-9]*.orbax-checkpoint-tmp*"):
            log.warning("checkpoint %d was not finished; it is ignored", int(unfinished.name.partition(".")[0]))
        for step, what in damaged.items():
            log.warning("checkpoint %d is damaged (%s); going on from %d", step, what, good)
            aside = path_of(folder, step).with_suffix(".damaged")
            shutil.rmtree(aside, ignore_errors=True)
            os.replace(path_of(folder, step), aside)
    return None if good < 0 else (good, _read(path_of(folder, good), like))


def path_of(folder: Path, step: int) -> Path:
    """The folder of a checkpoint."""
    return folder / f"{step:08d}"


def seal(path: Path, config: dict[str, Any], score: float | None, unlogged: Records = ()) -> None:
    """Complete a checkpoint whose arrays are in `path`/state with its configuration, metrics and manifest."""
    # Orbax's own notes beside state/ change later and are never read
    (path / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    (path / UNLOGGED).write_text(json.dumps(list(unlogged)))
    files = [
        path / "config.json",
        path / UNLOGGED,
        *sorted(file for file in (path / "state").rglob("*") if file.is_file()),
    ]
    content = {"score": score, "files": {str(file.relative_to(path)): sha256(file) for file in files}}
    (path / MANIFEST).write_text(json.dumps(content | {"sha256": _digest(content)}, indent=1) + "\n")


def damage(path: Path) -> str | None:
    """What is wrong with a file of the checkpoint in `path`; None if every one is as it was written."""
    try:
        files = _read_manifest(path)["files"]
    except (FileNotFoundError, ValueError) as error:
        return str(error).removeprefix(f"{path}/")
    for name, digest in files.items():
        if not (path / name).is_file():
            return f"{name} is missing"
        if sha256(path / name) != digest:
            return f"{name} does not match its checksum"
    return None


def array_handler() -> tuple[Any, Any]:
    """Orbax's handler for pytrees of arrays, and the options by which it waits for no other process."""
    import jax
    import orbax.checkpoint as ocp

    logging.getLogger("absl").setLevel(logging.CRITICAL)  # what Orbax logs as an error, it raises too
    me = jax.process_index()
    alone = ocp.options.MultiprocessingOptions(primary_host=me, active_processes={me})
    return ocp.PyTreeCheckpointHandler(use_compression=False, multiprocessing_options=alone), alone


def _read(path: Path, like: State) -> State:
    import jax
    import numpy as np
    import orbax.checkpoint as ocp

    def described(tree: Any) -> dict[str, str]:  # {"params/down/bias": "float32[5]"}
        named = partial(jax.tree_util.keystr, simple=True, separator="/")
        return {named(at): f"{leaf.dtype}{list(leaf.shape)}" for at, leaf in jax.tree.leaves_with_path(tree)}

    handler, stored = array_handler()[0], path.absolute() / "state"
    there, here = described(handler.metadata(stored).tree), described(like)
    entries = {name.partition("/")[0] for name in here}  # others that are saved do not count
    wrong = [
        f"{name} is {there.get(name, 'absent')} there and {here.get(name, 'absent')} here"
        for name in sorted({*there, *here})
        if name.partition("/")[0] in entries and there.get(name) != here.get(name)
    ]
    if wrong:
        more = f", and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        raise ValueError(
            f"checkpoint {path} does not fit this network: {'; '.join(wrong[:3])}{more}; "
            "check model.channels, model.multipliers, model.num_blocks and model.attention_resolutions"
        )
    as_numpy = jax.tree.map(lambda leaf: ocp.RestoreArgs(restore_type=np.ndarray), like)
    return handler.restore(stored, args=ocp.args.PyTreeRestore(like, as_numpy, partial_restore=True))


def _numbered(folder: Path) -> list[int]:
    return sorted(int(path.name) for path in folder.glob("*") if path.name.isdecimal())


def _require(folder: Path, step: int) -> Path:
    if step not in (have := steps(folder)):
        there = ", ".join(map(str, have)) or "none"
        raise FileNotFoundError(f"no checkpoint of step {step} in {folder}; there are: {there}")
    return path_of(folder, step)


def _read_manifest(path: Path) -> dict[str, Any]:
    """The checkpoint's manifest. Raises FileNotFoundError, or ValueError if it is damaged itself."""
    content = read_json(path / MANIFEST)
    digest, files = content.pop("sha256", None), content.get("files")
    if digest != _digest(content) or not isinstance(files, dict) or "score" not in content:
        raise ValueError(f"{path / MANIFEST} does not match its checksum")
    return content


def _digest(content: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
