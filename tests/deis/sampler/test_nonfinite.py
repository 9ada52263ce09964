"""NaN from the network: one sentence that names the solver, the network call and its time."""

import re
from functools import partial

import jax
import jax.numpy as jnp
import pytest

import deis
from deis import tables

SDE = deis.vp_linear()
X_T = jax.random.normal(jax.random.key(0), (4, 3))


def bad_below(t_bad, bad, x, t):
    """0.2 x, and `bad` in one element of one sample from the first time below t_bad on."""
    return (0.2 * x).at[2, 1].set(jnp.where(t < t_bad, bad, 0.0))


@pytest.mark.parametrize("bad", [jnp.nan, jnp.inf])
@pytest.mark.parametrize("method", tables.METHODS)
def test_the_first_bad_call_is_named(method, bad):
    table = tables.build(SDE, method=method, num_step=7)
    key = jax.random.key(0) if table.is_stochastic else None
    for t_bad in (2.0, 0.4, table.t[-2] * 1.001):
        call = next(i for i, t in enumerate(table.t) if t < t_bad)
        eps_fn = jax.tree_util.Partial(bad_below, t_bad, bad)
        message = f"{table.name}: eps_fn gave NaN or infinite values in evaluation {call + 1} of {table.nfe}, at t="
        with pytest.raises(ValueError, match=re.escape(f"{message}{table.t[call]:g}")):
            deis.get_sampler(SDE, eps_fn, method=method, num_step=7)(X_T, key)


def test_a_bad_start_is_named():
    with pytest.raises(ValueError, match="x_T holds NaN or infinite values"):
        deis.get_sampler(SDE, lambda x, t: 0.2 * x)(X_T.at[0, 0].set(jnp.nan))


def test_a_pytree_is_checked_leaf_by_leaf():
    eps_fn = partial(jax.tree.map, lambda x: jnp.nan * x)
    with pytest.raises(ValueError, match="evaluation 1 of 10"):
        deis.get_sampler(SDE, lambda x, t: {"a": 0.2 * x["a"], "b": eps_fn(x["b"])})({"a": X_T, "b": X_T})


def test_inside_a_jit_nothing_is_raised():
    sampler_fn = deis.get_sampler(SDE, lambda x, t: jnp.nan * x)
    assert jnp.all(jnp.isnan(jax.jit(sampler_fn)(X_T)))
    finite = deis.get_sampler(SDE, lambda x, t: 0.2 * x)
    assert jnp.array_equal(jax.jit(finite)(X_T), finite(X_T))
