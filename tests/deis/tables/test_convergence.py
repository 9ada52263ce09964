"""Orders of convergence and exactness, on a Gaussian mixture whose network and trajectories are known exactly."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from reference import loop
from reference.mixture import MIXTURE, Mixture
from scipy.integrate import quad

import deis
from deis import Table, tables

ADAMS_BASHFORTH = {"t_ab": tables.t_ab, "rho_ab": tables.rho_ab, "log_rho_ab": tables.log_rho_ab}

# ranges with room above T, where eps varies enough for every step to show its order
SDES = {
    "vp_linear": deis.vp_linear(t_0=0.05, T=0.45),
    "vp_cosine": deis.vp_cosine(t_0=0.1, T=0.65),
    "ve": deis.ve(t_0=0.3, T=0.7),
}
sdes = pytest.mark.parametrize("sde_name", SDES)


@cache
def start(sde_name: str) -> np.ndarray:
    """x_T: [8, 2] noised data."""
    rng, sde = np.random.default_rng(0), SDES[sde_name]
    return sde.s(sde.T) * MIXTURE.sample(rng, 8) + sde.sigma(sde.T) * rng.normal(size=(8, 2))


@cache
def flow(sde_name: str, t: float) -> np.ndarray:
    """Exact state at t of the trajectory through `start`."""
    return MIXTURE.flow(SDES[sde_name], start(sde_name), np.array([SDES[sde_name].T, t]))[-1]


def without_first_rows(table: Table, n: int) -> Table:
    return replace(table, **{name: getattr(table, name)[n:] for name in table.shapes()})


def exact_history(sde_name: str, ts: np.ndarray) -> list[np.ndarray]:
    """eps at the times ts above T, newest first."""
    return [MIXTURE.eps_fn(SDES[sde_name])(flow(sde_name, t), t) for t in ts[::-1]]


def slopes(num_steps: list[int], errors: list[float]) -> np.ndarray:
    """Local orders of convergence between successive numbers of steps."""
    return -np.diff(np.log(errors)) / np.diff(np.log(num_steps))


def error(sde_name: str, table: Table, history: Sequence[np.ndarray] = ()) -> float:
    sde = SDES[sde_name]
    got = loop.run(table, MIXTURE.eps_fn(sde), start(sde_name), history)
    return float(np.sqrt(np.mean((got - flow(sde_name, sde.t_0)) ** 2)))


def test_the_reference_itself():
    """eps is -sigma times the gradient of log p, and one Gaussian's flow has a closed form."""
    x, s, sigma, h = np.random.default_rng(0).normal(size=(5, 2)), 0.8, 0.6, 1e-5
    gradient = [
        (MIXTURE.log_density(x + h * e, s, sigma) - MIXTURE.log_density(x - h * e, s, sigma)) / (2 * h)
        for e in np.eye(2)
    ]
    np.testing.assert_allclose(MIXTURE.eps(x, s, sigma), -sigma * np.stack(gradient, axis=1), atol=1e-9)

    sde, mean = deis.vp_linear(), np.array([0.3, -0.7])
    gaussian = Mixture(np.ones(1), mean[None], np.array([0.5]))
    rho_T, rho_0 = sde.rho(np.array([sde.T, sde.t_0]))
    v = x / sde.s(sde.T)
    exact = sde.s(sde.t_0) * (mean + (v - mean) * np.sqrt((0.25 + rho_0**2) / (0.25 + rho_T**2)))
    np.testing.assert_allclose(gaussian.flow(sde, x, np.array([sde.T, sde.t_0]))[-1], exact, rtol=1e-10)


def reaching(sde: deis.SDE, ts: np.ndarray) -> deis.SDE:
    """The SDE, begun early enough for nodes before its T, where the history of a first step lies."""
    return replace(sde, T=float(ts[0]))


@sdes
@pytest.mark.parametrize("method", ADAMS_BASHFORTH)
@pytest.mark.parametrize("degree", [0, 1, 2, 3])
def test_adams_bashforth_orders_from_exact_history(sde_name, method, degree):
    """Degree r converges with order r + 1 when the first step already knows the r evaluations before T."""
    sde = SDES[sde_name]
    num_steps, errors = [80, 160, 320, 640], []
    for num_step in num_steps:
        ts = sde.T + (sde.T - sde.t_0) / num_step * np.arange(degree, -num_step - 1, -1)
        ts[-1] = sde.t_0
        table = without_first_rows(ADAMS_BASHFORTH[method](reaching(sde, ts), ts, degree), degree)
        errors.append(error(sde_name, table, exact_history(sde_name, ts[:degree])))
    np.testing.assert_allclose(slopes(num_steps, errors), degree + 1, atol=0.2)


@sdes
@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_ipndm_orders_from_exact_history(sde_name, order):
    """Constant weights have their full order on a uniform rho grid, and 2 at most on any other."""
    sde = SDES[sde_name]
    rho_T, rho_0 = sde.rho(np.array([sde.T, sde.t_0]))
    num_steps = [320, 640, 1280]
    uniform: list[float] = []
    uneven: list[float] = []
    for num_step in num_steps:
        steps = np.arange(order - 1, -num_step - 1, -1) / num_step
        for errors, ts in (
            (uniform, sde.t_of_rho(rho_T + (rho_T - rho_0) * steps)),
            (uneven, sde.t_of_rho(rho_T * (rho_T / rho_0) ** steps)),
        ):
            table = without_first_rows(tables.ipndm(reaching(sde, ts), ts, order), order - 1)
            errors.append(error(sde_name, table, exact_history(sde_name, ts[: order - 1])))
    np.testing.assert_allclose(slopes(num_steps, uniform), order, atol=0.2)
    np.testing.assert_allclose(slopes(num_steps, uneven), min(order, 2), atol=0.2)


