"""Saving checkpoints in the background with Orbax, from a state that may be sharded over several processes."""

import errno
import math
import os
import re
import shutil
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils

from models.checkpoints import checkpoint
from models.checkpoints.checkpoint import Records, State

_SMALL_FILES = 200_000  # bytes of a checkpoint beside its arrays, and to spare
_UNNAMED = ocp.utils.TMP_DIR_SUFFIX  # a step has it in its name while Orbax writes it


class Saver(AbstractContextManager["Saver"]):
    """Saves checkpoints in the background, one at a time; a context, at whose end the last one is written.

    keep: how many of the newest to keep, None for all; keep_best: keep the one with the lowest score so far too.
    Killed at any moment, it leaves the checkpoints of other steps as they were and no half one under a step's name.
    A write that failed raises its OSError at the next call, or at the end of the context; earlier checkpoints are kept.
    With several processes each makes these calls at the same steps, process 0 alone writes, and if it fails all raise.
    """

    def __init__(self, folder: Path, keep: int | None, keep_best: bool = False):
        self._folder, self._keep, self._keep_best = folder.absolute(), keep, keep_best
        self._writing: ocp.CheckpointManager | Exception | None = None
        self._what = ""

    def save(
        self, step: int, state: State, config: dict[str, Any], score: float | None = None, unlogged: Records = ()
    ) -> None:
        """Copy the state to host memory and have it written, when the write before has ended.

        state: it may be sharded over several processes, and donated or changed as soon as this returns.
        score: the lower, the better. unlogged: metrics of steps whose line in the log is still to come.
        """
        self.wait()
        state = jax.tree.map(_host_array, state)
        if jax.process_index() == 0:
            size = sum(leaf.nbytes for leaf in jax.tree.leaves(state))
            self._what = f"checkpoint {step}, about {size / 1e6:.1f} MB,"
            try:
                self._folder.mkdir(parents=True, exist_ok=True)
                if shutil.disk_usage(self._folder).free < size + _SMALL_FILES:  # each thread of Orbax would complain
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                self._writing = self._begin(step, state, config, score, unlogged)
            except (OSError, ValueError) as error:
                self._writing = error

    def wait(self) -> None:
        """Return when what was given to `save` is on disk. Raises OSError if it could not be written."""
        error = self._end()
        # told to all, or the others would go on and wait minutes for a process that has left
        if multihost_utils.broadcast_one_to_all(np.int32(error is not None)):
            raise error or OSError("process 0 could not write the last checkpoint; its error says why")

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self.wait()
        elif error := self._end():  # this process may be leaving alone
            raise error

    def _begin(
        self, step: int, state: State, config: dict[str, Any], score: float | None, unlogged: Records
    ) -> ocp.CheckpointManager:
        """A manager that is writing the checkpoint of `step`, and then deletes those that are no longer kept."""
        scores = checkpoint.scores(self._folder) | {step: score}
        finite = {at: value for at, value in scores.items() if value is not None and math.isfinite(value)}
        best = min(finite, key=finite.__getitem__, default=step)  # the first of equals
        kept = ocp.checkpoint_managers
        policies = [kept.LatestN(self._keep), kept.CustomSteps([best] if self._keep_best else [])]

        def seal() -> None:  # called when the arrays are written, before the step gets its name
            checkpoint.seal(next(self._folder.glob(f"{step:08d}{_UNNAMED}*")), config, score, unlogged)

        handler, alone = checkpoint.array_handler()
        registry = ocp.handlers.DefaultCheckpointHandlerRegistry()
        registry.add("state", ocp.args.PyTreeSave, handler)
        options = ocp.CheckpointManagerOptions(
            create=False,
            step_format_fixed_length=8,
            preservation_policy=kept.AnyPreservationPolicy(policies),
            todelete_subdir=".partial-old",  # old steps lose their name in one move, before their files are deleted
            save_root_metadata=False,
            lightweight_initialize=True,  # Orbax's notes on other steps are not read: no checksum covers them
            async_options=ocp.options.AsyncOptions(post_finalization_callback=seal),
            multiprocessing_options=alone,
        )
        manager = ocp.CheckpointManager(self._folder, options=options, handler_registry=registry)
        manager.save(step, args=ocp.args.Composite(state=ocp.args.PyTreeSave(state)), force=True)
        return manager

    def _end(self) -> OSError | None:
        """Wait for the write under way, if any; the error that it ended with."""
        if jax.process_index() > 0:
            return None
        writing, self._writing = self._writing, None
        try:
            if isinstance(writing, ocp.CheckpointManager):
                writing.close()
        except (OSError, ValueError) as error:  # TensorStore raises ValueError for whatever the disk says
            writing = error
        for leftover in (*self._folder.glob(".partial-*"), *self._folder.glob(f"*{_UNNAMED}*")):
            shutil.rmtree(leftover, ignore_errors=True)  # threads of a failed write may still be at it; then next time
        if not isinstance(writing, Exception):
            return None
        # what the system said, which TensorStore wraps in a paragraph
        code = re.search(r"os_error_code='(\d+)'", str(writing))
        reason = os.strerror(int(code[1])) if code else getattr(writing, "strerror", None) or str(writing)
        free = f"{shutil.disk_usage(self._folder).free / 1e6:.1f} MB are free there; earlier checkpoints are kept"
        return OSError(f"{self._what} cannot be written to {self._folder}: {reason}; {free}")


def _host_array(leaf: Any) -> np.ndarray:
    """A whole array in host memory; all processes must ask for it if it is sharded over them."""
    readable = not isinstance(leaf, jax.Array) or leaf.is_fully_addressable or leaf.is_fully_replicated
    return np.asarray(leaf if readable else multihost_utils.process_allgather(leaf, tiled=True))
