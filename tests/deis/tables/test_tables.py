"""Solver tables: coefficients against independent integrals, hand derivations and the published formulas."""

from collections.abc import Callable
from dataclasses import replace
from inspect import signature
from itertools import pairwise

import numpy as np
import pytest
from reference import loop, quadrature

import deis
from deis import SDE, Table, tables

SDES = {"vp_linear": deis.vp_linear(), "vp_cosine": deis.vp_cosine(), "ve": deis.ve()}
GRIDS = [("t", 1.0), ("t", 2.0), ("rho", 1.0), ("rho", 7.0), ("log", 1.0)]
ADAMS_BASHFORTH: dict[str, Callable[..., Table]] = {
    "t_ab": tables.t_ab,
    "rho_ab": tables.rho_ab,
    "log_rho_ab": tables.log_rho_ab,
}

# where numpy has no type longer than float64, the difference of two close rho costs digits in long schedules
EXTENDED = np.finfo(np.longdouble).eps < 1e-18

grids = pytest.mark.parametrize("grid", GRIDS, ids=lambda grid: f"{grid[0]}{grid[1]:g}")
sdes = pytest.mark.parametrize("sde_name", SDES)


def identity_time(t_0: float, T: float) -> SDE:
    """s = 1 and sigma = t, so that t is rho."""
    return SDE(s=np.ones_like, sigma=lambda t: 1.0 * t, t_of_rho=lambda rho: 1.0 * rho, t_0=t_0, T=T)


@sdes
@grids
@pytest.mark.parametrize("num_step", [1, 2, 3, 5, 10, 100, 1000])
def test_coefficients_equal_30_digit_integrals(sde_name, grid, num_step):
    sde, ratio = SDES[sde_name], quadrature.RATIOS[sde_name]
    ts = deis.timesteps(sde, num_step, *grid)
    numbers = sorted({0, 1, 2, 3, num_step - 1} & set(range(num_step)))
    for method, build in ADAMS_BASHFORTH.items():
        expected = quadrature.rows(ratio, method, ts, numbers)
        for order in range(4):
            P = build(sde, ts, order).P
            for n in numbers:
                degree = min(order, n)
                exact = np.array(expected[n][degree], float)
                rtol = 1e-12 if EXTENDED or num_step <= 10 else 1e-10
                np.testing.assert_allclose(P[n, : degree + 1], exact, rtol=rtol, atol=0, err_msg=f"{method}{order} {n}")
                assert not np.any(P[n, degree + 1 :])


@pytest.mark.parametrize("sde_name", ["vp_linear", "vp_cosine"])
@pytest.mark.parametrize("method", ADAMS_BASHFORTH)
@pytest.mark.parametrize("phase", ["t", "rho"])
def test_last_step_may_end_at_rho_0(sde_name, method, phase):
    sde = getattr(deis, sde_name)(t_0=0.0)
    ts = deis.timesteps(sde, 6, phase, 2.0)
    P = ADAMS_BASHFORTH[method](sde, ts, 3).P
    exact = quadrature.rows(quadrature.RATIOS[sde_name], method, ts, [5])[5][3]
    np.testing.assert_allclose(P[5], np.array(exact, float), rtol=1e-12, atol=0)


@sdes
@grids
@pytest.mark.parametrize("num_step", [1, 3, 10, 1000])
def test_rows_sum_to_the_ddim_coefficient(sde_name, grid, num_step):
    sde = SDES[sde_name]
    ts = deis.timesteps(sde, num_step, *grid)
    rho = sde.rho(ts)
    multistep = [build(sde, ts, order) for build in ADAMS_BASHFORTH.values() for order in range(4)]
    multistep += [tables.ipndm(sde, ts, order) for order in (1, 2, 3, 4)]
    for table in multistep:
        error = np.abs(table.P.sum(axis=1) - np.diff(rho))
        rounding = 4e-15 * (np.abs(table.P).sum(axis=1) + rho[:-1])
        assert np.all(error < rounding), table.name
        assert np.array_equal(table.P, table.Q)
    for name, tableau in tables.TABLEAUS.items():
        table = tables.rho_rk(sde, ts, name)
        next_stage, accepted = ((W.sum(axis=1) / np.repeat(np.diff(rho), tableau.stages)) for W in (table.P, table.Q))
        np.testing.assert_allclose(next_stage, np.tile([*tableau.c[1:], 1.0], num_step), rtol=1e-13)
        np.testing.assert_allclose(accepted, np.tile(np.eye(tableau.stages)[-1], num_step), rtol=1e-13)


