"""The example that measures diffusers' schedulers beside ours gives both the same images where they are the same."""

from dataclasses import replace

import jax
import numpy as np
import pytest

import deis
from examples import ddim_fashion_mnist
from models.sampling.draw import load_trained
from models.sampling.source import SHIPPED
from models.score import eps_fn

pytest.importorskip("diffusers", reason="compares with diffusers; make test-peers installs it")


def test_ddim_of_the_example_is_ours() -> None:
    net = load_trained(SHIPPED, None)
    eps = eps_fn(net.network, net.sde, net.params, jax.numpy.arange(4))
    x_T = net.sde.prior_sample(jax.random.key(0), (4, *net.image_shape))
    theirs = ddim_fashion_mnist.by_diffusers("DDIMScheduler", 10, net, eps, x_T)
    ts = np.append(np.arange(901, 0, -100), 0.0) / 1000 * net.sde.T  # "leading", then to sigma = 0
    ours = deis.sample(deis.tables.ddim(replace(net.sde, t_0=0.0), ts), eps, x_T)
    np.testing.assert_allclose(theirs, ours, atol=1e-4)