@sdes
@pytest.mark.parametrize("name", tables.TABLEAUS)
def test_runge_kutta_orders(sde_name, name):
    sde = SDES[sde_name]
    num_steps = [10, 20, 40, 80]
    errors = [error(sde_name, tables.rho_rk(sde, deis.timesteps(sde, n, "t", 1.0), name)) for n in num_steps]
    np.testing.assert_allclose(slopes(num_steps, errors), loop.RUNGE_KUTTA[name][1], atol=0.2)


@pytest.mark.parametrize("method", ADAMS_BASHFORTH)
def test_orders_with_the_usual_start(method):
    """From order 0, 1, 2, ... in the first steps: the slopes between 40 and 160 steps of the default schedule.

    The first steps' own error is of order 2 and takes over later, for tAB3 from 320 steps on.
    """
    sde, rng, build = deis.vp_linear(), np.random.default_rng(0), ADAMS_BASHFORTH[method]
    x_T = sde.s(sde.T) * MIXTURE.sample(rng, 8) + sde.sigma(sde.T) * rng.normal(size=(8, 2))
    exact = MIXTURE.flow(sde, x_T, np.array([sde.T, sde.t_0]))[-1]
    for degree, slope in enumerate([1.0, 1.95, 2.85, 3.5]):
        errors = [
            float(
                np.linalg.norm(loop.run(build(sde, deis.timesteps(sde, n), degree), MIXTURE.eps_fn(sde), x_T) - exact)
            )
            for n in (40, 160)
        ]
        assert slopes([40, 160], errors) == pytest.approx(slope, abs=0.15)


@sdes
@pytest.mark.parametrize("method", ADAMS_BASHFORTH)
@pytest.mark.parametrize("degree", [0, 1, 2, 3])
def test_polynomials_are_integrated_exactly(sde_name, method, degree):
    """An eps that is a polynomial of the method's degree in its variable leaves no error, one degree more does."""
    sde = SDES[sde_name]
    variables: dict[str, Callable] = {"t_ab": sde.t_of_rho, "rho_ab": lambda rho: rho, "log_rho_ab": np.log}
    of_rho = variables[method]

    def polynomial(power: int) -> Callable:
        return lambda x, t: of_rho(sde.rho(t)) ** power

    ts = sde.T + (sde.T - sde.t_0) / 5 * np.array([*range(degree, 0, -1), 0.0, -0.4, -1.7, -3.1, -4.0, -5.0])
    rho_T, rho_0 = sde.rho(ts[[degree, -1]])
    table = without_first_rows(ADAMS_BASHFORTH[method](reaching(sde, ts), ts, degree), degree)
    for power in range(degree + 2):
        eps_fn, x_T = polynomial(power), np.array(sde.s(ts[degree]))
        x = loop.run(table, eps_fn, x_T, [eps_fn(x_T, t) for t in ts[:degree][::-1]])
        integral = quad(lambda rho, k=power: of_rho(rho) ** k, rho_T, rho_0, epsabs=0, epsrel=1e-13)[0]
        miss = abs(x / sde.s(sde.t_0) - 1 - integral) / abs(integral)
        assert miss < 1e-12 if power <= degree else miss > 1e-6


@sdes
def test_tables_equal_the_textbook_loops(sde_name):
    sde, eps_fn, x_T = SDES[sde_name], MIXTURE.eps_fn(SDES[sde_name]), start(sde_name)
    ts = deis.timesteps(sde, 7)

    def check(table: Table, expected: np.ndarray, rtol: float = 1e-12) -> None:
        np.testing.assert_allclose(loop.run(table, eps_fn, x_T), expected, rtol=0, atol=rtol, err_msg=table.name)

    check(tables.ddim(sde, ts), loop.ddim(sde.s, sde.sigma, eps_fn, x_T, ts))
    for order in (1, 2, 3, 4):
        check(tables.ipndm(sde, ts, order), loop.ipndm(sde.s, sde.sigma, eps_fn, x_T, ts, order))
    for name, (step, _) in loop.RUNGE_KUTTA.items():
        check(tables.rho_rk(sde, ts, name), loop.runge_kutta(step, sde.s, sde.sigma, sde.t_of_rho, eps_fn, x_T, ts))


def test_t_ab_of_ve_equals_the_papers_loop():
    """Psi = 1 and the weight is dsigma/dt."""
    sde, eps_fn, x_T = SDES["ve"], MIXTURE.eps_fn(SDES["ve"]), start("ve")
    growth = np.log(50.0 / 0.01)
    ts = deis.timesteps(sde, 7)
    for order in (0, 1, 2, 3):
        expected = loop.t_ab(lambda a, b: 1.0, lambda t: growth * 0.01 * np.exp(growth * t), eps_fn, x_T, ts, order)
        got = loop.run(tables.t_ab(sde, ts, order), eps_fn, x_T)
        np.testing.assert_allclose(got, expected, rtol=0, atol=1e-9)


def test_rho_2heun_is_edms_sampler():
    edm = deis.SDE(s=np.ones_like, sigma=lambda t: 1.0 * t, t_of_rho=lambda rho: 1.0 * rho, t_0=0.002, T=80.0)
    sigmas = deis.timesteps(edm, 17, "rho", 7.0)
    x_T = 80.0 * np.random.default_rng(0).normal(size=(8, 2))

    def denoise(x: np.ndarray, sigma: float) -> np.ndarray:
        return x - sigma * MIXTURE.eps(x, 1.0, sigma)

    got = loop.run(tables.rho_rk(edm, sigmas, "2heun"), MIXTURE.eps_fn(edm), x_T)
    np.testing.assert_allclose(got, loop.edm_heun(denoise, x_T, sigmas), rtol=0, atol=1e-12)
