"""What JAX should know before it starts. Does not import JAX."""

import importlib.metadata
import os
from pathlib import Path


def configure_jax() -> str:
    """Keep compiled code on disk, so that the next run starts in seconds; says where.

    To be called before JAX is imported; JAX_COMPILATION_CACHE_DIR in the environment names another folder.
    """
    cache = os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(Path("~/.cache/deis-jax").expanduser()))
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.5")
    return f"JAX {importlib.metadata.version('jax')}, compiled code kept in {cache}"
