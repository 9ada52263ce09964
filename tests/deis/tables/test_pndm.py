"""S-PNDM, F-PNDM and PLMS against the papers' loops, on a discrete-time model; and the ablation's tables."""

import numpy as np
import pytest
from reference import loop, problem
from reference.mixture import MIXTURE, Mixture

import deis
from deis import tables

ALPHA_BAR = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))
DISCRETE = problem.SDES["discrete"]
METHODS = {"S-PNDM": tables.s_pndm, "F-PNDM": tables.f_pndm, "PLMS": tables.plms}
methods = pytest.mark.parametrize("method", METHODS)


def nodes(num_step: int) -> np.ndarray:
    """Even indices, so that their averages are indices too."""
    return 2.0 * np.round(np.linspace(499, 0, num_step + 1))


@methods
@pytest.mark.parametrize("num_step", [1, 2, 3, 4, 10, 50])
def test_equals_the_papers_loop(method, num_step):
    ts, x_T = nodes(num_step), problem.start(DISCRETE)
    table = METHODS[method](DISCRETE, ts)
    expected = loop.pndm(lambda t: ALPHA_BAR[int(t)], MIXTURE.eps_fn(DISCRETE), x_T, ts, method)
    np.testing.assert_allclose(problem.run(table, MIXTURE.eps_fn(DISCRETE), x_T), expected, rtol=0, atol=1e-10)
    assert table.nfe == (num_step + 3 * min(num_step, 3) if method == "F-PNDM" else num_step + 1)
    assert np.array_equal(table.t, np.round(table.t))
    assert table.name == method


@methods
def test_weights_after_the_first_steps_are_ipndms(method):
    ts = nodes(20)
    ipndm = tables.ipndm(DISCRETE, ts, 2 if method == "S-PNDM" else 4)
    table = METHODS[method](DISCRETE, ts)
    np.testing.assert_allclose(table.P[-10:, :4], np.pad(ipndm.P[-10:], [(0, 0), (0, 4 - ipndm.lags)])[:, : table.lags])


@methods
@pytest.mark.parametrize("sde_name", problem.SHORT)
def test_orders(method, sde_name):
    sde, num_steps = problem.SHORT[sde_name], [40, 160]
    for phase, order in (("rho", 2 if method == "S-PNDM" else 4), ("log", 2)):
        errors = [problem.error(sde_name, METHODS[method](sde, deis.timesteps(sde, n, phase, 1.0))) for n in num_steps]
        assert problem.slopes(num_steps, errors)[-1] == pytest.approx(order, abs=0.4)


@methods
@pytest.mark.parametrize("num_step", [1, 2, 3, 6])
def test_the_network_is_not_asked_at_sigma_0(method, num_step):
    sde = deis.vp_linear(t_0=0.0)
    table = METHODS[method](sde, deis.timesteps(sde, num_step))
    assert np.all(table.rho[:-1] > 0)
    assert table.rho[-1] == 0
    assert np.all(np.isfinite(problem.run(table, MIXTURE.eps_fn(sde), problem.start(sde))))


@methods
def test_bad_nodes_are_named(method):
    with pytest.raises(ValueError, match="must decrease strictly"):
        METHODS[method](DISCRETE, np.array([0.0, 10.0]))


@pytest.mark.parametrize("num_step", [1, 2, 3, 20])
def test_ablation_equals_the_papers_formulas(num_step):
    beta_0, slope = 0.1, 19.9
    sde = deis.vp_linear()
    ts, x_T = deis.timesteps(sde, num_step), problem.start(sde)

    def beta(t: float) -> float:
        return beta_0 + slope * t

    def log_s(t: float) -> float:
        return -(beta_0 * t + slope * t**2 / 2) / 2

    def psi(t_next: float, t: float) -> float:
        return np.exp(log_s(t_next) - log_s(t))

    eps_fn = MIXTURE.eps_fn(sde)
    expected = loop.euler_vp(beta, sde.sigma, eps_fn, x_T, ts)
    np.testing.assert_allclose(problem.run(tables.euler(sde, ts), eps_fn, x_T), expected, rtol=1e-10, atol=1e-10)
    expected = loop.ei_score_vp(beta, psi, sde.sigma, eps_fn, x_T, ts)
    np.testing.assert_allclose(problem.run(tables.ei_score(sde, ts), eps_fn, x_T), expected, rtol=1e-10, atol=1e-10)
    assert tables.euler(sde, ts).nfe == tables.ei_score(sde, ts).nfe == num_step


@pytest.mark.parametrize("sde_name", problem.SHORT)
@pytest.mark.parametrize("method", [tables.euler, tables.ei_score])
def test_ablation_converges_with_order_1(sde_name, method):
    sde, num_steps = problem.SHORT[sde_name], [100, 200]
    errors = [problem.error(sde_name, method(sde, deis.timesteps(sde, n))) for n in num_steps]
    assert problem.slopes(num_steps, errors)[-1] == pytest.approx(1, abs=0.15)


@pytest.mark.parametrize("num_step", [10, 20, 50, 100])
def test_the_score_held_constant_is_worse_than_euler(num_step):
    """The paper's finding, for data near a point: there the score grows as 1 / sigma^2."""
    sde, rng = deis.vp_linear(), np.random.default_rng(0)
    data = Mixture(MIXTURE.weight, MIXTURE.mean, np.full(3, 0.05))
    x_T = sde.s(sde.T) * data.sample(rng, 64) + sde.sigma(sde.T) * rng.normal(size=(64, 2))
    exact = data.flow(sde, x_T, np.array([sde.T, sde.t_0]))[-1]
    ts = deis.timesteps(sde, num_step, "t", 1.0)
    score, euler, ddim = (
        np.sqrt(np.mean((problem.run(method(sde, ts), data.eps_fn(sde), x_T) - exact) ** 2))
        for method in (tables.ei_score, tables.euler, tables.ddim)
    )
    assert score > 1.5 * max(euler, ddim)


@pytest.mark.parametrize("method", [tables.euler, tables.ei_score])
def test_ablation_may_end_at_sigma_0(method):
    sde = deis.vp_linear(t_0=0.0)
    for num_step in (1, 2, 3):
        table = method(sde, deis.timesteps(sde, num_step))
        assert np.all(np.isfinite(problem.run(table, MIXTURE.eps_fn(sde), problem.start(sde))))
