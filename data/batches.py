"""The order of images in training batches, and the conversion between uint8 pixels and floats in [-1, 1]."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from jaxtyping import Int64

if TYPE_CHECKING:
    import jax

Array = TypeVar("Array", np.ndarray, "jax.Array")


def batch_indices(n: int, batch_size: int, seed: int, step: int) -> Int64[np.ndarray, " batch"]:
    """Return the indices of the images in batch number `step` (from 0), int64 [batch_size].

    The stream is one random permutation of the `n` images after another, cut into batches without regard to where a
    permutation ends; so every image is seen once per epoch, and a batch depends on (n, batch_size, seed, step) alone.
    """
    if n < 1 or batch_size < 1 or seed < 0 or step < 0:
        raise ValueError(f"need n, batch_size >= 1 and seed, step >= 0; got {n=}, {batch_size=}, {seed=}, {step=}")
    start, stop = step * batch_size, (step + 1) * batch_size
    parts = [
        _permutation(n, seed, epoch)[max(start - epoch * n, 0) : stop - epoch * n]
        for epoch in range(start // n, (stop - 1) // n + 1)
    ]
    return np.concatenate(parts)


@lru_cache(maxsize=4)
def _permutation(n: int, seed: int, epoch: int) -> Int64[np.ndarray, " n"]:
    generator = np.random.Generator(np.random.Philox(np.random.SeedSequence([seed, epoch])))
    return generator.permutation(n).astype(np.int64, copy=False)


def to_float(images: Array) -> Array:
    """Scale uint8 0..255 to float32 [-1, 1]: x / 127.5 - 1. Any shape; NumPy or JAX array in, the same kind out."""
    return images.astype(np.float32) / np.float32(127.5) - np.float32(1)


def to_uint8(x: Array, rounding: str = "round") -> Array:
    """Scale [-1, 1] to uint8 0..255, clipping what lies outside. Any shape; NumPy or JAX array in, the same kind out.

    Two quantisers are in use and differ by half a grey level on average, which FID notices: "round" takes the nearest
    level (EDM's generate.py; it undoes `to_float` exactly), "floor" the level below (score_sde's evaluation).
    `x` must be finite. Raises ValueError for another `rounding`.
    """
    offsets: dict[str, Any] = {"round": np.float32(128), "floor": np.float32(127.5)}
    if rounding not in offsets:
        raise ValueError(f'rounding={rounding!r} is not one of "round", "floor"')
    levels = x.astype(np.float32) * np.float32(127.5) + offsets[rounding]
    return levels.clip(0, 255).astype(np.uint8)
