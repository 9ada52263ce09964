"""Nodes from trajectories, by dynamic programming."""

from collections.abc import Iterable
from itertools import combinations, pairwise

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from reference.mixture import MIXTURE

import deis
from deis import tables
from deis.learn import gits, on_nodes, step_errors
from deis.learn.gits import FINE, GROWTH, StepErrors

SDE = deis.vp_linear()
EPS = MIXTURE.eps_fn(SDE, jnp)
X_T = SDE.prior_sample(jax.random.key(0), (16, 2))


def test_errors_are_those_of_steps_of_ddim() -> None:
    found = step_errors(SDE, EPS, X_T)
    fine = tables.ipndm(SDE, found.ts, order=4)
    x_t, _ = deis.trajectory(fine, EPS, X_T)
    for i, j in ((0, 1), (3, 30), (40, FINE)):
        step = deis.sample(tables.ddim(SDE, found.ts[[i, j]]), EPS, x_t[i])
        apart = (step - x_t[j]) / fine.s[j]
        assert found.error[i, j] == pytest.approx(float(jnp.sqrt(jnp.mean(apart**2))), rel=1e-3, abs=1e-5)
    assert np.all(np.isinf(found.error[np.tril_indices(FINE + 1)]))


def test_the_path_is_the_best_of_all() -> None:
    rng = np.random.default_rng(0)
    ts, error = np.linspace(1, 0, FINE + 1), np.full((FINE + 1, FINE + 1), 50.0)
    near = rng.uniform(size=(12, 12)) * np.subtract.outer(np.arange(12), np.arange(12)) ** 2
    kept = [*range(11), FINE]  # others are too dear
    error[np.ix_(kept, kept)] = near
    error[np.tril_indices(FINE + 1)] = np.inf

    def cost(path: Iterable[int]) -> float:
        return sum(GROWTH**n * error[i, j] for n, (i, j) in enumerate(pairwise(path)))

    for num_step in (1, 2, 4):
        paths = [(0, *middle, FINE) for middle in combinations(range(1, 11), num_step - 1)]
        np.testing.assert_array_equal(gits(StepErrors(ts, error), num_step), ts[list(min(paths, key=cost))])


def test_they_help_the_solver_whose_errors_they_are_made_of() -> None:
    found = step_errors(SDE, EPS, X_T)
    x_0 = deis.sample(tables.log_rho_ab(SDE, deis.timesteps(SDE, 200, "log")), EPS, X_T)

    def rms(ts: np.ndarray) -> float:
        return float(jnp.sqrt(jnp.mean((deis.sample(tables.ddim(SDE, ts), EPS, X_T) - x_0) ** 2)))

    assert rms(gits(found, 6)) < 0.9 * min(rms(deis.timesteps(SDE, 6, phase)) for phase in ("t", "log", "edm"))
    with pytest.raises(ValueError, match=r"num_step must be from 1 to 60, got 61"):
        gits(found, 61)


def test_tables_on_such_nodes_say_them() -> None:
    found = step_errors(SDE, EPS, X_T)
    for table in on_nodes(SDE, 5, lambda num_step: gits(found, num_step)):
        assert table.nfe == 5
        nodes = [float(t) for t in table.about["ts"].strip("[]").split(",")]
        np.testing.assert_allclose(nodes[0], SDE.T)
        np.testing.assert_allclose(nodes[-1], SDE.t_0)


def test_whole_times_stay_whole() -> None:
    sde = deis.discrete_vp()
    found = step_errors(sde, MIXTURE.eps_fn(sde, jnp), X_T)
    assert np.array_equal(found.ts, np.round(found.ts))
    assert len(gits(found, 10)) == 11
    few = deis.discrete_vp(num_times=5)
    assert step_errors(few, MIXTURE.eps_fn(few, jnp), X_T).ts.tolist() == [4, 3, 2, 1, 0]
    with pytest.raises(ValueError, match="gave NaN or infinite values on the way of iPNDM"):
        step_errors(few, lambda x, t: x / 0.0 - x / 0.0, X_T)
    with pytest.raises(ValueError, match="the error of a step in x / s has no meaning at T=1"):
        step_errors(deis.flow(), EPS, X_T)
