"""What all multistep tables share: lower order at the end, the corrector, and the step to sigma = 0."""

from collections.abc import Callable
from functools import partial
from itertools import product

import numpy as np
import pytest
from reference import dpm, problem
from reference.mixture import MIXTURE

import deis
from deis import Table, tables

METHODS: dict[str, Callable[..., Table]] = {
    "ddim": tables.ddim,
    "t_ab": tables.t_ab,
    "rho_ab": tables.rho_ab,
    "log_rho_ab": tables.log_rho_ab,
    "ipndm": tables.ipndm,
    "ipndm_v": partial(tables.ipndm, variable_step=True),
    "dpm_solver_pp": partial(tables.dpm_solver_pp, order=3),
    "dpm_solver_pp_exact": partial(tables.dpm_solver_pp, order=3, exact=True),
    "unipc": tables.unipc,
    "unipc_eps": partial(tables.unipc, prediction="eps", variant="B1"),
}
methods = pytest.mark.parametrize("method", METHODS)
NAMES = ("lower_order_final", "corrector", "denoise")
OPTIONS = [dict(zip(NAMES, values, strict=True)) for values in product([False, True], repeat=3)]

SINGLE_STEP: dict[str, Callable[..., Table]] = {
    "dpm_solver": partial(tables.dpm_solver, order=3),
    "edm_heun": tables.edm_heun,
    "dpm_2": tables.dpm_2,
}

AB = {
    "t_ab": (tables.t_ab, lambda sde: sde.t_of_rho),
    "rho_ab": (tables.rho_ab, lambda sde: lambda rho: rho),
    "log_rho_ab": (tables.log_rho_ab, lambda sde: np.log),
}


@methods
@pytest.mark.parametrize("sde_name", ["vp_linear", "edm", "discrete"])  # a scale that falls, none, whole times
def test_a_constant_prediction_is_integrated_exactly(method, sde_name):
    """The row sums are those of DDIM, whatever the options; NFE is N, and N + 1 with `denoise`."""
    sde = problem.SDES[sde_name]
    eps, x_0, x_T = np.array([0.3, -1.2]), np.array([-0.4, 0.9]), problem.start(sde)[0]
    v_T, rho_T = x_T / sde.s(sde.T), sde.rho(sde.T)
    for num_step, options in product((1, 2, 3, 10), OPTIONS):
        table = METHODS[method](sde, deis.timesteps(sde, num_step, "log"), **options)
        s, rho = (1.0, 0.0) if options["denoise"] else (sde.s(sde.t_0), sde.rho(sde.t_0))
        assert table.nfe == num_step + options["denoise"]
        np.testing.assert_allclose([table.s[-1], table.rho[-1]], [s, rho], rtol=1e-12)
        if table.b[-1] == 1:
            got = problem.run(table, lambda x, t: eps, x_T)
            np.testing.assert_allclose(got, s * (v_T + (rho - rho_T) * eps), rtol=0, atol=1e-12 * s * rho_T)
        got = problem.run(table, lambda x, t: (x - sde.s(t) * x_0) / sde.sigma(t), x_T)
        tolerance = 1e-7  # in eps the rounding of x is divided by sigma
        np.testing.assert_allclose(got, s * (x_0 + rho / rho_T * (v_T - x_0)), rtol=0, atol=tolerance)


@pytest.mark.parametrize("method", SINGLE_STEP)
@pytest.mark.parametrize("sde_name", problem.SDES)
def test_single_steps_integrate_a_constant_eps_exactly(method, sde_name):
    sde, eps = problem.SDES[sde_name], np.array([0.3, -1.2])
    x_T = problem.start(sde)[0]
    for num_step, denoise in product((1, 2, 3, 10), (False, True)):
        table = SINGLE_STEP[method](sde, deis.timesteps(sde, num_step, "log"), denoise=denoise)
        assert table.nfe == (3 if method == "dpm_solver" else 2) * num_step + denoise
        s, rho = (1.0, 0.0) if denoise else (sde.s(sde.t_0), sde.rho(sde.t_0))
        got = problem.run(table, lambda x, t: eps, x_T)
        rho_T = sde.rho(sde.T)
        np.testing.assert_allclose(got, s * (x_T / sde.s(sde.T) + (rho - rho_T) * eps), rtol=0, atol=1e-12 * s * rho_T)


@methods
@pytest.mark.parametrize("num_step", [1, 2, 3, 4, 10])
def test_lower_order_final_counts_down_to_1(method, num_step):
    sde = deis.vp_linear()
    ts = deis.timesteps(sde, num_step)
    full, lower = (METHODS[method](sde, ts, lower_order_final=on, corrector=False) for on in (False, True))
    used = np.count_nonzero(lower.P, axis=1)
    np.testing.assert_array_equal(used, np.minimum(np.count_nonzero(full.P, axis=1), np.arange(num_step, 0, -1)))
    assert np.array_equal(used[-1:], [1])


