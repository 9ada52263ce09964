"""Checkpoints: a folder per step that is there whole or not at all.

<folder>/<step>/state/           arrays, by Orbax
<folder>/<step>/config.json      the resolved configuration
<folder>/<step>/manifest.json    see `models.checkpoints.manifest`
<folder>/<step>.damaged/         one that `restore_latest` passed over

Orbax and JAX are imported when arrays are read or written, so that a command can be refused without them.
"""

import errno
import json
import logging
import os
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from formats.files import read_json
from models.checkpoints import manifest

_SMALL_FILES = 200_000  # bytes of a checkpoint beside its arrays, and to spare
State = Any  # a dict or NamedTuple of pytrees of arrays

log = logging.getLogger(__name__)


def save(
    folder: Path,
    step: int,
    state: State,
    config: dict[str, Any],
    keep: int,
    keep_best: bool = False,
    score: float | None = None,
) -> None:
    """Write the checkpoint of `step`, then delete all but this one, the newest `keep` and, if asked, the best.

    state: arrays that this process can read. score: the lower the better; it is kept in the manifest.
    Killed at any moment, it leaves the checkpoints of other steps as they were and no half one under a step's name.
    Raises OSError, with the other checkpoints as they were, if it cannot be written.
    """
    import jax

    folder, entries = folder.absolute(), jax.tree.map(np.asarray, _entries(state))
    partial, final = folder / f".partial-{step}", _path(folder, step)
    folder.mkdir(parents=True, exist_ok=True)
    _sweep(folder)
    needed = sum(leaf.nbytes for leaf in jax.tree.leaves(entries))
    try:
        if shutil.disk_usage(folder).free < needed + _SMALL_FILES:  # TensorStore's threads would each say so at length
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        partial.mkdir()
        with _checkpointer() as checkpointer:
            checkpointer.save(partial / "state", entries)
        (partial / "config.json").write_text(json.dumps(config, indent=2) + "\n")
        manifest.write(partial, manifest.describe(entries), score)
        for path in (*partial.rglob("*"), partial):
            _sync(path)
    except (OSError, ValueError) as error:  # TensorStore raises ValueError for whatever the disk says
        shutil.rmtree(partial, ignore_errors=True)
        free = shutil.disk_usage(folder).free / 1e6
        raise OSError(
            f"checkpoint {step} cannot be written to {folder}: {_reason(error)}; it needs about {needed / 1e6:.1f} MB, "
            f"and {free:.1f} MB are free there; earlier checkpoints are kept"
        ) from error
    if final.exists():
        _set_aside(final)
    os.replace(partial, final)
    _sync(folder)
    have = steps(folder)
    for old in {*have} - {step, *have[-keep:], best_step(folder) if keep_best else step}:
        _set_aside(_path(folder, old))
    _sweep(folder)


def steps(folder: Path) -> list[int]:
    """The steps whose checkpoints are complete, in order."""
    found = (path.parent for path in folder.glob(f"*/{manifest.NAME}") if path.parent.name.isdigit())
    return sorted(int(path.name) for path in found)


def latest_step(folder: Path) -> int | None:
    """The newest step with a complete checkpoint; None if there is none."""
    return max(steps(folder), default=None)


def best_step(folder: Path) -> int | None:
    """The step of the checkpoint with the lowest score, the first of equals; None if none has a finite score."""
    scores = [(_score(folder, step), step) for step in steps(folder)]
    return min(((score, step) for score, step in scores if np.isfinite(score)), default=(None, None))[1]


def read_config(folder: Path, step: int) -> dict[str, Any]:
    """The configuration saved with the checkpoint.

    Raises FileNotFoundError if there is no such checkpoint, ValueError if the file is damaged.
    """
    path = _require(folder, step)
    try:
        return read_json(path / "config.json")
    except (FileNotFoundError, ValueError) as error:
        raise _damaged(path, str(error).removeprefix(f"{path}/")) from None


def restore(folder: Path, step: int, like: State) -> State:
    """The arrays of a checkpoint, bit for bit, as a pytree like `like` of NumPy arrays.

    like: the state as it was saved, or a dict of some of its entries; its leaves give shapes and dtypes.
    Raises FileNotFoundError if there is no such checkpoint, ValueError if a file is damaged or missing, or if an array
    is not what `like` expects.
    """
    path = _require(folder, step)
    if what := manifest.damage(path):
        raise _damaged(path, what)
    return _read(path, like)


