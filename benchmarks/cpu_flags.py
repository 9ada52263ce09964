"""Which XLA flags make training and sampling fastest on this CPU.

    python -m benchmarks.cpu_flags                          the default against the flags below
    python -m benchmarks.cpu_flags "--xla_flag_to_try=1"    the default against these, one argument a variant

XLA reads its flags once, so every variant is a process. All compile first and then take turns of some steps each, so
that whatever else the machine does falls on all alike. Prints medians of images/s, and ratios to the default.

Why train.py sets no such flag: on two cores of an AMD EPYC, training became 1.0 to 1.3 times as fast with jaxlib
0.10.2, but 0.8 to 1.1 times with 0.12.0.1, and a flag that a later release does not know ends the process.
"""

import json
import os
import statistics
import subprocess
import sys
import time
from typing import Any

# jaxlib 0.10.2 leaves products and convolutions to YNNPACK; the first of these only products, the second neither
YNN = "--xla_cpu_experimental_ynn_fusion_type="
FLAGS = [f"{YNN}LIBRARY_FUSION_TYPE_DOT", YNN]
CASES: dict[str, dict[str, Any]] = {
    "digits 8x8x1, batch 128": {"batch": 128, "image_size": 8, "image_channels": 1, "multipliers": [1, 2]},
    "small_cifar10 32x32x3, batch 32": {"batch": 32, "image_size": 32, "image_channels": 3, "multipliers": [1, 2, 2]},
}
ROUNDS = 15


def main() -> None:
    variants = ["", *(sys.argv[1:] or FLAGS)]
    for name, case in CASES.items():
        workers = [start(flags, case) for flags in variants]
        for worker in workers:
            ask(worker)  # compiled, and warm
        rounds = [[ask(worker) for worker in workers] for _ in range(ROUNDS)]
        for worker in workers:
            worker.kill()
        print(f"\n{name}: images/s, and times the default")
        for i, flags in enumerate(variants):
            cells = []
            for task in ("train", "forward"):
                speed = statistics.median(turn[i][task] for turn in rounds)
                ratio = statistics.median(turn[i][task] / turn[0][task] for turn in rounds)
                cells.append(f"{task} {speed:6.0f} ({ratio:.2f})")
            print(f"  {'   '.join(cells)}   {flags or 'default'}", flush=True)


def start(flags: str, case: dict[str, Any]) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-m", "benchmarks.cpu_flags", "--worker", json.dumps(case)],
        env=os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def ask(worker: "subprocess.Popen[str]") -> dict[str, float]:
    """One turn of a worker: images/s of each task."""
    assert worker.stdin is not None
    assert worker.stdout is not None
    print("go", file=worker.stdin, flush=True)
    return json.loads(worker.stdout.readline())


def work(batch: int, **options: Any) -> None:
    """Answer every line of stdin with the images/s of two training steps, and of two forward passes."""
    import jax

    import deis
    from models.config import UNetConfig
    from models.training import devices
    from models.training.config import ObjectiveConfig, OptimizerConfig
    from models.training.step import init_state, make_optimizer, make_train_step
    from models.unet import init, network_of

    cfg = UNetConfig(channels=32, num_blocks=1, attention_resolutions=[options["image_size"] // 2], **options)
    network, key = network_of(cfg), jax.random.key(0)
    optimizer = make_optimizer(OptimizerConfig(1e-3, 10, False, 0.9, 0.999, 1.0), 1000)
    forward = jax.jit(network.apply)
    state = init_state(init(cfg, key), optimizer, key)
    shardings = devices.shardings(state, devices.mesh(), fsdp=False)
    train_step = make_train_step(network, deis.vp_linear(), ObjectiveConfig(), optimizer, 0.999, False, 1, shardings)
    shape = (batch, options["image_size"], options["image_size"], options["image_channels"])
    images, x = jax.random.bits(key, shape, "uint8"), jax.random.normal(key, shape)
    times = jax.random.uniform(key, (batch,), maxval=999.0)
    for _ in sys.stdin:
        begin = time.perf_counter()
        for _ in range(2):
            state, _ = train_step(state, images, None, None)
        jax.block_until_ready(state)
        middle = time.perf_counter()
        for _ in range(2):
            jax.block_until_ready(forward(state.ema, x, times))
        end = time.perf_counter()
        print(json.dumps({"train": 2 * batch / (middle - begin), "forward": 2 * batch / (end - middle)}), flush=True)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--worker"]:
        work(**json.loads(sys.argv[2]))
    else:
        main()
