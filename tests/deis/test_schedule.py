"""Nodes between T and t_0."""

from dataclasses import replace

import numpy as np
import pytest
from reference.problem import SDES

import deis
from deis.schedule import round_down

GRIDS = [("t", 1.0), ("t", 2.0), ("t", 3.0), ("rho", 1.0), ("rho", 7.0), ("log", 1.0), ("edm", 7.0)]

sdes = pytest.mark.parametrize("sde", SDES.values(), ids=SDES.keys())
grids = pytest.mark.parametrize(("phase", "order"), GRIDS)


@sdes
@grids
@pytest.mark.parametrize("num_step", [1, 2, 3, 10, 1000])
def test_nodes_fall_from_T_to_t_0(sde, phase, order, num_step):
    ts = deis.timesteps(sde, num_step, phase, order)
    assert ts.shape == (num_step + 1,)
    assert ts.dtype == np.float64
    assert (ts[0], ts[-1]) == (sde.T, sde.t_0)
    assert np.all(np.diff(ts) < 0)


@sdes
@grids
def test_nodes_are_evenly_spaced_in_their_phase(sde, phase, order):
    ts = deis.timesteps(sde, 20, phase, order)
    spaced = ts if phase == "t" else np.log(sde.rho(ts)) if phase == "log" else sde.rho(ts)
    if phase != "log":
        spaced = spaced ** (1 / order)
    np.testing.assert_allclose(np.diff(spaced), (spaced[-1] - spaced[0]) / 20, rtol=1e-9)


def test_log_grid_ignores_the_order():
    assert np.array_equal(deis.timesteps(SDES["ve"], 10, "log", 1.0), deis.timesteps(SDES["ve"], 10, "log", 7.0))


