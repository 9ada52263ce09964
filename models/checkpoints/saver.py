"""Saving checkpoints in the background, from a state that may lie on many devices of many processes."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from models.checkpoints import checkpoint
from models.checkpoints.checkpoint import State


class Saver:
    """Saves checkpoints in the background, one at a time; a context, at whose end the last one is written.

    keep: how many of the newest to keep; keep_best: the one with the lowest score so far too. written: what is written
    of a state in host memory. A write that failed raises its OSError at the next call, or at the end of the context.
    With several processes each makes these calls at the same steps, process 0 alone writes, and if it fails all raise.
    """

    def __init__(
        self, folder: Path, keep: int, keep_best: bool = False, written: Callable[[State], State] = lambda state: state
    ):
        self._folder, self._keep, self._keep_best, self._written = folder, keep, keep_best, written
        self._writer = ThreadPoolExecutor(1, "checkpoint")
        self._pending: Future[None] | None = None

    def save(self, step: int, state: State, config: dict[str, Any], score: float | None = None) -> None:
        """Copy the state to host memory and have it written; it may be donated or changed as soon as this returns.

        state: its arrays may be laid over the devices of several processes. Waits while the write before goes on.
        """
        self.wait()
        copy = _host_copy(state)
        if jax.process_index() == 0:
            arguments = (self._folder, step, self._written(copy), config, self._keep, self._keep_best, score)
            self._pending = self._writer.submit(checkpoint.save, *arguments)

    def wait(self) -> None:
        """Return when what was given to `save` is on disk. Raises OSError if it could not be written."""
        pending, self._pending = self._pending, None
        error = pending.exception() if pending is not None else None
        # told to all, or the others would go on and wait minutes for a process that has left
        failed = multihost_utils.broadcast_one_to_all(np.int32(error is not None))
        if error is not None:
            raise error
        if failed:
            raise OSError("process 0 could not write the last checkpoint; its error says why")

    def __enter__(self) -> "Saver":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None:
                self.wait()
            elif self._pending is not None:  # this process may be leaving alone
                self._pending.result()
        finally:
            self._writer.shutdown()


def _host_copy(state: State) -> State:
    """The state in host memory of its own; all processes but the first only send their parts, and get no arrays."""
    first = jax.process_index() == 0

    def copy(leaf: Any) -> np.ndarray | None:
        readable = not isinstance(leaf, jax.Array) or leaf.is_fully_addressable or leaf.is_fully_replicated
        whole = leaf if readable else multihost_utils.process_allgather(leaf, tiled=True)
        return np.array(whole) if first else None  # np.asarray would share the memory of an array on the CPU

    return jax.tree.map(copy, state)
