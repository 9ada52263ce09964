"""Exponential Runge-Kutta, SA-Solver, ER-SDE and the other methods of the field: textbook loops, orders, moments."""

import time
from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from reference import problem, samplers
from reference.mixture import MIXTURE
from reference.stochastic import GAUSSIAN, LAMBDAS, field, other

import deis
from deis import Table, tables
from deis.sampler import _run

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
    fine = deis.timesteps(sde, 2 * num_step - 1, "t", 1.0)  # the middles are nodes, too
    pfdiff = tables.pfdiff(sde, fine[[0, *range(1, 2 * num_step, 2)]])
    agree(sde, pfdiff, samplers.pfdiff(denoise, start(sde), sde.rho(fine).tolist()))
    assert pfdiff.nfe == num_step
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


def scaled_errors(sde: deis.SDE, build: Callable, order: int, lam: float | None) -> dict[int, np.ndarray]:
    """Relative errors of a Gaussian's mean and variance, times N^order, for some N.

    lam: the start is off the marginal, and goes where the lambda-SDE leads it; None: it is the marginal, as the end.
    """
    found = {}
    for num_step in (100, 200, 400):
        ts = deis.timesteps(sde, num_step, "rho", 7.0)
        (rho_T, rho_0), c = sde.rho(ts[[0, -1]]), GAUSSIAN.variance
        mean, variance = (0.0, c + rho_T**2) if lam is None else (0.7 * rho_T, c + 1.1 * rho_T**2)
        got = GAUSSIAN.through(build(sde, ts), mean, variance)
        exact = GAUSSIAN.exact(rho_T, rho_0, lam or 0.0, mean, variance)
        errors = np.abs(np.subtract(got, exact)) / np.where(np.array(exact) == 0, 1.0, exact)
        found[num_step] = errors * num_step**order
    return found


@pytest.mark.parametrize("sde_name", ["vp_linear", "ve"])
@pytest.mark.parametrize("lam", LAMBDAS)
def test_weak_orders(sde_name, lam):
    """Mean and variance of a Gaussian approach the SDE's own, or the marginal; nothing is sampled."""
    cases = [(name, *case, lam) for name, case in field(lam).items()]
    cases += [(name, *case, None) for name, case in other(lam).items()]
    for name, build, order, followed in cases:
        scaled = scaled_errors(SDES[sde_name], build, order, followed)
        assert np.all(scaled[200] < (12, 300, 300)[order - 1]), name
        assert np.all(scaled[400] < 1.4 * np.maximum(scaled[100], scaled[200]) + 1e-6), name


def test_lcm_needs_a_consistency_model():
    """With one, every number of steps is exact; with a denoiser, it samples another distribution."""
    sde = SDES["edm"]
    start = 0.0, GAUSSIAN.variance + 80.0**2
    for num_step in (1, 2, 5):
        table = tables.lcm(sde, deis.timesteps(sde, num_step, "edm"))
        assert GAUSSIAN.through(table, *start, consistent=True)[1] == pytest.approx(GAUSSIAN.variance, rel=1e-12)
        assert GAUSSIAN.through(table, *start)[1] < 0.6 * GAUSSIAN.variance


@pytest.mark.parametrize("method", tables.METHODS)
def test_set_up_takes_less_than_5_ms(method):
    """A table of 20 steps is timed, the best of three, since other tests run beside it."""
    sde = deis.vp_linear()
    ts = deis.timesteps(sde, 20)

    def seconds() -> float:
        begun = time.perf_counter()
        tables.METHODS[method](sde, ts)
        return time.perf_counter() - begun

    assert min(seconds() for _ in range(5)) < 5e-3


@pytest.mark.slow
def test_all_methods_share_a_compilation():
    """One with noise, one without; F-PNDM alone has a longer history."""
    sde, x_T = deis.vp_linear(), jnp.ones((2, 2))
    eps_fn = jax.tree_util.Partial(lambda x, t: jnp.tanh(x))
    compiled = _run._cache_size()  # type: ignore[attr-defined]
    for name, method in tables.METHODS.items():
        if name != "f_pndm":
            for num_step in (4, 20):
                deis.sample(method(sde, deis.timesteps(sde, num_step)), eps_fn, x_T, jax.random.key(0))
    assert _run._cache_size() <= compiled + 2  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (partial(tables.exponential_rk, rk_method="4s"), "rk_method must be one of 2s, 3s, heun, .* got '4s'"),
        (partial(tables.exponential_rk, prediction="v"), "prediction must be one of eps, x_0, got 'v'"),
        (partial(tables.exponential_rk, eta=-1.0), "eta must be 0 .* or more, .* got -1"),
        (partial(tables.exponential_rk, eta=1.0, prediction="eps"), "0 for eps, got 1"),
        (partial(tables.exponential_rk, eta=1.5, ancestral=True), "1 at most if ancestral, .* got 1.5"),
        (partial(tables.dpm_solver_singlestep, order=4), "order must be 1 to 3, got 4"),
        (partial(tables.dpm_solver_singlestep, prediction="v"), "prediction must be one of eps, x_0, got 'v'"),
        (partial(tables.dpm_solver_pp_sde, order=4), "dpm_solver_pp_sde order must be 1 to 3, got 4"),
        (partial(tables.sa_solver, order=5), "sa_solver order must be 1 to 4, got 5"),
        (partial(tables.sa_solver, corrector_order=5), "sa_solver corrector_order must be 2 to 4, got 5"),
        (partial(tables.sa_solver, tau=-1.0), "tau must be 0 .* or more, got -1"),
        (partial(tables.er_sde, order=4), "er_sde order must be 1 to 3, got 4"),
        (partial(tables.sa_solver, corrector_order=0), "sa_solver corrector_order must be 2 to 4, got 0"),
        (partial(tables.METHODS["t_ab"], order=2.5), "order must be a whole number, got 2.5"),
        (partial(tables.METHODS["dpm_solver"], order=2.0), "order must be a whole number, got 2.0"),
        (partial(tables.restart, repeats=0), "num_step and repeats must be at least 1, got 2 and 0"),
        (partial(tables.edm_heun, s_noise=-1.0), "s_noise must be 0 or more and finite, got -1"),
        (partial(tables.exponential_rk, eta=0.5, s_noise=np.inf), "s_noise must be 0 or more and finite, got inf"),
        (partial(tables.edm_heun, s_tmin=2.0, s_tmax=1.0), "s_tmin must be at most s_tmax, got 2 and 1"),
        (partial(tables.sa_solver, tau_min=2.0, tau_max=1.0), "tau_min must be at most tau_max, got 2 and 1"),
        (partial(tables.restart, s_tmax=1e9), "s_tmax must lie between the rho of two nodes, .* got 1e.09"),
    ],
)
def test_bad_arguments_are_named(build, message):
    sde = deis.vp_linear()
    with pytest.raises(ValueError, match=message):
        build(sde, deis.timesteps(sde, 5))