def test_edm_grid_is_equation_5():
    i, n = np.arange(18), 18
    sigmas = (80 ** (1 / 7) + i / (n - 1) * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7
    for phase, order in (("edm", 2.0), ("rho", 7.0)):
        np.testing.assert_allclose(deis.timesteps(SDES["edm"], n - 1, phase, order), sigmas, rtol=1e-12)


def test_quadratic_by_hand():
    sde = deis.ve(t_0=0.01, T=1.0)
    np.testing.assert_allclose(deis.timesteps(sde, 3), [1.0, 0.49, 0.16, 0.01], rtol=1e-14)


def test_published_nodes_and_what_lies_between():
    sde = deis.edm(t_0=0.0292, T=14.6146)  # time is rho
    np.testing.assert_allclose(deis.timesteps(sde, 10, "ays_sdxl")[[2, 5, 9]], [3.7682, 0.86207, 0.11142], rtol=1e-12)
    between = deis.timesteps(sde, 20, "ays_sd")
    np.testing.assert_allclose(between[3], np.sqrt(6.4746 * 3.8637), rtol=1e-12)
    assert (between[0], between[-1]) == (sde.T, sde.t_0)


def test_published_nodes_stay_within_the_noise_levels():
    with pytest.raises(
        ValueError, match=r'phase "ays_svd" has noise levels sigma/s from 420 .* beyond .* 152 and 0\.01'
    ):
        deis.timesteps(SDES["vp_linear"], 50, "ays_svd")
    assert np.all(np.diff(deis.timesteps(deis.edm(T=700.0), 50, "ays_svd")) < 0)


def test_beta_nodes_are_quantiles():
    """The Beta(0.6, 0.6) distribution is symmetric; its mass below the third of four nodes is a quarter."""
    from scipy.stats import beta

    sde = deis.ve(t_0=0.0, T=1.0)
    ts = deis.timesteps(sde, 4, "beta")
    np.testing.assert_allclose(beta(0.6, 0.6).cdf(ts), [1, 0.75, 0.5, 0.25, 0], rtol=1e-12)


SPACINGS = ("uniform", "quadratic", "leading", "trailing")


@pytest.mark.parametrize("spacing", SPACINGS)
def test_integer_nodes_are_distinct_for_every_number_of_steps(spacing):
    for num in (2, 10, 1000):
        sde = deis.DiscreteVPSDE(np.linspace(0.99, 0.01, num))
        for num_step in range(1, num) if num < 1000 else (1, 2, 3, 7, 50, 499, 501, 998, 999):
            ts = deis.timesteps(sde, num_step, spacing)
            assert ts.dtype == np.float64
            assert len(ts) == num_step + 1
            assert np.array_equal(ts, np.round(ts))
            assert np.all(np.diff(ts) < 0)
            assert ts[-1] == 0
            assert ts[0] <= num - 1
            if spacing in ("uniform", "trailing"):
                assert ts[0] == num - 1


@pytest.mark.parametrize("evaluations", [2, 4, 10, 20, 50, 100, 250])
def test_spacings_are_the_sources(evaluations):
    """DDIM's "quad" and "uniform" (its code rounds by int), and the leading and trailing spacings of others."""
    sde, S = SDES["discrete"], evaluations
    quad = [int(t) for t in np.linspace(0, np.sqrt(1000 * 0.8), S) ** 2]
    if len(set(quad)) == S:
        assert deis.timesteps(sde, S - 1, "quadratic").tolist() == quad[::-1]
    assert deis.timesteps(sde, S - 1, "leading").tolist() == list(range(0, 1000, 1000 // S))[:S][::-1]
    trailing = np.round(np.arange(1000, 0, -1000 / S)) - 1
    assert deis.timesteps(sde, S, "trailing").tolist() == [*trailing[:S], 0]
    assert deis.timesteps(sde, S, "uniform").tolist() == [(S - i) * 999 // S for i in range(S + 1)]


def test_spacings_by_hand():
    sde = SDES["discrete"]
    expected = {
        "uniform": [999, 749, 499, 249, 0],
        "quadratic": [800, 450, 200, 50, 0],
        "leading": [800, 600, 400, 200, 0],
        "trailing": [999, 749, 499, 249, 0],
    }
    for spacing, nodes in expected.items():
        assert deis.timesteps(sde, 4, spacing).tolist() == nodes
    small = deis.DiscreteVPSDE(np.linspace(0.99, 0.01, 8))  # 0.8 N (i / 5)^2 is 0, 0.26, 1.02, 2.3, 4.1 and 6.4
    assert deis.timesteps(small, 5, "quadratic").tolist() == [6, 4, 3, 2, 1, 0]


def test_any_grid_can_be_rounded_down():
    sde = SDES["discrete"]
    ts = round_down(deis.timesteps(sde, 20, "log"), 999)
    assert np.all(np.diff(ts) < 0)
    assert (ts[0], ts[-1]) == (999, 0)
    assert round_down(np.array([7.9, 7.5, 0.3, 0.2, 0.0]), 7).tolist() == [7, 6, 2, 1, 0]
    with pytest.raises(ValueError, match="4 nodes cannot be distinct whole numbers from 0 to 2; take fewer steps"):
        round_down(np.array([2.0, 1.5, 1.0, 0.0]), 2)


@pytest.mark.parametrize("spacing", SPACINGS)
def test_integer_spacings_need_a_discrete_model(spacing):
    like = f'times from 0.001 to 1 is ts_phase "t" with ts_order {2 if spacing == "quadratic" else 1}$'
    with pytest.raises(ValueError, match=f'ts_phase "{spacing}" needs a discrete-time SDE, .* {like}'):
        deis.timesteps(SDES["vp_linear"], 5, spacing)
    with pytest.raises(ValueError, match=r"at least num_step \+ 1 = 1001 whole times, got times from 0 to 999"):
        deis.timesteps(SDES["discrete"], 1000, spacing)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0,), "num_step must be at least 1, got 0"),
        ((-3,), "num_step must be at least 1, got -3"),
        ((5, "time"), "ts_phase must be one of t, rho, log.*, got 'time'"),
        ((5, "t", 0.0), "ts_order must be positive and finite, got 0"),
        ((5, "rho", -2.0), "ts_order must be positive and finite, got -2"),
        ((5, "log"), r'phase "log" needs sigma\(t_0\) > 0, but it is 0 at t_0=0; raise t_0'),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        deis.timesteps(deis.vp_linear(t_0=0.0), *arguments)


def test_too_many_steps_for_float64_are_refused():
    """Neighbours that round to the same time would be a step of length 0."""
    with pytest.raises(ValueError, match="must decrease strictly"):
        deis.timesteps(deis.ve(t_0=1.0 - 1e-14), 1000, "t", 1.0)


def test_negative_times_have_no_root():
    sde = deis.ve(t_0=-0.1)
    with pytest.raises(ValueError, match="t_0 must not be negative, got"):
        deis.timesteps(sde, 5, "t", 2.0)
    for phase, order in (("t", 1.0), ("rho", 7.0)):
        assert deis.timesteps(sde, 5, phase, order)[-1] == -0.1


@pytest.mark.parametrize("ts", [[1.5, 0.5, 0.1], [1.0, 0.5, 0.0001]])
@pytest.mark.parametrize("method", sorted(deis.tables.METHODS))
def test_nodes_outside_of_the_sde_are_refused(method, ts):
    with pytest.raises(ValueError, match=r"must lie between the SDE's t_0=0.001 and T=1, got (1.5|0.0001)"):
        deis.tables.METHODS[method](deis.vp_linear(), np.array(ts))


def test_nodes_from_float32_are_taken():
    ts = np.asarray(deis.timesteps(deis.vp_linear(), 10), np.float32).astype(np.float64)
    assert deis.tables.t_ab(deis.vp_linear(), ts).nfe == 10
    assert deis.tables.t_ab(replace(deis.vp_linear(), t_0=1e-4), np.array([1.0, 0.1, 1e-4])).nfe == 2


@pytest.mark.parametrize("method", ["t_ab", "rho_ab", "rho_rk"])
def test_get_sampler_asks_a_discrete_model_at_whole_times(method):
    table = deis.tables.build(deis.discrete_vp(), num_step=50, method=method)
    at_steps = table.t[:: 3 if method == "rho_rk" else 1]
    np.testing.assert_array_equal(at_steps, np.round(at_steps))
    assert len(set(at_steps)) == 51


@pytest.mark.parametrize(
    ("name", "shown", "nfe"),
    [("tab3", "tAB3", 4), ("tAB0", "tAB0", 4), ("rhoab2", "rhoAB2", 4), ("rho2heun", "rho2Heun", 8)],
)
def test_the_papers_names_are_methods(name, shown, nfe):
    table = deis.tables.build(deis.vp_linear(), num_step=4, method=name)
    assert (table.name, table.nfe) == (shown, nfe)
    with pytest.raises(ValueError, match=r"method must be one of ddim, t_ab, .*tab3.*got 'tab9'"):
        deis.tables.build(deis.vp_linear(), method="tab9")
