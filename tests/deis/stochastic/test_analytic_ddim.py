"""Analytic-DDIM (Bao et al., arXiv 2201.06503): the optimal variance, and the statistic that it is made from."""

import numpy as np
import pytest
from reference import noise
from reference.problem import SDES
from reference.stochastic import GAUSSIAN, optimal

import deis
from deis import tables

sdes = pytest.mark.parametrize("sde_name", SDES)


def grid(sde_name, num_step):
    return deis.timesteps(SDES[sde_name], num_step, "edm" if sde_name in ("ve", "edm") else "t")


@sdes
@pytest.mark.parametrize("eta", [0.0, 0.3, 1.0])
def test_analytic_ddim_samples_a_gaussian_exactly(sde_name, eta):
    """The optimal variance leaves no error but the prior's, in however few steps; DDIM(eta) leaves a large one."""
    sde = SDES[sde_name]
    for num_step in (1, 2, 5):
        ts = grid(sde_name, num_step)
        rho_T, rho_0 = sde.rho(ts[[0, -1]])
        _, variance = GAUSSIAN.through(optimal(eta)(sde, ts), 0.0, 0.25 + rho_T**2)
        assert variance == pytest.approx(0.25 + rho_0**2, rel=1e-12)
        _, plain = GAUSSIAN.through(tables.ddim_eta(sde, ts, eta), 0.0, 0.25 + rho_T**2)
        assert plain < 0.8 * (0.25 + rho_0**2)


@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_analytic_variance_is_the_papers(eta):
    sde = SDES["discrete"]
    ts = np.array([900.0, 500.0, 100.0, 0.0])
    alpha_bar, eps_norm = sde.s(ts) ** 2, np.array([0.99, 0.9, 0.6, 0.2])
    table = tables.analytic_ddim(sde, ts, eps_norm, eta)
    for n in range(3):
        lam = alpha_bar[n + 1] ** 0.5 * eta * tables.ddim_eta(sde, ts, 1.0).g[n]
        alpha = alpha_bar[n] / alpha_bar[n + 1]
        exact = noise.analytic_variance(alpha, alpha_bar[n], lam, eps_norm[n])
        assert table.s[n + 1] ** 2 * table.g[n] ** 2 == pytest.approx(exact, rel=1e-11)
    bounded = tables.analytic_ddim(sde, ts, eps_norm, eta, half_range=1e-3)
    np.testing.assert_allclose(bounded.g, tables.ddim_eta(sde, ts, eta).g, atol=1e-3)
    wide = tables.analytic_ddim(sde, ts, eps_norm, eta, half_range=1e3)
    assert np.array_equal(wide.g, table.g)
    with pytest.raises(ValueError, match=r"one value for each of the 4 nodes, got shape \(3,\)"):
        tables.analytic_ddim(sde, ts, eps_norm[:3])


@pytest.mark.parametrize("library", ["numpy", "jax.numpy", "torch"])
def test_eps_norm_of_a_gaussian(library):
    xp = pytest.importorskip(library)
    sde, rng = deis.vp_linear(), np.random.default_rng(0)
    x_0, z = (
        xp.asarray(a.astype(np.float32)) for a in (0.5 * rng.normal(size=(500, 4, 4)), rng.normal(size=(500, 4, 4)))
    )
    ts = deis.timesteps(sde, 4)

    def eps_fn(x, t):
        assert t.shape == ()
        return GAUSSIAN.eps_fn(sde.s, sde.sigma)(x, t)

    got = tables.estimate_eps_norm(sde, ts, eps_fn, x_0, z)
    rho = sde.rho(ts)
    assert got.dtype == np.float64
    if library != "numpy":  # in half precision the network is told the same times
        half, told = xp.asarray(x_0, dtype=xp.bfloat16), []

        def network(x, t):
            told.append(float(t))
            return x

        tables.estimate_eps_norm(deis.discrete_vp(), np.array([999.0, 501.0]), network, half, half)
        assert told == [999.0, 501.0]
    np.testing.assert_allclose(got, rho**2 / (0.25 + rho**2), rtol=4 * np.sqrt(2 / 8000))
