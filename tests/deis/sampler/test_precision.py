"""States of low precision: the network is asked at the right times, and sums do not lose what it answers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from reference.mixture import MIXTURE

import deis
from deis.wrappers import discrete_time, threshold_x_0

SDE = deis.vp_linear()
EXACT = MIXTURE.eps_fn(SDE, jnp)


def rounded(x: jax.Array, t: jax.Array) -> jax.Array:
    """A perfect network that computes its input and its output in bfloat16."""
    return EXACT(x.astype(jnp.bfloat16).astype(jnp.float32), t).astype(jnp.bfloat16)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.float32])
def test_the_network_is_asked_at_the_nodes_in_the_dtype_of_the_state(dtype) -> None:
    sde, seen = deis.discrete_vp(), []
    nodes = np.array([999.0, 899.0, 799.0, 0.0])

    def network(x: jax.Array, index: jax.Array) -> jax.Array:
        assert x.dtype == dtype
        jax.debug.callback(lambda index: seen.append(int(index)), index)
        return jnp.zeros_like(x)

    table = deis.tables.ddim(sde, nodes)
    x_0 = deis.sample(table, discrete_time(network, 1000), jnp.ones((1, 2), dtype))
    jax.effects_barrier()
    assert x_0.dtype == dtype
    assert sorted(seen) == [799, 899, 999]
    times: list[float] = []

    def eps_fn(x: jax.Array, t: jax.Array) -> jax.Array:
        assert t.dtype == jnp.float32
        jax.debug.callback(lambda t: times.append(float(t)), t)
        return jnp.zeros_like(x)

    x_t, predicted = deis.trajectory(deis.tables.ddim(SDE, np.array([0.9001, 0.1])), eps_fn, jnp.ones((1, 2), dtype))
    jax.effects_barrier()
    assert times == [np.float32(0.9001)]
    assert x_t.dtype == predicted.dtype == dtype


@pytest.mark.parametrize("num_step", [10, 100])
def test_a_bfloat16_state_is_about_as_good_as_a_bfloat16_network(num_step: int) -> None:
    table = deis.tables.unipc(SDE, deis.timesteps(SDE, num_step, "log"))
    x_T = jax.random.normal(jax.random.key(0), (512, 2))

    def error(x_0: jax.Array) -> float:
        return float(jnp.sqrt(jnp.mean((x_0.astype(jnp.float32) - deis.sample(table, EXACT, x_T)) ** 2)))

    wide = error(deis.sample(table, rounded, x_T))
    narrow = error(deis.sample(table, rounded, x_T.astype(jnp.bfloat16)))
    rounding = error(deis.sample(table, EXACT, x_T.astype(jnp.bfloat16).astype(jnp.float32)).astype(jnp.bfloat16))
    assert narrow < 2 * (wide + rounding)


def test_thresholds_in_half_precision() -> None:
    x = jax.random.normal(jax.random.key(1), (4, 50), jnp.bfloat16)
    t = jnp.float32(0.5)
    found = threshold_x_0(SDE, lambda x, t: jnp.zeros_like(x), 90.0)(x, t)
    exact = threshold_x_0(SDE, lambda x, t: jnp.zeros_like(x), 90.0)(x.astype(jnp.float32), t)
    np.testing.assert_allclose(found.astype(jnp.float32), exact, atol=0.02)


def test_arrays_of_numpy_and_lists_are_taken_as_jax_takes_them() -> None:
    table, x = deis.tables.ddim(SDE, deis.timesteps(SDE, 3)), [[0.5, 1.0]]
    for state in (np.array(x), np.array(x, np.float32), [np.array(x)]):
        (found,) = jax.tree.leaves(deis.sample(table, lambda x, t: jax.tree.map(jnp.tanh, x), state))
        assert found.dtype == jnp.float32
        np.testing.assert_array_equal(found, deis.sample(table, lambda x, t: jnp.tanh(x), jnp.array(x)))
