"""PNDM on MNIST: 81 digits in a 9x9 grid by S-PNDM, and the same noise through F-PNDM and iPNDM.

python train.py experiment=mnist
python -m examples.pndm_mnist outputs/mnist/TIME
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


def main(checkpoint: str, folder: str = ".") -> None:
    """Draw with the network in the folder `checkpoint`, 20 network calls an image, and write the grids to `folder`."""
    source = find(checkpoint, None, "outputs")
    net = load_trained(source.path, source.step)
    x_T = net.sde.prior_sample(jax.random.key(0), (81, *net.image_shape))
    # S-PNDM calls the network once more than it has steps, F-PNDM nine times more
    for method, num_step in (("s_pndm", 19), ("f_pndm", 11), ("ipndm", 20)):
        table = deis.tables.build(net.sde, num_step=num_step, method=method)
        x_0 = deis.sample(table, eps_fn(net.network, net.sde, net.params), x_T)
        picture = Path(folder) / f"pndm_mnist_{method}.png"
        save_png(picture, image_grid(data.to_uint8(np.asarray(x_0), "round"), columns=9))
        print(f"{table.name}, {table.nfe} network calls: {picture}")


if __name__ == "__main__":
    run(main, *sys.argv[1:])
