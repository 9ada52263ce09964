"""The order of images in training batches, their reading, and uint8 pixels as floats in [-1, 1] and back."""

from functools import lru_cache
from typing import TYPE_CHECKING, TypeVar

import numpy as np
from jaxtyping import Int32, Int64, UInt8

if TYPE_CHECKING:
    import grain
    import jax

Array = TypeVar("Array", np.ndarray, "jax.Array")
Batch = tuple[UInt8[np.ndarray, "share h w c"], Int32[np.ndarray, " share"] | None]


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


def stream(
    images: UInt8[np.ndarray, "n h w c"],
    labels: Int32[np.ndarray, " n"] | None,
    batch_size: int,
    seed: int,
    start: int,
    stop: int,
    process_index: int = 0,
    process_count: int = 1,
    num_threads: int = 2,
    prefetch: int = 4,
) -> "grain.DatasetIterator[Batch]":
    """Iterate over batches number `start` to `stop` - 1 in the order of `batch_indices`, as (images, labels).

    A batch depends on its number alone: to resume at a step is to start there, with no iterator to be saved. Of
    several processes each reads only its own share of every batch, share = batch_size / process_count: the rows from
    process_index * share on.

    images: an array or a memory map; read by `num_threads` threads without holding up Python. A slow disk wants more.
    prefetch: batches held ready; host memory is prefetch * share * h * w * c bytes.

    Reading starts when the first batch is asked for, or by the iterator's start_prefetch(); close() ends it early.
    A failed read raises at its batch. Raises ValueError for shares that are not equal.
    """
    if process_count < 1 or batch_size % process_count or not 0 <= process_index < process_count:
        raise ValueError(
            f"a batch of {batch_size} cannot be shared equally by {process_count} processes, of which this is number "
            f"{process_index}; batch_size must be a multiple of process_count"
        )
    import grain

    share = batch_size // process_count

    def read(step: int) -> Batch:
        index = batch_indices(len(images), batch_size, seed, step)[process_index * share :][:share]
        return images[index], None if labels is None else labels[index]

    options = grain.ReadOptions(num_threads, prefetch_buffer_size=prefetch)
    return iter(grain.MapDataset.range(start, stop).map(read).to_iter_dataset(options))


def to_float(images: Array) -> Array:
    """Scale uint8 0..255 to float32 [-1, 1]: x / 127.5 - 1. Any shape; NumPy or JAX array in, the same kind out."""
    return images.astype(np.float32) / np.float32(127.5) - np.float32(1)


def to_uint8(x: Array, rounding: str = "round") -> Array:
    """Scale [-1, 1] to uint8 0..255, clipping what lies outside. Any shape; NumPy or JAX array in, the same kind out.

    Two quantisers are in use and differ by half a grey level on average, which FID notices: "round" takes the nearest
    level (EDM's generate.py; it undoes `to_float` exactly), "floor" the level below (score_sde's evaluation).
    `x` must be finite. Raises ValueError for another `rounding`.
    """
    if rounding not in ("round", "floor"):
        raise ValueError(f'rounding={rounding!r} is not one of "round", "floor"')
    levels = x.astype(np.float32) * np.float32(127.5) + np.float32(128 if rounding == "round" else 127.5)
    return levels.clip(0, 255).astype(np.uint8)
