"""Stochastic tables: textbook loops and moments of a Gaussian in closed form."""

from functools import partial

import numpy as np
import pytest
from reference import noise
from reference.mixture import MIXTURE
from reference.problem import SDES
from reference.stochastic import BUILDERS, GAUSSIAN, LAMBDAS, first_order, second_order
from scipy.integrate import quad

import deis
from deis import tables

BETA = np.linspace(1e-4, 0.02, 1000)
sdes = pytest.mark.parametrize("sde_name", SDES)


def grid(sde_name, num_step):
    return deis.timesteps(SDES[sde_name], num_step, "edm" if sde_name in ("ve", "edm") else "t")


def gaussian_start(sde, ts):
    """rho at both ends, and a mean and variance of v at the start that are off the marginal, as any prior's are."""
    rho_T, rho_0 = sde.rho(ts[[0, -1]])
    return rho_T, rho_0, 0.7 * rho_T, 0.25 + 1.1 * rho_T**2


@sdes
@pytest.mark.parametrize("eta", [0.0, 0.3, 1.0])
def test_ddim_eta_and_ddpm_equal_the_papers_loops(sde_name, eta):
    """With alpha_bar = 1 / (1 + rho^2), every SDE is the paper's up to its scale."""
    sde, rng = SDES[sde_name], np.random.default_rng(0)
    ts = grid(sde_name, 7)
    v, z = rng.normal(size=(8, 2)) * sde.rho(ts[0]), rng.normal(size=(7, 8, 2))

    def alpha_bar(t):
        return 1 / (1 + sde.rho(t) ** 2)

    def eps_fn(x, t):
        return MIXTURE.eps(x, np.sqrt(alpha_bar(t)), np.sqrt(1 - alpha_bar(t)))

    expected = noise.ddim_eta(alpha_bar, eps_fn, np.sqrt(alpha_bar(ts[0])) * v, ts, z, eta)
    expected *= sde.s(ts[-1]) / np.sqrt(alpha_bar(ts[-1]))
    for table in (tables.ddim_eta(sde, ts, eta), *([tables.ddpm(sde, ts)] if eta == 1 else [])):
        got = noise.run(table, MIXTURE.eps_fn(sde), sde.s(ts[0]) * v, z)
        np.testing.assert_allclose(got, expected, rtol=0, atol=1e-11)


@pytest.mark.parametrize("variance", ["small", "large"])
def test_ddpm_equals_algorithm_2(variance):
    """All times of a discrete model, its last step to x_0 without noise."""
    beta, rng = np.linspace(1e-3, 0.2, 50), np.random.default_rng(0)
    sde = deis.DiscreteVPSDE(np.cumprod(1 - beta))
    x, z = rng.normal(size=(8, 2)), rng.normal(size=(50, 8, 2))
    table = tables.ddpm(sde, deis.timesteps(sde, 49, "uniform"), variance=variance, denoise=True)
    assert table.nfe == 50
    assert table.g[-1] == 0
    expected = noise.ddpm(beta, MIXTURE.eps_fn(sde), x, z, variance == "large")
    np.testing.assert_allclose(noise.run(table, MIXTURE.eps_fn(sde), x, z), expected, rtol=0, atol=1e-12)


@sdes
@pytest.mark.parametrize("eta", [0.0, 0.09, 1.0])
@pytest.mark.parametrize("variant", ["midpoint", "heun"])
def test_dpm_solver_pp_sde_equals_its_loop(sde_name, eta, variant):
    sde, rng = SDES[sde_name], np.random.default_rng(0)
    ts = grid(sde_name, 7)
    v, z = rng.normal(size=(8, 2)) * sde.rho(ts[0]), rng.normal(size=(8, 8, 2))
    for denoise in (False, True):
        sigmas = np.append(sde.rho(ts), [0.0] * denoise)
        expected = noise.dpmpp_2m_sde(lambda v, rho: MIXTURE.eps(v, 1.0, rho), v, sigmas, z, eta, variant == "heun")
        table = tables.dpm_solver_pp_sde(sde, ts, eta=eta, variant=variant, denoise=denoise)
        got = noise.run(table, MIXTURE.eps_fn(sde), sde.s(ts[0]) * v, z) / table.s[-1]
        np.testing.assert_allclose(got, expected, rtol=0, atol=1e-10)


@sdes
@pytest.mark.parametrize("lam", [0.1, 0.3, 1.0, 1.7])
def test_t_ab_sde_of_order_0_is_stochastic_ddim(sde_name, lam):
    """gDDIM, arXiv 2206.05564: of DDIM's eta, each step has 1 - q^(2 lambda^2) = eta^2 (1 - q^2), q = rho' / rho."""
    sde, ts = SDES[sde_name], grid(sde_name, 12)
    q = sde.rho(ts[1:]) / sde.rho(ts[:-1])
    table = tables.t_ab_sde(sde, ts, 0, lam=lam)
    np.testing.assert_allclose(table.p + table.P[:, 0], 1.0, rtol=1e-14)  # history of x_0 = v - rho eps
    for n, eta in enumerate(np.sqrt((1 - q ** (2 * lam**2)) / (1 - q**2))):
        if eta <= 1:
            step = tables.ddim_eta(sde, ts[n : n + 2], eta)
            np.testing.assert_allclose(-table.rho[n] * table.P[n], step.P[0], rtol=1e-11)
            np.testing.assert_allclose(table.g[n], step.g[0], rtol=1e-11)
    if lam == 1:
        ddpm = tables.ddpm(sde, ts)
        np.testing.assert_allclose(-table.rho[:-1] * table.P[:, 0], ddpm.P[:, 0], rtol=1e-11)
        np.testing.assert_allclose(table.g, ddpm.g, rtol=1e-11)


