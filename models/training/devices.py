"""Processes and devices: how processes find each other, and how arrays are sharded over all their devices.

The devices of all processes form one mesh axis, "data"; one device is an axis of length one, and no special case.
"""

import io
import logging
import math
import os
import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any

import jax
import numpy as np
from jax.experimental.multihost_utils import ProcessFailureError, live_devices, process_allgather
from jax.sharding import AbstractMesh, Mesh, NamedSharding, PartitionSpec

Tree = Any

log = logging.getLogger(__name__)

REPLICATED, SHARDED = PartitionSpec(), PartitionSpec("data")  # a copy on every device; rows shared out over them
MODES = ("none", "auto", "slurm", "explicit")

_SLURM = ("SLURM_JOB_ID", "SLURM_STEP_NODELIST", "SLURM_NTASKS", "SLURM_PROCID", "SLURM_LOCALID")
_SMALL = 1024  # elements; gathering an array below this before each use costs more than replicating it


def connect(
    mode: str,
    coordinator: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
    survives: bool = False,
) -> None:
    """Make this process one of several that work together. To be called before anything else that starts JAX.

    mode:
        "none": this process is alone.
        "auto": whatever cluster JAX recognises by itself (Slurm, Open MPI, Kubernetes, Cloud TPU).
        "slurm": a step of a Slurm job, with one process per GPU, as in `srun --ntasks-per-node=8 --gpus-per-node=8`.
        "explicit": process `process_id` of `num_processes`, each using all devices it sees; `coordinator` is
            "HOST:PORT" of process 0, which must be free there and reachable from all others.
    survives: whether JAX lets this process live when another but process 0 has died, to be seen within 30 seconds by
        `wait_for_all`.

    Blocks until all processes have called it; JAX aborts them if one does not come within 5 minutes, and 2 to 5 minutes
    after one has died or left early, unless they survive it. Raises ValueError for a mode that this environment or the
    other arguments do not allow, RuntimeError if JAX has started already.
    """
    if mode not in MODES:
        raise ValueError(f"distributed must be one of {', '.join(MODES)}, got {mode!r}")
    # the service would catch SIGTERM in C++, so that it no longer ends the process, nor reaches Python
    jax.config.update("jax_enable_preemption_service", False)
    jax.config.update("jax_enable_recoverability", survives)
    start = partial(jax.distributed.initialize, heartbeat_timeout_seconds=30 if survives else 100)
    given = (coordinator, num_processes, process_id)
    if mode == "explicit":
        if coordinator is None or num_processes is None or process_id is None:
            said = ", ".join(map(str, given))
            raise ValueError(f"distributed=explicit needs coordinator, num_processes and process_id, got {said}")
        if not re.fullmatch(r".+:\d+", coordinator):
            raise ValueError(f"coordinator must be HOST:PORT of process 0, such as node1:9876, got {coordinator!r}")
        if not 0 <= process_id < num_processes:
            raise ValueError(f"process_id must be 0 to num_processes - 1 = {num_processes - 1}, got {process_id}")
        if process_id == 0:
            _require_free(coordinator)
        start(*given, cluster_detection_method="deactivate")
    elif given != (None, None, None):
        raise ValueError(f"coordinator, num_processes and process_id are for distributed=explicit, not for {mode}")
    elif mode == "auto":
        try:
            start()
        except ValueError as error:
            raise ValueError("distributed=auto found no cluster here; use distributed=explicit or none") from error
    elif mode == "slurm":
        if absent := [name for name in _SLURM if name not in os.environ]:
            raise ValueError(f"distributed=slurm needs {', '.join(absent)}, which srun sets; start the run with srun")
        start(cluster_detection_method="slurm")


def _require_free(coordinator: str) -> None:
    """Raise ValueError if the port of "HOST:PORT" cannot be listened at here, with which JAX would crash."""
    try:
        socket.create_server(("", int(coordinator.rpartition(":")[2]))).close()
    except (OSError, OverflowError) as error:
        reason = f"has a port that is not free here ({error})"
        raise ValueError(f"coordinator={coordinator} {reason}; choose another") from None


def agree(value: int) -> int:
    """The largest `value` that a process gives, the same in all, which must call it at the same step.

    Waits for the steps under way; costs nothing if this process is alone.
    """
    return int(np.max(process_allgather(np.int32(value))))


def wait_for_all() -> None:
    """Wait until all processes have come here. Raises ConnectionError if one of them has been lost."""
    if jax.process_count() == 1:
        return
    devices, lost = set(jax.devices()), set()
    try:
        with live_devices(jax.devices()) as alive:
            lost = devices - set(alive)
    except ProcessFailureError as error:
        lost |= set(error.failed_devices)
    if lost:
        names = ", ".join(map(str, sorted({device.process_index for device in lost})))
        raise ConnectionError(f"process {names} of {jax.process_count()} was lost; the same command goes on")


