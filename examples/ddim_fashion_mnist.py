"""DDIM on Fashion-MNIST with chosen steps and eta: an animation, and its FID beside that of diffusers' schedulers.

python -m examples.ddim_fashion_mnist                        20 steps, eta = 0
python -m examples.ddim_fashion_mnist --steps 50 --eta 0.5
python -m examples.ddim_fashion_mnist --diffusers            needs torch and diffusers; `make test-peers` installs both
"""

import argparse
from pathlib import Path

import jax
import numpy as np

import deis
from data import to_uint8
from data.config import as_trained
from eval.features.config import ExtractorConfig
from eval.figures import denoising_gif
from eval.metrics.measurement import MetricConfig, open_measurement
from examples import run
from models.sampling.draw import Trained, load_trained
from models.sampling.source import SHIPPED, find
from models.score import eps_fn

SCHEDULERS = {  # of diffusers: options beside the network's alpha_bar
    "DDIMScheduler": {"clip_sample": False},
    "PNDMScheduler": {"skip_prk_steps": True},
    "DEISMultistepScheduler": {},
    "DPMSolverMultistepScheduler": {},
    "UniPCMultistepScheduler": {},
}


def main() -> None:
    """Draw, animate and measure as the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=20, help="network calls")
    parser.add_argument("--eta", type=float, default=0.0, help="0 for DDIM, 1 for DDPM's noise")
    parser.add_argument("--num-samples", type=int, default=1000)
    parser.add_argument("--diffusers", action="store_true", help="measure diffusers' schedulers too")
    parser.add_argument("--gif", type=Path, default=Path("ddim_fashion_mnist.gif"))
    chosen = parser.parse_args()

    net = load_trained(SHIPPED, None)
    label = jax.numpy.arange(chosen.num_samples) % net.num_classes
    eps = eps_fn(net.network, net.sde, net.params, label)
    key, noise_key = jax.random.split(jax.random.key(0))
    x_T = net.sde.prior_sample(noise_key, (chosen.num_samples, *net.image_shape))
    ts = deis.timesteps(net.sde, chosen.steps, "t", order=2.0)
    ddim = deis.tables.ddim_eta(net.sde, ts, eta=chosen.eta)

    x_t, x_0 = deis.trajectory(ddim, eps_fn(net.network, net.sde, net.params, label[:16]), x_T[:16], key)
    denoising_gif(chosen.gif, np.asarray(x_t), np.asarray(x_0))
    print(f"{chosen.gif}, and FID of {chosen.num_samples} images in the features of a classifier:")
    print(f"{ddim.name}, quadratic in t: {fid(deis.sample(ddim, eps, x_T, key)):.2f}")
    if chosen.diffusers:
        tab3 = deis.tables.t_ab(net.sde, ts, order=3)
        print(f"{tab3.name}, quadratic in t: {fid(deis.sample(tab3, eps, x_T)):.2f}")
        for name in SCHEDULERS:
            print(f"diffusers' {name}: {fid(by_diffusers(name, chosen.steps, net, eps, x_T)):.2f}")


def fid(x_0: np.ndarray | jax.Array) -> float:
    """FID of images in [-1, 1] against the training images."""
    dataset = as_trained(find(str(SHIPPED), None, "outputs").config["dataset"])
    measurement = open_measurement(ExtractorConfig(), dataset, MetricConfig())
    measurement.add(to_uint8(np.asarray(x_0), "floor"))
    return measurement.result()["fid"]


def by_diffusers(name: str, steps: int, net: Trained, eps, x_T: jax.Array) -> np.ndarray:
    """Samples by a scheduler of diffusers as it comes; its time i is (i + 1) / 1000 of the network's."""
    import diffusers
    import torch

    alpha_bar = net.sde.s(np.linspace(0.0, net.sde.T, 1001)) ** 2
    scheduler = getattr(diffusers, name)(trained_betas=1 - alpha_bar[1:] / alpha_bar[:-1], **SCHEDULERS[name])
    scheduler.set_timesteps(steps)
    call, x = jax.jit(eps), torch.from_numpy(np.array(x_T))
    for t in scheduler.timesteps:
        eps_t = call(x.numpy(), (float(t) + 1) / 1000 * net.sde.T)
        x = scheduler.step(torch.from_numpy(np.array(eps_t)), t, x).prev_sample
    return x.numpy()


if __name__ == "__main__":
    run(main)
