"""The benchmarks themselves, on small cases: the exact solution, the errors, the count of compilations."""

import numpy as np
import pytest
from reference import loop

import deis
from benchmarks import overhead, report, work_precision
from benchmarks.problems import DATA, MODELS, problem

SMALL = problem("VP linear", "2-d, 3 wide")
NFES = (5, 10)


@pytest.fixture(scope="module")
def errors() -> report.Errors:
    return work_precision.our_errors(SMALL, NFES)


@pytest.mark.parametrize("model", MODELS)
def test_the_discrete_and_the_continuous_model_are_one_problem(model):
    """The same range of rho, and the exact solution is what a fine grid of either leads to."""
    small = problem(model, "2-d, 3 wide")
    ends = [sde.rho(np.array([sde.T, sde.t_0])) for sde in (small.discrete, small.continuous)]
    np.testing.assert_allclose(ends[0], ends[1], rtol=1e-6)
    fine = deis.tables.rho_rk(small.continuous, deis.timesteps(small.continuous, 250, "log"), "4rk")
    assert work_precision.error(small, small.continuous, fine) < 3e-8
    whole = deis.tables.rho_ab(small.discrete, np.arange(999.0, -1.0, -1.0))
    assert work_precision.error(small, small.discrete, whole) < 2e-6


def test_errors_are_those_of_a_textbook_loop(errors):
    sde, ts = SMALL.continuous, deis.timesteps(SMALL.continuous, 10)
    x_T = sde.sigma(np.array(sde.T)) * SMALL.noise
    x_0 = loop.ddim(sde.s, sde.sigma, SMALL.data.eps_fn(sde), x_T, ts)
    expected = SMALL.error(x_0 / sde.s(ts[-1]))
    assert errors[SMALL.name, "DDIM", "t quadratic", 10] == pytest.approx(expected, rel=1e-10)


def test_every_solver_runs_where_it_has_the_calls(errors):
    """Some solver of every name, each on every grid; the steps of methods of several stages divide 5 and 10 or not."""
    ran = {solver: {nfe for (_, name, _, nfe) in errors if name == solver} for _, solver, _, _ in errors}
    for solver in work_precision.SOLVERS:
        expected = {nfe for nfe in NFES if nfe % solver.nfe_a_step == 0 and solver.name != "F-PNDM"}
        assert ran.get(solver.name, set()) == expected, solver.name
    assert {solver.nfe_a_step for solver in work_precision.SOLVERS} == {1, 2, 3, 4}
    assert {grid for _, _, grid, _ in errors} == set(work_precision.GRIDS)


def test_page_without_peers(errors):
    page = report.page(errors, {}, {}, NFES, "log")
    assert "diffusers" not in page
    best = min(value for (_, _, _, nfe), value in errors.items() if nfe == 10)
    assert f"| {best:.2e} |" in page
    tab3 = [errors[SMALL.name, "tAB3", "log", nfe] for nfe in NFES]
    assert "| tAB3 | " + " | ".join(f"{value:.2e}" for value in tab3) + " |" in page


def test_excesses_and_losses_are_found():
    """An error of ours that is too large is named, and so is a race that is lost."""
    theirs = {("p", "a", "own", 5): 0.1, ("p", "b", "own", 5): 0.3, ("q", "a", "own", 5): 0.1}
    same = {("p", "a", "own", 5): 0.1, ("p", "b", "own", 5): 0.4, ("q", "a", "own", 5): 0.05}
    assert report.excesses(theirs, same).splitlines()[1:] == ["* p, b, own, 5: 4.000e-01 against 3.000e-01"]
    assert "diffusers is better by more than 2e-06 in 0, ours in 1" in report.losses(same, theirs)
    assert "in 1, ours in 1" in report.losses(
        {key: 2 * value if key[0] == "p" else value for key, value in same.items()}, theirs
    )


def test_a_sweep_compiles_once():
    tables, compilations, _ = overhead.sweep(nfes=(4, 21, 50))
    assert (tables, compilations) == (10 * 4 * 3, 1)


def test_data_are_of_size_one():
    for data in DATA.values():
        spread = np.sqrt(np.mean(data.sample(np.random.default_rng(0), 2000) ** 2))
        assert 0.3 < spread < 1.5