@pytest.mark.parametrize("sde_name", ["vp_linear", "ve", "edm"])
@pytest.mark.parametrize("order", [1, 2, 3])
def test_a_step_is_exact_where_its_model_of_eps_is(sde_name, order):
    """eps = E(t) + (v - D) / rho, E a polynomial: a step's mean solves the SDE, whatever noise the past had."""
    sde, lam, rng = SDES[sde_name], 0.8, np.random.default_rng(order)
    ts = grid(sde_name, 9)
    table = tables.t_ab_sde(sde, ts, order, lam=lam)
    for n in (order, 6, 8):
        E = np.polynomial.Polynomial(rng.normal(size=order + 1), domain=[ts[n + 1], ts[n - order]])
        rho, rho_next = sde.rho(ts), sde.rho(ts[n + 1])
        v = rng.normal() * rho[n]

        def integral(power, end, E=E, start=rho[n]):
            """of E / r^power over [start, end], in log r."""
            log_r = np.log([start, end])
            integrand = lambda y: E(sde.t_of_rho(np.exp(y))) * np.exp((1 - power) * y)  # noqa: E731
            return quad(integrand, *log_r, epsabs=0, epsrel=1e-12, limit=200)[0]

        past = [v + integral(0, rho[i]) if i < n else v for i in range(n, n - order - 1, -1)]
        disturbed = np.array(past) + np.append(0.0, rng.normal(size=order))
        eps = [E(ts[i]) + (u - D) / rho[i] for i, u, D in zip(range(n, -1, -1), disturbed, past, strict=False)]
        x_0 = disturbed - rho[n - np.arange(order + 1)] * eps
        exact = v + integral(0, rho_next) + lam**2 * rho_next ** (1 + lam**2) * integral(1 + lam**2, rho_next)
        got = table.p[n] * v + table.P[n, : order + 1] @ x_0
        assert got == pytest.approx(exact, rel=1e-9, abs=1e-9 * rho[n])


@pytest.mark.parametrize("order", [0, 1, 2, 3])
def test_without_noise_it_is_t_ab_or_as_good(order):
    """lam = 0 is tAB itself; a lambda that is all but 0 has another method's rows, of the same order."""
    sde = SDES["vp_linear"]
    ts = grid("vp_linear", 20)
    plain, table = tables.t_ab(sde, ts, order), tables.t_ab_sde(sde, ts, order, lam=0.0)
    assert all(np.array_equal(getattr(plain, name), getattr(table, name)) for name in plain.shapes())
    errors = {}
    for lam in (0.0, 1e-4):
        for num_step in (50, 200):
            ts = grid("vp_linear", num_step)
            rho_T, rho_0, mean, variance = gaussian_start(sde, ts)
            got, _ = GAUSSIAN.through(tables.t_ab_sde(sde, ts, order, lam=lam), mean, variance)
            exact, _ = GAUSSIAN.exact(rho_T, rho_0, 0.0, mean, variance)
            errors[lam, num_step] = abs(got / exact - 1)
    slopes = {lam: np.log(errors[lam, 50] / errors[lam, 200]) / np.log(4) for lam in (0.0, 1e-4)}
    assert slopes[1e-4] == pytest.approx(slopes[0.0], abs=0.35)
    assert slopes[1e-4] > (0.95, 1.9, 2.8, 3.2)[order]
    assert errors[1e-4, 200] < 1.5 * errors[0.0, 200]


@sdes
@pytest.mark.parametrize("name", BUILDERS)
def test_one_step_of_a_gaussian(sde_name, name):
    """Mean and variance after one step from the marginal, by the posterior of x_0 and the method's formulas."""
    sde, build = SDES[sde_name], BUILDERS[name]
    ts = grid(sde_name, 3)[1:3]
    rho, rho_next = sde.rho(ts)
    c = GAUSSIAN.variance
    mean, variance = GAUSSIAN.through(build(sde, ts), 0.4 * rho, c + rho**2)
    lam = float(name.split(" ")[-1])
    q = rho_next / rho
    if name.startswith("analytic"):
        assert variance == pytest.approx(c + rho_next**2, rel=1e-12)
        gamma = lam * rho_next * np.sqrt(1 - q**2)
    elif name.startswith("dd"):
        gamma = lam * rho_next * np.sqrt(1 - q**2)
    else:
        gamma = rho_next * np.sqrt(1 - q ** (2 * lam**2))
    # x_0 = c / (c + rho^2) v and eps = rho / (c + rho^2) v
    gain = (c + np.sqrt(rho_next**2 - gamma**2) * rho) / (c + rho**2)
    assert mean == pytest.approx(gain * 0.4 * rho, rel=1e-11)
    if "large" in name:
        gamma = 0.0
    if not name.startswith("analytic"):
        assert variance == pytest.approx(gain**2 * (c + rho**2) + gamma**2, rel=1e-11)


