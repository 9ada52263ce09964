"""FID's InceptionV3 beside torch-fidelity's in PyTorch, with the same random weights.

    make .venv-peers/.ready && .venv-peers/bin/python -m benchmarks.inception       two minutes on two cores

Both take batches of uint8 images of 32x32 as extractor=inception does, resize them as TensorFlow 1, and give features
and logits. Each side is a process; they take turns, so that what else the machine does falls on both alike. Prints
medians, and the median over the rounds of torch's time by ours: above 1, ours is faster.
"""

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.train_step import ask, serve

ROUNDS, SIZE = 9, 32


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "inception.pth")
        command = [sys.executable, "-m", "benchmarks.inception", path]
        subprocess.run([*command, "make"], check=True)
        workers = {
            side: subprocess.Popen([*command, side], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            for side in ("jax", "torch")
        }
        first = {side: ask(worker) for side, worker in workers.items()}
        turns = [{side: ask(worker)["batch"] for side, worker in workers.items()} for _ in range(ROUNDS)]
        for worker in workers.values():
            worker.kill()
    ours, theirs = (first[side]["answer"] for side in ("jax", "torch"))
    print(f"Mean feature {ours:.6f} and {theirs:.6f}; {first['jax']['first']:.1f} s to our first answer")
    images = first["jax"]["images"]
    for side in workers:
        print(f"{side}: {images / median(turn[side] for turn in turns):.1f} images/s")
    print(f"torch / ours: {median(turn['torch'] / turn['jax'] for turn in turns):.2f}")


def make(path: Path) -> None:
    """Write torch-fidelity's network with random weights that keep activations of a size."""
    import torch

    network = fidelity(None)
    for module in network.modules():
        if isinstance(module, torch.nn.Conv2d):
            torch.nn.init.kaiming_normal_(module.weight)
    torch.save(network.state_dict(), path)


def fidelity(path: Path | None) -> Any:
    """torch-fidelity's network, without the rest of the package, which needs torchvision; weights of a file."""
    from importlib import import_module
    from importlib.util import find_spec
    from types import ModuleType
    from unittest.mock import patch

    import torch

    found = find_spec("torch_fidelity")
    if found is None:
        raise SystemExit("torch-fidelity is not installed; make test-peers installs it")
    package = ModuleType("torch_fidelity")
    package.__path__ = list(found.submodule_search_locations or [])
    with patch.dict(sys.modules, {"torch_fidelity": package}):
        module = import_module("torch_fidelity.feature_extractor_inceptionv3")
    with patch.object(torch.nn.Module, "load_state_dict"), patch.object(torch, "load"):
        network = module.FeatureExtractorInceptionV3(
            "i", ["2048", "logits_unbiased"], feature_extractor_weights_path=""
        )
    if path is not None:
        network.load_state_dict(torch.load(path, weights_only=True))
    return network


def images(batch: int) -> Any:
    import numpy as np

    return np.random.default_rng(0).integers(0, 256, (batch, SIZE, SIZE, 3), np.uint8)


def serve_torch(path: Path) -> None:
    import torch

    from eval.features.inception import BATCH

    network = fidelity(path)
    pixels = torch.from_numpy(images(BATCH).transpose(0, 3, 1, 2).copy())

    def batch() -> Any:
        with torch.no_grad():
            return network(pixels)[0]

    run(batch, BATCH)


def serve_jax(path: Path) -> None:
    from runs.jax_setup import configure_jax

    configure_jax(64)
    from eval.features import inception
    from eval.features.config import ExtractorConfig

    extractor = inception.extractor(ExtractorConfig(name="inception", weights=str(path), resize="tf1"))
    pixels = images(inception.BATCH)
    run(lambda: extractor.features(pixels), inception.BATCH)


def run(batch: Callable[[], Any], count: int) -> None:
    start = time.perf_counter()
    answer = float(batch().mean())
    serve({"batch": batch}, {"answer": answer, "images": count, "first": time.perf_counter() - start})


if __name__ == "__main__":
    if len(sys.argv) == 1:
        main()
    else:
        {"make": make, "jax": serve_jax, "torch": serve_torch}[sys.argv[2]](Path(sys.argv[1]))
