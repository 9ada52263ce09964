"""A network of continuous time, variance preserving: tAB3-DEIS in 7 network calls.

python -m examples.continuous_vp                 the network that comes along
python -m examples.continuous_vp RUN_FOLDER      one that train.py made, or models.convert
"""

import sys
from pathlib import Path

import jax
import numpy as np

import data
import deis
from eval.figures import image_grid, save_png
from examples import run
from models.sampling.draw import load_trained
from models.sampling.source import SHIPPED, find
from models.score import eps_fn


def main(checkpoint: str = str(SHIPPED), picture: str = "continuous_vp.png") -> None:
    """Draw 64 images with the network in the folder `checkpoint` and write them to `picture`."""
    source = find(checkpoint, None, "outputs")
    net = load_trained(source.path, source.step)
    label = jax.numpy.arange(64) % net.num_classes if net.num_classes else None  # a network with classes needs one each
    sampler_fn = deis.get_sampler(
        net.sde,
        eps_fn(net.network, net.sde, net.params, label),
        ts_phase="t",
        ts_order=2.0,  # nodes quadratic in t
        num_step=7,
        method="t_ab",
        ab_order=3,  # a cubic in t through the last four eps
    )
    x_0 = sampler_fn(net.sde.prior_sample(jax.random.key(0), (64, *net.image_shape)))
    save_png(Path(picture), image_grid(data.to_uint8(np.asarray(x_0), "round")))
    print(f"64 images, 7 network calls each: {picture}")


if __name__ == "__main__":
    run(main, *sys.argv[1:])