def restore_latest(folder: Path, like: State) -> tuple[int, State] | None:
    """(step, state) of the newest checkpoint that is not damaged; None if there is no checkpoint.

    The damaged ones after it are named in a warning and renamed, so that their steps can be saved again. With several
    processes each must call this, and sees the same folder; every one reads the whole state into its own memory.
    Raises ValueError if all checkpoints are damaged, or if an array is not what `like` expects.
    """
    import jax
    from jax.experimental import multihost_utils

    good, damaged = _newest_good(folder)
    step = int(multihost_utils.broadcast_one_to_all(np.int32(-1 if good is None else good)))
    if jax.process_index() == 0:  # and here every process has looked
        for unfinished in _unfinished(folder):
            log.warning("checkpoint %d was not finished; it is ignored", unfinished)
        for bad, what in damaged.items():
            log.warning("checkpoint %d is damaged (%s); going on from %d", bad, what, step)
            aside = _path(folder, bad).with_suffix(".damaged")
            shutil.rmtree(aside, ignore_errors=True)
            os.replace(_path(folder, bad), aside)
    return None if step < 0 else (step, _read(_path(folder, step), like))


def _newest_good(folder: Path) -> tuple[int | None, dict[int, str]]:
    """(step, what is wrong with each newer one); the step is None if there is no checkpoint at all."""
    damaged: dict[int, str] = {}
    for step in reversed(steps(folder)):
        what = manifest.damage(_path(folder, step))
        if what is None:
            return step, damaged
        damaged[step] = what
    if damaged:
        said = ", ".join(f"{step} ({what})" for step, what in damaged.items())
        raise ValueError(f"every checkpoint in {folder} is damaged: {said}; delete the folder to begin again")
    return None, {}


def _unfinished(folder: Path) -> list[int]:
    partial = {int(path.name.removeprefix(".partial-")) for path in folder.glob(".partial-[0-9]*")}
    named = {int(path.name) for path in folder.glob("*") if path.name.isdigit()}
    return sorted((partial | named) - {*steps(folder)})


def _read(path: Path, like: State) -> State:
    import jax
    import orbax.checkpoint as ocp

    entries = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), _entries(like))
    if what := manifest.misfit(manifest.read(path)["arrays"], manifest.describe(entries)):
        raise ValueError(
            f"checkpoint {path} does not fit this network: {what}; "
            "check model.channels, model.multipliers, model.num_blocks and model.attention_resolutions"
        )
    with _checkpointer() as checkpointer:
        arguments = ocp.args.PyTreeRestore(
            item=entries, restore_args=ocp.checkpoint_utils.construct_restore_args(entries), partial_restore=True
        )
        restored = checkpointer.restore(path.absolute() / "state", arguments)
    return restored if isinstance(like, dict) else type(like)(**restored)


def _checkpointer() -> Any:
    """Orbax, for this process alone: it waits for no other. Arrays go to disk as they are; floats hardly compress."""
    import jax
    import orbax.checkpoint as ocp

    logging.getLogger("absl").setLevel(logging.CRITICAL)  # what it logs as an error, it raises too
    me = jax.process_index()
    alone = ocp.options.MultiprocessingOptions(primary_host=me, active_processes={me})
    types = ocp.type_handlers
    arrays = types.create_type_handler_registry((np.ndarray, types.NumpyHandler(deepcopy_host_arrays=False)))
    handler = ocp.PyTreeCheckpointHandler(
        use_compression=False, multiprocessing_options=alone, type_handler_registry=arrays
    )
    return ocp.Checkpointer(handler, multiprocessing_options=alone)


def _entries(state: State) -> dict[str, Any]:
    return state if isinstance(state, dict) else state._asdict()


def _path(folder: Path, step: int) -> Path:
    return folder / f"{step:08d}"


def _require(folder: Path, step: int) -> Path:
    if step not in (have := steps(folder)):
        there = ", ".join(map(str, have)) or "none"
        raise FileNotFoundError(f"no checkpoint of step {step} in {folder}; there are: {there}")
    return _path(folder, step)


def _score(folder: Path, step: int) -> float:
    """Of a checkpoint; infinite if it has none, or if its manifest cannot be trusted."""
    try:
        score = manifest.read(_path(folder, step))["score"]
    except ValueError:
        score = None
    return np.inf if score is None else score


def _damaged(path: Path, what: str) -> ValueError:
    return ValueError(f"checkpoint {path} is damaged: {what}; delete it to use an earlier one")


def _reason(error: Exception) -> str:
    """What the system said, also where TensorStore wraps it in a paragraph."""
    code = re.search(r"os_error_code='(\d+)'", str(error))
    return os.strerror(int(code[1])) if code else getattr(error, "strerror", None) or str(error)


def _sync(path: Path) -> None:
    """Have the system put a file or folder on disk now."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _set_aside(checkpoint: Path) -> None:
    """Take the step's name away in one move, so that a kill while its files go leaves no half checkpoint under it."""
    os.replace(checkpoint, checkpoint.with_name(f".partial-old-{checkpoint.name}"))


def _sweep(folder: Path) -> None:
    """Delete what was left half written or half deleted."""
    for leftover in folder.glob(".partial-*"):
        shutil.rmtree(leftover)
