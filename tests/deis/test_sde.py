"""Diffusions as s(t), sigma(t) and the inverse of their ratio."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import mpmath as mp
import numpy as np
import pytest
from reference import problem, quadrature
from reference.problem import linear_alpha_fns
from scipy.integrate import quad
from scipy.stats import norm

import deis

ALPHA_BAR = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))

SDES = problem.SDES | {"published": deis.VPSDE(*deis.get_linear_alpha_fns(0.1, 20.0), 1e-3, 1.0)}
VP = ["vp_linear", "vp_cosine", "discrete", "published"]


@pytest.mark.parametrize("name", SDES)
def test_rho_and_t_of_rho_are_inverse(name):
    sde = SDES[name]
    t = np.linspace(sde.T, sde.t_0, 1001)
    rho = sde.rho(t)
    assert rho.dtype == np.float64
    assert np.all(np.diff(rho) < 0)
    # the published class forms 1 - alpha_bar, whose last digits are gone at t_0
    rtol = 1e-9 if name == "published" else 1e-12
    np.testing.assert_allclose(sde.t_of_rho(rho), t, rtol=rtol)
    rho = np.geomspace(rho[0], rho[-1], 1001)[1:-1]
    np.testing.assert_allclose(sde.rho(sde.t_of_rho(rho)), rho, rtol=rtol)


@pytest.mark.parametrize("name", VP)
def test_variance_is_preserved(name):
    t = np.linspace(SDES[name].T, SDES[name].t_0, 1001)
    np.testing.assert_allclose(SDES[name].s(t) ** 2 + SDES[name].sigma(t) ** 2, 1.0, rtol=1e-14)


@pytest.mark.parametrize("name", quadrature.RATIOS)
def test_no_digits_are_lost_at_either_end(name):
    """Against 30 digits: where alpha_bar is near 1 or 0, the textbook formulas cancel in float64."""
    sde, exact = SDES[name], quadrature.RATIOS[name]
    gap = 10.0 ** -np.arange(1.0, 8.0)
    ts = np.concatenate([gap, [0.5], sde.T - gap, [sde.T]])
    rho = np.array([float(exact.rho(mp.mpf(t))) for t in ts])
    np.testing.assert_allclose(sde.rho(ts), rho, rtol=3e-15)
    t = np.array([float(exact.t_of_rho(mp.mpf(r))) for r in rho])
    atol = 1e-16 if name == "ve" else 0  # log(rho / sigma_min) is 0 at t = 0, to rounding
    np.testing.assert_allclose(sde.t_of_rho(rho), t, rtol=3e-15, atol=atol)


def test_vp_linear_is_the_integral_of_beta():
    sde = deis.vp_linear(0.1, 20.0)
    for t in (0.01, 0.3, 1.0):
        integral = quad(lambda u: 0.1 + (20.0 - 0.1) * u, 0, t)[0]
        assert sde.s(t) == pytest.approx(np.exp(-0.5 * integral), rel=1e-14)
    constant = deis.vp_linear(2.0, 2.0)
    assert constant.s(0.5) ** 2 == pytest.approx(np.exp(-1.0), rel=1e-14)
    assert constant.t_of_rho(constant.rho(0.3)) == pytest.approx(0.3, rel=1e-13)


def test_vp_cosine_is_its_formula():
    sde = deis.vp_cosine()
    t = np.array([0.0, 0.2, 0.7, 0.99])
    f = np.cos((t + 0.008) / 1.008 * np.pi / 2) ** 2
    np.testing.assert_allclose(sde.s(t) ** 2, f / f[0], rtol=1e-12)
    with pytest.raises(ValueError, match=r"sigma\(t\)/s\(t\) must grow everywhere from t_0=.* to T=1.* stay finite"):
        deis.vp_cosine(T=1.0 + 1e-9)


def test_ve_is_geometric():
    sde = deis.ve(0.01, 50.0)
    np.testing.assert_allclose(sde.sigma(np.array([0.0, 0.5, 1.0])), [0.01, np.sqrt(0.5), 50.0], rtol=1e-14)
    assert np.all(sde.s(np.array([0.0, 1.0])) == 1)
    assert sde.prior_std == pytest.approx(50.0, rel=1e-14)


def test_sub_vp_is_its_formula():
    sde, vp = deis.sub_vp(0.2, 15.0), deis.vp_linear(0.2, 15.0)
    t = np.array([1e-6, 1e-3, 0.3, 1.0])
    np.testing.assert_allclose(sde.s(t), vp.s(t), rtol=1e-14)
    np.testing.assert_allclose(sde.sigma(t), vp.sigma(t) ** 2, rtol=1e-14)  # 1 - alpha_bar
    np.testing.assert_allclose(sde.t_of_rho(sde.rho(t)), t, rtol=1e-14)


def test_edm_has_sigma_as_time():
    sde = deis.edm()
    t = np.array([0.002, 1.0, 80.0])
    assert all(np.array_equal(fn(t), t) for fn in (sde.sigma, sde.rho, sde.t_of_rho))
    assert np.array_equal(sde.s(t), [1.0, 1.0, 1.0])
    assert (sde.t_0, sde.T, sde.prior_std) == (0.002, 80.0, 80.0)


def test_discrete_time_is_the_index():
    sde = SDES["discrete"]
    i = np.arange(1000.0)
    assert (sde.t_0, sde.T) == (0.0, 999.0)
    np.testing.assert_allclose(sde.s(i) ** 2, ALPHA_BAR, rtol=1e-13)
    np.testing.assert_allclose(sde.t_of_rho(np.sqrt((1 - ALPHA_BAR) / ALPHA_BAR)), i, rtol=1e-12, atol=1e-10)
    halfway = np.sqrt(sde.rho(i[:-1]) * sde.rho(i[1:]))
    np.testing.assert_allclose(sde.rho(i[:-1] + 0.5), halfway, rtol=1e-13)
    np.testing.assert_allclose(sde.diffusion(i[:-1]), sde.diffusion(i[:-1] + 1e-6), rtol=1e-6)  # the piece above
    np.testing.assert_allclose(sde.diffusion(999.0), sde.diffusion(999.0 - 1e-6), rtol=1e-6)


@pytest.mark.parametrize("library", ["numpy", "jax.numpy", "torch"])
def test_published_class_gives_float64_coefficients_in_any_library(library):
    xp = pytest.importorskip(library)
    t2alpha, alpha2t = linear_alpha_fns(xp)
    sde, expected = deis.VPSDE(t2alpha, alpha2t, sampling_eps=1e-3, sampling_T=1.0), deis.vp_linear()
    ts, exact_ts = deis.timesteps(sde, 10, "log"), deis.timesteps(expected, 10, "log")
    np.testing.assert_allclose(ts, exact_ts, rtol=1e-9)
    for build in (deis.tables.t_ab, deis.tables.rho_rk):
        got, exact = build(sde, ts), build(expected, exact_ts)
        assert got.P.dtype == np.float64
        np.testing.assert_allclose(got.P, exact.P, rtol=1e-9)
        np.testing.assert_allclose(got.s, exact.s, rtol=1e-9)


@pytest.mark.parametrize(
    ("fns", "expected"),
    [(deis.get_linear_alpha_fns(0.2, 15.0), deis.vp_linear(0.2, 15.0)), (deis.get_cos_alpha_fns(), deis.vp_cosine())],
)
def test_published_alpha_fns(fns, expected):
    t2alpha, alpha2t = fns
    t = np.linspace(0.01, 0.99, 50)
    np.testing.assert_allclose(t2alpha(t), expected.s(t) ** 2, rtol=1e-14)
    np.testing.assert_allclose(alpha2t(t2alpha(t)), t, rtol=1e-10)


@pytest.mark.parametrize("name", SDES)
def test_jax_in_jax_out(name):
    sde = SDES[name]
    t = np.linspace(sde.t_0 + 0.1 * sde.T, sde.T, 9)
    for fn in (sde.s, sde.sigma, sde.rho, lambda t: sde.t_of_rho(sde.rho(t))):
        got = fn(jnp.asarray(t))
        assert got.dtype == jnp.float32
        np.testing.assert_allclose(got, fn(t), rtol=2e-4)
        with jax.enable_x64(True):
            np.testing.assert_allclose(fn(jnp.asarray(t)), fn(t), rtol=1e-12)


def test_extended_precision_goes_through():
    t = np.array([0.1, 0.5, 0.9], np.longdouble)
    for sde in (deis.vp_linear(), deis.ve(), deis.VPSDE(*linear_alpha_fns(np), 1e-3, 1.0)):
        assert sde.rho(t).dtype == np.longdouble
        assert sde.t_of_rho(sde.rho(t)).dtype == np.longdouble


def test_torch_in_torch_out():
    torch = pytest.importorskip("torch")
    sdes = {name: sde for name, sde in SDES.items() if name != "published"}
    sdes["published"] = deis.VPSDE(*linear_alpha_fns(torch), 1e-3, 1.0)
    for name, sde in sdes.items():
        t = sde.t_0 + (sde.T - sde.t_0) * np.array([0.05, 0.111, 0.5, 0.93])
        x = np.ones(4)
        t_torch, x_torch = torch.from_numpy(t), torch.from_numpy(x)
        pairs = [(sde.drift(x_torch, t_torch), sde.drift(x, t)), (sde.diffusion(t_torch), sde.diffusion(t))]
        pairs += [(fn(t_torch), fn(t)) for fn in (sde.s, sde.sigma, lambda t, sde=sde: sde.t_of_rho(sde.rho(t)))]
        for got, expected in pairs:
            assert got.dtype == torch.float64
            np.testing.assert_allclose(got.numpy(), expected, rtol=1e-10, atol=1e-15, err_msg=name)
        assert sde.s(torch.tensor(0.7)).dtype == torch.float32
    by_method = deis.VPSDE(lambda t: (-0.1 * t - 9.95 * t**2).exp(), linear_alpha_fns(torch)[1], 1e-3, 1.0)
    np.testing.assert_allclose(
        by_method.rho(np.array([0.1, 1.0])), SDES["vp_linear"].rho(np.array([0.1, 1.0])), rtol=1e-9
    )


def test_times_may_be_a_list():
    sde, t = SDES["vp_linear"], [0.1, 0.5]
    for fn in (sde.s, sde.sigma, sde.rho, sde.diffusion, lambda t: sde.drift(1.0, t)):
        assert np.array_equal(fn(t), fn(np.array(t)))


@pytest.mark.parametrize(
    ("sde", "T", "prior_std"),
    [(deis.edm(), 40.0, 40.0), (deis.ve(), 0.5, np.sqrt(0.5)), (deis.flow(), 0.9, 0.9), (deis.vp_linear(), 0.5, 1.0)],
)
def test_the_prior_follows_another_end(sde, T, prior_std):
    assert replace(sde, T=T).prior_std == pytest.approx(prior_std, rel=1e-14)
    assert replace(replace(sde, T=T), T=sde.T).prior_std == sde.prior_std


def test_marginal_is_s_and_sigma():
    s, sigma = SDES["sub_vp"].marginal(0.3)
    assert (s, sigma) == (SDES["sub_vp"].s(0.3), SDES["sub_vp"].sigma(0.3))


@pytest.mark.parametrize("library", ["numpy", "jax.numpy", "torch"])
def test_prior_log_density(library):
    xp = pytest.importorskip(library)
    sde = deis.ve(sigma_max=20.0)
    x = 20 * np.random.default_rng(0).normal(size=(5, 3, 2))
    expected = [norm.logpdf(sample, scale=20.0).sum() for sample in x]
    got = sde.prior_logp(xp.asarray(x.astype(np.float32)))
    assert got.shape == (5,)
    assert got.dtype == xp.float32
    np.testing.assert_allclose(np.asarray(got), expected, rtol=1e-6)
    if library == "numpy":
        np.testing.assert_allclose(sde.prior_logp(x), expected, rtol=1e-14)
    half = xp.full((2, 70_000), 2.0, dtype=xp.float16)  # whose log density is beyond float16
    np.testing.assert_allclose(sde.prior_logp(half), 70_000 * norm.logpdf(2.0, scale=20.0), rtol=1e-5)


def test_prior_sample_by_the_librarys_own_generator():
    sde = deis.edm()
    x = sde.prior_sample(np.random.default_rng(0), (2000, 8))
    assert (x.shape, x.dtype) == ((2000, 8), np.float64)
    assert x.std() == pytest.approx(80.0, rel=0.03)
    torch = pytest.importorskip("torch")
    x = sde.prior_sample(torch.Generator().manual_seed(0), (2000, 8))
    assert (tuple(x.shape), x.dtype) == ((2000, 8), torch.float32)
    assert x.std().item() == pytest.approx(80.0, rel=0.03)
    assert torch.equal(x, sde.prior_sample(torch.Generator().manual_seed(0), (2000, 8)))


def test_prior_sample():
    sde = deis.ve(sigma_max=20.0)
    x = sde.prior_sample(jax.random.key(0), (2000, 8))
    assert (x.shape, x.dtype) == ((2000, 8), jnp.float32)
    assert float(jnp.std(x)) == pytest.approx(20.0, rel=0.03)
    assert jnp.array_equal(x, sde.prior_sample(jax.random.key(0), (2000, 8)))
    assert not jnp.array_equal(x, sde.prior_sample(jax.random.key(1), (2000, 8)))


@pytest.mark.parametrize(
    ("schedule", "ends", "alpha_bar"),
    [
        ("linear", (0.1, 0.3), [0.9, 0.9 * 0.8, 0.9 * 0.8 * 0.7]),
        ("scaled_linear", (0.01, 0.04), [0.99, 0.99 * 0.9775, 0.99 * 0.9775 * 0.96]),  # roots 0.1, 0.15, 0.2
    ],
)
def test_discrete_vp_multiplies_what_the_betas_leave(schedule, ends, alpha_bar):
    sde = deis.discrete_vp(schedule, ends[0], ends[1], num_times=3)
    assert deis.discrete_vp(betas=[0.1, 0.5, 1.0]).starts_at_noise
    assert (sde.t_0, sde.T) == (0, 2)
    np.testing.assert_allclose(sde.s(np.arange(3.0)) ** 2, alpha_bar, rtol=1e-14)


def test_the_cosine_schedule_is_a_squared_cosine_but_for_its_last_step():
    sde, t = deis.discrete_vp("cosine", num_times=1000), np.arange(1000.0)
    share = [np.cos((i / 1000 + 0.008) / 1.008 * np.pi / 2) ** 2 for i in range(1001)]
    np.testing.assert_allclose(sde.s(t[:-1]) ** 2, np.array(share[1:-1]) / share[0], rtol=1e-12)
    assert sde.s(999.0) ** 2 == pytest.approx(0.001 * sde.s(998.0) ** 2, rel=1e-12)


def test_discrete_vp_is_ddpm_s_by_default():
    sde, t = deis.discrete_vp(), np.arange(1000.0)
    np.testing.assert_allclose(sde.s(t) ** 2, ALPHA_BAR, rtol=1e-13)
    np.testing.assert_allclose(sde.sigma(t) ** 2, 1 - ALPHA_BAR, rtol=1e-11)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: deis.vp_linear(t_0=1.0, T=1.0), "t_0 must lie below T, both finite, got t_0=1 and T=1"),
        (lambda: deis.vp_linear(t_0=0.5, T=0.1), "t_0 must lie below T, both finite, got t_0=0.5 and T=0.1"),
        (lambda: deis.ve(sigma_min=50.0, sigma_max=0.01), "sigma_min must be positive and below sigma_max, got 50 and"),
        (lambda: deis.ve(sigma_min=0.0), "sigma_min must be positive and below sigma_max, got 0 and 50"),
        (lambda: deis.flow(np.inf), "shift must be positive and finite, got inf"),
        (
            lambda: deis.SDE(np.ones_like, lambda t: t, lambda rho: rho**2, 0.5, 2.5),
            "t_of_rho must be the inverse of .* but takes that of t=1.5 to 2.25",
        ),
        (lambda: deis.discrete_vp(betas=[0.1, 1.5]), "betas must lie between 0 and 1, got 0.1 to 1.5"),
        (lambda: deis.discrete_vp(betas=[1.0, 0.5]), "betas must lie between 0 and 1"),
        (lambda: deis.DiscreteVPSDE([0.9, 0.5, 0.6]), "discrete_alpha must be a decreasing array"),
        (lambda: deis.DiscreteVPSDE([0.9]), "at least 2 alpha_bar values"),
        (lambda: deis.DiscreteVPSDE([0.9, 0.0]), "at least 2 alpha_bar values"),
        (lambda: deis.DiscreteVPSDE([1.0, 0.5]), "between 0 and 1"),
        (lambda: deis.DiscreteVPSDE([[0.9, 0.5]]), "discrete_alpha must be"),
        (lambda: deis.DiscreteVPSDE([0.9, np.nan]), "discrete_alpha must be"),
        (lambda: deis.discrete_vp("sigmoid"), "schedule must be one of linear, scaled_linear, cosine, got 'sigmoid'"),
        (lambda: deis.discrete_vp(num_times=1), "num_times must be at least 2, got 1"),
        (lambda: deis.discrete_vp(beta_end=1.0), "must lie between 0 and 1, got 0.0001 and 1"),
    ],
)
def test_an_impossible_sde_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