@pytest.mark.parametrize("sde_name", ["vp_linear", "sub_vp", "ve"])
@pytest.mark.parametrize("lam", LAMBDAS)
@pytest.mark.parametrize("order", [1, 2])
def test_mean_and_variance_of_a_gaussian_converge(sde_name, lam, order):
    """To those of the lambda-SDE itself, from a start off the marginal; nothing is sampled."""
    sde = SDES[sde_name]
    for name, build in (first_order, second_order)[order - 1](lam).items():
        scaled = {}  # errors of mean and variance times N^order, which must not grow
        for num_step in (100, 200, 800):
            ts = grid(sde_name, num_step)
            rho_T, rho_0, mean, variance = gaussian_start(sde, ts)
            got = GAUSSIAN.through(build(sde, ts), mean, variance)
            exact = GAUSSIAN.exact(rho_T, rho_0, lam, mean, variance)
            scaled[num_step] = np.abs(np.array(got) / exact - 1) * num_step**order
        assert np.all(scaled[200] < (12, 100)[order - 1]), name  # 6 % and 0.25 % of the variance
        assert np.all(scaled[800] < 1.5 * np.maximum(scaled[100], scaled[200]) + 1e-6), name
        if order == 1:
            assert scaled[800][1] > 0.8 * scaled[200][1], name
        if lam == 1:  # the mean of the predicted x_0 does not move, so no interpolation errs
            assert scaled[100][0] < 1e-7, name


@sdes
@pytest.mark.parametrize("name", BUILDERS)
@pytest.mark.parametrize("num_step", [1, 2, 3])
def test_few_steps_and_a_last_step_to_0(sde_name, name, num_step):
    sde, build = SDES[sde_name], BUILDERS[name]
    ts = grid(sde_name, num_step)
    table = build(sde, ts)
    assert table.nfe == num_step
    if "large" not in name:
        assert np.all(table.g > 0)
        assert table.is_stochastic
    ended = build(sde, ts, denoise=True)
    assert ended.nfe == num_step + 1
    assert (ended.s[-1], ended.rho[-1], ended.g[-1]) == (1.0, 0.0, 0.0)
    eps, x_0 = ended.P[-1, 0] * ended.b[-1], ended.p[-1] + ended.P[-1, 0] * ended.a[-1]
    np.testing.assert_allclose([x_0, eps], [1.0, -ended.rho[-2]], rtol=1e-12)  # the predicted x_0
    assert np.all(ended.P[-1, 1:] == 0)


@pytest.mark.parametrize("name", BUILDERS)
def test_nodes_may_end_at_sigma_0(name):
    sde = deis.vp_linear(t_0=0.0)
    for num_step in (1, 2, 3, 10):
        table = BUILDERS[name](sde, deis.timesteps(sde, num_step))
        assert table.nfe == num_step
        assert (table.rho[-1], table.g[-1]) == (0.0, 0.0)


def test_lower_order_at_the_end():
    sde, ts = SDES["vp_linear"], grid("vp_linear", 6)
    used = [np.count_nonzero(row) for row in tables.t_ab_sde(sde, ts, 3, lower_order_final=True).P]
    assert used == [1, 2, 3, 3, 2, 1]
    used = [np.count_nonzero(row) for row in tables.dpm_solver_pp_sde(sde, ts, lower_order_final=True).P]
    assert used == [1, 2, 2, 2, 2, 1]


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (partial(tables.ddim_eta, eta=1.5), r"eta must be between 0 \(deterministic\) and 1 \(DDPM\), got 1.5"),
        (partial(tables.ddim_eta, eta=-0.1), "eta must be between 0 .* got -0.1"),
        (partial(tables.ddpm, variance="huge"), "variance must be one of small, large, got 'huge'"),
        (partial(tables.t_ab_sde, order=4), r"order must be 0 \(DDIM\) to 3, got 4"),
        (partial(tables.t_ab_sde, order=-1), "order must be 0 .* got -1"),
        (partial(tables.t_ab_sde, lam=-1.0), "lam must be 0 .* or more, got -1"),
        (partial(tables.dpm_solver_pp_sde, eta=float("nan")), "eta must be a number, got nan"),
        (partial(tables.dpm_solver_pp_sde, variant="euler"), "variant must be one of midpoint, heun, got 'euler'"),
        (tables.ddpm, "must decrease strictly"),
    ],
)
def test_bad_arguments_are_named(build, message):
    ts = np.array([0.5, 1.0]) if "decrease" in message else np.array([1.0, 0.5])
    with pytest.raises(ValueError, match=message):
        build(SDES["vp_linear"], ts)
