"""Devices and processes: the same training on one device, on eight, and on two processes; how arrays are sharded."""

import json
import os
import signal
import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from commands import free_port
from jax.sharding import AbstractMesh, AxisType, PartitionSpec

from models.training import devices

ROOT = Path(__file__).parents[3]
EIGHT = AbstractMesh((8,), ("data",), axis_types=(AxisType.Auto,))

# Trains twice: with the data on the devices and the state replicated; with the data streamed, the state sharded, and
# micro-batches.
TRAINING = """
import dataclasses, json, re, sys
import jax, numpy as np
from models.training import devices

options = json.loads(sys.argv[1])
jax.config.update("jax_num_cpu_devices", options.pop("num_devices"))
devices.connect(**options)

import deis
from data import batch_indices, stream
from models.config import UNetConfig
from models.training.config import ObjectiveConfig, OptimizerConfig
from models.training.step import init_state, make_optimizer, make_train_step
from models.unet import init, network_of

N, BATCH, STEPS = 96, 16, 12
rng = np.random.default_rng(0)
images = (rng.integers(0, 256, (N, 1, 1, 3)) // 2 + rng.integers(0, 128, (N, 8, 8, 3))).astype(np.uint8)
labels = rng.integers(0, 3, N, dtype=np.int32)
model = UNetConfig(16, [1], image_size=8, image_channels=3, num_classes=3, null_class=True, dropout=0.1)
optimizer = make_optimizer(OptimizerConfig(3e-3, 2, False, 0.9, 0.999, 1.0), 100)
objective = ObjectiveConfig(label_dropout=0.1)
mesh = devices.mesh()
first = jax.device_get(init_state(init(model, jax.random.key(0)), optimizer, jax.random.key(1)))
shapes = jax.eval_shape(lambda: first)

def train(fsdp, accumulate, batches):
    shardings = devices.shardings(shapes, mesh, fsdp)
    state = devices.shard_tree(first, shardings)
    step = make_train_step(
        network_of(model), deis.vp_linear(), objective, optimizer, 0.99, True, accumulate, shardings
    )
    batch, found = next(batches), []
    gradient = step.gradient.lower(state, *batch, np.int32(0)).compile()
    update = step.update.lower(state, gradient(state, *batch, np.int32(0))).compile()
    # compiled once: code that is called like this fails if what it is given is laid out otherwise than before
    step = dataclasses.replace(step, gradient=gradient, update=update)
    while batch:
        state, metrics = step(state, *batch)
        found.append([float(metrics["loss"]), float(metrics["grad_norm"]), float(metrics["param_norm"])])
        batch = next(batches, None)
    held = sum(leaf.addressable_shards[0].data.size for leaf in jax.tree.leaves(state))
    exchanges = re.findall(r"= (.*?) (all-[a-z]+|collective-[a-z]+|reduce-scatter)[(]", gradient.as_text())
    sizes = {}
    for printed, kind in exchanges:
        lengths = [[int(n) for n in axes.split(",") if n] for axes in re.findall(r"\\[([0-9,]*)\\]", printed)]
        sizes[kind] = sizes.get(kind, 0) + sum(int(np.prod(axes)) for axes in lengths)
    return {
        "metrics": found,
        "memory": gradient.memory_analysis().temp_size_in_bytes,
        "held": held / sum(leaf.size for leaf in jax.tree.leaves(state)),
        "exchanged": sizes,
    }

whole = devices.shard_tree((images, labels), devices.shardings((images, labels), mesh, fsdp=False))
indices = (batch_indices(N, BATCH, 0, step).astype(np.int32) for step in range(STEPS))
resident = train(False, 1, ((*whole, devices.shard_batch(index, mesh, BATCH)) for index in indices))
share = stream(images, labels, BATCH, 0, 0, STEPS, jax.process_index(), jax.process_count())
streamed = train(True, 2, ((*devices.shard_batch(batch, mesh, BATCH), None) for batch in share))
agreed = devices.agree(10 + jax.process_index())
if jax.process_index() == 0:
    parameters = sum(leaf.size for leaf in jax.tree.leaves(shapes.params))
    print(json.dumps({"devices": mesh.size, "agreed": agreed, "parameters": parameters,
                      "resident": resident, "streamed": streamed}))
"""


