"""The training step lowers for GPUs and TPUs: networks at published size, from shapes alone, with no such device here."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import AbstractMesh, NamedSharding
from jobs import job

import deis
from models.config import UNetConfig
from models.training import devices
from models.training.config import ObjectiveConfig
from models.training.step import init_state, make_optimizer, make_train_step
from models.unet import init, network_of


def lowered(model: UNetConfig, num_devices: int, fsdp: bool, accumulate: int, platform: str) -> Any:
    """The training step of CIFAR-10 with a batch of 128, lowered for devices of this platform."""
    mesh, optimizer = (
        AbstractMesh((num_devices,), ("data",)),
        make_optimizer(2e-4, 5000, 800_000, False, 0.9, 0.999, 1.0),
    )

    def first_state() -> Any:
        key = jax.random.key(0)
        return init_state(init(model, key), optimizer, key)

    state = jax.eval_shape(first_state)
    shardings = devices.shardings(state, mesh, fsdp)
    step = make_train_step(
        network_of(model), deis.vp_linear(), ObjectiveConfig(), optimizer, 0.9999, True, accumulate, shardings
    )
    state = jax.tree.map(lambda leaf, s: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=s), state, shardings)
    images = jax.ShapeDtypeStruct((128, 32, 32, 3), jnp.uint8, sharding=NamedSharding(mesh, devices.SHARDED))
    return step.trace(state, images, None, None).lower(lowering_platforms=(platform,))
