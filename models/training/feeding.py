"""What every training step is given: images on the devices, in the order of (seed, step)."""

from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

import data
from models.training import devices

ON_DEVICE_BYTES = 1 << 30  # data sets up to this size lie on every device as a whole, if the choice is left to us


def feed(
    split: "data.Split", placement: str, batch_size: int, seed: int, start: int, stop: int, mesh: Mesh
) -> Iterator[tuple[Any, Any, Any]]:
    """What `train_step` takes for the steps start .. stop - 1 (from 0), one after the other: (images, labels, index).

    That is the whole data set on every device and the batch's places in it, so that a step sends a few bytes only; or,
    for a large data set, the batch itself, read ahead of time, and no index.
    placement: "device", "stream", or "auto", which is "device" up to ON_DEVICE_BYTES.
    """
    images, labels = split.images, split.labels
    if placement == "stream" or (placement == "auto" and images.nbytes > ON_DEVICE_BYTES):
        share = {"process_index": jax.process_index(), "process_count": jax.process_count()}
        for batch in data.stream(images, labels, batch_size, seed, start, stop, **share):
            yield *devices.lay_batch(batch, mesh, batch_size), None
        return
    on_device = devices.lay((images, labels), devices.shardings((images, labels), mesh, fsdp=False))
    for step in range(start, stop):
        index = data.batch_indices(len(images), batch_size, seed, step).astype(np.int32)
        yield *on_device, devices.lay_batch(index, mesh, batch_size)
