"""Samples of a mixture by the stochastic tables have the statistics of exact ones."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from reference import problem
from reference.mixture import MIXTURE
from reference.stochastic import LAMBDAS, field, first_order, other, second_order
from scipy.spatial.distance import cdist, pdist

import deis

pytestmark = pytest.mark.slow


def energy_distance(x, y):
    """The energy distance of two samples [n, d], 2 E|x - y| - E|x - x'| - E|y - y'|, zero for equal distributions."""
    n = len(x)
    return 2 * np.mean(cdist(x, y)) - 2 * (np.sum(pdist(x)) + np.sum(pdist(y))) / (n * (n - 1))


def samples(table, sde, num, rng, in_jax):
    """[num, 2] from the prior, by the loop of `deis.sample`, or by NumPy's, which is the quicker here."""
    if in_jax:
        eps_fn = jax.tree_util.Partial(MIXTURE.eps_fn(sde, jnp))
        noise_key, key = jax.random.split(jax.random.key(0))
        return np.asarray(deis.sample(table, eps_fn, sde.prior_sample(noise_key, (num, 2)), key), np.float64)
    draws = rng.standard_normal((table.nfe, num, 2))
    return problem.run(table, MIXTURE.eps_fn(sde), sde.prior_sample(rng, (num, 2)), draws)


@pytest.mark.parametrize("lam", LAMBDAS)
def test_samples_of_a_mixture(lam):
    """200 steps from the prior: mean, covariance and energy distance are those of exact samples of the marginal."""
    sde, rng, num = deis.vp_linear(), np.random.default_rng(0), 1000
    ts = deis.timesteps(sde, 200)
    s, sigma = sde.marginal(sde.t_0)

    def exact_samples():
        return s * MIXTURE.sample(rng, num) + sigma * rng.normal(size=(num, 2))

    exact = exact_samples()
    null = [energy_distance(exact_samples(), exact) for _ in range(30)]
    weight, mean, std = MIXTURE.weight, MIXTURE.mean, MIXTURE.std
    marginal_mean = s * weight @ mean
    spread = s * mean - marginal_mean
    covariance = np.eye(2) * (weight @ (s**2 * std**2 + sigma**2)) + (weight[:, None] * spread).T @ spread
    more = {name: build for name, (build, _) in (field(lam) | other(lam)).items()}
    for name, build in (first_order(lam) | second_order(lam) | more).items():
        table = build(sde, ts)
        x = samples(table, sde, num, rng, in_jax=name == "t_ab_sde 2")
        offset = (x.mean(axis=0) - marginal_mean) / np.sqrt(np.diag(covariance) / num)
        assert np.max(np.abs(offset)) < 3.5, name
        scale = np.sqrt(np.diag(covariance))
        error = (np.cov(x.T) - covariance) / np.outer(scale, scale) * np.sqrt(num / 2)
        assert np.max(np.abs(error)) < 3.5, name
        assert energy_distance(x, exact) < 2 * max(null), name
