"""What the images cost a training step: the whole step beside one that is given the same batch every time.

    python -m benchmarks.input        three minutes on two cores

60,000 images of 32x32x3, batches of 64, the small CIFAR-10 network, as train.py runs it. Batches come from images that
lie on the device, from images in memory that are streamed, or are one batch on the device without any reading. These
take turns in random order, each with a state of its own. Prints medians, and the median over the rounds of each time by
that of the step without reading.
"""

import random
import time
from collections.abc import Iterator
from statistics import median
from typing import Any

from runs.jax_setup import configure_jax

BATCH, SIZE, COUNT, ROUNDS = 64, 32, 60_000, 30


def main() -> None:
    configure_jax(BATCH)
    import numpy as np

    import data
    from models.training import devices
    from models.training.feeding import feed

    mesh = devices.mesh()
    images = np.random.default_rng(0).integers(0, 256, (COUNT, SIZE, SIZE, 3), np.uint8)
    split = data.Split(images, None, 0)
    fixed = (devices.shard_batch(images[:BATCH], mesh, BATCH), None, None)

    def repeated() -> Iterator[Any]:
        while True:
            yield fixed

    batches = {"without reading": repeated()}
    for placement in ("device", "stream"):
        batches[placement] = feed(split, placement, BATCH, 0, 0, ROUNDS + 2, mesh)
    step, states = training(mesh, list(batches))

    def taken(name: str) -> float:
        import jax

        start = time.perf_counter()
        states[name], _ = step(states[name], *next(batches[name]))
        jax.block_until_ready(states[name])
        return time.perf_counter() - start

    for name in batches:
        taken(name)
    order, rng = list(batches), random.Random(0)
    rounds = [{name: taken(name) for name in rng.sample(order, len(order))} for _ in range(ROUNDS)]
    print("| images | step, ms | by the step without reading |\n| --- | ---: | ---: |")
    for name in order:
        ratio = median(one[name] / one[order[0]] for one in rounds)
        print(f"| {name} | {1e3 * median(one[name] for one in rounds):.0f} | {ratio:.3f} |")


def training(mesh: Any, names: list[str]) -> tuple[Any, dict[str, Any]]:
    """(train_step, a fresh state under every name)."""
    import jax

    import deis
    from models import unet
    from models.config import UNetConfig
    from models.training import devices
    from models.training.config import ObjectiveConfig, OptimizerConfig
    from models.training.step import init_state, make_optimizer, make_train_step

    cfg = UNetConfig(multipliers=[1, 2, 2], attention_resolutions=[16], image_size=SIZE, image_channels=3)
    optimizer = make_optimizer(OptimizerConfig(1e-3, 10, False, 0.9, 0.999, 1.0), 1000)
    key = jax.random.key(0)

    def first_state() -> Any:
        return init_state(unet.init(cfg, key), optimizer, key)

    shardings = devices.shardings(jax.eval_shape(first_state), mesh, fsdp=False)
    first = jax.jit(first_state, out_shardings=shardings)
    step = make_train_step(
        unet.network_of(cfg), deis.vp_linear(), ObjectiveConfig(), optimizer, 0.999, False, 1, shardings
    )
    return step, {name: first() for name in names}  # each its own state, to be donated


if __name__ == "__main__":
    main()
