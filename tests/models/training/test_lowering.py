"""The training step lowers for GPUs and TPUs at published size: from shapes alone, with no such device here."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import AbstractMesh, AxisType, NamedSharding
from jobs import job

import deis
from models.config import UNetConfig
from models.training import devices
from models.training.config import ObjectiveConfig, OptimizerConfig
from models.training.step import init_state, make_optimizer, make_train_step
from models.unet import network_of, shapes

pytestmark = pytest.mark.slow

BATCH_SIZE = 128


def lowered(model: UNetConfig, num_devices: int, fsdp: bool, accumulate: int, platform: str) -> tuple[str, str]:
    """(gradient, update) of the training step for devices of this platform, as StableHLO."""
    mesh = AbstractMesh((num_devices,), ("data",), axis_types=(AxisType.Auto,))
    optimizer = make_optimizer(OptimizerConfig(2e-4, 5000, False, 0.9, 0.999, 1.0), 800_000)

    def abstract(tree: Any, shardings: Any) -> Any:
        return jax.tree.map(lambda a, s: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=s), tree, shardings)

    state = jax.eval_shape(lambda params: init_state(params, optimizer, jax.random.key(0)), shapes(model))
    shardings = devices.shardings(state, mesh, fsdp)
    state = abstract(state, shardings)
    network, sde = network_of(model), deis.vp_linear()
    step = make_train_step(network, sde, ObjectiveConfig(), optimizer, 0.9999, True, accumulate, shardings)
    images = jax.ShapeDtypeStruct((BATCH_SIZE, 32, 32, 3), jnp.uint8, sharding=NamedSharding(mesh, devices.SHARDED))
    i = jax.ShapeDtypeStruct((), jnp.int32)
    gradient = step.gradient.trace(state, images, None, None, i)
    grad, *others = jax.eval_shape(step.gradient, state, images, None, None, i)
    sums = (abstract(grad, shardings.params), *others)
    programs = (
        gradient.lower(lowering_platforms=(platform,)),
        step.update.trace(state, sums).lower(lowering_platforms=(platform,)),
    )
    return programs[0].as_text(), programs[1].as_text()


# each network, dtype, platform and number of devices, though not every combination: one takes seconds
@pytest.mark.parametrize(
    ("name", "dtype", "num_devices", "fsdp", "accumulate", "platform"),
    [
        ("ddpm_cifar10", "bfloat16", 8, True, 2, "cuda"),
        ("ddpm_cifar10", "float32", 8, False, 1, "tpu"),
        ("ddpmpp_cifar10", "float32", 1, False, 1, "cuda"),
    ],
)
def test_the_training_step_lowers(
    name: str, dtype: str, num_devices: int, fsdp: bool, accumulate: int, platform: str
) -> None:
    options = job("train", "dataset=cifar10", f"model={name}", f"model.dtype={dtype}").model
    model = dataclasses.replace(options, image_size=32, image_channels=3)
    gradient, update = lowered(model, num_devices, fsdp, accumulate, platform)
    rows, element = BATCH_SIZE // accumulate, {"float32": "f32", "bfloat16": "bf16"}[dtype]
    convolutions = [line for line in gradient.splitlines() if "stablehlo.convolution" in line]
    assert any(f"-> tensor<{rows}x32x32x128x{element}>" in line for line in convolutions), "the whole micro-batch"
    for program, sharded in ((gradient, True), (update, fsdp)):
        assert f"mhlo.num_partitions = {num_devices} : i32" in program
        assert num_devices == 1 or sharded == ('{"data"}' in program)
