"""Exponential Runge-Kutta, SA-Solver, ER-SDE and the other methods of the field: textbook loops, orders, moments."""

from functools import partial

import numpy as np
import pytest
from reference import problem, samplers
from reference.mixture import MIXTURE

import deis
from deis import Table, tables

SDES = {name: problem.SDES[name] for name in ("vp_linear", "ve", "edm")}
DRAWS = np.random.default_rng(1).standard_normal((64, 8, 2))
sdes = pytest.mark.parametrize("sde_name", SDES)
num_steps = pytest.mark.parametrize("num_step", [1, 2, 3, 8])


def denoise(x: np.ndarray, sigma: float) -> np.ndarray:
    return x - sigma * MIXTURE.eps(x, 1.0, sigma)


def draw(n: int) -> np.ndarray:
    return DRAWS[n]


def agree(sde: deis.SDE, table: Table, expected: np.ndarray) -> None:
    """With the loop's result in v = x / s, from `start`, and the noise DRAWS."""
    got = problem.run(table, MIXTURE.eps_fn(sde), sde.s(sde.T) * start(sde), DRAWS) / table.s[-1]
    np.testing.assert_allclose(got, expected, rtol=1e-9, atol=1e-9, err_msg=table.name)


def start(sde: deis.SDE) -> np.ndarray:
    return problem.start(sde) / sde.s(sde.T)


def grid(sde: deis.SDE, num_step: int) -> tuple[np.ndarray, list[float]]:
    ts = deis.timesteps(sde, num_step, "rho", 7.0)
    return ts, sde.rho(ts).tolist()


@sdes
@num_steps
@pytest.mark.parametrize("eta", [0.0, 0.6, 1.0])
@pytest.mark.parametrize("rk_method", tables.EXPONENTIAL)
def test_exponential_rk(sde_name, num_step, eta, rk_method):
    sde = SDES[sde_name]
    ts, sigmas = grid(sde, num_step)
    table = tables.exponential_rk(sde, ts, rk_method, eta=eta)
    expected = samplers.exponential(*samplers.EXPONENTIAL[rk_method], denoise, start(sde), sigmas, draw, eta)
    agree(sde, table, expected)
    assert table.is_stochastic == (eta > 0)


@sdes
@num_steps
@pytest.mark.parametrize("eta", [0.0, 0.4, 1.0])
@pytest.mark.parametrize("to_zero", [False, True])
def test_ancestral(sde_name, num_step, eta, to_zero):
    sde = SDES[sde_name]
    ts, sigmas = grid(sde, num_step)
    sigmas = sigmas + [0.0] * to_zero
    for prediction, loop in (("x_0", samplers.dpmpp_2s_ancestral), ("eps", samplers.dpm_2_ancestral)):
        table = tables.exponential_rk(sde, ts, "2s", prediction=prediction, eta=eta, ancestral=True, denoise=to_zero)
        agree(sde, table, loop(denoise, start(sde), sigmas, draw, eta))


@sdes
@num_steps
@pytest.mark.parametrize("eta", [0.0, 0.6, 1.0])
def test_3m_sde(sde_name, num_step, eta):
    sde = SDES[sde_name]
    ts, sigmas = grid(sde, num_step)
    table = tables.dpm_solver_pp_sde(sde, ts, 3, eta=eta, variant="heun")
    agree(sde, table, samplers.dpmpp_3m_sde(denoise, start(sde), sigmas, draw, eta))


@sdes
@num_steps
@pytest.mark.parametrize(("order", "corrector_order"), [(1, 0), (2, 2), (3, 0), (3, 3), (3, 4)])
@pytest.mark.parametrize("interval", [(0.0, np.inf), (0.05, 1.0)])
def test_sa_solver(sde_name, num_step, order, corrector_order, interval):
    sde = SDES[sde_name]
    ts, sigmas = grid(sde, num_step)
    options = {"corrector_order": corrector_order} if corrector_order else {"corrector": False}
    table = tables.sa_solver(sde, ts, order, tau=0.8, tau_min=interval[0], tau_max=interval[1], **options)

    def tau(sigma: float) -> float:
        return 0.8 if interval[0] <= sigma <= interval[1] else 0.0

    agree(sde, table, samplers.sa_solver(denoise, start(sde), sigmas, draw, tau, order, corrector_order))