@contextmanager
def one_at_first() -> Iterator[None]:
    """Process 0 does the block, and keeps on disk what it makes; then the others do. Raises as `wait_for_all` does."""
    if jax.process_index() > 0:
        wait_for_all()
    yield
    if jax.process_index() == 0:
        wait_for_all()


def gather(arrays: dict[str, np.ndarray]) -> list[dict[str, np.ndarray]]:
    """What each process gives, in the order of processes, in all of them; bit for bit, and up to 2 GB of each.

    Waits for all. Raises as `wait_for_all` does.
    """
    if jax.process_count() == 1:
        return [arrays]
    wait_for_all()
    file = io.BytesIO()
    np.savez(file, **arrays)  # type: ignore[arg-type]
    mine = np.frombuffer(file.getvalue(), np.uint8)
    sizes = process_allgather(np.int32(mine.size))
    padded = np.pad(mine, (0, sizes.max() - mine.size))
    rows = process_allgather(padded)
    return [dict(np.load(io.BytesIO(row[:size].tobytes()))) for row, size in zip(rows, sizes, strict=True)]


def leave() -> None:
    """Part from the other processes, to be called last: process 0, without which JAX aborts the others, goes last."""
    if jax.process_count() > 1 and jax.process_index() > 0:
        jax.distributed.shutdown()
    elif jax.process_count() > 1:
        with suppress(ConnectionError):
            wait_for_all()


def mesh(rows: int = 0) -> Mesh:
    """All devices of all processes along one axis, "data", those of process 0 first. Starts JAX's devices.

    rows: images that are computed together. Where the devices are cores of this machine, no more are taken than share
        them equally: the jobs of a sweep have the devices that the first of them asked for.
    """
    devices = sorted(jax.devices(), key=lambda device: (device.process_index, device.id))
    if devices[0].platform == "cpu" and jax.process_count() == 1:
        devices = devices[: max(count for count in range(1, len(devices) + 1) if rows % count == 0)]
    return Mesh(np.array(devices), ("data",))


def shardings(shapes: Tree, mesh: Mesh | AbstractMesh, fsdp: bool) -> Tree:
    """A NamedSharding for every leaf of a pytree (an array, or a shape of `jax.eval_shape`).

    Without fsdp every array is replicated on all devices. With fsdp ("fully sharded data parallel", arXiv 2304.11277)
    each large array is sharded along its longest axis that the number of devices divides; arrays without such an axis,
    and small ones, stay replicated. A parameter, its moving average and Adam's moments are thus sharded alike.
    """

    def spec(shape: tuple[int, ...]) -> PartitionSpec:
        divisible = [axis for axis, length in enumerate(shape) if length % mesh.size == 0]
        if not fsdp or not divisible or math.prod(shape) < _SMALL:
            return REPLICATED
        longest = max(divisible, key=lambda axis: shape[axis])
        return PartitionSpec(*[None] * longest, "data")

    return jax.tree.map(lambda leaf: NamedSharding(mesh, spec(leaf.shape)), shapes)


def shard_tree(tree: Tree, shardings: Tree) -> Tree:
    """The arrays of `tree`, of which every process holds an equal copy, as global arrays with these shardings.

    Every device is sent its own shard from the host, without communication.
    """
    # jax.device_put would first send the whole of every array to every process, to compare them
    arrays, shard = jax.tree.map(np.asarray, tree), jax.make_array_from_callback
    return jax.tree.map(lambda array, sharding: shard(array.shape, sharding, array.__getitem__), arrays, shardings)


def shard_batch(tree: Tree, mesh: Mesh, batch_size: int) -> Tree:
    """Host arrays [b, ...] as global arrays [batch_size, ...], each device holding an equal run of consecutive rows.

    Every process gives either the whole batch (b = batch_size), the same in all, or its share: process p of P the
    rows p batch_size/P to (p+1) batch_size/P. The number of devices must divide batch_size. No communication.
    """
    shard = partial(jax.make_array_from_process_local_data, NamedSharding(mesh, SHARDED))
    return jax.tree.map(lambda rows: shard(rows, (batch_size, *rows.shape[1:])), tree)


def warn_of_idle(batch_size: int) -> None:
    """Say that this process's devices cannot share batches of samples, so that each computes the whole of every one."""
    count = jax.local_device_count()
    if batch_size % count and jax.process_index() == 0:
        log.warning("warning: %d devices cannot share batch_size=%d, and each computes all of it", count, batch_size)


def check_batch_size(batch_size: int, mesh: Mesh | AbstractMesh, accumulate: int = 1) -> None:
    """Raise ValueError, with the nearest size that works, unless devices share each of `accumulate` micro-batches."""
    unit = mesh.size * accumulate
    if batch_size < 1 or batch_size % unit:
        micro_batches = f" times the {accumulate} micro-batches of train.accumulate" if accumulate > 1 else ""
        raise ValueError(
            f"train.batch_size must be a multiple of the {mesh.size} devices{micro_batches}, got {batch_size}; "
            f"the nearest that works is {max(round(batch_size / unit), 1) * unit}"
        )
