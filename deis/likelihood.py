"""Log-likelihood by the change of variables along the probability-flow ODE, run from x_0 to x_T.

In v = x / s(t), dv/drho = eps(s v, t), so that along a trajectory (DEIS, arXiv 2204.13902, section 3;
score_sde, arXiv 2011.13456, appendix D.2)

    d log p(v) / drho = -s(t) div_x eps(x, t)

The pair (v, log p) is one state with the same ODE form: every deterministic table runs it as it is.

    flow = partial(encode, ts=deis.timesteps(sde, 10, "log"), solver=deis.tables.rho_rk)
    log_p, nfe = log_prob(sde, eps_fn, x_0, flow)
"""

import math
from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache

import numpy as np

from deis import tables
from deis.errors import checked, choice, needs, require, rises, shown
from deis.sampler import EpsFn, State, as_partial, float_state, keys_of_samples, sample
from deis.sde import SDE
from deis.sde.timefn import TimeFn, wide
from deis.table import Table

with needs("jax", "deis.likelihood"):
    import jax
    import jax.numpy as jnp
    from jaxtyping import Array, Float, UInt8

Solver = Callable[[SDE, np.ndarray], Table]
Flow = Callable[[SDE, EpsFn, State], tuple[State, int]]
"""(sde, eps_fn, x at t_0) -> (x at T, network calls), as `encode` and `deis.adaptive.encode`."""

TRACES = ("exact", "rademacher", "gaussian")


def encode(sde: SDE, eps_fn: EpsFn, x_0: State, ts: np.ndarray, solver: Solver = tables.rho_rk) -> tuple[State, int]:
    """(x_T, network calls) by the probability-flow ODE from t_0 up to T. Arguments, errors: as `encoding`."""
    table = encoding(sde, ts, solver)
    return sample(table, eps_fn, x_0), table.nfe


@checked
def decode(sde: SDE, eps_fn: EpsFn, x_T: State, ts: np.ndarray, solver: Solver = tables.rho_rk) -> tuple[State, int]:
    """(x_0, network calls) by the probability-flow ODE from T down to t_0, the way back of `encode`."""
    table = solver(sde, ts)
    require(not table.is_stochastic, f"{table.name} adds noise, and so does not decode; take a deterministic solver")
    return sample(table, eps_fn, x_T), table.nfe


@checked
def encoding(sde: SDE, ts: np.ndarray, solver: Solver = tables.rho_rk) -> Table:
    """The table of a deterministic solver run from x_0 to x_T.

    ts: [N+1] decreasing nodes from T to t_0, as for sampling; they are walked from the end.
    solver: any function (sde, ts) -> Table of `deis.tables`, with its options as `partial(tables.t_ab, order=2)`.
        Euler, EDM's own tables (take `partial(tables.rho_rk, rk_method="2heun")`) and those with noise do not run
        this way.
    Raises ValueError for nodes with other ends, for such a solver, and if s(T) = 0.
    """
    sde.refuse_noise("the way from x_0 to x_T")
    if np.ndim(ts) != 1 or len(ts) < 2 or (ts[0], ts[-1]) != (sde.T, sde.t_0):
        raise ValueError(f"the timesteps must run from T={sde.T:g} to t_0={sde.t_0:g}, got {ts}")
    mirrored = _Mirrored(
        lambda t: sde.s(-t), lambda t: sde.sigma(-t), lambda rho: -sde.t_of_rho(rho), t_0=-sde.T, T=-sde.t_0
    )
    try:
        with np.errstate(invalid="ignore"):  # the variance of noise is negative this way
            table = solver(mirrored, -ts[::-1])
    except ValueError as error:
        raise ValueError(f"this solver does not run from x_0 to x_T: {error}") from error
    if table.is_stochastic or not np.isclose(table.rho[-1], sde.rho(sde.T)):
        raise ValueError(f"{table.name} does not run from x_0 to x_T: it adds noise, or denoises at the end")
    return replace(table, t=-table.t)


