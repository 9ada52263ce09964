"""Samples do not depend on the batch or on the devices it is laid over, on a pointwise network."""

import json
import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
from packaging.version import Version

CODE = """
import hashlib, json
from dataclasses import replace
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
import deis
from deis import tables, wrappers

sde = deis.vp_linear()
ts = deis.timesteps(sde, 6)
stochastic = replace(tables.ddim(sde, ts), g=np.linspace(1.0, 0.0, 6))
batch_axis = NamedSharding(Mesh(jax.devices(), "batch"), PartitionSpec("batch"))

def digest(x):
    return hashlib.sha256(np.asarray(x).tobytes()).hexdigest()

def pointwise(x, t):  # of exactly rounded operations: vectorised sin and tanh may round otherwise at an array's end
    return t * x / (1 + x * x) + 0.1 * x

def guided(x, t):
    net = lambda x, t, c: x / (1 + x * x) * (0.5 + 0.1 * c[:, None]) + 0.1 * t
    label = jnp.arange(len(x)) % 5
    return wrappers.classifier_free_guidance(net, label, 0 * label, 2.0)(x, t)

def batch_mean(x, t):  # not pointwise: this one needs its neighbours
    return x - jnp.mean(x, axis=0)

def collectives(table, eps_fn, x_T):
    program = jax.jit(lambda x: deis.sample(table, eps_fn, x, jax.random.key(2))).lower(x_T).compile().as_text()
    return [word for word in ("all-reduce", "all-gather", "all-to-all", "collective-permute") if word in program]

seeds = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(1), jnp.arange(64))
x_T = jax.vmap(lambda key: sde.prior_sample(key, (5,)))(seeds)
laid_out = jax.device_put(x_T, batch_axis)
found = {"devices": jax.device_count(), "samples": {}, "values": {}, "collectives": {}}
for name, table, eps_fn in (
    ("tAB", tables.t_ab(sde, ts), pointwise),
    ("stochastic", stochastic, pointwise),
    ("guided rhoRK", tables.rho_rk(sde, ts), guided),
):
    small = deis.sample(table, eps_fn, x_T[:7], jax.random.key(2))
    large = deis.sample(table, eps_fn, laid_out, jax.random.key(2))
    assert len(large.sharding.device_set) == jax.device_count()
    found["samples"][name] = [digest(small), digest(large[:7]), digest(large)]
    found["values"][name] = [np.asarray(small).tolist(), np.asarray(large).tolist()]
    found["collectives"][name] = collectives(table, eps_fn, laid_out)
found["collectives"]["batch mean"] = collectives(tables.t_ab(sde, ts), batch_mean, laid_out)
print(json.dumps(found))
"""


def run_on(devices: int) -> dict:
    root = Path(__file__).parents[3]
    environment = os.environ | {
        "XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={devices}",
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": str(root),
    }
    command = [sys.executable, "-c", CODE]
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def one_and_eight() -> tuple[dict, dict]:
    return run_on(1), run_on(8)


def test_samples_do_not_depend_on_batch_or_devices(one_and_eight):
    """Batches of 7 and 64, 1 and 8 devices, with and without noise and guidance: equal to float32's rounding."""
    one, eight = one_and_eight
    assert (one["devices"], eight["devices"]) == (1, 8)
    assert len(one["values"]) == 3
    for name, (small, large) in one["values"].items():
        np.testing.assert_allclose(large[:7], small, rtol=1e-5, atol=2e-5, err_msg=name)
        np.testing.assert_allclose(eight["values"][name][1], large, rtol=1e-5, atol=2e-5, err_msg=name)


@pytest.mark.skipif(
    Version(version("jaxlib")) >= Version("0.12"),
    reason="compiled for CPUs by jaxlib 0.12, an array's last elements are rounded without fused multiply-add",
)
def test_samples_are_bit_identical(one_and_eight):
    one, eight = one_and_eight
    assert one["samples"] == eight["samples"]
    for name, (small, first_of_large, _) in one["samples"].items():
        assert small == first_of_large, name


def test_devices_do_not_talk_to_each_other(one_and_eight):
    """The compiled loop holds no collective operation unless the network itself asks for one."""
    found = one_and_eight[1]["collectives"]
    assert found.pop("batch mean")
    assert found == {"tAB": [], "stochastic": [], "guided rhoRK": []}
