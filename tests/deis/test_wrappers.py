"""Wrappers around networks, each against a closed form on Gaussians."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import deis
from deis import tables, wrappers

SDES = {
    "vp_linear": deis.vp_linear(),
    "sub_vp": deis.sub_vp(),
    "ve": deis.ve(),
    "edm": deis.edm(),
    "discrete": deis.DiscreteVPSDE(np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))),
}
sdes = pytest.mark.parametrize("sde", SDES.values(), ids=SDES)

MEAN, STD = 0.4, 0.7
X = np.random.default_rng(0).normal(size=(5, 4, 3))


def times(sde):
    return np.linspace(sde.t_0 + 0.01 * sde.T, sde.T, 5)


def gaussian_x_0(sde, x, t):
    """E[x_0 | x_t = x] of x_0 ~ N(MEAN, STD^2)."""
    s, variance = sde.s(t), (sde.s(t) * STD) ** 2 + sde.sigma(t) ** 2
    return MEAN + s * STD**2 * (x - s * MEAN) / variance


def gaussian_eps(sde, x, t):
    """E[eps | x_t = x] of the same."""
    return sde.sigma(t) * (x - sde.s(t) * MEAN) / ((sde.s(t) * STD) ** 2 + sde.sigma(t) ** 2)


PREDICTED = {
    "eps": gaussian_eps,
    "x_0": gaussian_x_0,
    "v": lambda sde, x, t: sde.s(t) * gaussian_eps(sde, x, t) - sde.sigma(t) * gaussian_x_0(sde, x, t),
    "score": lambda sde, x, t: -(x - sde.s(t) * MEAN) / ((sde.s(t) * STD) ** 2 + sde.sigma(t) ** 2),
    "flow": lambda sde, x, t: gaussian_eps(sde, x, t) - gaussian_x_0(sde, x, t),
}


@sdes
@pytest.mark.parametrize("prediction", wrappers.PREDICTIONS)
def test_every_prediction_gives_the_same_eps(sde, prediction):
    eps_fn = wrappers.from_prediction(sde, lambda x, t: PREDICTED[prediction](sde, x, t), prediction)
    for t in times(sde):
        # x = s x_0 + sigma eps loses what x is larger than sigma by
        np.testing.assert_allclose(eps_fn(X, t), gaussian_eps(sde, X, t), rtol=0, atol=1e-15 / sde.sigma(t) + 1e-14)
    got = eps_fn(jnp.asarray(X, jnp.float32), jnp.float32(sde.T))
    assert got.dtype == jnp.float32
    np.testing.assert_allclose(got, gaussian_eps(sde, X, sde.T), rtol=0, atol=1e-5)


def test_an_unknown_prediction_is_named():
    with pytest.raises(ValueError, match="prediction must be one of eps, x_0, v, score, flow, got 'epsilon'"):
        wrappers.from_prediction(SDES["ve"], lambda x, t: x, "epsilon")


@sdes
def test_an_edm_denoiser_serves_every_sde(sde):
    def denoise(x, sigma):  # trained on x_0 + sigma eps, and knows no SDE
        return MEAN + STD**2 * (x - MEAN) / (STD**2 + sigma**2)

    eps_fn = wrappers.from_edm(sde, denoise)
    for t in times(sde):
        np.testing.assert_allclose(eps_fn(X, t), gaussian_eps(sde, X, t), rtol=0, atol=1e-15 / sde.rho(t) + 1e-14)


def test_discrete_time_is_the_nearest_index():
    asked = []

    def network(x, i):
        asked.append(i)
        return x

    for wrapped, ts, expected in (
        (wrappers.discrete_time(network, 1000), [0.0, 12.4, 12.6, 998.7, 999.0], [0, 12, 13, 999, 999]),
        (wrappers.discrete_time(network, 1000, lambda t: 1000 * t - 1), [1e-4, 0.001, 0.5, 1.0], [0, 0, 499, 999]),
        (wrappers.discrete_time(network, 1000, lambda t: t + 1), [0.0, 998.0, 999.0], [1, 999, 999]),
    ):
        asked.clear()
        for t in ts:
            wrapped(X, jnp.float32(t))
        assert [int(i) for i in asked] == expected
        assert all(i.dtype == jnp.int32 and i.shape == () for i in asked)


@pytest.mark.parametrize("weight", [0.0, 1.0, 2.5])
def test_classifier_free_guidance_is_one_call(weight):
    rng = np.random.default_rng(1)
    offset, scale = rng.normal(size=(2, 7))
    calls = []

    def network(x, t, label):
        calls.append(x.shape)
        return t * x * scale[label][:, None, None] + offset[label][:, None, None]

    label, null = np.array([0, 3, 1, 5, 2]), np.full(5, 6)
    got = wrappers.classifier_free_guidance(network, label, null, weight)(X, 0.3)
    assert calls == [(10, 4, 3)]
    expected = (1 - weight) * network(X, 0.3, null) + weight * network(X, 0.3, label)
    np.testing.assert_allclose(got, expected, rtol=1e-13)


def test_classifier_free_guidance_takes_embeddings():
    condition, null = np.random.default_rng(1).normal(size=(2, 5, 4, 3))
    guided = wrappers.classifier_free_guidance(lambda x, t, c: x * c + t, condition, null, 3.0)
    np.testing.assert_allclose(guided(X, 0.5), X * (null + 3 * (condition - null)) + 0.5, rtol=1e-12)


@sdes
def test_classifier_guidance_of_weight_1_is_bayes_rule(sde):
    """Two classes N(+-1, STD^2): eps of the mixture with the classifier's gradient is eps of the class."""

    def class_eps(x, t, mean):
        return sde.sigma(t) * (x - sde.s(t) * mean) / ((sde.s(t) * STD) ** 2 + sde.sigma(t) ** 2)

    def log_odds(x, t):
        return 2 * sde.s(t) * x / ((sde.s(t) * STD) ** 2 + sde.sigma(t) ** 2)

    def mixture_eps(x, t):
        share = 1 / (1 + np.exp(-log_odds(x, t)))
        return share * class_eps(x, t, 1.0) + (1 - share) * class_eps(x, t, -1.0)

    def gradient(x, t):
        """The gradient of log p(class +1 | x) = -log(1 + exp(-log_odds))."""
        return log_odds(1.0, t) / (1 + np.exp(log_odds(x, t)))

    for t in times(sde):
        guided = wrappers.classifier_guidance(sde, mixture_eps, gradient)(X, t)
        np.testing.assert_allclose(guided, class_eps(X, t, 1.0), rtol=0, atol=1e-13)
        stronger = wrappers.classifier_guidance(sde, mixture_eps, gradient, 3.0)(X, t)
        np.testing.assert_allclose(stronger - guided, 2 * (guided - mixture_eps(X, t)), rtol=0, atol=1e-13)


