"""Parameters in one vector: nothing is lost on the way there and back, and training is the same."""

import json
import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

import deis
from models.score import Network
from models.training.config import ObjectiveConfig
from models.training.packing import pack, pack_state, packed, unpack, unpack_state
from models.training.step import init_state, make_optimizer, make_train_step

ROOT = Path(__file__).parents[3]
RNG = np.random.default_rng(0)
PARAMS = {
    "scale": np.float32(0.3),
    "layers": {"b": RNG.normal(size=(2, 3)).astype(np.float32), "a": RNG.normal(size=5).astype(np.float32)},
}
ADAM = make_optimizer(1e-2, 1, 100, cosine_decay=False, b1=0.9, b2=0.99, clip_norm=0.1)


def assert_equal(got, wanted):
    assert_close(got, wanted, rtol=0, atol=0)


def assert_close(got, wanted, **tolerance):
    jax.tree.map(partial(np.testing.assert_allclose, **tolerance), got, wanted)


def test_a_vector_holds_all_parameters_and_zeros_behind_them():
    vector = pack(PARAMS, multiple=8)
    assert vector.shape == (16,)
    assert vector.dtype == np.float32
    np.testing.assert_array_equal(vector[12:], np.zeros(4))
    assert pack(PARAMS).shape == pack(PARAMS, multiple=6).shape == (12,)
    for found in (unpack(vector, PARAMS), unpack(jnp.asarray(vector), PARAMS), unpack(pack(PARAMS), PARAMS)):
        assert_equal(found, PARAMS)
    assert np.shares_memory(unpack(vector, PARAMS)["layers"]["b"], vector), "host memory is not copied"


def test_the_gradient_of_a_vector_is_the_vector_of_gradients():
    def loss(params):
        return params["scale"] * jnp.sum(params["layers"]["b"] ** 3) + jnp.sum(jnp.sin(params["layers"]["a"]))

    found = jax.jit(jax.grad(lambda vector: loss(unpack(vector, PARAMS))))(pack(PARAMS, multiple=8))
    np.testing.assert_allclose(found, pack(jax.grad(loss)(PARAMS), multiple=8), rtol=1e-6)


def test_a_state_is_saved_by_name_and_packed_again_for_other_devices():
    by_name = init_state(PARAMS, ADAM, jax.random.key(1))
    adam = jax.tree.map(lambda leaf: leaf + 2, by_name.opt_state)
    by_name = by_name._replace(ema=jax.tree.map(lambda leaf: leaf + 1, PARAMS), opt_state=adam)
    like = init_state(pack(PARAMS, multiple=8), ADAM, jax.random.key(1))
    state = pack_state(by_name, like, multiple=8)
    assert jax.tree.map(jnp.shape, state) == jax.tree.map(jnp.shape, like)
    assert_equal(unpack_state(state, PARAMS), by_name)
    np.testing.assert_array_equal(state.ema[:12], pack(PARAMS) + 1)
    assert pack_state(unpack_state(state, PARAMS), like, multiple=7).ema.shape == (14,)


def test_packed_parameters_train_like_named_ones():
    """With clipping, Adam and an average that all look at every parameter."""

    def apply(params, x, t, label, dropout_keys):
        layers = params["layers"]
        return params["scale"] * x + (layers["a"].sum() + layers["b"][0] @ layers["b"][1]) * jnp.tanh(x)

    network, images = Network(apply, time="t", input="x"), RNG.integers(0, 256, (16, 4, 4, 1), dtype=np.uint8)

    def trained(network, params):
        step = make_train_step(network, deis.vp_linear(), ObjectiveConfig(), ADAM, 0.99, flip=False, accumulate=1)
        state = init_state(params, ADAM, jax.random.key(0))
        for _ in range(5):
            state, metrics = step(state, images, None, None)
        return state, metrics

    by_name, metrics = trained(network, jax.tree.map(jnp.asarray, PARAMS))
    in_a_vector, same_metrics = trained(packed(network, PARAMS), pack(PARAMS, multiple=8))
    assert metrics["grad_norm"] > 0.1, "nothing was clipped"
    assert_close(same_metrics, metrics, rtol=1e-5)
    assert_close(unpack_state(in_a_vector, PARAMS), by_name, rtol=1e-5, atol=1e-7)
    np.testing.assert_array_equal(in_a_vector.params[12:], np.zeros(4))


# Prints what four devices exchange in a step of training a U-Net: whole on each, and in shares.
ON_FOUR_DEVICES = """
import json, re
import jax, numpy as np
import deis
from models import unet
from models.config import UNetConfig
from models.training.config import ObjectiveConfig
from models.training.packing import pack, packed
from models.training.step import init_state, make_optimizer, make_train_step
from models.training import devices

cfg, mesh = UNetConfig(8, [1], num_blocks=1, image_size=8, image_channels=3, dropout=0.1), devices.mesh()
network = packed(unet.network_of(cfg), unet.shapes(cfg))
optimizer = make_optimizer(1e-3, 1, 100, False, 0.9, 0.99, 1.0)
vector = pack(unet.init(cfg, jax.random.key(0)), mesh.size)
images = devices.lay_batch(np.zeros((8, 8, 8, 3), np.uint8), mesh, 8)
for fsdp in (False, True):
    state = init_state(vector, optimizer, jax.random.key(1))
    laid = devices.shardings(state, mesh, fsdp)
    step = make_train_step(network, deis.vp_linear(), ObjectiveConfig(), optimizer, 0.99, True, 1, laid)
    compiled = step.lower(devices.lay(state, laid), images, None, None).compile().as_text()
    exchanges = re.findall(r"= (.*?) (all-[a-z]+|collective-[a-z]+|reduce-scatter)[(]", compiled)
    print(json.dumps({"parameters": len(vector), "exchanges": exchanges}))
"""


def test_devices_exchange_parameters_once_a_step():
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": "4", "PYTHONPATH": str(ROOT)}
    environment |= {"JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}  # compiles sooner
    command = [sys.executable, "-c", ON_FOUR_DEVICES]
    printed = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
    whole, shares = map(json.loads, printed.splitlines())
    length = whole["parameters"]
    ((shape, kind),) = whole["exchanges"]
    assert kind == "all-reduce"
    assert f"f32[{length}]" in shape
    kinds = {kind: shape for shape, kind in shares["exchanges"]}
    assert f"f32[{length}]" in kinds.pop("all-gather")
    assert f"f32[{length // 4}]" in kinds.pop("reduce-scatter")
    assert set(kinds) == {"all-reduce"}, "of the loss and norms"
    assert len(shares["exchanges"]) <= 4
