"""One JAX loop that runs any table.

The table is an ordinary argument of one jitted function, padded in rows and lags, so that changing the solver,
its order, the schedule or the NFE does not compile again; only another network or batch shape does.
"""

from bisect import bisect_left
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import numpy as np

from deis import tables
from deis.errors import checked, needs, require
from deis.sde import SDE
from deis.table import Table

with needs("jax", "deis.sampler"):
    import jax
    import jax.numpy as jnp
    from jax.extend.core import get_opaque_trace_state

State = Any  # a pytree of arrays whose leading axis is the batch
EpsFn = Callable[[State, jax.Array], State]
Rows = dict[str, jax.Array]

_PADDED_ROWS = 64  # tables of up to this many evaluations share one compilation; above, powers of two
_PADDED_LAGS = 6
with ThreadPoolExecutor(1) as _thread:  # a new thread is within no transformation, as this import may be
    _UNTRACED = _thread.submit(get_opaque_trace_state, convention="deis").result()


@checked
def get_sampler(
    sde: SDE,
    eps_fn: EpsFn,
    ts_phase: str = "t",
    ts_order: float = 2.0,
    num_step: int = 10,
    method: str = "t_ab",
    ab_order: int = 3,
    rk_method: str = "3kutta",
    **options: Any,
) -> Callable[..., State]:
    """A function from noise x_T to samples x_0, by the named solver and schedule (the published call).

    eps_fn(x, t): the network's eps prediction at x, shaped like x, for a scalar time t in the SDE's units.
    num_step: steps, each of which costs one network call, or as many as `rk_method` has stages.
    The other arguments are those of `deis.tables.build`.
    The function also takes `key` where the table adds noise, and `remat`, as `sample` does. Called outside a jit, it
    raises ValueError if eps_fn gives NaN or infinity, naming the network call.
    """
    table = tables.build(sde, ts_phase, ts_order, num_step, method, ab_order, rk_method, **options)

    def sampler_fn(x_T: State, key: jax.Array | None = None, remat: bool = False) -> State:
        x_0 = sample(table, eps_fn, x_T, key, remat)
        if not any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(x_0)) and not _is_finite(x_0):
            _refuse_eps(table, eps_fn, x_T, key)
        return x_0

    return sampler_fn


@checked
def sample(table: Table, eps_fn: EpsFn, x_T: State, key: jax.Array | None = None, remat: bool = False) -> State:
    """Run `table` from x_T; returns the samples, shaped like x_T.

    eps_fn: as in `get_sampler`. A `jax.tree_util.Partial(apply, params)` passes the parameters as arguments, so that
        other parameters do not compile again; any other callable compiles once per object.
    x_T: floating-point array [batch, ...], or a pytree of such. The network is called in its dtype and the samples
        come back in it, whatever the network's own; times and sums are float32, or float64 for a float64 state.
    key: for stochastic tables, one key, folded with each sample's index, or keys [batch], one a sample.
        A sample's noise depends on its key alone, not on the batch.
    remat: how gradients are computed, which flow through the loop in both modes. In the reverse mode, False keeps the
        network's activations of all `nfe` calls; True keeps the state, its history and its anchor of every call, that
        is nfe (2 + lags) states, and the activations of one call, at the cost of a second forward pass.
    Raises ValueError for an integer x_T, a stochastic table without a key or with keys of another number, or an eps of
        another shape than x.
    """
    x_T, keys = _checked(table, x_T, key)
    if get_opaque_trace_state(convention="deis") != _UNTRACED:  # within jit or grad, where the table is a constant
        return run_rows(as_partial(eps_fn), _rows(table, x_T), x_T, keys, remat=remat)
    return _run(as_partial(eps_fn), _rows(_padded(table), x_T), table.nfe, x_T, keys)


@checked
def trajectory(table: Table, eps_fn: EpsFn, x_T: State, key: jax.Array | None = None) -> tuple[State, State]:
    """Run `table` from x_T and keep everything: (x_t [nfe+1, batch, ...], predicted x_0 [nfe, batch, ...]).

    The last x_t is what `sample` returns, up to rounding. Compiles once per NFE. Arguments and errors are those of
    `sample`.
    """
    x_T, keys = _checked(table, x_T, key)
    return run_rows(as_partial(eps_fn), _rows(table, x_T), x_T, keys, keep=True)


