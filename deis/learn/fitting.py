"""Gauss-Newton on the columns of a table, through the whole sampling loop.

A table of N calls has N (N + 1) / 2 + 3 N numbers, so few that the derivative of every sample with respect to each of
them can be had: forward through the loop, with one derivative of the network per number that already counts at a call.
Some thirty steps of Levenberg and Marquardt then do what tens of thousands of gradient steps do not.
"""

import math
from collections.abc import Callable, Collection
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from deis.errors import checked
from deis.learn import rows as moving
from deis.learn.batches import Batch, Condition, batches
from deis.sampler import State, sample
from deis.sde import SDE
from deis.table import Table, about_sde

HELD_OUT = 8  # one trajectory of so many is held out
TANGENTS = 8  # derivatives of the network that are computed together
LEAST_DAMPING, FIRST_DAMPING, MOST_DAMPING = 1e-7, 1e-2, 1e6

Flat = Float[Array, "batch elements"]
Features = Callable[[State], Float[Array, "batch features"]]

LOSSES: dict[str, Callable[[Flat], Flat | float]] = {
    "mse": lambda r: 1.0,
    "log_mse": lambda r: 1 / (jnp.mean(r**2, axis=1, keepdims=True) + 1e-12),
    "l1": lambda r: 1 / (jnp.abs(r) + 1e-3),
    "huber": lambda r: jnp.minimum(1.0, 0.1 / (jnp.abs(r) + 1e-6)),
}
"""The weight of a squared residual in each step, by the loss that it amounts to (iteratively reweighted least squares).

mse: the mean squared error, and its logarithm, whose minimum is the same. log_mse: the mean over samples of the
logarithm of their mean squared error, so that hard samples count no more than easy ones. l1: the mean absolute error.
huber: squared below 0.1, absolute above, so that a few samples that end in another mode do not govern it.
"""


class Progress(NamedTuple):
    """How far `fit` has come, and all that it needs to go on from there.

    step: steps done, of `steps`. params: those of `deis.learn.rows`. damping: of the next step.
    error: root mean square distance of the held-out samples, or their features, to their targets.
    best, best_params: the smallest error so far, and the parameters that had it. base: the error of the base table.
    """

    step: int
    steps: int
    params: np.ndarray
    damping: float
    error: float
    best: float
    best_params: np.ndarray
    base: float


