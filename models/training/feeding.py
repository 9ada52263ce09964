"""The input of every training step: images on the devices, in an order that follows from (seed, step)."""

from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

import data
from models.training import devices

ON_DEVICE_BYTES = 1 << 30  # data sets up to this size are replicated on all devices if placement is "auto"


def feed(
    split: "data.Split", placement: str, batch_size: int, seed: int, start: int, stop: int, mesh: Mesh
) -> Iterator[tuple[Any, Any, Any]]:
    """The arguments (images, labels, index) of `train_step` for the steps start to stop - 1, counted from 0, in order.

    placement: "device" replicates the whole data set on all devices and gives each step the indices of its batch, so
        that a step sends a few bytes only. "stream" reads batches ahead of time and gives each step its images, with
        index None. "auto" is "device" up to ON_DEVICE_BYTES, else "stream".
    """
    images, labels = split.images, split.labels
    if placement == "stream" or (placement == "auto" and images.nbytes > ON_DEVICE_BYTES):
        share = {"process_index": jax.process_index(), "process_count": jax.process_count()}
        for batch in data.stream(images, labels, batch_size, seed, start, stop, **share):
            yield *devices.shard_batch(batch, mesh, batch_size), None
        return
    on_device = devices.shard_tree((images, labels), devices.shardings((images, labels), mesh, fsdp=False))
    for step in range(start, stop):
        index = data.batch_indices(len(images), batch_size, seed, step).astype(np.int32)
        yield *on_device, devices.shard_batch(index, mesh, batch_size)
