"""Diffusions with s(T) = 0, where x_T is pure noise: flow matching and zero terminal SNR."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from reference import problem
from reference.mixture import MIXTURE
from reference.noise import Gaussian

import deis
from deis import SDE, Table, tables, wrappers
from deis.schedule import dynamic_shift

SDES = {
    "flow": deis.flow(t_0=0.02),
    "flow, shift 3": deis.flow(3.0, t_0=0.02),
    "vp_zero_snr": deis.vp_zero_snr(t_0=0.1),
    "vp_cosine": deis.vp_cosine(t_0=0.05, T=1.0),
    "discrete": deis.discrete_vp(num_times=200, beta_end=0.1, zero_terminal_snr=True),
}
sdes = pytest.mark.parametrize("sde", SDES.values(), ids=SDES)
# Restart needs nodes within its interval, which these few do not always have
methods = pytest.mark.parametrize("method", [name for name in tables.METHODS if name != "restart"])


def nodes(sde: SDE, num_step: int) -> np.ndarray:
    return deis.timesteps(sde, num_step, "trailing" if sde.is_discrete else "t", 1.0)


@sdes
def test_functions_of_time(sde):
    t = np.linspace(sde.T, sde.t_0, 1001)
    s, sigma, rho = sde.s(t), sde.sigma(t), sde.rho(t)
    assert sde.starts_at_noise
    assert (s[0], sigma[0], rho[0], sde.prior_std) == (0.0, 1.0, np.inf, 1.0)
    assert np.all(np.diff(rho) < 0)
    np.testing.assert_allclose(sde.t_of_rho(rho), t, rtol=1e-12)
    np.testing.assert_array_equal(sde.evaluation(t), [[1.0, *s[1:]], [1.0, *rho[1:]]])
    got = sde.evaluation(jnp.asarray(t))
    assert all(np.isfinite(column).all() for column in got)
    assert (float(got[0][0]), float(got[1][0])) == (1.0, 1.0)


def test_flow_is_a_straight_line_and_its_shift():
    t = np.array([0.0, 0.25, 0.5, 1.0])
    sde, shifted = deis.flow(), deis.flow(3.0)
    np.testing.assert_allclose(sde.marginal(t), [1 - t, t], rtol=1e-15)
    np.testing.assert_allclose(shifted.sigma(t), 3 * t / (1 + 2 * t), rtol=1e-15)
    np.testing.assert_allclose(shifted.s(t), 1 - 3 * t / (1 + 2 * t), rtol=1e-14)
    assert deis.flow(T=0.5).prior_std == 0.5
    assert [dynamic_shift(n) for n in (256, 4096)] == pytest.approx([np.exp(0.5), np.exp(1.15)], rel=1e-14)
    mu, sigma = 1.15, 0.4  # of diffusers' dynamic shift
    np.testing.assert_allclose(
        deis.flow(np.exp(mu)).sigma(sigma), np.exp(mu) / (np.exp(mu) + 1 / sigma - 1), rtol=1e-14
    )


def test_zero_terminal_snr_is_algorithm_1():
    """arXiv 2305.08891: sqrt(alpha_bar) shifted and scaled, so that the first stays and the last is 0."""
    root = np.sqrt(np.cumprod(1 - np.linspace(1e-4, 0.02, 1000)))
    expected = (root - root[-1]) * root[0] / (root[0] - root[-1])
    sde = deis.discrete_vp(zero_terminal_snr=True)
    np.testing.assert_allclose(sde.s(np.arange(1000.0)), expected, rtol=1e-10, atol=1e-15)
    t, linear, zero = np.linspace(0, 1, 101), deis.vp_linear(), deis.vp_zero_snr()
    np.testing.assert_allclose(zero.s(t), (linear.s(t) - linear.s(1.0)) / (1 - linear.s(1.0)), rtol=1e-12, atol=1e-15)
    np.testing.assert_allclose(zero.sigma(t) ** 2 + zero.s(t) ** 2, 1, rtol=1e-14)
    halfway = sde.rho(np.array([998.0, 998.5]))
    assert halfway[1] == pytest.approx(2 * halfway[0], rel=1e-12)  # 1 / rho is linear where it ends at 0


@sdes
@methods
def test_every_method_begins_at_T(sde, method):
    for num_step in (1, 2, 5, 10, 50):
        table = tables.METHODS[method](sde, nodes(sde, num_step))
        assert (table.t[0], table.s[0], table.rho[0]) == (sde.T, 1.0, 1.0)
        end = 0 if method in ("edm_heun", "dpm_2", "lcm") else sde.rho(sde.t_0)
        assert table.rho[-1] == pytest.approx(end, rel=1e-12)
        if num_step <= 5:
            x = problem.run(table, MIXTURE.eps_fn(sde), problem.start(sde), [*np.zeros((table.nfe, 8, 2))])
            assert np.max(np.abs(x)) < 10
        assert num_step <= table.nfe <= max(4 * num_step, num_step + 9)


@sdes
@methods
def test_a_single_data_point_is_sampled_exactly(sde, method):
    """eps stays as it was, whatever the method: the mean is s x_0 and the variance sigma^2."""
    if method in ("euler", "ei_score"):
        pytest.skip("not exact for a constant eps")
    point = np.array([0.7])

    def eps_fn(x, t):
        s, rho = sde.evaluation(t)
        return (x / s - point) / rho

    table = tables.METHODS[method](sde, nodes(sde, 6))
    s, sigma = table.s[-1], table.s[-1] * table.rho[-1]
    unit = np.eye(table.nfe + 2)  # no noise at all, that of x_T, that of each row
    x = problem.run(table, eps_fn, unit[:, :1], [*unit[:, 1:-1].T[:, :, None]])
    assert x[-1] == pytest.approx(s * 0.7, rel=1e-9)
    assert np.sum((x[:-1] - x[-1]) ** 2) == pytest.approx(sigma**2, rel=1e-9, abs=1e-18)


def test_t_ab_knows_eps_at_T():
    """A plain loop: eps is z at T, and the second call corrects the first step by x_0 linear in 1 / rho."""
    sde, z = SDES["flow"], np.random.default_rng(0).normal(size=(8, 2))
    eps_fn, ts = MIXTURE.eps_fn(sde), nodes(sde, 6)
    rho = sde.rho(ts[1:])
    x_0 = z - eps_fn(z, 1.0)
    v, past, times = x_0 + rho[0] * z, [z], [1.0]
    for n, t in enumerate(ts[1:-1]):
        eps = eps_fn(sde.s(t) * v, t)
        if n == 0:
            v = (x_0 + v - rho[0] * eps) / 2 + rho[0] * z
        past, times = [eps, *past][:3], [t, *times][:3]
        polynomial = [np.polyfit(times, column, len(times) - 1) for column in np.array(past).reshape(len(past), -1).T]
        r, w = np.polynomial.legendre.leggauss(60)
        r, w = (rho[n] + rho[n + 1]) / 2 + (rho[n + 1] - rho[n]) / 2 * r, (rho[n + 1] - rho[n]) / 2 * w
        v = v + np.array([w @ np.polyval(one, sde.t_of_rho(r)) for one in polynomial]).reshape(v.shape)
    got = problem.run(tables.t_ab(sde, ts, 2), eps_fn, z)
    np.testing.assert_allclose(got, sde.s(ts[-1]) * v, rtol=0, atol=1e-12)


@methods
def test_nothing_is_clamped(method):
    """A start at 1 - 1e-7 gives the same samples, by methods with the same first step that see no log rho."""
    sde, z = deis.flow(t_0=0.02), np.random.default_rng(0).normal(size=(8, 2))
    if method not in ("ddim", "rho_ab", "ipndm", "ddim_eta", "ddpm"):
        pytest.skip("has a first step of its own, or comes to it with 1 / log rho")
    below, ts = replace(sde, T=1 - 1e-7), nodes(sde, 6)
    draws = [*np.random.default_rng(1).normal(size=(6, 8, 2))]
    got = problem.run(tables.METHODS[method](sde, ts), MIXTURE.eps_fn(sde), z, draws)
    near = problem.run(tables.METHODS[method](below, np.append(below.T, ts[1:])), MIXTURE.eps_fn(below), z, draws)
    np.testing.assert_allclose(got, near, rtol=0, atol=2e-6)


@pytest.mark.parametrize("eta", [0.3, 1.0])
@pytest.mark.parametrize("sde_name", ["flow", "vp_zero_snr"])
def test_variance_of_stochastic_methods(eta, sde_name):
    """With many steps the variance of Gaussian data, in closed form, nears that of the marginal."""
    sde, data = SDES[sde_name], Gaussian(variance=0.25)
    for build in (
        partial(tables.ddim_eta, eta=eta),
        tables.ddpm,
        partial(tables.ddpm, variance="large"),
        partial(tables.t_ab_sde, lam=eta),
        partial(tables.dpm_solver_pp_sde, eta=eta**2),
    ):
        table = build(sde, nodes(sde, 400))
        rho_1, a = table.rho[1], table.a.copy()
        a[0] = 1 / (0.25 + 1)  # the predicted x_0 of centred data is 0 at T, where `through` takes s for 1
        if "large" not in table.name:
            assert np.hypot(table.p[0], table.g[0]) == pytest.approx(rho_1, rel=1e-12)
        _, variance = data.through(replace(table, a=a), 0.0, 1.0)
        assert variance == pytest.approx(0.25 + table.rho[-1] ** 2, rel=0.03)


@pytest.mark.parametrize(
    ("name", "prediction"), [("flow, shift 3", "flow"), ("flow, shift 3", "x_0"), ("discrete", "v")]
)
def test_networks_of_every_kind(name, prediction):
    """The loops of JAX and torch, from T down, equal the NumPy loop on the exact network."""
    sde = SDES[name]

    def predicted(x, s, sigma):
        eps, x_0 = MIXTURE.eps(x, s, sigma, jnp), MIXTURE.x_0(x, s, sigma, jnp)
        return {"x_0": x_0, "v": s * eps - sigma * x_0, "flow": eps - x_0}[prediction]

    eps_fn = wrappers.from_prediction(sde, lambda x, t: predicted(x, *sde.marginal(t)), prediction)
    table, x_T = tables.t_ab(sde, nodes(sde, 6), order=2), problem.start(sde)
    expected = problem.run(table, MIXTURE.eps_fn(sde), x_T)
    with jax.enable_x64(True):
        x, x_0 = deis.trajectory(table, wrappers.clip_x_0(sde, eps_fn, -9.0, 9.0), jnp.asarray(x_T))
        exact = MIXTURE.x_0(x_T, 0.0, 1.0)
        np.testing.assert_allclose(x[-1], expected, rtol=0, atol=1e-9)
        np.testing.assert_allclose(x_0[0], exact, rtol=0, atol=1e-9)
    if prediction == "flow":
        torch = pytest.importorskip("torch")
        in_torch = wrappers.from_prediction(
            sde, lambda x, t: torch.from_numpy(np.array(predicted(x.numpy(), *sde.marginal(t.numpy())))), "flow"
        )
        x, x_0 = deis.torch.trajectory(table, in_torch, torch.from_numpy(x_T))
        np.testing.assert_allclose(x[-1], expected, rtol=0, atol=1e-5)
        np.testing.assert_allclose(x_0[0], exact, rtol=0, atol=1e-5)


INFINITE = SDE(np.ones_like, lambda t: t / (1 - np.asarray(t)), lambda rho: rho / (1 + rho), 0.0, 0.5)  # rho, not 1/s


def network(x, t):
    return 0.5 * x


@pytest.mark.parametrize(
    ("ask", "said"),
    [
        (
            lambda sde: wrappers.from_prediction(sde, network, "eps"),
            "a prediction of eps, unlike x_0, v, flow, has no",
        ),
        (lambda sde: wrappers.from_prediction(sde, network, "score"), "a prediction of score, unlike x_0"),
        (lambda sde: wrappers.from_edm(sde, network), "a network of finite noise levels has no meaning at T=1"),
        (
            lambda sde: wrappers.classifier_guidance(sde, network, network),
            "gradient of a classifier has no meaning",
        ),
        (
            lambda sde: deis.timesteps(sde, 5, "log"),
            'phase "log" divides the range of sigma/s, which is infinite at T=1',
        ),
        (lambda sde: deis.timesteps(sde, 5, "edm"), 'phase "edm" divides the range of sigma/s'),
        (lambda sde: deis.adaptive.sample(sde, network, np.zeros((1, 2))), "the ODE in x or v has no meaning at T=1"),
        (lambda sde: deis.likelihood.encoding(sde, nodes(sde, 5)), "the way from x_0 to x_T has no meaning at T=1"),
        (
            lambda sde: deis.learn.fit(
                sde, network, tables.ddim(sde, nodes(sde, 5)), jnp.zeros((8, 2)), jnp.zeros((8, 2))
            ),
            "a grid in log rho has no meaning at T=1",
        ),
        (lambda sde: tables.analytic_ddim(sde, nodes(sde, 5), np.ones(6)), "Analytic-DDIM takes the variance of x_0"),
        (lambda sde: tables.ddim_eta(sde, nodes(sde, 1), 2.0), "eta must be between 0"),
        (lambda sde: deis.flow(0.0), "shift must be positive and finite, got 0"),
        (
            lambda sde: SDE(np.ones_like, lambda t: t / np.float64(1 - t), lambda rho: rho, 0.0, 1.0),
            "must grow everywhere from t_0=0 to T=1 and stay finite",
        ),
    ],
)
def test_what_cannot_begin_at_noise_says_so(ask, said):
    with pytest.raises(ValueError, match=said):
        ask(deis.flow())


def test_the_best_untrained_table_may_begin_at_noise():
    sde, x_T = SDES["flow"], np.random.default_rng(0).normal(size=(8, 2))
    exact = MIXTURE.flow(sde, x_T, np.array([sde.T, sde.t_0]))[-1]
    candidates = [tables.ddim(sde, nodes(sde, 5)), tables.t_ab(sde, nodes(sde, 5))]
    best, worst = deis.choose(sde, MIXTURE.eps_fn(sde, jnp), jnp.asarray(x_T), jnp.asarray(exact), 5, candidates)
    assert (best.table.name, worst.table.name) == ("tAB3", "DDIM")


def test_a_saved_table_knows_its_diffusion(tmp_path):
    pytest.importorskip("safetensors")
    sde, file = SDES["flow"], tmp_path / "table.safetensors"
    tables.ddim(sde, nodes(sde, 5)).save(file)
    assert Table.load(file, sde).rho[0] == 1
    with pytest.raises(ValueError, match="was made for another SDE"):
        Table.load(file, SDES["vp_zero_snr"])
