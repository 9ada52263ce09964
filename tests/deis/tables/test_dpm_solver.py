"""DPM-Solver and DPM-Solver++: the papers' loops, orders of convergence, and honest NFE."""

import numpy as np
import pytest
from reference import dpm, problem
from reference.mixture import MIXTURE

import deis
from deis import SDE, Table, tables

sdes = pytest.mark.parametrize("sde_name", problem.SDES)
short_sdes = pytest.mark.parametrize("sde_name", problem.SHORT)


def schedule(sde: SDE) -> dpm.Schedule:
    return dpm.Schedule(sde.s, sde.sigma, sde.t_of_rho)


def check(sde: SDE, table: Table, expected: np.ndarray) -> None:
    x_T = problem.start(sde)
    got = problem.run(table, MIXTURE.eps_fn(sde), x_T)
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-10 * np.abs(x_T).max(), err_msg=table.name)


@sdes
@pytest.mark.parametrize("num_step", [1, 2, 3, 8])
def test_dpm_solver_equals_the_papers_loops(sde_name, num_step):
    sde = problem.SDES[sde_name]
    ts = deis.timesteps(sde, num_step, "log")
    arguments = (schedule(sde), MIXTURE.eps_fn(sde), problem.start(sde), ts)
    check(sde, tables.dpm_solver(sde, ts, 2), dpm.dpm_solver_2(*arguments))
    check(sde, tables.dpm_solver(sde, ts, 3), dpm.dpm_solver_3(*arguments))
    assert [tables.dpm_solver(sde, ts, order).nfe for order in (1, 2, 3)] == [num_step, 2 * num_step, 3 * num_step]


@sdes
@pytest.mark.parametrize("order", [1, 2, 3])
@pytest.mark.parametrize("num_step", [1, 2, 3, 8])
@pytest.mark.parametrize("lower_order_final", [False, True])
@pytest.mark.parametrize("denoise", [False, True])
def test_dpm_solver_pp_equals_the_papers_loop(sde_name, order, num_step, lower_order_final, denoise):
    sde = problem.SDES[sde_name]
    ts = deis.timesteps(sde, num_step, "log")
    table = tables.dpm_solver_pp(sde, ts, order, lower_order_final=lower_order_final, denoise=denoise)
    nodes = [*ts, dpm.TO_ZERO] if denoise else list(ts)
    eps_fn, x_T = MIXTURE.eps_fn(sde), problem.start(sde)
    check(sde, table, dpm.dpm_solver_pp(schedule(sde), eps_fn, x_T, nodes, order, lower_order_final))
    assert table.nfe == num_step + denoise


@short_sdes
@pytest.mark.parametrize("order", [1, 2, 3])
def test_dpm_solver_orders(sde_name, order):
    num_steps = [10, 20, 40]
    sde = problem.SHORT[sde_name]
    errors = [problem.error(sde_name, tables.dpm_solver(sde, deis.timesteps(sde, n, "log"), order)) for n in num_steps]
    assert problem.slopes(num_steps, errors)[-1] == pytest.approx(order, abs=0.25)


@short_sdes
@pytest.mark.parametrize(("order", "exact", "slope"), [(2, False, 2), (3, False, 2), (2, True, 2), (3, True, 3)])
def test_dpm_solver_pp_orders(sde_name, order, exact, slope):
    """As published, 3M is of order 2: it takes half of the curvature's term."""
    num_steps = [80, 160, 320]
    sde, errors = problem.SHORT[sde_name], []
    for n in num_steps:
        ts = deis.timesteps(sde, n, "log")
        table = tables.dpm_solver_pp(sde, ts, order, exact=exact, lower_order_final=False)
        errors.append(problem.error_from_exact_history(sde_name, table, order - 1, corrected=False))
    assert problem.slopes(num_steps, errors)[-1] == pytest.approx(slope, abs=0.25)


def test_2m_in_the_authors_form():
    """x' = (sigma'/sigma) x - alpha' (e^-h - 1) [(1 + 1/2r) x_0n - 1/2r x_0n-1], with h and r of a hand-made grid."""
    sde = deis.edm(t_0=1.0, T=8.0)
    table = tables.dpm_solver_pp(sde, np.array([8.0, 4.0, 1.0]), 2, lower_order_final=False)
    np.testing.assert_allclose(table.p, [1 / 2, 1 / 4])
    np.testing.assert_allclose(table.P, [[1 / 2, 0], [3 / 4 * (1 + 1 / (2 * 0.5)), -3 / 4 * 1 / (2 * 0.5)]])
    np.testing.assert_allclose([table.a, table.b], [[1, 1], [-8, -4]])


@pytest.mark.parametrize("method", [tables.dpm_solver, tables.dpm_solver_pp])
@pytest.mark.parametrize("order", [1, 2, 3])
@pytest.mark.parametrize("num_step", [1, 2, 3])
def test_a_step_to_sigma_0_is_of_order_1(method, order, num_step):
    """Whether the nodes end there or `denoise` adds it; it costs 1 NFE and gives the predicted x_0."""
    sde = deis.vp_linear(t_0=0.0)
    ts = deis.timesteps(sde, num_step)
    table = method(sde, ts, order)
    k = order if method is tables.dpm_solver else 1
    assert table.nfe == k * (num_step - 1) + 1
    if num_step > 1:
        same = method(sde, ts[:-1], order, denoise=True)
        np.testing.assert_allclose(same.P[-1], table.P[-1])
        eps_fn, x_T = MIXTURE.eps_fn(sde), problem.start(sde)
        if method is tables.dpm_solver:
            np.testing.assert_allclose(problem.run(same, eps_fn, x_T), problem.run(table, eps_fn, x_T), rtol=1e-12)


@pytest.mark.parametrize("method", [tables.dpm_solver, tables.dpm_solver_pp])
@pytest.mark.parametrize("order", [0, 4])
def test_a_bad_order_is_named(method, order):
    with pytest.raises(ValueError, match=f"{method.__name__} order must be 1 to 3, got {order}"):
        method(deis.ve(), np.array([1.0, 0.5]), order)