@sdes
@num_steps
@pytest.mark.parametrize("order", [1, 2, 3])
def test_er_sde(sde_name, num_step, order):
    sde = SDES[sde_name]
    ts, sigmas = grid(sde, num_step)
    agree(sde, tables.er_sde(sde, ts, order), samplers.er_sde(denoise, start(sde), sigmas, draw, order))


@sdes
@pytest.mark.parametrize("num_step", [1, 2, 3, 4, 7, 8])
def test_short_ones(sde_name, num_step):
    sde = SDES[sde_name]
    ts, sigmas = grid(sde, num_step)
    for gamma in (1.5, 2.0):
        expected = samplers.gradient_estimation(denoise, start(sde), sigmas, gamma)
        agree(sde, tables.gradient_estimation(sde, ts, gamma), expected)
    agree(sde, tables.pfdiff(sde, ts), samplers.pfdiff(denoise, start(sde), sigmas))
    assert tables.pfdiff(sde, ts).nfe == num_step // 2 + 1
    agree(sde, tables.lcm(sde, ts), samplers.lcm(denoise, start(sde), [*sigmas, 0.0], draw))
    iPNDM, GE = tables.ipndm(sde, ts, 2), tables.gradient_estimation(sde, ts, 1.5)
    np.testing.assert_allclose(iPNDM.P, GE.P, rtol=1e-12)


@sdes
@pytest.mark.parametrize(("num_step", "repeats"), [(1, 1), (1, 3), (2, 2), (4, 1)])
def test_restart(sde_name, num_step, repeats):
    sde = SDES[sde_name]
    ts, sigmas = grid(sde, 9)
    table = tables.restart(sde, ts, s_tmin=1.01 * sigmas[6], s_tmax=sigmas[2], num_step=num_step, repeats=repeats)
    interval = sigmas[6], sigmas[2]
    agree(sde, table, samplers.restart(denoise, start(sde), [*sigmas, 0.0], draw, interval, num_step, repeats))
    assert table.nfe == tables.edm_heun(sde, ts).nfe + 2 * num_step * repeats
    assert np.count_nonzero(table.g) == repeats


@pytest.mark.parametrize("sde_name", problem.SHORT)
@pytest.mark.parametrize("prediction", ["x_0", "eps"])
@pytest.mark.parametrize(
    ("rk_method", "order"), [("2s", 2), ("3s", 3), ("heun", 2), ("res_2s", 2), ("res_3s", 3), ("etd_rk4", 4)]
)
def test_orders_of_exponential_rk(sde_name, prediction, rk_method, order):
    num_steps, sde = [10, 20, 40], problem.SHORT[sde_name]
    build = partial(tables.exponential_rk, rk_method=rk_method, prediction=prediction)
    errors = [problem.error(sde_name, build(sde, deis.timesteps(sde, n, "log"))) for n in num_steps]
    assert problem.slopes(num_steps, errors)[-1] == pytest.approx(order, abs=0.35)


@pytest.mark.parametrize("sde_name", problem.SHORT)
@pytest.mark.parametrize("order", [1, 2, 3])
def test_orders_of_single_steps_at_the_nodes(sde_name, order):
    num_steps, sde = [30, 60, 120], problem.SHORT[sde_name]
    for prediction in ("x_0", "eps"):
        errors = []
        for n in num_steps:
            ts = deis.timesteps(sde, n, "t", 2.0)
            table = tables.dpm_solver_singlestep(sde, ts, order, prediction=prediction, lower_order_final=False)
            assert table.nfe == n
            np.testing.assert_array_equal(table.t, ts)
            errors.append(problem.error(sde_name, table))
        assert problem.slopes(num_steps, errors)[-1] == pytest.approx(order, abs=0.25)


@pytest.mark.parametrize("sde_name", problem.SHORT)
def test_orders_of_the_short_ones(sde_name):
    num_steps, sde = [40, 80, 160], problem.SHORT[sde_name]
    for build, order in ((tables.gradient_estimation, 1), (tables.pfdiff, 2)):
        errors = [problem.error(sde_name, build(sde, deis.timesteps(sde, n, "log"))) for n in num_steps]
        assert problem.slopes(num_steps, errors)[-1] == pytest.approx(order, abs=0.3)
