"""One training step: the gradient of the loss, the optimiser, the moving average of the parameters."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial, reduce
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import NamedSharding
from jax.stages import Wrapped
from jaxtyping import Array, Float, Int, PRNGKeyArray

import data
from deis import SDE
from models.score import Labels, Network, Params, per_image
from models.training.config import ObjectiveConfig, OptimizerConfig
from models.training.devices import REPLICATED, SHARDED
from models.training.objective import Examples, weighted_loss

Rows = Array | np.ndarray


class TrainState(NamedTuple):
    """Everything that a run needs to go on bit for bit.

    step: int32, the number of steps done. params, ema: the network's parameters and their moving average, float32.
    key: raw key data; the randomness of step n is `fold_in(key, n)`.
    skipped, skipped_in_a_row: int32, the number of updates skipped since loss or gradient was not finite, in all and
        since the last update.
    """

    step: Int[Array, ""]
    params: Params
    ema: Params
    opt_state: optax.OptState
    key: Any
    skipped: Int[Array, ""]
    skipped_in_a_row: Int[Array, ""]


def make_optimizer(cfg: OptimizerConfig, total_steps: int) -> optax.GradientTransformation:
    """Adam with the gradient's norm clipped, linear warm-up, then a constant rate or a cosine down to 0."""
    after = optax.constant_schedule(cfg.learning_rate)
    if cfg.cosine_decay:
        after = optax.cosine_decay_schedule(cfg.learning_rate, max(total_steps - cfg.warmup_steps, 1))
    warmup = optax.linear_schedule(0.0, cfg.learning_rate, max(cfg.warmup_steps, 1))
    schedule = optax.join_schedules([warmup, after], [cfg.warmup_steps])
    return optax.chain(optax.clip_by_global_norm(cfg.clip_norm), optax.adam(schedule, b1=cfg.b1, b2=cfg.b2))


def init_state(params: Params, optimizer: optax.GradientTransformation, key: PRNGKeyArray) -> TrainState:
    """The state before the first step."""
    step, skipped, in_a_row = (jnp.zeros((), jnp.int32) for _ in range(3))  # each its own, to be donated
    ema = jax.tree.map(jnp.copy, params)
    return TrainState(step, params, ema, optimizer.init(params), jax.random.key_data(key), skipped, in_a_row)


@dataclass(frozen=True)
class TrainStep:
    """A function (state, images, labels, index) -> (state, metrics) that reuses the memory of the old state.

    images: uint8 [n, h, w, c]; labels: int [n] or None. The batch is images[index], index int [b], in this order; or
        all images, in theirs, if index is None.
    metrics: loss; grad_norm, the gradient's norm before clipping; param_norm; finite, whether loss and grad_norm are;
        level_loss and level_count as `weighted_loss` returns them. If a step is not finite it is counted, but the
        parameters, their average and the optimiser's state stay as they were, and both levels are 0.

    Micro-batches are calls of the jitted function `gradient` rather than turns of a loop in it, since XLA on CPUs
    computes the gradients of convolutions in loops ten times as slowly.
    """

    gradient: Wrapped
    update: Wrapped
    accumulate: int

    def __call__(
        self, state: TrainState, images: Rows, labels: Rows | None, index: Rows | None
    ) -> tuple[TrainState, dict[str, Array]]:
        parts = (self.gradient(state, images, labels, index, np.int32(i)) for i in range(self.accumulate))
        return self.update(state, reduce(_add, parts))


_add = jax.jit(partial(jax.tree.map, jnp.add), donate_argnums=0)


