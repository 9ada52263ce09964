"""The sampling loop of the published networks lowers for GPUs and TPUs, on one device and sharded over eight."""

import dataclasses
from typing import Any

import hydra
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AbstractMesh, AxisType, NamedSharding, PartitionSpec
from jobs import CONF
from omegaconf import OmegaConf

import deis
from models.config import UNetConfig
from models.score import eps_fn
from models.unet import network_of, shapes

pytestmark = pytest.mark.slow

BATCH = 64
SDE = deis.vp_linear()
TABLE = deis.tables.ddim(SDE, np.linspace(SDE.T, 1e-3, 11))


def published(name: str, dtype: str) -> UNetConfig:
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        options: Any = OmegaConf.to_container(hydra.compose(f"model/{name}").model)
    return dataclasses.replace(UNetConfig(**options), image_size=32, image_channels=3, dtype=dtype)


@pytest.mark.parametrize("devices", [1, 8])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", ["ddpm_cifar10", "ddpmpp_cifar10"])
def test_sampling_lowers_for_gpus_and_tpus(name: str, dtype: str, devices: int) -> None:
    """From abstract shapes alone: nothing is computed, and no such device is needed."""
    cfg = published(name, dtype)
    mesh = AbstractMesh((devices,), ("data",), axis_types=(AxisType.Auto,))

    def abstract(leaf: Any, *axes: str) -> jax.ShapeDtypeStruct:
        sharding = NamedSharding(mesh, PartitionSpec(*axes)) if devices > 1 else None
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)

    def draw(params: Any, x_T: jax.Array) -> jax.Array:
        return deis.sample(TABLE, eps_fn(network_of(cfg), SDE, params), x_T)

    params = jax.tree.map(abstract, shapes(cfg))
    x_T = abstract(jax.ShapeDtypeStruct((BATCH, 32, 32, 3), jnp.float32), "data")
    traced = jax.jit(draw).trace(params, x_T)
    for platform in ("cuda", "tpu"):
        text = traced.lower(lowering_platforms=(platform,)).as_text()
        assert f"num_partitions = {devices} " in text
        assert ('#sdy.sharding<@mesh, [{"data"}' in text) == (devices > 1), "the batch is sharded"
        element = {"float32": "f32", "bfloat16": "bf16"}[dtype]
        assert f"tensor<{BATCH}x32x32x128x{element}>" in text, "the first level's convolutions compute in this type"
        assert "stablehlo.while" in text, "the solver's steps are one loop"
