"""Interpolation in x_T: two held-out images are encoded, and what lies between their noises (slerp) is decoded.

python -m examples.interpolation                 the network that comes along
python -m examples.interpolation RUN_FOLDER      one that train.py made, or models.convert
"""

import sys
from functools import partial
from pathlib import Path

import jax
import numpy as np

import data
import deis
from data.config import DatasetConfig
from deis.likelihood import decode, encode
from eval.figures import samples_picture
from eval.job import dataset_of
from examples import run
from models.sampling.draw import Trained, load_trained
from models.sampling.source import SHIPPED, find
from models.score import Labels, eps_fn

WEIGHTS = np.linspace(0.0, 1.0, 9)  # of the second image


def main(checkpoint: str = str(SHIPPED), picture: str = "interpolation.png") -> None:
    """Go between two images of each of the last five classes, by the network in `checkpoint`; write it to `picture`.

    Raises ValueError if there is no class of two held-out images.
    """
    source = find(checkpoint, None, "outputs")
    net, split = load_trained(source.path, source.step), data.load(dataset_of(source, DatasetConfig()), "test")
    every = np.zeros(len(split.images), int) if split.labels is None else split.labels
    classes, counts = np.unique(every, return_counts=True)
    label = classes[counts > 1][-5:]
    if len(label) == 0:
        raise ValueError("no class has two held-out images to go between")
    one, two = (split.images[[np.flatnonzero(every == each)[i] for each in label]] for i in (0, 1))
    between, calls = interpolate(net, one, two, jax.numpy.asarray(label) if net.num_classes else None)
    columns = {"first": one} | dict(zip(map("{:g}".format, WEIGHTS), between, strict=True)) | {"second": two}
    cells = {(f"class {c}", name): x[i][None] for i, c in enumerate(label) for name, x in columns.items()}
    samples_picture(Path(picture), cells)
    print(f"{len(label)} pairs, {calls} network calls each way: {picture}")


def interpolate(net: Trained, one: np.ndarray, two: np.ndarray, label: Labels) -> tuple[np.ndarray, int]:
    """(uint8 images [weight, b, h, w, c], network calls each way) from the uint8 images `one` to `two`, [b, h, w, c].

    Image i of both is of class label[i]. At the ends stand the images themselves, encoded and decoded.
    """
    eps = eps_fn(net.network, net.sde, net.params, label)
    ts, solver = deis.timesteps(net.sde, 10, "log"), partial(deis.tables.rho_rk, rk_method="3kutta")
    (a, calls), (b, _) = (encode(net.sde, eps, data.to_float(images), ts, solver) for images in (one, two))
    found = [decode(net.sde, eps, slerp(a, b, weight), ts, solver)[0] for weight in WEIGHTS]
    return data.to_uint8(np.stack(found), "round"), calls


def slerp(a: np.ndarray, b: np.ndarray, weight: float) -> np.ndarray:
    """From each a[i] (weight 0) to b[i] (weight 1) by equal angles: noises of one length keep it on the way."""
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    axes = tuple(range(1, a.ndim))
    length = [np.sqrt(np.sum(x**2, axes, keepdims=True)) for x in (a, b)]
    angle = np.arccos(np.sum(a * b, axes, keepdims=True) / (length[0] * length[1]))
    return ((np.sin((1 - weight) * angle) * a + np.sin(weight * angle) * b) / np.sin(angle)).astype(np.float32)


if __name__ == "__main__":
    run(main, *sys.argv[1:])