@sdes
@pytest.mark.parametrize("method", ADAMS_BASHFORTH)
def test_order_0_is_the_closed_form_ddim_step(sde_name, method):
    sde = SDES[sde_name]
    rng = np.random.default_rng(0)
    x, eps = rng.normal(size=(2, 1000))
    for ts in (np.linspace(sde.T, max(sde.t_0, 1e-3), 21), np.array([sde.T, sde.t_0])):
        for t, t_next in pairwise(ts):
            alpha_bar, alpha_bar_next = sde.s(t) ** 2, sde.s(t_next) ** 2
            sigma, sigma_next = sde.sigma(t), sde.sigma(t_next)
            if sde_name != "ve":
                assert sigma_next**2 == pytest.approx(1 - alpha_bar_next, abs=1e-15)
            x_0 = (x - sigma * eps) / np.sqrt(alpha_bar)
            expected = np.sqrt(alpha_bar_next) * x_0 + sigma_next * eps
            table = ADAMS_BASHFORTH[method](sde, np.array([t, t_next]), 0)
            got = loop.run(table, lambda x, t: eps, x)
            size = np.abs(x_0) * np.sqrt(alpha_bar_next) + np.abs(sigma_next * eps)
            assert np.max(np.abs(got - expected) / size) < 1e-12
            np.testing.assert_allclose(table.P, tables.ddim(sde, np.array([t, t_next])).P, rtol=1e-12)


def test_rho_ab_by_hand():
    """Integrals of the Lagrange polynomials through 7, 4, 2 worked out on paper; the second row is AB2's formula."""
    ts = np.array([7.0, 4.0, 2.0, 1.0])
    P = tables.rho_ab(identity_time(1.0, 7.0), ts, 2).P
    expected = np.array([[-3, 0, 0], [-8 / 3, 2 / 3, 0], [-83 / 60, 17 / 36, -4 / 45]])
    np.testing.assert_allclose(P, expected, rtol=1e-14)
    h, before = -2.0, -3.0
    np.testing.assert_allclose(P[1, :2], [h * (1 + h / (2 * before)), -(h**2) / (2 * before)], rtol=1e-14)


def test_t_ab_of_ve_by_hand():
    """VE's t is linear in l = log rho, and the integral of l drho is rho (l - 1)."""
    sde = deis.ve()
    ts = np.array([1.0, 0.7, 0.45, 0.2, 0.0])
    rho = sde.rho(ts)
    log_rho = np.log(rho)
    P = tables.t_ab(sde, ts, 1).P
    for n in (1, 2, 3):
        integral_of_l = rho[n + 1] * (log_rho[n + 1] - 1) - rho[n] * (log_rho[n] - 1)
        step, before = rho[n + 1] - rho[n], log_rho[n] - log_rho[n - 1]
        newest = (integral_of_l - log_rho[n - 1] * step) / before
        np.testing.assert_allclose(P[n], [newest, step - newest], rtol=1e-12)
    np.testing.assert_allclose(P, tables.log_rho_ab(sde, ts, 1).P, rtol=1e-12)


@pytest.mark.parametrize("order", [1, 2, 3])
def test_t_ab_of_vp_equals_the_papers_weight(order):
    """C_ij with Psi = sqrt(abar'/abar) and the weight -1/2 (d log abar / dtau) / sqrt(1 - abar), for linear beta."""
    beta_0, beta_1 = 0.1, 20.0
    sde = deis.vp_linear(beta_0, beta_1)

    def alpha_bar(t: float) -> float:
        return np.exp(-(beta_0 * t + (beta_1 - beta_0) * t**2 / 2))

    def psi(t_next: float, t: float) -> float:
        return np.sqrt(alpha_bar(t_next) / alpha_bar(t))

    def weight(t: float) -> float:
        return 0.5 * (beta_0 + (beta_1 - beta_0) * t) / np.sqrt(1 - alpha_bar(t))

    ts = deis.timesteps(sde, 6)
    table = tables.t_ab(sde, ts, order)
    for n in range(6):
        nodes = ts[n - np.arange(min(order, n) + 1)]
        C = [loop.t_ab_coefficient(psi, weight, nodes, j, ts[n + 1]) for j in range(len(nodes))]
        np.testing.assert_allclose(table.s[n + 1] * table.P[n, : len(C)], C, rtol=1e-9)


