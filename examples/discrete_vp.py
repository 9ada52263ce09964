"""A network of discrete times, as DDIM's and PNDM's of CelebA: tAB3-DEIS in 10 network calls, on whole times.

python -m models.convert ddim_celeba/ networks/celeba --time t_plus_1     from diffusers' folder of DDIM's network
python -m examples.discrete_vp networks/celeba
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
from models.sampling.source import find
from models.score import eps_fn


def main(checkpoint: str, picture: str = "discrete_vp.png") -> None:
    """Draw 16 images with the network in the folder `checkpoint` and write them to `picture`.

    Raises ValueError if the network is of continuous time.
    """
    source = find(checkpoint, None, "outputs")
    net = load_trained(source.path, source.step)
    ts = deis.timesteps(net.sde, 9, "quadratic")  # whole times; the tenth call steps from the time 0 to sigma = 0
    table = deis.tables.t_ab(net.sde, ts, order=3, denoise=True)
    x_T = net.sde.prior_sample(jax.random.key(0), (16, *net.image_shape))
    x_0 = deis.sample(table, eps_fn(net.network, net.sde, net.params), x_T)
    save_png(Path(picture), image_grid(data.to_uint8(np.asarray(x_0), "round")))
    print(f"{table.name} at the times {', '.join(f'{t:.0f}' for t in table.t[:-1])}: {picture}")


if __name__ == "__main__":
    run(main, *sys.argv[1:])
