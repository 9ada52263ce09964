"""Grids that are made for one solver."""

from functools import partial

import numpy as np
import pytest
from reference.problem import SDES
from scipy.integrate import solve_ivp

import deis
from benchmarks.problems import MODELS, problem
from benchmarks.work_precision import error
from deis import grids, tables

IPNDM3 = partial(tables.ipndm, order=3)


def test_exact_ends_are_those_of_the_ode():
    data = grids.mixtures()
    found = grids.exact(20.0, 0.02)
    for m in (0, 7, 17):
        w, mean, std = data.weight[:, m, 0], data.mean[:, m, 0], data.std[m, 0]
        assert w @ mean == pytest.approx(0, abs=1e-15)

        def velocity(log_rho, v, w=w, mean=mean, std=std):
            """-rho^2 times the score of v, by the densities themselves."""
            variance = std**2 + np.exp(2 * log_rho)
            density = w[:, None] * np.exp(-((v - mean[:, None]) ** 2) / (2 * variance))
            score = (density * (mean[:, None] - v)).sum(0) / density.sum(0) / variance
            return -np.exp(2 * log_rho) * score

        ode = solve_ivp(velocity, np.log([20.0, 0.02]), 20.0 * data.noise, "DOP853", rtol=1e-10, atol=1e-10)
        np.testing.assert_allclose(found[m], ode.y[:, -1], atol=1e-7)


@pytest.mark.parametrize("method", ["t_ab", "unipc", "edm_heun", "dpm_solver_pp", "s_pndm"])
def test_a_table_runs_as_the_sampler_runs_it(method):
    import jax

    sde, data = deis.vp_linear(), grids.mixtures()
    table = tables.METHODS[method](sde, deis.timesteps(sde, 6))

    def eps_fn(x, t):
        v, rho = x / sde.s(t), sde.rho(t)
        variance = data.std**2 + rho**2
        log_w = jax.numpy.log(data.weight) - (v - data.mean) ** 2 / (2 * variance)
        score = (jax.nn.softmax(log_w, axis=0) * (data.mean - v) / variance).sum(0)
        return -rho * score

    with jax.enable_x64(True):
        x_T = sde.s(sde.T) * sde.rho(sde.T) * (data.noise + np.zeros_like(data.std))
        x_0 = np.asarray(deis.sample(table, eps_fn, jax.numpy.asarray(x_T)))
    np.testing.assert_allclose(grids.run(table), x_0 / table.s[-1], atol=1e-9)


@pytest.mark.parametrize("name", SDES)
def test_nodes_are_nodes_and_better_than_every_schedule(name):
    sde = SDES[name]
    if sde.rho(np.array(sde.t_0)) == 0:
        pytest.skip("ends at sigma = 0")
    ts = grids.optimized(sde, 5, IPNDM3)
    assert len(ts) == 6
    assert (ts[0], ts[-1]) == (sde.T, sde.t_0)
    assert np.all(np.diff(ts) < 0)
    if sde.is_discrete:
        assert np.array_equal(ts, np.round(ts))
        return
    found = grids.mean_log_error(IPNDM3(sde, ts))
    for phase, order in (("t", 1.0), ("t", 2.0), ("log", 1.0), ("edm", 1.0), ("beta", 1.0)):
        assert found < grids.mean_log_error(IPNDM3(sde, deis.timesteps(sde, 5, phase, order))) - 0.1


@pytest.mark.slow
def test_on_problems_that_they_were_not_made_for():
    """A mixture of 8 components in 2 dimensions, under three diffusions, against the best schedule."""
    problems = [problem(model, "2-d, 8 narrow") for model in MODELS]

    def mean_error(nodes):
        tables = [IPNDM3(one.continuous, nodes(one.continuous)) for one in problems]
        errors = [error(one, one.continuous, table) for one, table in zip(problems, tables, strict=True)]
        return np.exp(np.mean(np.log(errors)))

    for num_step in (5, 8):
        schedules = [partial(deis.timesteps, num_step=num_step, phase=phase) for phase in ("t", "log", "edm", "beta")]
        best = min(mean_error(nodes) for nodes in schedules)
        assert mean_error(partial(grids.optimized, num_step=num_step, solver=IPNDM3)) < 0.85 * best


def test_what_cannot_be_optimized_says_why():
    with pytest.raises(ValueError, match=r"adds noise; only the nodes of deterministic solvers"):
        grids.optimized(deis.vp_linear(), 4, tables.ddpm)
    with pytest.raises(ValueError, match=r"above 0 at t_0=0 and below infinity at T=80, got 0 and 80; move t_0 or T"):
        grids.optimized(deis.edm(t_0=0.0), 4, IPNDM3)


def test_build_takes_the_name():
    sde = deis.vp_linear()
    table = tables.build(sde, "optimized", num_step=5, method="ipndm", ab_order=2)
    np.testing.assert_array_equal(table.t, grids.optimized(sde, 5, IPNDM3))
    assert tables.build(deis.discrete_vp(), "optimized", num_step=5).t[0] == 999