def _refuse_eps(table: Table, eps_fn: EpsFn, x_T: State, key: jax.Array | None) -> None:
    """Raise ValueError for the first network call after which the state is not finite, by running parts of the table.

    Nothing compiles again, and NaN never leaves the state: weights of 0 multiply it too.
    """
    x_T, keys = _checked(table, x_T, key)
    rows = _rows(_padded(table), x_T)

    def fails(calls: int) -> bool:
        return not _is_finite(_run(as_partial(eps_fn), rows, calls, x_T, keys))

    calls = bisect_left(range(table.nfe), True, key=fails)  # 0 if x_T itself is not finite
    require(calls > 0, "x_T holds NaN or infinite values")
    raise ValueError(
        f"{table.name}: eps_fn gave NaN or infinite values in evaluation {calls} of {table.nfe}, "
        f"at t={table.t[calls - 1]:g}"
    )


def _is_finite(x: State) -> bool:
    return all(bool(jnp.all(jnp.isfinite(leaf))) for leaf in jax.tree.leaves(x))


@jax.jit
def _run(eps_fn: EpsFn, rows: Rows, nfe: jax.Array, x_T: State, keys: jax.Array | None) -> State:
    def body(i: jax.Array, carry: tuple) -> tuple:
        row = {name: column[i] for name, column in rows.items()}
        return _advance(eps_fn, carry, row, keys, i, like=x_T)[0]

    u, _, _ = jax.lax.fori_loop(0, nfe, body, _start(rows, x_T))
    return cast(scale(rows["s"][nfe], u), x_T)


@partial(jax.jit, static_argnames=("keep", "remat"))
def run_rows(
    eps_fn: EpsFn, rows: Rows, x_T: State, keys: jax.Array | None, keep: bool = False, remat: bool = False
) -> Any:
    """The samples, or with `keep` what `trajectory` returns; all rows count, and it can be differentiated."""
    s_end, nfe = rows["s"][-1], len(rows["a"])
    steps = {name: column[:nfe] for name, column in rows.items()}

    def body(carry: tuple, step: tuple) -> tuple[tuple, Any]:
        row, i = step
        u = carry[0]
        carry, x_0 = _advance(eps_fn, carry, row, keys, i, like=x_T)
        return carry, (cast(scale(row["s"], u), x_T), cast(x_0, x_T)) if keep else None

    body = jax.checkpoint(body, prevent_cse=False) if remat else body
    (u, _, _), kept = jax.lax.scan(body, _start(rows, x_T), (steps, jnp.arange(nfe)))
    last = cast(scale(s_end, u), x_T)
    return (jax.tree.map(lambda xs, x: jnp.concatenate([xs, x[None]]), kept[0], last), kept[1]) if keep else last


def _start(rows: Rows, x_T: State) -> tuple:
    v = scale(1 / rows["s"][0], jax.tree.map(lambda leaf: leaf.astype(rows["s"].dtype), x_T))
    history = (jax.tree.map(jnp.zeros_like, v),) * rows["P"].shape[1]
    return v, v, history


def _advance(
    eps_fn: EpsFn, carry: tuple, row: Rows, keys: jax.Array | None, i: jax.Array, like: State
) -> tuple[tuple, State]:
    """One row of the table (equations in `deis.table`); also returns the predicted x_0 = u - rho e.

    like: arrays of the dtype in which the network is called.
    """
    u, v, history = carry
    e = eps_of(eps_fn, cast(scale(row["s"], u), like), row["t"])
    m = _combine((row["a"], row["b"]), (u, e))
    history = (m, *history[:-1])
    u_next = _combine((row["p"], *row["P"]), (v, *history))
    v_next = _combine((row["q"], *row["Q"]), (v, *history))
    if keys is not None:
        noise = _noise(keys, i, u)
        u_next = _combine((1, row["g"]), (u_next, noise))
        v_next = _combine((1, row["g"]), (v_next, noise))
    return (u_next, v_next, history), _combine((1, -row["rho"]), (u, e))


def eps_of(eps_fn: EpsFn, x: State, t: jax.Array) -> State:
    e = eps_fn(x, t)
    got, expected = (jax.tree.map(jnp.shape, tree) for tree in (e, x))
    require(got == expected, f"eps_fn must answer in the shape of x, {expected}, got {got}")
    return jax.tree.map(lambda e: e.astype(t.dtype), e)  # not rounded to what x was rounded to


