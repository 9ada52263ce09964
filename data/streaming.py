"""Batches of a data set that is too large for the device, read ahead of the training loop by grain's threads."""

import grain
import numpy as np
from jaxtyping import Int32, UInt8

from data.batches import batch_indices

Batch = tuple[UInt8[np.ndarray, "share h w c"], Int32[np.ndarray, " share"] | None]


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
    share = batch_size // process_count

    def read(step: int) -> Batch:
        index = batch_indices(len(images), batch_size, seed, step)[process_index * share :][:share]
        return images[index], None if labels is None else labels[index]

    options = grain.ReadOptions(num_threads, prefetch_buffer_size=prefetch)
    return iter(grain.MapDataset.range(start, stop).map(read).to_iter_dataset(options))
