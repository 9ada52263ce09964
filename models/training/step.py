"""One training step: the gradient of the loss, the optimiser, the moving average of the parameters."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import NamedSharding
from jax.stages import Wrapped
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from deis import SDE
from models.score import Images, Labels, Network, Params, per_image
from models.training.config import ObjectiveConfig
from models.training.devices import REPLICATED, SHARDED
from models.training.objective import NUM_LEVELS, Examples, weighted_loss

Rows = Array | np.ndarray


class TrainState(NamedTuple):
    """Everything that a run needs to go on bit for bit.

    step: int32, the number of steps done. params, ema: the network's parameters and their moving average, float32.
    key: raw key data; the randomness of step n is `fold_in(key, n)`.
    skipped, skipped_in_a_row: int32, the number of steps whose update was skipped because the loss or its gradient was
        not finite, in all and since the last update.
    """

    step: Int[Array, ""]
    params: Params
    ema: Params
    opt_state: optax.OptState
    key: Any
    skipped: Int[Array, ""]
    skipped_in_a_row: Int[Array, ""]


def make_optimizer(
    learning_rate: float,
    warmup_steps: int,
    total_steps: int,
    cosine_decay: bool,
    b1: float,
    b2: float,
    clip_norm: float,
) -> optax.GradientTransformation:
    """Adam with the gradient's norm clipped, linear warm-up, then a constant rate or a cosine down to 0."""
    after = optax.constant_schedule(learning_rate)
    if cosine_decay:
        after = optax.cosine_decay_schedule(learning_rate, max(total_steps - warmup_steps, 1))
    warmup = optax.linear_schedule(0.0, learning_rate, max(warmup_steps, 1))
    schedule = optax.join_schedules([warmup, after], [warmup_steps])
    return optax.chain(optax.clip_by_global_norm(clip_norm), optax.adam(schedule, b1=b1, b2=b2))


def init_state(params: Params, optimizer: optax.GradientTransformation, key: PRNGKeyArray) -> TrainState:
    """The state before the first step."""
    step, skipped, in_a_row = (jnp.zeros((), jnp.int32) for _ in range(3))  # each its own, to be donated
    ema = jax.tree.map(jnp.copy, params)
    return TrainState(step, params, ema, optimizer.init(params), jax.random.key_data(key), skipped, in_a_row)


class Sums(NamedTuple):
    """The sums over the micro-batches of a step: of the mean loss, its gradient, and the levels of `weighted_loss`."""

    grad: Params
    loss: Float[Array, ""]
    levels: dict[str, Array]


@dataclass(frozen=True)
class TrainStep:
    """A function (state, images, labels, index) -> (state, metrics) that reuses the memory of the old state.

    images: uint8 [n, h, w, c]; labels: int [n] or None. The batch is images[index], index int [b], in this order; or
        all images, in theirs, if index is None.
    metrics: loss; grad_norm, the gradient's norm before clipping; param_norm; finite, whether loss and grad_norm are;
        level_loss and level_count as `weighted_loss` returns them. If a step is not finite it is counted, but the
        parameters, their average and the optimiser's state stay as they were, and both levels are 0.

    Three jitted functions. Micro-batches are calls of one of them rather than turns of a loop in it, since XLA on CPUs
    computes the gradients of convolutions in loops ten times as slowly.
    """

    zeros: Wrapped
    add_gradient: Wrapped
    update: Wrapped
    accumulate: int

    def __call__(
        self, state: TrainState, images: Rows, labels: Rows | None, index: Rows | None
    ) -> tuple[TrainState, dict[str, Array]]:
        sums = self.zeros(state.params)
        for i in range(self.accumulate):
            sums = self.add_gradient(sums, state.params, state.key, state.step, images, labels, index, np.int32(i))
        return self.update(state, sums)


