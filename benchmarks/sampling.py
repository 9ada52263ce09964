"""Sampling beside diffusers, with the same network and the same weights.

    make .venv-peers/.ready && .venv-peers/bin/python -m benchmarks.sampling       minutes on two cores

The network of benchmarks.train_step, 1.6 M parameters, draws 32 images of 32x32x3 with 10 network calls of DDIM:
diffusers' scheduler and UNet2DModel in torch (eager, both memory layouts), and `deis.sample` with the network as
sample.py runs it. Each side is a process; they take turns, so that what else the machine does falls on all alike.
Prints medians, and the median over the rounds of our images/s by torch's: above 1, ours is faster.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.train_step import SIZE, ask, make, serve

BATCH, CALLS, ROUNDS = 32, 10, 15
SIDES = ("jax", "torch contiguous", "torch channels_last")


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        make(Path(folder))
        command = [sys.executable, "-m", "benchmarks.sampling", folder]
        workers = {
            side: subprocess.Popen([*command, side], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            for side in SIDES
        }
        first = {side: ask(worker) for side, worker in workers.items()}
        turns = [{side: ask(worker)["sample"] for side, worker in workers.items()} for _ in range(ROUNDS)]
        for worker in workers.values():
            worker.kill()
    sizes = [first[side]["size"] for side in ("jax", "torch contiguous")]
    print(f"mean |x_0| of the images: {sizes[0]:.5f} here, {sizes[1]:.5f} in torch")
    print("| side | images/s | ours / its |\n| --- | ---: | ---: |")
    for side in SIDES:
        speed = median(BATCH / turn[side] for turn in turns)
        ratio = median(turn[side] / turn["jax"] for turn in turns)
        print(f"| {side} | {speed:.1f} | {ratio:.2f} |")


def serve_torch(folder: Path, layout: str) -> None:
    import torch
    from diffusers import DDIMScheduler, UNet2DModel

    memory_format = torch.channels_last if layout == "channels_last" else torch.contiguous_format
    network = UNet2DModel.from_pretrained(folder).to(memory_format=memory_format).eval()
    scheduler = DDIMScheduler(clip_sample=False, set_alpha_to_one=False, steps_offset=1)
    scheduler.set_timesteps(CALLS)
    x_T = torch.as_tensor(noise()).permute(0, 3, 1, 2).contiguous(memory_format=memory_format)

    @torch.no_grad()
    def sample() -> Any:
        x = x_T
        for t in scheduler.timesteps:
            x = scheduler.step(network(x, t).sample, t, x).prev_sample
        return x

    serve({"sample": sample}, {"size": sample().abs().mean().item()})


def serve_jax(folder: Path) -> None:
    from runs.jax_setup import configure_jax

    os.environ["JAX_COMPILATION_CACHE_DIR"] = str(folder / "compiled")
    configure_jax(BATCH)
    import jax
    import jax.numpy as jnp
    import numpy as np
    from jax.sharding import Mesh, NamedSharding, PartitionSpec

    import deis
    from models import unet
    from models.published.diffusers import read_diffusers
    from models.score import eps_fn

    found = read_diffusers(folder)
    sde = deis.discrete_vp()
    table = deis.tables.ddim(sde, np.append(1.0 + 1000 // CALLS * np.arange(CALLS)[::-1], 0.0))  # the scheduler's times
    mesh = Mesh(np.array(jax.local_devices()), ("data",))
    params = jax.device_put(found.params, NamedSharding(mesh, PartitionSpec()))
    x_T = jax.device_put(noise(), NamedSharding(mesh, PartitionSpec("data")))
    eps = eps_fn(unet.network_of(found.model), sde, params)

    def sample() -> Any:
        return jax.block_until_ready(deis.sample(table, eps, x_T))

    serve({"sample": sample}, {"size": float(jnp.abs(sample()).mean())})


def noise() -> Any:
    """x_T [b, h, w, c]."""
    import numpy as np

    return np.random.default_rng(0).normal(size=(BATCH, SIZE, SIZE, 3)).astype(np.float32)


if __name__ == "__main__":
    if len(sys.argv) == 1:
        main()
    elif sys.argv[2] == "jax":
        serve_jax(Path(sys.argv[1]))
    else:
        serve_torch(Path(sys.argv[1]), sys.argv[2].split()[1])