def run(
    code: str, arguments: list[dict[str, Any]], env: dict[str, str] | None = None, returncode: int = 0
) -> list[str]:
    """The lines printed by processes that run side by side, one for each of the `arguments`."""
    dropped = ("SLURM", "KUBERNETES")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(dropped)}
    environment |= {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", code, json.dumps(argument)],
            cwd=ROOT,
            env=environment | (env or {}),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for argument in arguments
    ]
    try:
        outputs = [process.communicate(timeout=600) for process in processes]
    finally:
        for process in processes:
            process.kill()
    for process, (_, errors) in zip(processes, outputs, strict=True):
        assert process.returncode == returncode, errors
    return [line for printed, _ in outputs for line in printed.splitlines()]


def test_one_device_eight_devices_and_two_processes_train_alike():
    """12 steps, with labels and flips, noise and dropout at random: the same loss, gradients and parameters.

    With fsdp a device holds its share of the state, micro-batches take less memory, and devices exchange gradients and
    parameters only.
    """
    alone = [{"mode": "none", "num_devices": count} for count in (1, 8)]
    pair = {"mode": "explicit", "coordinator": f"localhost:{free_port()}", "num_processes": 2, "num_devices": 1}
    lines = run(TRAINING, [*alone, pair | {"process_id": 0}, pair | {"process_id": 1}])
    one, eight, two = (json.loads(line) for line in lines if line.startswith("{"))  # Gloo prints lines of its own
    assert [(found["devices"], found["agreed"]) for found in (one, eight, two)] == [(1, 10), (8, 10), (2, 11)]

    expected = one["resident"]["metrics"]
    loss, grad_norm, _ = np.transpose(expected)
    assert np.mean(loss[-5:]) < 0.98 * np.mean(loss[:5])
    assert min(np.std(loss), np.std(grad_norm)) > 0.01, "flat curves cannot tell one training from another"
    for found in (one, eight, two):
        for way in ("resident", "streamed"):
            name = f"{found['devices']} devices, {way}"
            np.testing.assert_allclose(found[way]["metrics"], expected, rtol=1e-5, err_msg=name)
        assert found["resident"]["held"] == 1
        assert found["streamed"]["held"] < 0.1 + 1 / found["devices"]  # biases and scales are replicated
    assert one["streamed"]["memory"] < 0.7 * one["resident"]["memory"]
    assert one["resident"]["exchanged"] == {}
    assert set(eight["resident"]["exchanged"]) == {"all-reduce"}
    for way in ("resident", "streamed"):
        for kind, elements in eight[way]["exchanged"].items():
            assert elements < 1.1 * eight["parameters"] + 1000, f"{way}: {kind} of more than the parameters"


@pytest.mark.parametrize("mode", ["slurm", "auto"])
def test_a_slurm_step_is_recognised_and_can_be_terminated(mode):
    code = """
import json, os, signal, sys, time
from models.training import devices
devices.connect(**json.loads(sys.argv[1]))
import jax
print(jax.distributed.is_initialized(), jax.process_count(), flush=True)
os.kill(os.getpid(), signal.SIGTERM)
time.sleep(60)
"""
    slurm = {"JOB_ID": "7", "STEP_NODELIST": "localhost", "NTASKS": "1", "PROCID": "0", "LOCALID": "0"}
    env = {f"SLURM_{name}": value for name, value in slurm.items()} | {"JAX_COORDINATOR_PORT": str(free_port())}
    assert run(code, [{"mode": mode}], env=env, returncode=-signal.SIGTERM) == ["True 1"]


