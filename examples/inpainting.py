"""Inpainting: of held-out images the upper half is kept, and the lower half filled in from three noises.

python -m examples.inpainting                 the network that comes along
python -m examples.inpainting RUN_FOLDER      one that train.py made, or models.convert
"""

import sys
from pathlib import Path

import jax
import numpy as np

import data
import deis
from data.config import DatasetConfig
from deis.wrappers import inpaint
from eval.figures import samples_picture
from eval.job import dataset_of
from examples import run
from models.sampling.draw import Trained, load_trained
from models.sampling.source import SHIPPED, find
from models.score import Labels, eps_fn


def main(checkpoint: str = str(SHIPPED), picture: str = "inpainting.png") -> None:
    """Fill in images of the first ten classes with the network in `checkpoint` and write a sheet to `picture`."""
    source = find(checkpoint, None, "outputs")
    net, split = load_trained(source.path, source.step), data.load(dataset_of(source, DatasetConfig()), "test")
    every = np.arange(len(split.images)) if split.labels is None else split.labels
    chosen = np.unique(every, return_index=True)[1][:10]  # the first image of each class
    images, label = split.images[chosen], jax.numpy.asarray(every[chosen]) if net.num_classes else None
    mask = np.zeros(net.image_shape, bool)
    mask[: len(mask) // 2] = True  # what is known

    rows = {"image": images, "known": np.where(mask, images, np.uint8(128))}
    rows |= {f"noise {seed}": x for seed, x in enumerate(fill_in(net, images, mask, label, number=3))}
    columns = [f"#{index}" for index in chosen]  # of the test split
    cells = {(row, column): x[None] for row, found in rows.items() for column, x in zip(columns, found, strict=True)}
    samples_picture(Path(picture), cells)
    print(f"{len(images)} images, filled in three times in 11 network calls: {picture}")


def fill_in(net: Trained, images: np.ndarray, mask: np.ndarray, label: Labels, number: int) -> list[np.ndarray]:
    """The uint8 images [b, h, w, c], drawn anew where the boolean mask is False, from each of `number` noises."""
    eps = inpaint(net.sde, eps_fn(net.network, net.sde, net.params, label), data.to_float(images), mask)
    # the last call steps to sigma = 0, where the known pixels are exact
    table = deis.tables.t_ab(net.sde, deis.timesteps(net.sde, 10, "t", order=2.0), order=3, denoise=True)
    noises = [net.sde.prior_sample(jax.random.key(seed), images.shape) for seed in range(number)]
    return [data.to_uint8(np.asarray(deis.sample(table, eps, x_T)), "round") for x_T in noises]


if __name__ == "__main__":
    run(main, *sys.argv[1:])
