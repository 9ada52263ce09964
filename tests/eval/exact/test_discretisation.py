"""The analysis of discretisation errors, against closed forms."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from reference.mixture import Mixture as ReferenceMixture

import deis
from eval.exact import discretisation
from eval.exact.discretisation import (
    SOLVERS,
    Trajectory,
    extrapolation_error,
    relative_change,
)
from eval.exact.mixture import IN_2D, Mixture

SDE = deis.vp_linear()
WIDE = Mixture(np.array([0.5, 0.5]), np.array([[0.6, -0.6], [-0.7, 0.2]]), np.array([0.45, 0.6]))
POINTS = np.linspace(1.0, 0.0, 101)[:-1] ** 2  # 10 steps of 10


def polynomial(degree: int) -> np.ndarray:
    """[100, 3, 2] values, each a polynomial of that degree with leading coefficient 1 to 6."""
    leading = np.arange(1.0, 7.0).reshape(3, 2)
    return leading * (POINTS**degree)[:, None, None] + np.sin(leading)


@pytest.mark.parametrize("order", [0, 1, 2, 3])
def test_polynomials_of_the_order_are_extrapolated_exactly(order):
    """From the step on in which there are enough nodes; of one degree more, they are not."""
    assert np.max(extrapolation_error(POINTS, polynomial(order), 10, order)[10 * order :]) < 1e-12
    assert np.max(extrapolation_error(POINTS, polynomial(order + 1), 10, order)[10 * order :]) > 1e-3


@pytest.mark.parametrize("order", [0, 1, 2, 3])
def test_the_error_is_the_node_polynomial_times_the_leading_coefficient(order):
    """f - p = a (t - t_0) ... (t - t_order) for f of leading coefficient a and degree order + 1."""
    error = extrapolation_error(POINTS, polynomial(order + 1), 10, order)
    size = np.sqrt(np.mean(np.arange(1.0, 7.0) ** 2))
    for i in (10 * order + 7, 93):
        nodes = POINTS[[i // 10 * 10 - 10 * k for k in range(order + 1)]]
        assert error[i] == pytest.approx(size * abs(np.prod(POINTS[i] - nodes)), rel=1e-9)
    assert np.max(error[::10]) < 1e-12, "0 at nodes"


def test_first_steps_use_the_nodes_there_are():
    values = polynomial(3)
    high, low = (extrapolation_error(POINTS, values, 10, order) for order in (3, 1))
    np.testing.assert_array_equal(high[:20], low[:20])
    assert np.all(high[31:40] < low[31:40])


def test_relative_change_of_an_exponential():
    values = np.exp(0.01 * np.arange(100))[:, None, None] * np.ones((100, 2, 3))
    np.testing.assert_allclose(relative_change(values, 10), np.expm1(0.1) * np.ones(9), rtol=1e-12)
    assert not np.any(relative_change(np.ones((100, 2, 3)), 10))


def gaussian_path(std: float) -> Trajectory:
    """The exact trajectories of data N(0, std^2): v is in proportion to sqrt(std^2 + rho^2)."""
    ts = deis.timesteps(SDE, 1000, "t", 2.0)
    s, sigma, rho = SDE.s(ts), SDE.sigma(ts), SDE.rho(ts)
    v = np.sqrt(std**2 + rho**2)[:, None] * np.array([1.0, -2.0])
    eps = v * (rho / (std**2 + rho**2))[:, None]
    return Trajectory(ts, sigma, rho, (s[:, None] * v)[..., None], eps[:-1, :, None])


def test_holding_the_score_or_eps_of_a_gaussian():
    """eps = c rho / sqrt(std^2 + rho^2) is known; the score held constant is an eps in proportion to sigma."""
    path = gaussian_path(0.3)
    rows = discretisation.holding_rows(path)
    size = np.sqrt(2.5)
    for row in rows:
        i = int(np.argmin(np.abs(path.t - row["t"])))
        start, end = (path.rho[k] / np.hypot(0.3, path.rho[k]) for k in (i // 100 * 100, i))
        ratio = path.sigma[i] / path.sigma[i // 100 * 100] if row["held"] == "score" else 1.0
        assert row["eps_error"] == pytest.approx(size * abs(ratio * start - end), abs=1e-9)
    assert [row["held"] for row in rows] == ["eps"] * 100 + ["score"] * 100


def test_relative_change_rows_of_a_gaussian():
    """The data are a point, nearly: eps stays as it is, and the score changes as 1 / sigma."""
    path = gaussian_path(1e-6)
    rows = discretisation.relative_change_rows(path)
    by_name = {name: [row for row in rows if row["quantity"] == name] for name in ("eps", "score")}
    assert max(row["relative_change"] for row in by_name["eps"]) < 1e-6
    change = path.sigma[:-20:20] / path.sigma[20::20] - 1
    np.testing.assert_allclose([row["relative_change"] for row in by_name["score"]], change[:49], rtol=1e-4)


def test_extrapolation_falls_with_the_order_and_the_step():
    """By the power order + 1 of the step, away from t = 0 where eps of a Gaussian turns."""
    path = gaussian_path(0.8)
    rows = discretisation.extrapolation_rows(path)
    for order in discretisation.ORDERS:
        coarse, fine = (
            np.mean([r["eps_error"] for r in rows if (r["nfe"], r["order"]) == (n, order) and 0.2 < r["t"] < 0.6])
            for n in (50, 100)
        )
        assert np.log2(coarse / fine) == pytest.approx(order + 1, abs=0.25)


def test_fine_trajectories_are_exact():
    """Against an ODE solver with a tolerance of 1e-12."""
    x_T = SDE.prior_sample(jax.random.key(0), (16, 2))
    path = discretisation.fine_trajectory(SDE, WIDE.eps_fn(SDE), x_T)
    oracle = ReferenceMixture(WIDE.weight, WIDE.mean, WIDE.std)
    shown = [0, 500, 900, 1000]
    exact = oracle.flow(SDE, np.asarray(x_T, np.float64), path.t[shown])
    np.testing.assert_allclose(path.x[shown], exact, rtol=0, atol=3e-4)
    for i in (0, 500, 999):
        np.testing.assert_allclose(
            path.eps[i], oracle.eps(path.x[i], SDE.s(path.t[i]), path.sigma[i]), rtol=0, atol=2e-3
        )


def test_pixel_differences_converge_at_each_solvers_order():
    """From 20 to 40 calls the difference falls by the power of the order, or faster."""
    eps_fn = jax.tree_util.Partial(WIDE.eps_fn(SDE))
    x_T = SDE.prior_sample(jax.random.key(1), (64, 2))
    path = discretisation.fine_trajectory(SDE, eps_fn, x_T)
    rows = discretisation.pixel_difference_rows(SDE, eps_fn, x_T, path.x[-1], (2, 20, 40))
    at = {(row["sampler"], row["nfe_asked"]): row for row in rows}
    for sampler, order in {"Euler": 1, "EI-score": 1, "DDIM": 1, "tAB1": 2, "tAB2": 3, "rhoAB1": 2}.items():
        slope = np.log2(at[sampler, 20]["pixel_difference"] / at[sampler, 40]["pixel_difference"])
        assert order - 0.35 < slope < order + 1.2, sampler
    assert at["DDIM", 20]["pixel_difference"] > 3 * at["tAB2", 20]["pixel_difference"]
    ddim = deis.sample(deis.tables.ddim(SDE, deis.timesteps(SDE, 20)), eps_fn, x_T)
    assert at["DDIM", 20]["pixel_difference"] == pytest.approx(float(np.abs(ddim - path.x[-1]).mean()), rel=1e-5)
    assert at["rho3Kutta", 20]["nfe"] == 18
    assert ("rho3Kutta", 2) not in at, "one step takes 3 calls"
    assert {row["sampler"] for row in rows if row["nfe_asked"] == 20} == set(SOLVERS)


def test_the_mixture_is_the_references():
    rng, oracle = np.random.default_rng(0), ReferenceMixture(IN_2D.weight, IN_2D.mean, IN_2D.std)
    x, s, sigma = rng.normal(size=(50, 2)).astype(np.float32), rng.uniform(0.1, 1, 50), rng.uniform(0.05, 1, 50)
    eps, log_p = IN_2D.eps(x, s, sigma), IN_2D.log_density(x, s, sigma)
    for i in range(50):
        one = (x[i : i + 1].astype(np.float64), s[i], sigma[i])
        np.testing.assert_allclose(eps[i], oracle.eps(*one)[0], rtol=2e-4, atol=2e-4)
        np.testing.assert_allclose(log_p[i], oracle.log_density(*one)[0], rtol=2e-4, atol=2e-4)
    np.testing.assert_allclose(
        IN_2D.eps_fn(SDE)(x, jnp.asarray(0.3)), IN_2D.eps(x, SDE.s(0.3), SDE.sigma(0.3)), rtol=1e-5
    )


def test_samples_of_the_mixture():
    x = np.asarray(IN_2D.sample(jax.random.key(0), 20_000), np.float64)
    mean = IN_2D.weight @ IN_2D.mean
    np.testing.assert_allclose(x.mean(0), mean, atol=0.02)
    second = IN_2D.weight @ (IN_2D.mean**2 + IN_2D.std[:, None] ** 2)
    np.testing.assert_allclose((x**2).mean(0), second, atol=0.02)
    single = replace(IN_2D, weight=np.array([0.0, 1.0, 0.0, 0.0]))
    assert float(jnp.max(jnp.abs(single.sample(jax.random.key(0), 100) - single.mean[1]))) < 0.6