def make_train_step(
    network: Network,
    sde: SDE,
    objective: ObjectiveConfig,
    optimizer: optax.GradientTransformation,
    ema_decay: float,
    flip: bool,
    accumulate: int,
    shardings: Any,
) -> TrainStep:
    """The training step of a network.

    flip: mirror every image left to right with probability 1/2.
    accumulate: the number of micro-batches of gradient accumulation. The batch size must be a multiple of it times the
        number of devices.
    shardings: those of the state, from `models.training.devices.shardings`.

    Random numbers follow from (state.key, state.step) and an image's index in the batch, whatever device computes it.
    """
    replicated, sharded = (NamedSharding(shardings.step.mesh, spec) for spec in (REPLICATED, SHARDED))
    constrain = jax.lax.with_sharding_constraint

    @partial(jax.jit, out_shardings=(shardings.params, replicated, replicated))
    def gradient(
        state: TrainState, images: Array, labels: Labels, index: Int[Array, " b"] | None, i: Int[Array, ""]
    ) -> tuple[Params, Array, dict[str, Array]]:
        """The gradient of micro-batch i, its mean loss, and the levels of `weighted_loss`."""
        batch_size = len(images if index is None else index)
        flip_key, loss_key = jax.random.split(jax.random.fold_in(jax.random.wrap_key_data(state.key), state.step))

        def micro_batch(rows: Array) -> Array:  # every accumulate-th row, so that none moves to another device
            return constrain(rows.reshape(-1, accumulate, *rows.shape[1:])[:, i], sharded)

        def chosen(rows: Array) -> Array:
            return micro_batch(rows) if index is None else constrain(rows[micro_batch(index)], sharded)

        def loss_of(params: Params) -> tuple[Array, dict[str, Array]]:
            x_0, indices = data.to_float(chosen(images)), micro_batch(jnp.arange(batch_size))
            if flip:
                mirrored = jax.vmap(lambda i: jax.random.bernoulli(jax.random.fold_in(flip_key, i)))(indices)
                x_0 = jnp.where(per_image(mirrored), x_0[:, :, ::-1], x_0)
            examples = Examples(x_0, None if labels is None else chosen(labels), indices)
            return weighted_loss(network, sde, objective, batch_size, params, examples, loss_key)

        (loss, levels), grad = jax.value_and_grad(loss_of, has_aux=True)(constrain(state.params, replicated))
        return grad, loss, levels

    @partial(jax.jit, donate_argnums=0, out_shardings=(shardings, replicated))
    def update(state: TrainState, sums: tuple[Params, Array, dict[str, Array]]) -> tuple[TrainState, dict[str, Array]]:
        grad, loss = jax.tree.map(lambda leaf: leaf / accumulate, sums[:2])
        grad_norm = optax.tree.norm(grad)
        finite = jnp.isfinite(loss) & jnp.isfinite(grad_norm)
        updates, opt_state = optimizer.update(grad, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        ema = optax.incremental_update(params, state.ema, 1 - ema_at(state.step, ema_decay))
        new = state._replace(params=params, ema=ema, opt_state=opt_state, skipped_in_a_row=jnp.int32(0))
        old = state._replace(skipped=state.skipped + 1, skipped_in_a_row=state.skipped_in_a_row + 1)
        state = jax.tree.map(partial(jnp.where, finite), new, old)._replace(step=state.step + 1)
        levels = jax.tree.map(lambda leaf: jnp.where(finite, leaf, 0), sums[2])
        norms = {"grad_norm": grad_norm, "param_norm": optax.tree.norm(state.params)}
        return state, {"loss": loss, "finite": finite, **norms, **levels}

    return TrainStep(gradient, update, accumulate)


def make_evaluation(network: Network, sde: SDE, objective: ObjectiveConfig) -> Callable[..., Float[Array, ""]]:
    """A jitted function (params, images uint8 [b, h, w, c], labels [b] or None, key) -> loss without any dropout."""

    @jax.jit
    def evaluate(params: Params, images: Array, labels: Labels, key: PRNGKeyArray) -> Float[Array, ""]:
        batch = Examples(data.to_float(images), labels, jnp.arange(len(images)))
        return weighted_loss(network, sde, objective, len(images), params, batch, key, train=False)[0]

    return evaluate


def ema_at(step: Int[Array, ""], decay: float) -> Float[Array, ""]:
    """The decay of the moving average after `step` steps: it rises to `decay`, so that the start is soon forgotten."""
    return jnp.minimum(decay, (1.0 + step) / (10.0 + step))