def make_train_step(
    network: Network,
    sde: SDE,
    objective: ObjectiveConfig,
    optimizer: optax.GradientTransformation,
    ema_decay: float,
    flip: bool,
    accumulate: int,
    shardings: Any = None,
) -> TrainStep:
    """The training step of a network.

    flip: mirror every image left to right with probability 1/2.
    accumulate: gradient accumulation: the number of micro-batches that the batch is taken in, one after the other, to
        need less memory. The batch size must be a multiple of it times the number of devices.
    shardings: those of the state, from `models.training.devices.shardings`; None for one device.

    Random numbers follow from (state.key, state.step) and an image's index in the batch, whatever device computes it.
    """
    replicated: Any
    replicated, sharded = (shardings and NamedSharding(shardings.step.mesh, spec) for spec in (REPLICATED, SHARDED))
    like_sums: Any = shardings and Sums(shardings.params, replicated, replicated)

    def constrain(tree: Any, sharding: NamedSharding | None) -> Any:
        return tree if sharding is None else jax.lax.with_sharding_constraint(tree, sharding)

    @partial(jax.jit, out_shardings=like_sums)
    def zeros(params: Params) -> Sums:
        levels = {name: jnp.zeros(NUM_LEVELS) for name in ("level_loss", "level_count")}
        return Sums(jax.tree.map(jnp.zeros_like, params), jnp.zeros(()), levels)

    @partial(jax.jit, donate_argnums=0, out_shardings=like_sums)
    def add_gradient(
        sums: Sums,
        params: Params,
        key: Array,
        step: Int[Array, ""],
        images: Array,
        labels: Labels,
        index: Int[Array, " b"] | None,
        i: Int[Array, ""],
    ) -> Sums:
        """The sums with micro-batch i added."""
        batch_size = len(images if index is None else index)
        flip_key, loss_key = jax.random.split(jax.random.fold_in(jax.random.wrap_key_data(key), step))

        def micro_batch(rows: Array) -> Array:  # every accumulate-th row, so that none moves to another device
            return constrain(rows.reshape(-1, accumulate, *rows.shape[1:])[:, i], sharded)

        def chosen(rows: Array) -> Array:
            return micro_batch(rows) if index is None else constrain(rows[micro_batch(index)], sharded)

        def loss_of(params: Params) -> tuple[Array, dict[str, Array]]:
            x_0, indices = _to_float(chosen(images)), micro_batch(jnp.arange(batch_size))
            x_0 = _mirrored(flip_key, x_0, indices) if flip else x_0
            examples = Examples(x_0, None if labels is None else chosen(labels), indices)
            return weighted_loss(network, sde, objective, batch_size, params, examples, loss_key)

        (loss, levels), grad = jax.value_and_grad(loss_of, has_aux=True)(constrain(params, replicated))
        return jax.tree.map(jnp.add, sums, Sums(grad, loss, levels))

    @partial(jax.jit, donate_argnums=0, out_shardings=shardings and (shardings, replicated))
    def update(state: TrainState, sums: Sums) -> tuple[TrainState, dict[str, Array]]:
        loss, grad = jax.tree.map(lambda leaf: leaf / accumulate, (sums.loss, sums.grad))
        grad_norm = optax.tree.norm(grad)
        finite = jnp.isfinite(loss) & jnp.isfinite(grad_norm)
        state = _updated(optimizer, ema_decay, state, grad, finite)
        levels = jax.tree.map(lambda leaf: jnp.where(finite, leaf, 0), sums.levels)
        norms = {"grad_norm": grad_norm, "param_norm": optax.tree.norm(state.params)}
        return state, {"loss": loss, "finite": finite, **norms, **levels}

    return TrainStep(zeros, add_gradient, update, accumulate)


def make_evaluation(network: Network, sde: SDE, objective: ObjectiveConfig) -> Callable[..., Float[Array, ""]]:
    """A jitted function (params, images uint8 [b, h, w, c], labels [b] or None, key) -> loss without any dropout."""

    @jax.jit
    def evaluate(params: Params, images: Array, labels: Labels, key: PRNGKeyArray) -> Float[Array, ""]:
        batch = Examples(_to_float(images), labels, jnp.arange(len(images)))
        return weighted_loss(network, sde, objective, len(images), params, batch, key, train=False)[0]

    return evaluate


def _updated(
    optimizer: optax.GradientTransformation, ema_decay: float, state: TrainState, grad: Params, finite: Bool[Array, ""]
) -> TrainState:
    """The state after a step with this gradient, whose update is skipped if it is not finite."""
    updates, opt_state = optimizer.update(grad, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    ema = optax.incremental_update(params, state.ema, 1 - ema_at(state.step, ema_decay))
    old = (state.params, state.ema, state.opt_state)
    params, ema, opt_state = jax.tree.map(partial(jnp.where, finite), (params, ema, opt_state), old)
    return TrainState(
        step=state.step + 1,
        params=params,
        ema=ema,
        opt_state=opt_state,
        key=state.key,
        skipped=state.skipped + ~finite,
        skipped_in_a_row=jnp.where(finite, 0, state.skipped_in_a_row + 1),
    )


def _mirrored(key: PRNGKeyArray, images: Images, indices: Int[Array, " b"]) -> Images:
    """Each image as it is or mirrored left to right, by a random number that follows from its index."""
    chosen = jax.vmap(lambda i: jax.random.bernoulli(jax.random.fold_in(key, i)))(indices)
    return jnp.where(per_image(chosen), images[:, :, ::-1], images)


def _to_float(images: Array) -> Images:
    """0..255 as float32 in [-1, 1]."""
    return images.astype(jnp.float32) / 127.5 - 1


def ema_at(step: Int[Array, ""], decay: float) -> Float[Array, ""]:
    """The decay of the moving average after `step` steps: it rises to `decay`, so that the start is soon forgotten."""
    return jnp.minimum(decay, (1.0 + step) / (10.0 + step))
