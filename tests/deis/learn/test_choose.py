"""The best untrained table for a network, found by trying all."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from reference.mixture import MIXTURE

import deis
from deis import tables
from deis.learn import untrained
from deis.sampler import _run
from deis.schedule import INTEGER_PHASES

SDE = deis.vp_linear()
EPS = MIXTURE.eps_fn(SDE, jnp)
X_T = SDE.prior_sample(jax.random.key(0), (64, 2))
X_0 = deis.sample(tables.log_rho_ab(SDE, deis.timesteps(SDE, 200, "log")), EPS, X_T)


def cache_size() -> int:
    """Compilations of the sampling loop so far."""
    return _run._cache_size()  # type: ignore[attr-defined]


def rms(table: deis.Table) -> float:
    return float(jnp.sqrt(jnp.mean((deis.sample(table, EPS, X_T) - X_0) ** 2)))


@pytest.mark.parametrize("nfe", [1, 6])
def test_every_candidate_makes_the_calls_and_says_how_it_is_made(nfe: int) -> None:
    found = list(untrained(SDE, nfe))
    for table in found:
        assert table.nfe == nfe
        assert not table.is_stochastic
        assert {"method", "ts_phase"} <= set(table.about)
    assert len({table.about["method"] for table in found}) >= 10


@pytest.mark.slow
def test_the_first_is_the_best_of_all() -> None:
    compiled = cache_size()
    ranked = deis.choose(SDE, EPS, X_T, X_0, 6)
    assert cache_size() <= compiled + 1
    errors = {choice.table.name + str(choice.table.about): rms(choice.table) for choice in ranked}
    assert ranked[0].error == pytest.approx(min(errors.values()), rel=1e-4)
    assert ranked[0].trajectories == 64
    assert ranked[-1].trajectories == 8
    measured = [choice.error for choice in ranked if choice.trajectories == 64]
    assert measured == sorted(measured)
    assert ranked[0].error < 0.5 * rms(tables.ddim(SDE, deis.timesteps(SDE, 6)))


def test_tables_of_ones_own_can_be_compared() -> None:
    ts = deis.timesteps(SDE, 5)
    mine = [tables.ddim(SDE, ts), tables.t_ab(SDE, ts, order=2)]
    assert [choice.table for choice in deis.choose(SDE, EPS, X_T, X_0, 5, mine)] == mine[::-1]


def test_one_that_explodes_comes_last() -> None:
    table = tables.ddim(SDE, deis.timesteps(SDE, 5))
    broken = deis.Table(
        "broken", **{name: getattr(table, name) for name in table.shapes()} | {"Q": table.Q * 1e30, "P": table.P * 1e30}
    )
    ranked = deis.choose(SDE, EPS, X_T, X_0, 5, [broken, table])
    assert [choice.table for choice in ranked] == [table, broken]
    assert not np.isfinite(ranked[-1].error)


def test_a_discrete_model_is_offered_whole_times() -> None:
    sde = deis.discrete_vp()
    found = list(untrained(sde, 5))
    assert {table.about["ts_phase"] for table in found} == {*INTEGER_PHASES, "optimized"}
    for table in found:
        if table.about["method"] not in ("rho_rk", "dpm_solver", "pfdiff"):  # their trial points lie between
            np.testing.assert_array_equal(table.t, np.round(table.t))


def test_errors() -> None:
    with pytest.raises(ValueError, match="4 trajectories are fewer than batch_size=8"):
        deis.choose(SDE, EPS, X_T[:4], X_0[:4], 5)
    with pytest.raises(ValueError, match="as many trajectories each, got 64 and 63"):
        deis.choose(SDE, EPS, X_T, X_0[:63], 5)  # whose last batch would be one image short, or broadcast
    with pytest.raises(ValueError, match="every table ended in NaN or infinite values"):
        deis.choose(SDE, EPS, X_T, X_0 * jnp.nan, 5, [tables.ddim(SDE, deis.timesteps(SDE, 5))])
    with pytest.raises(ValueError, match="no table makes 5 network calls"):
        deis.choose(SDE, EPS, X_T, X_0, 5, [])
