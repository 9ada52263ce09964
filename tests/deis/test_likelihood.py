"""Log-likelihood and encoding, against densities and trajectories that are known exactly."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from reference import loop
from reference.mixture import Mixture
from scipy.stats import norm

import deis
from deis import adaptive, likelihood, tables

pytestmark = pytest.mark.slow

SDES = {"vp_linear": deis.vp_linear(), "ve": deis.ve()}
sdes = pytest.mark.parametrize("name", SDES)

# its mean is 0, so that x_T is the prior's up to the square of s_T
MIXTURE = Mixture(
    weight=np.array([0.5, 0.3, 0.2]),
    mean=np.array([[0.6, -0.6], [-0.7, 0.2], [-0.45, 1.2]]),
    std=np.array([0.45, 0.6, 0.5]),
)
EPS_FNS = {name: MIXTURE.eps_fn(sde, jnp) for name, sde in SDES.items()}

ADAMS_BASHFORTH = partial(tables.log_rho_ab, order=3)


def data(sde, batch=64):
    """Points at t_0, [batch, 2] float64."""
    rng = np.random.default_rng(0)
    return sde.s(sde.t_0) * MIXTURE.sample(rng, batch) + sde.sigma(sde.t_0) * rng.normal(size=(batch, 2))


def exact_log_prob(sde, x):
    """(of the data, of the model, whose x_T is the prior's) [batch] each."""
    log_p = MIXTURE.log_density(x, sde.s(sde.t_0), sde.sigma(sde.t_0))
    x_T = MIXTURE.flow(sde, x, np.array([sde.t_0, sde.T]))[-1]
    gap = sde.prior_logp(x_T) - MIXTURE.log_density(x_T, sde.s(sde.T), sde.sigma(sde.T))
    return log_p, log_p + gap


def flow_of(sde, num_step, solver):
    return partial(likelihood.encode, ts=deis.timesteps(sde, num_step, "rho", 7.0), solver=solver)


@sdes
def test_log_prob_of_a_mixture(name):
    """Within 1e-3 nats at 40 network calls, and rhoRK converges on the same."""
    sde, x_0 = SDES[name], data(SDES[name])
    of_data, of_model = exact_log_prob(sde, x_0)
    x_0 = jnp.asarray(x_0, jnp.float32)
    log_p, nfe = likelihood.log_prob(sde, EPS_FNS[name], x_0, flow_of(sde, 40, ADAMS_BASHFORTH))
    assert nfe == 40
    assert log_p.shape == (64,)
    np.testing.assert_allclose(log_p, of_model, rtol=0, atol=1e-3)
    assert np.mean(np.abs(log_p - of_data)) < 5e-4

    errors = []
    for num_step in (10, 16):
        log_p, nfe = likelihood.log_prob(sde, EPS_FNS[name], x_0, flow_of(sde, num_step, tables.rho_rk))
        assert nfe == 3 * num_step
        errors.append(np.mean(np.abs(log_p - of_model)))
    assert errors[1] < 0.5 * errors[0] < 0.05


def test_log_prob_by_the_adaptive_solver():
    sde = SDES["vp_linear"]
    x_0 = data(sde)
    flow = partial(adaptive.encode, rtol=1e-5, atol=1e-5)
    log_p, nfe = likelihood.log_prob(sde, EPS_FNS["vp_linear"], jnp.asarray(x_0, jnp.float32), flow)
    np.testing.assert_allclose(log_p, exact_log_prob(sde, x_0)[1], rtol=0, atol=1e-3)
    assert 50 < nfe < 200


@pytest.mark.parametrize(("trace", "fresh"), [("rademacher", False), ("rademacher", True), ("gaussian", False)])
def test_random_traces_are_unbiased(trace, fresh):
    """The mean over 4,000 probes lies within 4 standard errors of the exact trace's answer."""
    sde, keys = SDES["vp_linear"], jax.random.split(jax.random.key(0), 4000)
    log_prob = partial(likelihood.log_prob, sde, EPS_FNS["vp_linear"], flow=flow_of(sde, 20, ADAMS_BASHFORTH))
    x_0 = jnp.broadcast_to(jnp.array([0.1, 0.3]), (4000, 2))
    estimates = log_prob(x_0, trace=trace, key=keys, fresh=fresh)[0]
    spread = float(jnp.std(estimates))
    assert spread > 0.05
    exact = float(log_prob(x_0[:1])[0][0])
    assert abs(float(jnp.mean(estimates)) - exact) < 4 * spread / np.sqrt(4000)
    reversed_keys = log_prob(x_0, trace=trace, key=keys[::-1], fresh=fresh)[0]
    assert jnp.array_equal(reversed_keys, estimates[::-1])  # a probe depends on its key alone


def linear_eps(sde, std, x, t):
    """The perfect network of x_0 ~ N(0, std^2)."""
    return sde.sigma(t) * x / ((sde.s(t) * std) ** 2 + sde.sigma(t) ** 2)


def test_bits_per_dim_of_a_gaussian():
    """Against the exact mass of each 8-bit value; images of several axes; one Rademacher probe is exact here."""
    sde, std = deis.ve(sigma_min=1e-3, sigma_max=200.0), 0.5
    rng = np.random.default_rng(0)
    images = np.clip(128 * (1 + std * rng.normal(size=(500, 2, 2, 1))), 0, 255).astype(np.uint8)
    x_0 = likelihood.dequantise(images, jax.random.key(0))
    eps_fn = jax.tree_util.Partial(partial(linear_eps, sde), std)
    for trace in ("exact", "rademacher"):
        flow = flow_of(sde, 40, ADAMS_BASHFORTH)
        log_p, _ = likelihood.log_prob(sde, eps_fn, x_0, flow, trace, jax.random.key(1))
        bits = likelihood.bits_per_dim(log_p, 4)
        edges = (images[..., None] + np.array([0, 1])) / 128 - 1
        mass = np.diff(norm.cdf(edges, scale=std))
        # dequantisation costs the variance of log p within a value, 1e-5 bits here
        assert float(jnp.mean(bits)) == pytest.approx(np.mean(-np.log2(mass)), abs=2e-3)
        np.testing.assert_allclose(bits, -np.log2(mass).mean((1, 2, 3, 4)), rtol=0, atol=0.05)


def test_bits_per_dim_of_the_uniform_density():
    """Every value is equally likely: 8 bits, whatever the range of x."""
    for low, high in ((-1.0, 1.0), (0.0, 1.0)):
        assert likelihood.bits_per_dim(np.array(-3 * np.log(high - low)), 3, low, high) == pytest.approx(8.0)


@pytest.mark.parametrize(("low", "high"), [(-1.0, 1.0), (0.0, 1.0)])
def test_dequantise(low, high):
    images = np.random.default_rng(0).integers(0, 256, (64, 5, 5, 3)).astype(np.uint8)
    x = likelihood.dequantise(images, jax.random.key(0), low, high)
    assert x.dtype == jnp.float32
    within = (np.asarray(x, np.float64) - low) / (high - low) * 256 - images
    assert within.min() > -1e-4
    assert within.max() < 1 + 1e-4
    assert abs(within.mean() - 0.5) < 0.02
    assert within.var() == pytest.approx(1 / 12, rel=0.05)
    assert jnp.array_equal(x[:7], likelihood.dequantise(images[:7], jax.random.key(0), low, high))
    with pytest.raises(ValueError, match="images must be uint8 values 0 to 255, got float32"):
        likelihood.dequantise(images.astype(np.float32), jax.random.key(0))


@sdes
def test_encoding_tables_are_the_textbook_loops_run_backwards(name):
    sde, ts = SDES[name], deis.timesteps(SDES[name], 6, "rho", 7.0)
    eps_fn, x_0, rising = MIXTURE.eps_fn(sde), data(sde, 5), ts[::-1]
    expected = [
        (tables.ddim, loop.ddim(sde.s, sde.sigma, eps_fn, x_0, rising)),
        (tables.ipndm, loop.ipndm(sde.s, sde.sigma, eps_fn, x_0, rising, 4)),
    ]
    for rk, (step, _) in loop.RUNGE_KUTTA.items():
        x_T = loop.runge_kutta(step, sde.s, sde.sigma, sde.t_of_rho, eps_fn, x_0, rising)
        expected.append((partial(tables.rho_rk, rk_method=rk), x_T))
    for solver, x_T in expected:
        table = likelihood.encoding(sde, ts, solver)
        assert (table.t[0], table.t[-1]) == (sde.t_0, sde.T)
        np.testing.assert_allclose(loop.run(table, eps_fn, x_0), x_T, rtol=1e-11, atol=1e-11)


@sdes
@pytest.mark.parametrize(
    ("solver", "ratio"),
    [
        (tables.t_ab, 4),
        (partial(tables.t_ab, corrector=True), 6),
        (tables.rho_ab, 6),
        (tables.log_rho_ab, 3.5),
        (tables.ipndm, 3),
        (tables.rho_rk, 6),
        (tables.dpm_solver, 3),
        (tables.dpm_solver_pp, 3),
        (tables.unipc, 6),
        (tables.f_pndm, 3),
        (tables.ei_score, 1.8),
    ],
)
def test_encoding_converges_to_the_exact_flow(name, solver, ratio):
    """The error falls by `ratio` or more from 40 to 80 steps, as its order says (4 for order 2, and so on)."""
    sde, x_0 = SDES[name], data(SDES[name], 5)
    exact = MIXTURE.flow(sde, x_0, np.array([sde.t_0, sde.T]))[-1]
    encodings = [likelihood.encoding(sde, deis.timesteps(sde, n, "rho", 7.0), solver) for n in (40, 80)]
    errors = [np.max(np.abs(loop.run(table, MIXTURE.eps_fn(sde), x_0) - exact)) for table in encodings]
    assert errors[1] < errors[0] / ratio


@sdes
def test_encode_and_decode_are_inverse(name):
    sde, x_0 = SDES[name], jnp.asarray(data(SDES[name], 8), jnp.float32)
    ts = deis.timesteps(sde, 60, "rho", 7.0)
    x_T, nfe = likelihood.encode(sde, EPS_FNS[name], x_0, ts, ADAMS_BASHFORTH)
    back, _ = likelihood.decode(sde, EPS_FNS[name], x_T, ts, ADAMS_BASHFORTH)
    assert nfe == 60
    np.testing.assert_allclose(back, x_0, rtol=0, atol=1e-3)
    exact = MIXTURE.flow(sde, np.asarray(x_0, np.float64), np.array([sde.t_0, sde.T]))[-1]
    np.testing.assert_allclose(x_T, exact, rtol=0, atol=1e-3 * sde.prior_std)


def noisy(sde, ts):
    return replace(tables.ddim(sde, ts), g=np.ones(len(ts) - 1))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"ts": [1.0, 0.5]}, r"must run from T=1 to t_0=0\.001, got \[1\.  0\.5\]"),
        ({"ts": [0.001, 1.0]}, r"must run from T=1 to t_0=0\.001, got"),
        ({"solver": noisy}, "DDIM does not run from x_0 to x_T: it adds noise, or denoises at the end"),
        ({"solver": partial(tables.t_ab, denoise=True)}, "does not run from x_0 to x_T: .* denoises at the end"),
        ({"solver": tables.ddpm}, "this solver does not run from x_0 to x_T: DDPM: column g is not finite"),
        ({"solver": partial(tables.t_ab, order=9)}, "this solver does not run from x_0 to x_T: order must be 0"),
    ],
)
def test_what_cannot_encode_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        likelihood.encoding(SDES["vp_linear"], **({"ts": deis.timesteps(SDES["vp_linear"], 4)} | arguments))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"trace": "hutchinson"}, "trace must be one of exact, rademacher, gaussian, got 'hutchinson'"),
        ({"trace": "gaussian"}, r'trace "gaussian" draws random probes: pass key=jax\.random\.key\(seed\)'),
    ],
)
def test_a_bad_trace_is_refused(options, message):
    sde = SDES["vp_linear"]
    with pytest.raises(ValueError, match=message):
        likelihood.log_prob(sde, EPS_FNS["vp_linear"], jnp.ones((1, 2)), flow_of(sde, 4, tables.ddim), **options)


def test_half_precision_is_the_networks_alone():
    sde, x_0 = SDES["vp_linear"], jnp.full((2, 2), 0.5, jnp.bfloat16)
    flow = flow_of(sde, 4, tables.ddim)
    found, _ = likelihood.log_prob(sde, lambda x, t: 0.5 * x, x_0, flow)
    exact, _ = likelihood.log_prob(sde, lambda x, t: 0.5 * x, x_0.astype(jnp.float32), flow)
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, exact, rtol=2e-3)
