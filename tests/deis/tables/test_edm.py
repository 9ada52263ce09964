"""EDM's Heun sampler and DPM-2, with and without churn, against their loops in x and sigma."""

import numpy as np
import pytest
from reference import edm, problem
from reference.mixture import MIXTURE

import deis
from deis import tables

METHODS = {"edm_heun": tables.edm_heun, "dpm_2": tables.dpm_2}
methods = pytest.mark.parametrize("method", METHODS)
EDM = deis.edm()
CHURN = {"s_churn": 40.0, "s_tmin": 0.05, "s_tmax": 50.0, "s_noise": 1.003}  # of the paper, for ImageNet


def denoise(x: np.ndarray, sigma: float) -> np.ndarray:
    return x - sigma * MIXTURE.eps(x, 1.0, sigma)


def draws(steps: int) -> list[np.ndarray]:
    return list(np.random.default_rng(1).normal(size=(steps, 8, 2)))


def by_rows(noise: list[np.ndarray], nfe: int) -> list[np.ndarray]:
    """The noise of step n stands in the last row of the step before."""
    return [noise[min((row + 1) // 2, len(noise) - 1)] for row in range(nfe)]


@methods
@pytest.mark.parametrize("num_step", [1, 2, 3, 17])
@pytest.mark.parametrize("churn", [{}, CHURN], ids=["deterministic", "churn"])
def test_equals_the_papers_loop(method, num_step, churn):
    """18 noise levels from 80 to 0.002 and a last step to 0: 35 NFE, as EDM counts."""
    ts = deis.timesteps(EDM, num_step, "rho", 7.0)
    table = METHODS[method](EDM, ts, **churn)
    x_T, noise = problem.start(EDM), draws(num_step + 1)
    options = {"s_churn": 0.0, "s_tmin": 0.0, "s_tmax": np.inf, "s_noise": 1.0} | churn
    expected = edm.sample(denoise, x_T, [*ts, 0.0], noise, midpoint=method == "dpm_2", **options)
    got = problem.run(table, MIXTURE.eps_fn(EDM), x_T, by_rows(noise, table.nfe))
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-10)
    assert table.nfe == 2 * num_step + 1
    assert table.is_stochastic == (bool(churn) and num_step > 1)


@methods
@pytest.mark.parametrize("sde_name", problem.SHORT)
def test_order_2(method, sde_name):
    sde, num_steps = problem.SHORT[sde_name], [20, 40, 80]
    errors = [
        problem.error(sde_name, METHODS[method](sde, deis.timesteps(sde, n, "log"), denoise=False)) for n in num_steps
    ]
    assert problem.slopes(num_steps, errors)[-1] == pytest.approx(2, abs=0.2)


@pytest.mark.parametrize("sde_name", problem.SDES)
def test_known_equals(sde_name):
    """Without the last step Heun is rho2Heun and DPM-2 is DPM-Solver-2, on every SDE."""
    sde = problem.SDES[sde_name]
    ts = deis.timesteps(sde, 6, "log")
    pairs = [
        (tables.edm_heun(sde, ts, denoise=False), tables.rho_rk(sde, ts, "2heun")),
        (tables.dpm_2(sde, ts, denoise=False), tables.dpm_solver(sde, ts, 2)),
    ]
    for table, other in pairs:
        for name in table.shapes():
            np.testing.assert_allclose(getattr(table, name), getattr(other, name), rtol=1e-9, atol=1e-12)


@methods
def test_churn_raises_the_level_but_not_above_the_first_node(method):
    ts = deis.timesteps(EDM, 100, "rho", 7.0)
    table = METHODS[method](EDM, ts, s_churn=1e9)
    at_start = table.rho[:-1][::2]
    np.testing.assert_allclose(at_start, np.minimum(ts * np.sqrt(2), 80.0), rtol=1e-12)
    np.testing.assert_allclose(table.t[:-1], table.rho[:-1])
    assert table.g[0] == 0
    np.testing.assert_allclose(table.g[1::2], np.sqrt(at_start[1:] ** 2 - ts[1:] ** 2), atol=1e-6)
    narrow = METHODS[method](EDM, ts, s_churn=1e9, s_tmin=1.0, s_tmax=10.0)
    assert np.array_equal(narrow.g[1::2] > 0, (ts[1:] >= 1.0) & (ts[1:] <= 10.0))


@methods
@pytest.mark.parametrize("sde_name", ["vp_linear", "edm"])
def test_churned_samples_keep_the_datas_moments(method, sde_name):
    sde, rng = problem.SDES[sde_name], np.random.default_rng(0)
    x_T = sde.s(sde.T) * MIXTURE.sample(rng, 4000) + sde.sigma(sde.T) * rng.normal(size=(4000, 2))
    table = METHODS[method](sde, deis.timesteps(sde, 40, "rho", 7.0), s_churn=20.0)
    x_0 = problem.run(table, MIXTURE.eps_fn(sde), x_T, list(rng.normal(size=(table.nfe, 4000, 2))))
    data = MIXTURE.sample(rng, 400_000)
    np.testing.assert_allclose(x_0.mean(0), data.mean(0), atol=4 * data.std() / np.sqrt(4000))
    np.testing.assert_allclose(np.cov(x_0.T), np.cov(data.T), atol=4 * data.var() * np.sqrt(2 / 4000))


@methods
def test_nodes_that_end_at_sigma_0(method):
    sde = deis.edm(t_0=0.0)
    table = METHODS[method](sde, np.array([80.0, 5.0, 0.0]), denoise=False)
    same = METHODS[method](EDM, np.array([80.0, 5.0]), denoise=True)
    assert (table.nfe, same.nfe) == (3, 3)
    for name in set(table.shapes()) - {"t"}:
        assert np.array_equal(getattr(table, name), getattr(same, name))
    with pytest.raises(ValueError, match="the timesteps already end at sigma = 0, at t=0; give denoise=False"):
        METHODS[method](sde, np.array([80.0, 5.0, 0.0]))
    assert METHODS[method](sde, np.array([80.0, 0.0]), denoise=False).nfe == 1


@methods
def test_bad_churn_is_named(method):
    with pytest.raises(ValueError, match="s_churn must be 0 or more, got -1"):
        METHODS[method](EDM, np.array([80.0, 1.0]), s_churn=-1.0)