def test_ipndm_weights():
    sde = identity_time(1.0, 7.0)
    P = tables.ipndm(sde, np.array([7.0, 5.0, 4.0, 2.0, 1.0])).P
    np.testing.assert_allclose(P[0], [-2, 0, 0, 0])
    np.testing.assert_allclose(P[1], np.array([3, -1, 0, 0]) * -1 / 2)
    np.testing.assert_allclose(P[2], np.array([23, -16, 5, 0]) * -2 / 12)
    np.testing.assert_allclose(P[3], np.array([55, -59, 37, -9]) * -1 / 24)


@sdes
@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_ipndm_is_rho_ab_on_a_uniform_rho_grid(sde_name, order):
    sde = SDES[sde_name]
    ts = deis.timesteps(sde, 12, "rho", 1.0)
    P = tables.ipndm(sde, ts, order).P
    np.testing.assert_allclose(P, tables.rho_ab(sde, ts, order - 1).P, rtol=1e-10)


@pytest.mark.parametrize("num_step", [1, 2, 3, 20])
def test_nfe_and_shapes(num_step):
    sde = SDES["vp_linear"]
    ts = deis.timesteps(sde, num_step)
    for order in range(4):
        for table in (build(sde, ts, order) for build in ADAMS_BASHFORTH.values()):
            assert (table.nfe, table.lags) == (num_step, min(order + 1, num_step))
            assert np.array_equal(table.t, ts)
    for name in tables.TABLEAUS:
        table = tables.rho_rk(sde, ts, name)
        stages = int(name[0])
        assert table.nfe == stages * num_step
        assert np.array_equal(table.t[::stages], ts)
        assert np.all(table.t <= sde.T)
        assert np.all(table.t >= sde.t_0)
        np.testing.assert_allclose(sde.rho(table.t), table.rho, rtol=1e-12)
    assert [t.name for t in (tables.t_ab(sde, ts), tables.rho_rk(sde, ts, "2heun"))] == ["tAB3", "rho2Heun"]


