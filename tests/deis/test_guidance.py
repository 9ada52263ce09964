"""Rules of guidance against the papers' own formulas, written down plainly, in NumPy, JAX and torch."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import deis
from deis import guidance, wrappers

try:
    import torch
except ImportError:  # make test-peers has it
    torch = None

SDES = {"vp": (deis.vp_linear(), 0.4), "ve": (deis.ve(), 0.5), "discrete": (deis.discrete_vp(), 300.0)}
sdes = pytest.mark.parametrize(("sde", "t"), SDES.values(), ids=SDES)
X, LABEL_EPS, NULL_EPS = np.random.default_rng(0).normal(size=(3, 4, 6, 5, 2))
WEIGHT = 3.0


def denoised(sde, t, eps):
    """D, the predicted x_0."""
    return (X - sde.sigma(t) * eps) / sde.s(t)


def eps_of(sde, t, x_0):
    return (X - sde.s(t) * x_0) / sde.sigma(t)


def lins_rescale(v_pos, v_neg, weight, phi):
    """arXiv 2305.08891, section 3.4: guidance of outputs v, then eq. 15 and 16."""
    out = []
    for pos, neg in zip(v_pos, v_neg, strict=True):
        cfg = neg + weight * (pos - neg)
        rescaled = cfg * (np.std(pos) / np.std(cfg))
        out.append(phi * rescaled + (1 - phi) * cfg)
    return np.stack(out)


def sadats_apg(d_cond, d_uncond, weight, eta, r):
    """arXiv 2410.02416: normalise the difference of the denoised images, split it along d_cond, weigh its parts."""
    out = []
    for cond, uncond in zip(d_cond, d_uncond, strict=True):
        difference = cond - uncond
        if r is not None:
            difference = difference * min(1, r / np.linalg.norm(difference))
        axis = cond / np.linalg.norm(cond)
        parallel = np.sum(difference * axis) * axis
        out.append(cond + (weight - 1) * (difference - parallel + eta * parallel))
    return np.stack(out)


def in_every_library(make):
    """What `make(as_array)`, an eps_fn, answers at X: in NumPy; in JAX and torch it must be the same to 1e-6."""

    def compare(t):
        expected = make(np.asarray)(X, t)
        if torch is not None:
            in_torch = make(torch.from_numpy)(torch.from_numpy(X), torch.tensor(t, dtype=torch.float64))
            assert in_torch.dtype == torch.float64
            np.testing.assert_allclose(in_torch, expected, rtol=0, atol=1e-6)
        with jax.enable_x64(True):
            in_jax = jax.jit(make(jnp.asarray))(jnp.asarray(X), jnp.asarray(t))
            np.testing.assert_allclose(in_jax, expected, rtol=0, atol=1e-6)
        return expected

    return compare


def by_label(rule=guidance.linear, weight=WEIGHT):
    """Guidance of a network that answers LABEL_EPS to the label 1 and NULL_EPS to the label 0."""

    def make(as_array):
        table = as_array(np.stack([NULL_EPS, LABEL_EPS]))
        rows = as_array(np.repeat(np.arange(len(X)), 2))
        label, null = (as_array(np.full(len(X), value)) for value in (1, 0))
        return wrappers.classifier_free_guidance(lambda x, t, c: table[c, rows], label, null, weight, rule)

    return in_every_library(make)


@sdes
@pytest.mark.parametrize("phi", [0.0, 0.7, 1.0])
def test_rescale(sde, t, phi):
    s, sigma = sde.s(t), sde.sigma(t)
    v_pos, v_neg = (s * eps - sigma * denoised(sde, t, eps) for eps in (LABEL_EPS, NULL_EPS))
    v = lins_rescale(v_pos, v_neg, WEIGHT, phi)
    expected = (s * v + sigma * X) / (s**2 + sigma**2)
    np.testing.assert_allclose(by_label(guidance.rescaled(sde, phi))(t), expected, rtol=0, atol=1e-9)


@sdes
@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("norm", [None, 2.5, 1e6])
def test_projected(sde, t, eta, norm):
    x_0 = sadats_apg(denoised(sde, t, LABEL_EPS), denoised(sde, t, NULL_EPS), WEIGHT, eta, norm)
    found = by_label(guidance.projected(sde, eta, norm))(t)
    np.testing.assert_allclose(found, eps_of(sde, t, x_0), rtol=0, atol=1e-9)
    if eta == 1 and norm is None:
        np.testing.assert_allclose(found, by_label()(t), rtol=0, atol=1e-9)


@sdes
def test_interval(sde, t):
    """Guided at noise levels in (low, high], conditional to the last bit elsewhere."""
    rho, guided = float(sde.rho(t)), NULL_EPS + WEIGHT * (LABEL_EPS - NULL_EPS)
    for low, high, inside in ((0.5, 2, True), (0.5, 0.9, False), (1.1, 2, False), (0.0, np.inf, True)):
        found = by_label(weight=guidance.interval(sde, WEIGHT, low * rho, high * rho))(t)
        np.testing.assert_allclose(found, guided if inside else LABEL_EPS, rtol=0, atol=1e-12 if inside else 0)
    edges = [guidance.interval(deis.edm(), WEIGHT, *bounds)(np.float64(2.0)) for bounds in ((2.0, 3.0), (1.0, 2.0))]
    assert [float(edge) for edge in edges] == [1.0, WEIGHT]
    for high, expected in ((np.inf, WEIGHT), (1e9, 1.0)):  # where s = 0, the noise level is infinite
        assert float(guidance.interval(deis.flow(), WEIGHT, 0.0, high)(np.array(1.0))) == expected


def test_autoguidance():
    def make(as_array):
        good, bad = as_array(LABEL_EPS), as_array(NULL_EPS)
        return wrappers.autoguidance(lambda x, t: good + t, lambda x, t: bad + t, WEIGHT)

    d_1, d_0 = (denoised(deis.vp_linear(), 0.4, eps + 0.4) for eps in (LABEL_EPS, NULL_EPS))
    expected = eps_of(deis.vp_linear(), 0.4, WEIGHT * d_1 + (1 - WEIGHT) * d_0)  # the paper's D_w
    np.testing.assert_allclose(in_every_library(make)(0.4), expected, rtol=0, atol=1e-12)


@sdes
def test_rules_nest_and_clipping_sees_what_they_make(sde, t):
    rule = guidance.rescaled(sde, 0.5, guidance.projected(sde, 0.0, 3.0))
    weight = guidance.interval(sde, WEIGHT, 0.0, np.inf)
    free = by_label(rule, weight)(t)
    apg = sadats_apg(denoised(sde, t, LABEL_EPS), denoised(sde, t, NULL_EPS), WEIGHT, 0.0, 3.0)
    s, sigma = sde.s(t), sde.sigma(t)
    pos, guided = (s * eps_of(sde, t, x_0) - sigma * x_0 for x_0 in (denoised(sde, t, LABEL_EPS), apg))
    factor = np.std(pos, axis=(1, 2, 3), keepdims=True) / np.std(guided, axis=(1, 2, 3), keepdims=True)
    expected = (s * guided * (0.5 * factor + 0.5) + sigma * X) / (s**2 + sigma**2)
    np.testing.assert_allclose(free, expected, rtol=0, atol=1e-9)

    def make(change, as_array):
        good, bad = as_array(LABEL_EPS), as_array(NULL_EPS)
        return change(sde, wrappers.autoguidance(lambda x, t: good, lambda x, t: bad, weight, rule))

    clipped = in_every_library(partial(make, wrappers.clip_x_0))(t)
    np.testing.assert_allclose(denoised(sde, t, clipped), denoised(sde, t, free).clip(-1, 1), rtol=0, atol=1e-9)
    in_every_library(partial(make, wrappers.threshold_x_0))(t)


def test_sums_of_half_precision_are_wide():
    """A difference whose squares do not fit in float16."""
    sde, x = deis.vp_linear(), np.full((1, 200), 30.0, np.float16)
    for rule in (guidance.projected(sde, 0.0, 1.0), guidance.rescaled(sde)):
        found = rule(x, np.float16(0.4), x, np.linspace(-60, 60, 200).astype(np.float16)[None], 2.0)
        assert np.all(np.isfinite(found))
        assert np.any(found != x)