def predicted_x_0(sde, eps_fn, x, t):
    return (x - sde.sigma(t) * eps_fn(x, t)) / sde.s(t)


@sdes
def test_clipping(sde):
    def network(x, t):
        return 0.3 * x

    clipped = wrappers.clip_x_0(sde, network, -0.5, 0.8)
    for t in times(sde):
        before, after = predicted_x_0(sde, network, X, t), predicted_x_0(sde, clipped, X, t)
        np.testing.assert_allclose(after, np.clip(before, -0.5, 0.8), rtol=0, atol=1e-12)
        inside = (before >= -0.5) & (before <= 0.8)
        assert np.array_equal(clipped(X, t)[inside], network(X, t)[inside])
        if t < 0.5 * sde.T:
            assert 0 < inside.sum() < inside.size


def test_clipped_samples_stay_within_bounds():
    """The last DDIM step, to sigma = 0, ends on the predicted x_0."""
    sde = deis.vp_linear(t_0=0.0)
    table = tables.ddim(sde, deis.timesteps(sde, 5))
    x_T = sde.prior_sample(jax.random.key(0), (16, 8))
    free = deis.sample(table, lambda x, t: -0.5 * x, x_T)
    clipped = deis.sample(table, wrappers.clip_x_0(sde, lambda x, t: -0.5 * x), x_T)
    assert jnp.max(jnp.abs(free)) > 1.5
    assert float(jnp.max(jnp.abs(clipped))) == pytest.approx(1.0, abs=1e-6)


