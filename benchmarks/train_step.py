"""A forward pass and a training step beside PyTorch's, of the same network with the same weights.

    make .venv-peers/.ready && .venv-peers/bin/python -m benchmarks.train_step       minutes on two cores

diffusers' UNet2DModel with 1.6 M parameters at 32x32x3, batch 64, in torch (eager, both memory layouts), and the same
network read by models.published.diffusers, run as train.py and sample.py run it. Both sides compute the mean squared
error of eps, its gradient, clip it, and update by Adam and a moving average; ours draws the images, times and noise as
well, and takes the batch in four micro-batches (train.accumulate), as experiment=cifar10_small does, in a third of the
memory.
Each side is a process; they take turns, so that what else the machine does falls on all alike. JAX is there twice: the
process that compiles, as a first run does, and one that finds the code on disk, as all later runs do. That one starts
three times, since first steps differ. Prints medians, and the median over the rounds of torch's time by that of the
second: above 1, ours is faster.
"""

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

BATCH, MICRO_BATCHES, SIZE, ROUNDS = 64, 4, 32, 15
SIDES = ("jax compiling", "jax", "torch contiguous", "torch channels_last")
STARTS = ("jax compiling", "jax", "jax", "jax", "torch contiguous", "torch channels_last")


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "benchmarks.train_step", folder]
        subprocess.run([*command, "make"], check=True)
        workers: dict[str, subprocess.Popen[str]] = {}
        first: dict[str, list[dict[str, float]]] = {side: [] for side in SIDES}
        for side in STARTS:  # each alone; of several the last goes on
            if side in workers:
                workers[side].kill()
            workers[side] = subprocess.Popen([*command, side], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            first[side].append(ask(workers[side]))
        turns = [{side: ask(worker) for side, worker in workers.items()} for _ in range(ROUNDS)]
        for worker in workers.values():
            worker.kill()
    ours, theirs = (first[side][0] for side in ("jax", "torch contiguous"))
    print(f"{ours['parameters']:,.0f} parameters; difference of the two mean answers ", end="")
    print(f"{abs(ours['answer'] - theirs['answer']):.1e} of {ours['answer']:.3f}")
    cold, warm = (", ".join(f"{one['first']:.1f}" for one in first[side]) for side in SIDES[:2])
    print(f"JAX, the first step, compiling included: {cold} s; with the code of an earlier run: {warm} s")
    print(
        "| side | forward, ms | torch / ours | training step, ms | torch / ours |\n| --- | ---: | ---: | ---: | ---: |"
    )
    for side in SIDES:
        cells = []
        for task in ("forward", "train"):
            ratio = median(turn[side][task] / turn["jax"][task] for turn in turns)
            cells.append(f"{1e3 * median(turn[side][task] for turn in turns):.0f} | {ratio:.2f}")
        print(f"| {side} | {' | '.join(cells)} |")


def ask(worker: "subprocess.Popen[str]") -> dict[str, float]:
    assert worker.stdin is not None
    assert worker.stdout is not None
    print("go", file=worker.stdin, flush=True)
    return json.loads(worker.stdout.readline())


def make(folder: Path) -> None:
    """Write the network with torch's random weights."""
    import torch
    from diffusers import DDPMScheduler, UNet2DModel

    torch.manual_seed(0)
    network = UNet2DModel(
        sample_size=SIZE,
        block_out_channels=(32, 64, 64),
        layers_per_block=2,
        down_block_types=("DownBlock2D", "AttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=None,
        norm_num_groups=8,
        downsample_padding=0,
        flip_sin_to_cos=False,
        freq_shift=1,
    )
    network.save_pretrained(folder)
    DDPMScheduler().save_pretrained(folder)


def serve(tasks: dict[str, Callable[[], Any]], facts: dict[str, float]) -> None:
    """For every line read, print the seconds of each task; the first time, with the facts."""
    for _ in sys.stdin:
        taken = {}
        for name, task in tasks.items():
            start = time.perf_counter()
            task()
            taken[name] = time.perf_counter() - start
        print(json.dumps(taken | facts), flush=True)


def serve_torch(folder: Path, layout: str) -> None:
    import torch
    from diffusers import UNet2DModel

    shape = torch.channels_last if layout == "channels_last" else torch.contiguous_format
    network = UNet2DModel.from_pretrained(folder).to(memory_format=shape).train()
    ema = [parameter.detach().clone() for parameter in network.parameters()]
    optimizer = torch.optim.Adam(network.parameters(), 1e-3)
    x, t = (torch.as_tensor(a) for a in inputs())
    x = x.permute(0, 3, 1, 2).contiguous(memory_format=shape)
    eps = torch.randn_like(x)

    def forward() -> Any:
        with torch.no_grad():
            return network(x, t).sample

    def train() -> None:
        optimizer.zero_grad(set_to_none=True)
        ((network(x, t).sample - eps) ** 2).mean().backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        torch._foreach_lerp_(ema, [parameter.data for parameter in network.parameters()], 0.001)

    answer = forward().abs().mean().item()
    serve({"forward": forward, "train": train}, {"answer": answer})


def serve_jax(folder: Path) -> None:
    from runs.jax_setup import configure_jax

    os.environ["JAX_COMPILATION_CACHE_DIR"] = str(folder / "compiled")
    configure_jax(BATCH // MICRO_BATCHES)
    import jax
    import numpy as np

    import deis
    from models import unet
    from models.published.diffusers import read_diffusers
    from models.training import devices
    from models.training.config import ObjectiveConfig, OptimizerConfig
    from models.training.step import init_state, make_optimizer, make_train_step

    found, mesh = read_diffusers(folder), devices.mesh()
    network = unet.network_of(found.model)
    optimizer = make_optimizer(OptimizerConfig(1e-3, 10, False, 0.9, 0.999, 1.0), 1000)
    state = jax.jit(lambda params: init_state(params, optimizer, jax.random.key(0)))(found.params)
    shardings = devices.shardings(state, mesh, fsdp=False)
    state = devices.shard_tree(state, shardings)
    step = make_train_step(
        network, deis.vp_linear(), ObjectiveConfig(), optimizer, 0.999, False, MICRO_BATCHES, shardings
    )
    call = jax.jit(network.apply)
    x, t = devices.shard_batch(inputs(), mesh, BATCH)
    images = devices.shard_batch(np.zeros((BATCH, SIZE, SIZE, 3), np.uint8), mesh, BATCH)

    def forward() -> Any:
        return jax.block_until_ready(call(state.ema, x, t))

    def train() -> None:
        nonlocal state
        state, _ = step(state, images, None, None)
        jax.block_until_ready(state)

    facts = {"answer": float(abs(forward()).mean()), "parameters": unet.num_params(found.params)}
    start = time.perf_counter()
    train()
    facts["first"] = time.perf_counter() - start
    serve({"forward": forward, "train": train}, facts)


def inputs() -> tuple[Any, Any]:
    """Images [b, h, w, c] and times [b] in [0, 999]."""
    import numpy as np

    rng = np.random.default_rng(0)
    return rng.normal(size=(BATCH, SIZE, SIZE, 3)).astype(np.float32), np.linspace(0, 999, BATCH, dtype=np.float32)


if __name__ == "__main__":
    if len(sys.argv) == 1:
        main()
    elif sys.argv[2] == "make":
        with contextlib.redirect_stdout(sys.stderr):
            make(Path(sys.argv[1]))
    elif sys.argv[2].startswith("jax"):
        serve_jax(Path(sys.argv[1]))
    else:
        serve_torch(Path(sys.argv[1]), sys.argv[2].split()[1])