@pytest.mark.parametrize("method", AB)
@pytest.mark.parametrize("sde_name", ["vp_linear", "ve", "edm"])
@pytest.mark.parametrize("degree", [0, 1, 2, 3])
def test_corrected_adams_bashforth_equals_its_loop(method, sde_name, degree):
    sde = problem.SDES[sde_name]
    build, variable = AB[method]
    schedule = dpm.Schedule(sde.s, sde.sigma, sde.t_of_rho)
    eps_fn, x_T = MIXTURE.eps_fn(sde), problem.start(sde)
    for num_step, options in ((1, OPTIONS[2]), (2, OPTIONS[3]), (5, OPTIONS[2]), (5, OPTIONS[7]), (5, OPTIONS[5])):
        ts = deis.timesteps(sde, num_step, "log")
        nodes = [*ts, dpm.TO_ZERO] if options["denoise"] else list(ts)
        expected = dpm.adams(
            schedule, variable(sde), eps_fn, x_T, nodes, degree, options["lower_order_final"], options["corrector"]
        )
        got = problem.run(build(sde, ts, degree, **options), eps_fn, x_T)
        np.testing.assert_allclose(got, expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("sde_name", problem.SHORT)
@pytest.mark.parametrize("method", [*AB, "ipndm", "ipndm_v"])
@pytest.mark.parametrize("degree", [0, 1, 2])
def test_the_corrector_raises_the_order_by_one(sde_name, method, degree):
    sde, num_steps = problem.SHORT[sde_name], [160, 320]
    order = degree + 1 if method.startswith("ipndm") else degree
    phase = "rho" if method == "ipndm" else "log"  # constant weights are right on uniform grids
    for corrector in (False, True):
        errors = []
        for n in num_steps:
            table = METHODS[method](sde, deis.timesteps(sde, n, phase, 1.0), order, corrector=corrector)
            first = max(degree, int(corrector))
            errors.append(problem.error_from_exact_history(sde_name, table, first, corrector))
        assert problem.slopes(num_steps, errors)[-1] == pytest.approx(degree + 1 + corrector, abs=0.3)


@pytest.mark.parametrize("method", ["ddim", "t_ab", "rho_ab", "log_rho_ab", "ipndm_v", "dpm_solver_pp", "unipc"])
def test_the_corrector_lowers_the_error(method):
    sde = deis.vp_linear()
    x_T, eps_fn = problem.start(sde, 64), MIXTURE.eps_fn(sde)
    exact = MIXTURE.flow(sde, x_T, np.array([sde.T, sde.t_0]))[-1]
    for num_step in (20, 40):
        ts = deis.timesteps(sde, num_step)
        without, corrected = (
            np.linalg.norm(problem.run(METHODS[method](sde, ts, corrector=on), eps_fn, x_T) - exact)
            for on in (False, True)
        )
        assert corrected < without


@methods
@pytest.mark.parametrize("num_step", [1, 2, 3, 8])
def test_nodes_may_end_at_sigma_0(method, num_step):
    """With all options but `denoise`, which has nothing left to do and says so."""
    for sde in (deis.vp_linear(t_0=0.0), deis.vp_cosine(t_0=0.0), deis.edm(t_0=0.0)):
        ts = deis.timesteps(sde, num_step, "rho", 7.0)
        for options in OPTIONS:
            if options["denoise"]:
                with pytest.raises(ValueError, match="already end at sigma = 0, at t=0; give denoise=False"):
                    METHODS[method](sde, ts, **options)
            else:
                table = METHODS[method](sde, ts, **options)
                assert table.nfe == num_step
                assert np.all(np.isfinite(problem.run(table, MIXTURE.eps_fn(sde), problem.start(sde))))


@methods
def test_denoise_gives_the_predicted_x_0(method):
    sde = deis.ve()
    ts = deis.timesteps(sde, 5)
    eps_fn, x_T = MIXTURE.eps_fn(sde), problem.start(sde)
    x = problem.run(METHODS[method](sde, ts, lower_order_final=False, corrector=False), eps_fn, x_T)
    x_0 = problem.run(METHODS[method](sde, ts, lower_order_final=False, corrector=False, denoise=True), eps_fn, x_T)
    np.testing.assert_allclose(x_0, x - sde.sigma(sde.t_0) * eps_fn(x, sde.t_0), rtol=0, atol=1e-12)


@methods
def test_an_unknown_option_is_refused(method):
    with pytest.raises(TypeError, match="unexpected keyword argument 'corrected'"):
        METHODS[method](deis.ve(), np.array([1.0, 0.5]), corrected=True)


def test_names():
    sde, ts = deis.ve(), np.array([1.0, 0.5, 0.0])
    named = [tables.t_ab(sde, ts, corrector=True), tables.ipndm(sde, ts, 3, variable_step=True)]
    named += [tables.dpm_solver_pp(sde, ts, 2, corrector=True), tables.unipc(sde, ts, 2), tables.dpm_solver(sde, ts, 3)]
    assert [t.name for t in named] == ["tAB3+C", "iPNDMv3", "DPM++2M+C", "UniPC2", "DPM-Solver-3"]


def test_ipndm_of_variable_step_is_rho_ab():
    sde = deis.vp_linear()
    ts = deis.timesteps(sde, 9)
    for order, corrector in product((1, 2, 3, 4), (False, True)):
        ours = tables.ipndm(sde, ts, order, variable_step=True, corrector=corrector)
        np.testing.assert_array_equal(ours.P, tables.rho_ab(sde, ts, order - 1, corrector=corrector).P)