@pytest.mark.parametrize("percentile", [50.0, 90.0, 99.5])
@pytest.mark.parametrize("bound", [1.0, 2.0])
def test_dynamic_thresholding(percentile, bound):
    sde, scale = SDES["vp_linear"], np.array([0.1, 0.5, 1.0, 3.0, 10.0])[:, None, None]
    t = 0.4
    x_0 = X * scale
    x = sde.s(t) * x_0 + sde.sigma(t) * np.ones_like(X)
    after = predicted_x_0(sde, wrappers.threshold_x_0(sde, lambda x, t: np.ones_like(x), percentile, bound), x, t)
    limits = [max(np.percentile(np.abs(one), percentile), bound) for one in x_0]
    expected = np.stack([np.clip(one, -n, n) * bound / n for one, n in zip(x_0, limits, strict=True)])
    np.testing.assert_allclose(after, expected, rtol=0, atol=1e-12)
    assert max(limits) > bound == min(limits)


KNOWN = np.random.default_rng(2).uniform(-1, 1, (6, 4)).astype(np.float32)
MASK = np.array([True, False, True, False])


def correlated_eps(sde, covariance):
    """The perfect network of x_0 ~ N(0, covariance)."""
    values, axes = np.linalg.eigh(covariance)

    def eps_fn(x, t):
        gain = sde.sigma(t) / (sde.s(t) ** 2 * values + sde.sigma(t) ** 2)
        return (x @ axes * gain) @ axes.T

    return eps_fn


@pytest.mark.parametrize("build", [tables.t_ab, tables.ipndm, partial(tables.rho_rk, rk_method="3heun")])
def test_inpainting_keeps_known_pixels(build):
    """They end exactly (to float32 rounding) where they should, and on the way carry the noise of x_T."""
    sde = deis.vp_linear(t_0=0.0)
    table = build(sde, deis.timesteps(sde, 20))
    network = correlated_eps(sde, np.eye(4))
    x_T = sde.prior_sample(jax.random.key(0), KNOWN.shape)
    filled = wrappers.inpaint(sde, network, KNOWN, MASK)
    x_t, x_0 = deis.trajectory(table, filled, x_T)
    np.testing.assert_allclose(x_t[-1][:, MASK], KNOWN[:, MASK], rtol=0, atol=2e-6)
    np.testing.assert_allclose(x_0[:, :, MASK], np.broadcast_to(KNOWN[:, MASK], x_0[:, :, MASK].shape), atol=1e-4)
    z = (x_T - sde.s(sde.T) * KNOWN) / sde.sigma(sde.T)
    for x, s, sigma in zip(x_t, table.s, sde.sigma(table.t), strict=True):
        np.testing.assert_allclose(x[:, MASK], (s * KNOWN + sigma * z)[:, MASK], rtol=0, atol=2e-5)
    untouched = deis.sample(table, network, x_T)  # pixels are independent here
    np.testing.assert_allclose(x_t[-1][:, ~MASK], untouched[:, ~MASK], rtol=0, atol=1e-6)


def test_inpainted_pixels_follow_the_known_ones():
    """Neighbours of correlation 0.9: what is filled in grows with what is known, which a free sample ignores."""
    sde = deis.vp_linear(t_0=0.0)
    pair = np.array([[1.0, 0.9], [0.9, 1.0]])
    network = correlated_eps(sde, np.kron(np.eye(2), pair))
    table = tables.t_ab(sde, deis.timesteps(sde, 20))
    x_T = sde.prior_sample(jax.random.key(0), (2000, 4))
    known = np.random.default_rng(3).normal(size=(2000, 4)).astype(np.float32)
    filled = deis.sample(table, wrappers.inpaint(sde, network, known, MASK), x_T)
    free = deis.sample(table, network, x_T)
    for x, low, high in ((filled, 0.4, 0.9), (free, -0.1, 0.1)):
        slope = float(np.mean(np.asarray(x[:, 1]) * known[:, 0]))
        assert low < slope < high
