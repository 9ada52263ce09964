"""A small network with random weights, as a folder that sample.py and eval.table take for a published one."""

from pathlib import Path
from typing import Any

import jax
import numpy as np
from commands import TINY
from jobs import job

from models.config import UNetConfig
from models.published.network import PublishedNetwork, write_published
from models.unet import shapes


def options(*overrides: str) -> Any:
    """The options of train.py for the tests' small network on the embedded data set, 8x8 digits."""
    return job("train", *TINY, *overrides)


def random_weights(model: UNetConfig) -> dict[str, Any]:
    """Parameters of which none is zero, as some of a fresh network are."""
    generator = np.random.default_rng(0)
    return jax.tree.map(lambda leaf: generator.normal(0.0, 0.2, leaf.shape).astype(np.float32), shapes(model))


def write(folder: Path, *overrides: str) -> Path:
    """Save such a network into `folder`; returns it."""
    job = options("model.image_size=8", "model.image_channels=1", *overrides)
    params, dataset = random_weights(job.model), vars(job.dataset)
    write_published(folder, PublishedNetwork("unet", "random", job.model, job.sde, params, dataset))
    return folder
