"""Derivatives through the loop: against finite differences, in both modes, and in less memory on request."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import deis
from deis import tables

pytestmark = pytest.mark.slow

SDE = deis.vp_linear()
TS = deis.timesteps(SDE, 6)
TABLES = [tables.t_ab(SDE, TS), tables.unipc(SDE, TS), tables.rho_rk(SDE, TS, "2heun"), tables.ddim_eta(SDE, TS)]
X_T = np.random.default_rng(0).normal(size=(3, 2))


def network(w, x, t):
    return jnp.tanh(x @ w) * jnp.cos(t)


def loss(table, w, x_T, remat=False, key=None):
    x_0 = deis.sample(table, jax.tree_util.Partial(network, w), x_T, key, remat)
    return jnp.sum(x_0**2)


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.name)
def test_gradients_equal_finite_differences(table) -> None:
    w, h = np.array([[0.5, -0.2], [0.1, 0.3]]), 1e-6
    with jax.enable_x64(True):
        f = partial(loss, table, key=jax.random.key(0))
        by_w, by_x = jax.grad(f, (0, 1))(w, X_T)
        np.testing.assert_allclose(jax.jacfwd(f)(w, X_T), by_w, rtol=1e-9)
        np.testing.assert_allclose(jax.jit(jax.grad(partial(f, remat=True)))(w, X_T), by_w, rtol=1e-9)
        for i in np.ndindex(w.shape):
            e = np.zeros_like(w)
            e[i] = h
            np.testing.assert_allclose(by_w[i], (f(w + e, X_T) - f(w - e, X_T)) / (2 * h), rtol=1e-6)
        e = np.zeros_like(X_T)
        e[1, 0] = h
        np.testing.assert_allclose(by_x[1, 0], (f(w, X_T + e) - f(w, X_T - e)) / (2 * h), rtol=1e-6)


def test_networks_that_close_over_their_parameters() -> None:
    def by_closure(w):
        sampler_fn = deis.get_sampler(SDE, lambda x, t: network(w, x, t), num_step=5)
        return jnp.sum(sampler_fn(jnp.asarray(X_T, jnp.float32)) ** 2)

    w = jnp.eye(2) / 2
    expected = jax.grad(partial(loss, tables.build(SDE, num_step=5)))(w, jnp.asarray(X_T, jnp.float32))
    np.testing.assert_allclose(jax.grad(by_closure)(w), expected, rtol=1e-5)


def test_a_transformed_call_gives_what_an_ordinary_one_does() -> None:
    w, x_T = jnp.eye(2) / 2, jnp.asarray(X_T, jnp.float32)
    ordinary = loss(TABLES[0], w, x_T)
    np.testing.assert_allclose(jax.jit(partial(loss, TABLES[0]))(w, x_T), ordinary, rtol=1e-6)
    np.testing.assert_allclose(jax.value_and_grad(partial(loss, TABLES[0]))(w, x_T)[0], ordinary, rtol=1e-6)


def test_remat_keeps_no_activations() -> None:
    """A network of wide activations: without remat those of all calls are kept, with it those of one."""
    width, batch = 512, 256
    v, w = jnp.zeros((2, width)), jnp.zeros((width, 2))

    def wide(v, x, t):
        return jnp.sin(jnp.tanh(x @ v)) @ w

    def total(remat, v, x_T):
        return jnp.sum(deis.sample(tables.ddim(SDE, deis.timesteps(SDE, 40)), partial(wide, v), x_T, remat=remat))

    def memory(remat) -> int:
        compiled = jax.jit(jax.grad(partial(total, remat))).lower(v, jnp.zeros((batch, 2))).compile()
        analysis = compiled.memory_analysis()
        assert analysis is not None
        return analysis.temp_size_in_bytes

    one_call = 4 * batch * width
    assert memory(False) > 30 * one_call
    assert memory(True) < 10 * one_call