def cast(x: State, like: State) -> State:
    """x in the dtypes of `like`."""
    return jax.tree.map(lambda leaf, other: leaf.astype(other.dtype), x, like)


def _noise(keys: jax.Array, i: jax.Array, like: State) -> State:
    """Standard normal noise of evaluation i, each sample's from its own key."""
    leaves, structure = jax.tree.flatten(like)

    def draw(key: jax.Array, number: int, leaf: jax.Array) -> jax.Array:
        return jax.random.normal(jax.random.fold_in(jax.random.fold_in(key, i), number), leaf.shape, leaf.dtype)

    noise = [jax.vmap(partial(draw, number=n))(keys, leaf=leaf) for n, leaf in enumerate(leaves)]
    return jax.tree.unflatten(structure, noise)


def scale(factor: Any, x: State) -> State:
    """factor x, leaf by leaf."""
    return jax.tree.map(lambda leaf: factor * leaf, x)


def _combine(weights: tuple, states: tuple) -> State:
    """sum_k weights_k states_k, leaf by leaf."""
    return jax.tree.map(lambda *leaves: sum(w * leaf for w, leaf in zip(weights, leaves, strict=True)), *states)


def as_partial(eps_fn: EpsFn) -> jax.tree_util.Partial:
    """eps_fn as an argument that jit takes: its own arguments are traced, the function itself is part of the type."""
    return eps_fn if isinstance(eps_fn, jax.tree_util.Partial) else jax.tree_util.Partial(eps_fn)


def _rows(table: Table, x_T: State) -> dict[str, np.ndarray]:
    """The columns in the dtype that everything is summed in: that of the state, and float32 at least."""
    dtype = jnp.result_type(jnp.float32, *(leaf.dtype for leaf in jax.tree.leaves(x_T)))
    return {name: getattr(table, name).astype(dtype) for name in table.shapes()}


def _padded(table: Table) -> Table:
    """`table` with rows and lags of zeros added, up to the sizes that share a compilation."""
    rows, lags = max(_PADDED_ROWS, 2 ** (table.nfe - 1).bit_length()), max(_PADDED_LAGS, table.lags)
    columns: dict[str, Any] = {}
    for name, shape in table.shapes().items():
        widths = [(0, rows - table.nfe)] + [(0, lags - table.lags)] * (len(shape) - 1)
        columns[name] = np.pad(getattr(table, name), widths)
    return Table(table.name, **columns)


def float_state(x_T: State) -> State:
    """x_T in dtypes of JAX; ValueError unless it holds floating-point arrays with a batch axis."""
    x_T = jax.tree.map(lambda x: x if isinstance(x, jax.Array) else np.asarray(x), x_T)
    shapes = [leaf.shape for leaf in jax.tree.leaves(x_T)]
    require(shapes and () not in shapes, f"x_T must be an array [batch, ...] or a pytree of such, got shapes {shapes}")
    same = len({shape[0] for shape in shapes}) == 1
    require(same, f"x_T must hold as many samples in each of its arrays, got shapes {shapes}")
    for leaf in jax.tree.leaves(x_T):
        is_float = jnp.issubdtype(leaf.dtype, jnp.floating)
        require(is_float, f"x_T must be floating point, got {leaf.dtype}; use jax.random.normal")
    return jax.tree.map(lambda x: x.astype(jnp.result_type(x)), x_T)


def _checked(table: Table, x_T: State, key: jax.Array | None) -> tuple[State, jax.Array | None]:
    """x_T in dtypes of JAX, and one key a sample, None for a deterministic table; ValueError if these do not go."""
    x_T = float_state(x_T)
    if not table.is_stochastic:
        return x_T, None
    if key is None:
        raise ValueError(f"{table.name} adds noise: pass key=jax.random.key(seed)")
    return x_T, keys_of_samples(key, len(jax.tree.leaves(x_T)[0]))


def keys_of_samples(key: jax.Array, batch: int) -> jax.Array:
    """Keys [batch], one a sample: the given ones, or one key folded with each sample's index; ValueError for others."""
    if not isinstance(key, jax.Array | np.ndarray):
        raise ValueError(f"key must be jax.random.key(seed), or keys [batch], got {key!r}")
    if not jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
        key = jax.random.wrap_key_data(key)
    if key.shape not in ((), (batch,)):
        raise ValueError(f"key must be one key or one for each of the {batch} samples, got shape {key.shape}")
    if key.ndim == 1:
        return key
    return jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(batch))