@checked
def fit(
    sde: SDE,
    eps_fn: Callable[..., State],
    base: Table,
    x_T: State,
    x_0: State,
    *,
    steps: int = 30,
    batch_size: int = 32,
    learn: Collection[str] | None = None,
    loss: str = "huber",
    features: Features | None = None,
    condition: Condition | None = None,
    progress: Callable[[Progress], Any] | None = None,
    start: Progress | None = None,
) -> Table:
    """A table of as many network calls as `base`, which takes x_T nearer to x_0 than `base` does.

    Starts exactly at `base`. The last of eight trajectories, and at least `batch_size` of them, are held out; what is
    returned is the best on these, so that it is never worse than `base` there. A third of the steps sees a sixteenth
    of the others, a third a quarter, and the last third all of them.

    eps_fn: as in `deis.sample`; it is differentiated, in forward mode, with respect to x and t.
    base: a deterministic, untrained table of this SDE.
    x_T, x_0: [batch, ...] noise, and the samples that the network gives from it by a solver of many steps.
    batch_size: trajectories that are computed together; more take more memory: nfe^2 (nfe + 7) / 2 states each.
    learn: which of PARTS may move; None for all, or for a `DiscreteVPSDE`, whose times are whole, the coefficients.
    loss: what is minimised, a name in LOSSES. features: of x_0 [batch, ...]; their distance is minimised instead.
    condition: arrays [batch, ...], as labels; each batch's is a third argument of eps_fn.
    progress: called after every step; fit ends with the best so far when it answers true.
    start: a `Progress` of an earlier call with the same arguments, to go on from.
    Raises ValueError for a base that cannot be learned from, unknown parts or losses, too few trajectories, and samples
        or targets that are not finite.
    """
    learn = check(sde, base, learn, loss)
    all_batches = batches(eps_fn, x_T, x_0, condition, batch_size)
    if len(all_batches) < 2:
        raise ValueError(f"one batch of {batch_size} trajectories is too few; two at least are needed")
    num_unseen = max(len(all_batches) // HELD_OUT, 1)
    seen, unseen = all_batches[:-num_unseen], all_batches[-num_unseen:]

    form = moving.base_of(base, sde)
    free = moving.free_params(form, learn)

    def error(params: np.ndarray) -> float:
        """The root mean square over the held-out samples, or their features."""
        table = moving.table_of(form, params, base.name, {})
        apart = [_flat(sample(table, one.network, one.x_T), features) - _flat(one.x_0, features) for one in unseen]
        return math.sqrt(np.mean([jnp.mean(one**2) for one in apart]))

    if start is None:
        params = np.zeros(len(free))
        first = error(params)
        if not math.isfinite(first):
            raise ValueError(f"{base.name} or the targets x_0 hold NaN or infinite values on the held-out trajectories")
        start = Progress(0, steps, params, FIRST_DAMPING, first, first, params, first)
    at = start
    for number in range(at.step, steps):
        part = seen[: max(len(seen) // (16, 4, 1)[3 * number // steps], 1)]
        at = _step(at, form, free, part, LOSSES[loss], features)
        at = at._replace(step=number + 1, error=error(at.params))
        if at.error < at.best:
            at = at._replace(best=at.error, best_params=at.params)
        if progress is not None and progress(at):
            break
    if not at.best < at.base:
        return base
    about = {"sde": about_sde(sde), "base": base.name, "learned": ", ".join(learn), "loss": loss, "steps": str(at.step)}
    about |= {
        "rms": f"{at.best:.6g}",
        "rms of base": f"{at.base:.6g}",
        "trajectories": str(len(all_batches) * batch_size),
    }
    return moving.table_of(form, at.best_params, f"learned {base.name}", about)


def check(sde: SDE, base: Table | None, learn: Collection[str] | None, loss: str) -> Collection[str]:
    """The parts that may move, as `fit` takes them; ValueError for anything that it refuses."""
    if learn is None:
        learn = ("coefficients",) if sde.is_discrete else moving.PARTS
    if isinstance(learn, str) or not learn or not set(learn) <= set(moving.PARTS):
        names = learn if isinstance(learn, str) else ", ".join(learn) or "nothing"
        raise ValueError(f"learn must be a tuple of some of {', '.join(moving.PARTS)}, got {names}")
    if sde.is_discrete and set(learn) != {"coefficients"}:
        raise ValueError("the times of a discrete SDE are whole and cannot be learned; use learn=('coefficients',)")
    if loss not in LOSSES:
        raise ValueError(f"loss must be one of {', '.join(LOSSES)}, got {loss!r}")
    if base is not None:
        moving.base_of(base, sde)
    return learn


def _step(
    at: Progress,
    base: moving.Base,
    free: np.ndarray,
    seen: list[Batch],
    weight_of: Callable[[Flat], Flat | float],
    features: Features | None,
) -> Progress:
    """One step of Levenberg and Marquardt, damped until it lowers the cost of these batches; else none."""
    size = int(free.sum())
    A, g, before, weights = np.zeros((size, size)), np.zeros(size), 0.0, []
    columns, slopes = moving.columns(base, at.params), moving.derivatives(base, at.params, free)
    for batch in seen:
        x, tangents = linearised(batch.network, columns, slopes, batch.x_T)
        r, J = _residuals(x, tangents, batch.x_0, features)
        weights.append(weight_of(r))
        parts = _normal_equations(r, J, jnp.broadcast_to(weights[-1], r.shape))
        A, g, before = A + np.asarray(parts[0]), g + np.asarray(parts[1]), before + float(parts[2])
    damping = at.damping
    while damping < MOST_DAMPING:
        ridge = damping * np.diag(A) + 1e-9 * np.trace(A) / size + np.finfo(A.dtype).tiny  # where nothing has effect
        params = at.params.copy()
        params[free] -= np.linalg.solve(A + np.diag(ridge), g)
        table, after = moving.table_of(base, params, base.table.name, {}), 0.0
        for batch, weight in zip(seen, weights, strict=True):
            r = _flat(sample(table, batch.network, batch.x_T), features) - _flat(batch.x_0, features)
            after += float(jnp.sum(weight * r**2))
        if after < before:  # not for NaN
            return at._replace(params=params, damping=max(damping / 3, LEAST_DAMPING))
        damping *= 4
    return at._replace(damping=FIRST_DAMPING)


def linearised(
    network: Any, columns: dict[str, np.ndarray], slopes: dict[str, np.ndarray], x_T: State
) -> tuple[State, State]:
    """The samples [batch, ...], and their derivatives with respect to every parameter [params, batch, ...].

    columns: t, s, rho, q and P of a table that sees its whole history. slopes: their derivatives, [params, ...].
    The network's derivatives are computed TANGENTS at a time, at each call for the parameters that have had effect by
    then; one compilation does for all calls, tables and fits.
    """
    (num, nfe), s, t = slopes["q"].shape, columns["s"], columns["t"]
    u = jax.tree.map(lambda leaf: leaf.astype(jnp.float32) / s[0], x_T)
    du = jax.tree.map(lambda leaf: jnp.zeros((num, *leaf.shape)), u)
    history: list[State] = []
    d_history: list[State] = []
    moved = np.zeros(num, bool)
    for i in range(nfe):
        x, dx = _product(s[i], slopes["s"][:, i], u, du)
        moved |= (slopes["s"][:, i] != 0) | (slopes["t"][:, i] != 0)
        e, de = _answers(network, x, dx, t[i], slopes["t"][:, i], np.flatnonzero(moved))
        history, d_history = [e, *history], [de, *d_history]
        weights = (columns["q"][i], *columns["P"][i, : i + 1])
        d_weights = (slopes["q"][:, i], *slopes["P"][:, i, : i + 1].T)
        terms = [_product(*one) for one in zip(weights, d_weights, (u, *history), (du, *d_history), strict=True)]
        u, du = jax.tree.map(lambda *leaves: sum(leaves[1:], start=leaves[0]), *terms)
        moved |= (slopes["q"][:, i] != 0) | np.any(slopes["P"][:, i] != 0, axis=1)
    return _product(s[-1], slopes["s"][:, -1], u, du)


@jax.jit
def _product(weight: Any, d_weight: Any, x: State, dx: State) -> tuple[State, State]:
    """weight x and its derivatives."""
    d = jax.tree.map(lambda x, dx: weight * dx + jnp.tensordot(d_weight, x, axes=0), x, dx)
    return jax.tree.map(lambda leaf: weight * leaf, x), jax.tree.map(lambda leaf: leaf.astype(jnp.float32), d)


def _answers(network: Any, x: State, dx: State, t: float, dt: np.ndarray, which: np.ndarray) -> tuple[State, State]:
    """eps(x, t) and its derivatives, which are 0 but for the parameters `which`."""
    e, de = None, jax.tree.map(jnp.zeros_like, dx)
    for first in range(0, max(len(which), 1), TANGENTS):
        part = which[first : first + TANGENTS]
        index = np.resize(part if len(part) else [0], TANGENTS)  # the last ones are filled up
        e, found = _some_answers(network, x, jnp.float32(t), _taken(dx, index), dt[index])
        de = _put(de, index, found) if len(part) else de
    return e, de


@jax.jit
def _taken(x: State, index: np.ndarray) -> State:
    return jax.tree.map(lambda leaf: leaf[index], x)


@jax.jit
def _put(x: State, index: np.ndarray, found: State) -> State:
    return jax.tree.map(lambda leaf, one: leaf.at[index].set(one), x, found)


@jax.jit
def _some_answers(network: Any, x: State, t: jax.Array, dx: State, dt: jax.Array) -> tuple[State, State]:
    def one(dx: State, dt: jax.Array) -> tuple[State, State]:
        return jax.jvp(network, (x, t), (dx, dt.astype(t.dtype)))

    return jax.vmap(one, out_axes=(None, 0))(dx, dt)


@partial(jax.jit, static_argnames="features")
def _residuals(x: State, tangents: State, x_0: State, features: Features | None) -> tuple[Flat, Array]:
    """The distances of the samples' features to the targets', [batch, elements], and their derivatives."""

    def one(tangent: State) -> tuple[Flat, Flat]:
        return jax.jvp(partial(_flat, features=features), (x,), (tangent,))

    found, J = jax.lax.map(one, tangents)
    return found[0] - _flat(x_0, features), J


@jax.jit
def _normal_equations(r: Flat, J: Array, weight: Flat) -> tuple[Array, Array, Array]:
    weighted = (weight * J).reshape(len(J), -1)
    return weighted @ J.reshape(len(J), -1).T, weighted @ r.ravel(), jnp.sum(weight * r**2)


def _flat(x: State, features: Features | None = None) -> Flat:
    """[batch, elements]: all of a state, or its features."""
    if features is not None:
        return features(x).reshape(len(jax.tree.leaves(x)[0]), -1)
    leaves = [leaf.astype(jnp.float32).reshape(len(leaf), -1) for leaf in jax.tree.leaves(x)]
    return jnp.concatenate(leaves, axis=1)