def test_no_cluster_is_found_where_there_is_none():
    code = """
from models.training import devices
try:
    devices.connect("auto")
except ValueError as error:
    print(error)
"""
    assert run(code, [{}]) == ["distributed=auto found no cluster here; use distributed=explicit or none"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("mpi",), "must be one of none, auto, slurm, explicit, got 'mpi'"),
        (("none", None, 2, 0), "process_id are for distributed=explicit, not for none"),
        (("explicit",), "needs coordinator, num_processes and process_id, got None, None, None"),
        (("explicit", "node1:99", 2), "got node1:99, 2, None"),
        (("explicit", "node1", 2, 0), "must be HOST:PORT"),
        (("explicit", "node1:99", 2, 2), "process_id must be 0 to num_processes - 1 = 1, got 2"),
        (("slurm",), "needs SLURM_JOB_ID, SLURM_STEP_NODELIST, .* start the run with srun"),
    ],
)
def test_impossible_connections_are_refused(arguments, message, monkeypatch):
    for name in [name for name in os.environ if name.startswith("SLURM")]:
        monkeypatch.delenv(name)
    with pytest.raises(ValueError, match=message):
        devices.connect(*arguments)


def test_a_port_that_another_program_has_is_refused():
    """JAX would end with a segmentation fault."""
    with socket.create_server(("", 0)) as other:
        taken = f"localhost:{other.getsockname()[1]}"
        for coordinator in (taken, "localhost:99999"):
            with pytest.raises(ValueError, match=f"{coordinator} has a port that is not free here .*; choose another"):
                devices.connect("explicit", coordinator, 2, 0)


@pytest.mark.parametrize(
    ("batch_size", "said"),
    [(16, []), (100, ["warning: 8 devices cannot share batch_size=100, and each computes all of it"])],
)
def test_devices_that_cannot_share_a_batch_are_told_of(batch_size, said, monkeypatch, caplog):
    monkeypatch.setattr(jax, "local_device_count", lambda: 8)
    devices.warn_of_idle(batch_size)
    assert caplog.messages == said


def test_which_arrays_are_sharded_and_along_which_axis():
    """Along the longest axis that 8 devices divide, if there is one and the array is not small."""
    shapes = {
        "vector": (4000,),
        "odd": (4001,),
        "rows": (64, 33),
        "kernel": (3, 3, 32, 64),
        "small": (512,),
        "step": (),
    }
    tree = {name: jax.ShapeDtypeStruct(shape, jnp.float32) for name, shape in shapes.items()}
    replicated = devices.shardings(tree, EIGHT, fsdp=False)
    assert {name: sharding.spec for name, sharding in replicated.items()} == dict.fromkeys(tree, PartitionSpec())
    assert {name: sharding.spec for name, sharding in devices.shardings(tree, EIGHT, fsdp=True).items()} == {
        "vector": PartitionSpec("data"),
        "odd": PartitionSpec(),
        "rows": PartitionSpec("data"),
        "kernel": PartitionSpec(None, None, None, "data"),
        "small": PartitionSpec(),
        "step": PartitionSpec(),
    }


@dataclass(frozen=True)
class Device:
    """What a mesh is made by."""

    process_index: int
    id: int
    platform: str
    client: None = None


@pytest.mark.parametrize(
    ("platform", "rows", "taken"),
    [("cpu", 0, 6), ("cpu", 128, 4), ("cpu", 12, 6), ("cpu", 7, 1), ("gpu", 128, 6), ("gpu", 7, 6)],
)
def test_cores_that_cannot_share_a_batch_are_left_out(platform, rows, taken, monkeypatch):
    """As in a sweep whose first job has another batch size; a GPU is never left idle without a word."""
    here = [Device(0, i, platform) for i in (2, 0, 1, 5, 4, 3)]
    monkeypatch.setattr(jax, "devices", lambda: here)
    assert [device.id for device in devices.mesh(rows).devices] == list(range(taken))


@pytest.mark.parametrize(
    ("batch_size", "accumulate", "nearest"), [(30, 1, 32), (3, 1, 8), (0, 1, 8), (67, 1, 64), (24, 2, 32), (40, 4, 32)]
)
def test_a_batch_must_be_shared_equally(batch_size, accumulate, nearest):
    with pytest.raises(ValueError, match=f"multiple of the 8 devices.*, got {batch_size}; .* is {nearest}$"):
        devices.check_batch_size(batch_size, EIGHT, accumulate)
    devices.check_batch_size(nearest, EIGHT, accumulate)