@checked
def log_prob(
    sde: SDE,
    eps_fn: EpsFn,
    x_0: Float[Array, "batch *dims"],
    flow: Flow,
    trace: str = "exact",
    key: Array | None = None,
    fresh: bool = False,
) -> tuple[Float[Array, " batch"], int]:
    """(log p(x_0) in nats, network calls) of the model, whose data live at t_0 and whose x_T is the SDE's prior.

    flow: carries x_0 to x_T: `partial(encode, ts=ts, solver=...)` or `partial(deis.adaptive.encode, rtol=...)`.
    trace: of the Jacobian of eps. "exact" also costs one derivative of the network a dimension and call;
        "rademacher" and "gaussian" estimate it by one random probe (Hutchinson), without bias.
    key: for the probes, one key, folded with each sample's index, or keys [batch]; a probe depends on its key alone.
    fresh: a new probe at every time instead of one a sample.
    Raises ValueError for another name of a trace, or a random one without a key.
    """
    choice("trace", trace, TRACES)
    require(trace == "exact" or key is not None, f'trace "{trace}" draws random probes: pass key=jax.random.key(seed)')
    x_0 = float_state(x_0)
    require(hasattr(x_0, "shape"), f"x_0 must be one array [batch, ...], got a {type(x_0).__name__}")
    batch = x_0.shape[0]
    keys = None if key is None else keys_of_samples(key, batch)
    both = jax.tree_util.Partial(_eps_and_divergence(sde.s, trace, fresh), as_partial(eps_fn), keys)
    (x_T, change), nfe = flow(sde, both, (x_0, jnp.zeros(batch, wide(x_0).dtype)))
    s_0, s_T = sde.s(np.array([sde.t_0, sde.T])).tolist()
    # the loop hands out s times its state: x_T = s_T v_T, and the same for the integral of s div eps drho
    return sde.prior_logp(x_T) + x_0[0].size * math.log(s_T / s_0) + change / s_T, nfe


@checked
def bits_per_dim(
    log_p: Float[np.ndarray | Array, " batch"], dim: int, low: float = -1.0, high: float = 1.0
) -> Float[np.ndarray | Array, " batch"]:
    """Bits a dimension of 8-bit images whose dequantised values in [low, high] have the log density log_p (nats).

    dim: values in an image, as 32 * 32 * 3. An upper bound on the code length (Theis et al., arXiv 1511.01844).
    """
    require(dim >= 1, f"dim must be at least 1, got {dim}")
    rises(low, high)
    return -log_p / (dim * math.log(2)) + math.log2(256 / (high - low))


@checked
def dequantise(
    images: UInt8[np.ndarray | Array, "batch *dims"], key: Array, low: float = -1.0, high: float = 1.0
) -> Float[Array, "batch *dims"]:
    """Uniform dequantisation: (value + u) / 256 spread over [low, high], u ~ U[0, 1), float32.

    key: one key, folded with each image's index, or keys [batch]. Raises ValueError for images that are not uint8.
    """
    rises(low, high)
    kind = getattr(images, "dtype", None) or shown(images)
    require(kind == np.uint8, f"images must be uint8 values 0 to 255, got {kind}")
    u = jax.vmap(lambda key: jax.random.uniform(key, images.shape[1:]))(keys_of_samples(key, len(images)))
    return low + (high - low) * (jnp.asarray(images, jnp.float32) + u) / 256


class _Mirrored(SDE):
    """An SDE with its time negated. The only one whose rho falls: decreasing nodes lead from x_0 to x_T."""

    def __post_init__(self) -> None:
        pass


@lru_cache  # one function, so one compilation, for each kind of trace
def _eps_and_divergence(s: TimeFn, trace: str, fresh: bool) -> Callable:
    """(eps_fn, keys, (x, .), t) -> (eps, s(t) div eps), the right-hand side of the pair (v, log p)."""

    def both(eps_fn: EpsFn, keys: Array, state: tuple[Array, Array], t: Array) -> tuple[Array, Array]:
        x, _ = state
        if trace == "exact":
            e, divergence = _exact(lambda x: eps_fn(x, t), x)
        else:
            if fresh:
                time_bits = jax.lax.bitcast_convert_type(t.astype(jnp.float32), jnp.uint32)
                keys = jax.vmap(jax.random.fold_in, (0, None))(keys, time_bits)
            draw = jax.random.normal if trace == "gaussian" else jax.random.rademacher
            probe = jax.vmap(lambda key: draw(key, x.shape[1:], x.dtype))(keys)
            e, slope = jax.jvp(lambda x: eps_fn(x, t), (x,), (probe,))
            divergence = _sum(probe * slope)
        return e, s(t) * divergence

    return both


def _exact(eps_fn: Callable[[Array], Array], x: Array) -> tuple[Array, Array]:
    """(eps, divergence [batch]), by one directional derivative a dimension, at most 64 at a time."""
    e, slope = jax.linearize(eps_fn, x)

    def diagonal(j: Array) -> Array:
        axis = jax.nn.one_hot(j, x[0].size, dtype=x.dtype).reshape(x.shape[1:])
        return _sum(axis * slope(jnp.broadcast_to(axis, x.shape)))

    return e, jnp.sum(jax.lax.map(diagonal, jnp.arange(x[0].size), batch_size=min(x[0].size, 64)), axis=0)


def _sum(x: Array) -> Array:
    return jnp.sum(wide(x).reshape(x.shape[0], -1), axis=1)
