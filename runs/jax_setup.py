"""Environment for JAX: compilation cache and CPU devices. Does not import JAX."""

import gc
import importlib.metadata
import os
from pathlib import Path


def configure_jax(batch_size: int | None = None) -> str:
    """Keep compiled code on disk, so that the next run starts in seconds, and use all cores; says what was done.

    To be called before JAX is imported. batch_size: images that are computed together. Without a GPU or TPU, JAX then
    sees as many devices as there are cores that this process may use, or the next smaller number that divides the
    batch: much of XLA's CPU code uses one core, and a device each keeps all of them busy. The jobs of a sweep have the
    devices of the first one.
    JAX_COMPILATION_CACHE_DIR and JAX_NUM_CPU_DEVICES in the environment come before these choices.
    """
    cache = os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(Path("~/.cache/deis-jax").expanduser()))
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.5")
    if batch_size is not None and "xla_force_host_platform_device_count" not in os.environ.get("XLA_FLAGS", ""):
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        devices = max(count for count in range(1, cores + 1) if batch_size % count == 0)
        os.environ.setdefault("JAX_NUM_CPU_DEVICES", str(devices))
    gc.set_threshold(100_000, 100)  # tracing makes objects by the hundred thousand, and few are garbage
    return f"JAX {importlib.metadata.version('jax')}, compiled code kept in {cache}"
