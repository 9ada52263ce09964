"""Samples of a mixture by the stochastic tables have the statistics of exact ones."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from reference.mixture import MIXTURE
from reference.stochastic import LAMBDAS, first_order, second_order

import deis

pytestmark = pytest.mark.slow


def energy_distance(x, y):
    """The energy distance of two samples [n, d], 2 E|x - y| - E|x - x'| - E|y - y'|, zero for equal distributions."""

    def mean_distance(a, b):
        return np.mean(np.sqrt(np.maximum(np.sum((a[:, None] - b[None]) ** 2, axis=2), 0)))

    n = len(x)
    unbiased = n / (n - 1)
    return 2 * mean_distance(x, y) - unbiased * (mean_distance(x, x) + mean_distance(y, y))


@pytest.mark.parametrize("lam", LAMBDAS)
def test_samples_of_a_mixture(lam):
    """200 steps from the prior: mean, covariance and energy distance are those of exact samples of the marginal."""
    sde, rng, num = deis.vp_linear(), np.random.default_rng(0), 1000
    ts = deis.timesteps(sde, 200)
    s, sigma = sde.marginal(sde.t_0)

    def exact_samples():
        return s * MIXTURE.sample(rng, num) + sigma * rng.normal(size=(num, 2))

    exact = exact_samples()
    null = [energy_distance(exact_samples(), exact) for _ in range(10)]
    weight, mean, std = MIXTURE.weight, MIXTURE.mean, MIXTURE.std
    marginal_mean = s * weight @ mean
    spread = s * mean - marginal_mean
    covariance = np.eye(2) * (weight @ (s**2 * std**2 + sigma**2)) + (weight[:, None] * spread).T @ spread
    eps_fn = jax.tree_util.Partial(MIXTURE.eps_fn(sde, jnp))

    for i, (name, build) in enumerate((first_order(lam) | second_order(lam)).items()):
        noise_key, key = jax.random.split(jax.random.key(i))
        x = np.asarray(deis.sample(build(sde, ts), eps_fn, sde.prior_sample(noise_key, (num, 2)), key), np.float64)
        offset = (x.mean(axis=0) - marginal_mean) / np.sqrt(np.diag(covariance) / num)
        assert np.max(np.abs(offset)) < 3.5, name
        scale = np.sqrt(np.diag(covariance))
        error = (np.cov(x.T) - covariance) / np.outer(scale, scale) * np.sqrt(num / 2)
        assert np.max(np.abs(error)) < 3.5, name
        assert energy_distance(x, exact) < 1.5 * max(null), name
