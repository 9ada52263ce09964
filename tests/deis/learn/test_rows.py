"""The rows that parameters move: the base where they are 0, and derivatives that hold."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from reference.loop import run
from reference.mixture import MIXTURE

import deis
from deis import tables
from deis.learn import fitting, rows
from deis.sampler import as_partial

SDES = {"vp": deis.vp_linear(), "cosine": deis.vp_cosine(), "ve": deis.ve(), "sub_vp": deis.sub_vp()}
DETERMINISTIC = [
    name
    for name, method in tables.METHODS.items()
    if not tables.build(SDES["vp"], num_step=4, method=name).is_stochastic
]


@pytest.mark.parametrize("sde", SDES.values(), ids=SDES)
@pytest.mark.parametrize("method", DETERMINISTIC)
def test_parameters_of_0_are_the_table_itself(sde: deis.SDE, method: str) -> None:
    table = tables.build(sde, num_step=5, method=method)
    base = rows.base_of(table, sde)
    same = rows.table_of(base, np.zeros(len(rows.parts(base))), "same", {})
    x_T = sde.prior_std * np.random.default_rng(0).standard_normal((4, 2))
    eps_fn = MIXTURE.eps_fn(sde)
    np.testing.assert_allclose(run(same, eps_fn, x_T), run(table, eps_fn, x_T), rtol=1e-8, atol=1e-8)
    np.testing.assert_allclose(same.rho, table.rho, rtol=1e-12)


def moved(base: rows.Base, size: float = 0.05) -> np.ndarray:
    """Parameters near 0."""
    return size * np.random.default_rng(1).standard_normal(len(rows.parts(base)))


@pytest.mark.parametrize("method", ["t_ab", "dpm_solver_pp", "rho_rk", "unipc", "edm_heun"])
def test_derivatives_are_those_of_the_samples(method: str, compiled_as_users_do: None) -> None:
    """Against finite differences of the whole loop in float64, for every parameter that may move."""
    sde = SDES["vp"]
    base = rows.base_of(tables.build(sde, num_step=2, method=method), sde)
    params, free = moved(base), rows.free_params(base, rows.PARTS)
    x_T = np.random.default_rng(0).standard_normal((3, 2))

    def samples(params: np.ndarray) -> np.ndarray:
        return run(rows.table_of(base, params, "", {}), MIXTURE.eps_fn(sde), x_T)

    with jax.enable_x64(False):
        network = as_partial(MIXTURE.eps_fn(sde, jnp))
        slopes = rows.derivatives(base, params, free)
        x, J = fitting.linearised(network, rows.columns(base, params), slopes, jnp.asarray(x_T, jnp.float32))
    np.testing.assert_allclose(x, samples(params), rtol=1e-4, atol=1e-5)
    for n, i in enumerate(np.flatnonzero(free)):
        step = 1e-5 * np.eye(len(params))[i]
        expected = (samples(params + step) - samples(params - step)) / 2e-5
        np.testing.assert_allclose(J[n], expected, rtol=2e-3, atol=2e-4, err_msg=f"parameter {i}")


def test_the_grid_keeps_its_ends_and_falls() -> None:
    for sde in SDES.values():
        base = rows.base_of(tables.build(sde, num_step=6), sde)
        found = rows.columns(base, moved(base, 2.0))
        assert np.all(np.diff(found["rho"]) < 0)
        np.testing.assert_allclose(found["rho"][[0, -1]], sde.rho(np.array([sde.T, sde.t_0])), rtol=1e-12)
        assert np.all((found["t"] >= sde.t_0) & (found["t"] <= sde.T))


def test_equal_nodes_stay_equal_and_a_constant_eps_stays_exact() -> None:
    """As the grid moves, a Runge-Kutta step's rows still sum to the step."""
    sde = SDES["vp"]
    base = rows.base_of(tables.build(sde, num_step=3, method="rho_rk", rk_method="4rk"), sde)
    params = np.where(np.array(rows.parts(base)) == "grid", moved(base, 0.5), 0.0)
    table = rows.table_of(base, params, "", {})
    assert not np.allclose(table.rho, base.table.rho)
    assert np.sum(np.diff(table.rho) == 0) == np.sum(np.diff(base.table.rho) == 0) == 6
    np.testing.assert_allclose(table.P.sum(axis=1), np.diff(table.rho), rtol=1e-9, atol=1e-9)


def test_bases_that_cannot_move_are_refused() -> None:
    sde = SDES["vp"]
    with pytest.raises(ValueError, match="DDPM adds noise"):
        rows.base_of(tables.build(sde, method="ddpm"), sde)
    with pytest.raises(ValueError, match="tAB3 was made for another SDE"):
        rows.base_of(tables.build(sde), deis.vp_cosine())