def test_every_method_that_has_an_order_is_given_it():
    sde, ts = SDES["vp_linear"], deis.timesteps(SDES["vp_linear"], 10)
    with_order = [name for name, method in tables.METHODS.items() if "order" in signature(method).parameters]
    assert {"er_sde", "sa_solver", "dpm_solver_singlestep", "t_ab"} < set(with_order)
    for method in with_order:
        expected = tables.METHODS[method](sde, ts, order=2 + (method == "ipndm"))
        table = tables.build(sde, method=method, ab_order=2)
        assert table.name == expected.name
        assert np.array_equal(table.P, expected.P)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({"method": "t_ab", "order": 2}, lambda sde, ts: tables.t_ab(sde, ts, order=2)),
        ({"method": "ipndm", "order": 3, "corrector": True}, lambda sde, ts: tables.ipndm(sde, ts, 3, corrector=True)),
        ({"method": "tab3", "denoise": True}, lambda sde, ts: tables.t_ab(sde, ts, order=3, denoise=True)),
        ({"method": "ddim_eta", "eta": 0.5}, lambda sde, ts: tables.ddim_eta(sde, ts, eta=0.5)),
        ({"method": "rho_rk", "rk_method": "2heun"}, lambda sde, ts: tables.rho_rk(sde, ts, "2heun")),
        ({"method": "recommended"}, lambda sde, ts: tables.recommended(sde, len(ts) - 1)),
    ],
)
def test_the_published_call_takes_the_options_of_the_solver(arguments, expected):
    sde = SDES["vp_linear"]
    table, expected = tables.build(sde, num_step=7, **arguments), expected(sde, deis.timesteps(sde, 7))
    assert table.name == expected.name
    assert all(np.array_equal(getattr(table, name), getattr(expected, name)) for name in table.shapes())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"method": "magic"}, "method must be one of ddim, t_ab, .*, recommended, got 'magic'"),
        ({"num_steps": 5}, "unknown option of t_ab 'num_steps'; did you mean 'num_step'[?]"),
        ({"method": "ddim", "order": 1}, "option of ddim must be one of ts_phase, .*, denoise, got 'order'$"),
        ({"method": "unipcc"}, "unknown method 'unipcc'; did you mean 'unipc'[?]"),
        ({"method": ["t_ab"]}, r"method must be one of .*, got \['t_ab'\]"),
        ({"method": None}, "method must be one of .*, got None"),
        ({"ts_phase": "optimised"}, "unknown ts_phase 'optimised'; did you mean 'optimized'[?]"),
        ({"order": "3"}, "order must be a whole number, got '3'"),
        ({"method": "ddim_eta", "eta": "1"}, "eta must be a number, got '1'"),
        ({"method": "unipc", "corrector": "no"}, "corrector must be True or False, got 'no'"),
        ({"method": "ddpm", "denoise": 2}, "denoise must be True or False, got 2"),
        ({"method": "tab3", "order": 2}, "method='tab3' says order=3 itself, got 2"),
        ({"method": "tab3", "ab_order": 2}, "method='tab3' says order=3 itself, got 2"),
        ({"method": "recommended", "ts_phase": "log"}, "has a schedule and an order of its own: leave out ts_phase$"),
        ({"method": "recommended", "order": 1}, "option of recommended must be one of num_step, got 'order'$"),
        ({"method": "t_ab", "ab_order": 7}, r"order must be 0 \(DDIM\) to 6, got 7"),
        ({"method": "rho_ab", "ab_order": -1}, "order must be 0 .* got -1"),
        ({"method": "ipndm", "ab_order": 4}, "ipndm order must be 1 to 4, got 5"),
        ({"method": "rho_rk", "rk_method": "5dopri"}, "rk_method must be one of 1euler, .*, got '5dopri'"),
        ({"ts_phase": "sigma"}, "ts_phase must be one of t, rho, log.*, got 'sigma'"),
        ({"ts_order": 0.0}, "ts_order must be positive and finite, got 0"),
        ({"num_step": 0}, "num_step must be at least 1, got 0"),
    ],
)
def test_a_bad_name_or_number_is_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        tables.build(SDES["vp_linear"], **arguments)


@pytest.mark.parametrize(
    ("ts", "message"),
    [
        ([1.0], r"at least 2 nodes, from T down to t_0, got shape \(1,\)"),
        ([[1.0, 0.5]], r"vector of at least 2 nodes, .* got shape \(1, 2\)"),
        ([0.1, 0.5, 1.0], "must decrease strictly, but 0.1 is followed by 0.5"),
        ([1.0, 0.5, 0.5, 0.1], "must decrease strictly, but 0.5 is followed by 0.5"),
        ([1.0, np.nan, 0.1], "must be finite, got nan"),
    ],
)
@pytest.mark.parametrize("build", [*ADAMS_BASHFORTH.values(), tables.ddim, tables.ipndm, tables.rho_rk])
def test_bad_nodes_are_named(build, ts, message):
    with pytest.raises(ValueError, match=message):
        build(SDES["vp_linear"], np.array(ts))


def test_a_bad_tableau_is_named():
    with pytest.raises(ValueError, match=r"tableau X: 2 weights need rows of length 1 to 1, got \[\]"):
        tables.Tableau("X", (), (0.5, 0.5))
    with pytest.raises(ValueError, match=r"tableau X: the weights b must sum to 1, got 1\.5"):
        tables.Tableau("X", ((1.0,),), (0.5, 1.0))
    outside = tables.Tableau("X", ((1.5,),), (0.5, 0.5))
    with pytest.raises(ValueError, match="tableau X: stages must stand within the step"):
        tables.rho_rk(SDES["ve"], np.array([1.0, 0.5]), outside)


def test_a_table_checks_its_columns():
    table = tables.ddim(SDES["ve"], np.array([1.0, 0.5, 0.0]))
    with pytest.raises(ValueError, match=r"DDIM: column q must have shape \(2,\), got \(3,\)"):
        replace(table, q=np.ones(3))
    with pytest.raises(ValueError, match=r"DDIM: column P is not finite in row 1, at t=0\.5"):
        replace(table, P=np.array([[1.0], [np.nan]]))
    assert not table.is_stochastic
    assert replace(table, g=np.array([0.0, 1.0])).is_stochastic
