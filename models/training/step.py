"""One training step: the gradient of the loss, the optimiser, the moving average of the parameters."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.lax import with_sharding_constraint
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from deis import SDE
from models.score import Images, Labels, Network, Params, per_image
from models.training.config import ObjectiveConfig
from models.training.devices import REPLICATED, SHARDED
from models.training.objective import Examples, weighted_loss


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


def make_train_step(
    network: Network,
    sde: SDE,
    objective: ObjectiveConfig,
    optimizer: optax.GradientTransformation,
    ema_decay: float,
    flip: bool,
    accumulate: int,
    shardings: Any = None,
) -> Callable[..., tuple[TrainState, dict[str, Array]]]:
    """A jitted function (state, images, labels, index) -> (state, metrics) that reuses the memory of the old state.

    images: uint8 [n, h, w, c]; labels: int [n] or None. The batch is images[index], index int [b], in this order; or
        all images, in theirs, if index is None.
    flip: mirror every image left to right with probability 1/2.
    accumulate: gradient accumulation: the number of micro-batches that the batch is taken in, one after the other, to
        need less memory. b must be a multiple of it times the number of devices.
    shardings: those of the state, from `models.training.devices.shardings`; None for one device.
    metrics: loss; grad_norm, the gradient's norm before clipping; param_norm; finite, whether loss and grad_norm are;
        level_loss and level_count as `weighted_loss` returns them. If a step is not finite it is counted, but the
        parameters, their average and the optimiser's state stay as they were, and both levels are 0.

    Random numbers follow from (state.key, state.step) and an image's index in the batch, whatever device computes it.
    """

    def constrain(tree: Any, spec: PartitionSpec) -> Any:
        return tree if shardings is None else with_sharding_constraint(tree, NamedSharding(shardings.step.mesh, spec))

    @partial(jax.jit, donate_argnums=0, out_shardings=None if shardings is None else (shardings, None))
    def train_step(
        state: TrainState, images: Array, labels: Labels, index: Int[Array, " b"] | None
    ) -> tuple[TrainState, dict[str, Array]]:
        # Batch
        images, labels = (images, labels) if index is None else jax.tree.map(lambda leaf: leaf[index], (images, labels))
        batch = constrain(Examples(images, labels, jnp.arange(len(images))), SHARDED)
        flip_key, loss_key = jax.random.split(jax.random.fold_in(jax.random.wrap_key_data(state.key), state.step))

        def loss_of(params: Params, examples: Examples) -> tuple[Array, dict[str, Array]]:
            x_0 = _to_float(examples.images)
            x_0 = _mirrored(flip_key, x_0, examples.indices) if flip else x_0
            return weighted_loss(network, sde, objective, len(images), params, examples._replace(images=x_0), loss_key)

        # Gradient
        def gradient(params: Params, examples: Examples) -> Any:
            value, grad = jax.value_and_grad(loss_of, has_aux=True)(params, examples)
            return value, grad if shardings is None else with_sharding_constraint(grad, shardings.params)

        params = constrain(state.params, REPLICATED)
        (loss, levels), grad = _accumulated(gradient, accumulate, params, batch)
        grad_norm = optax.tree.norm(grad)

        # Update
        finite = jnp.isfinite(loss) & jnp.isfinite(grad_norm)
        state = _updated(optimizer, ema_decay, state, grad, finite)
        levels = jax.tree.map(lambda leaf: jnp.where(finite, leaf, 0), levels)
        metrics = {"loss": loss, "finite": finite, "grad_norm": grad_norm, "param_norm": optax.tree.norm(state.params)}
        return state, constrain(metrics | levels, REPLICATED)

    return train_step


def make_evaluation(network: Network, sde: SDE, objective: ObjectiveConfig) -> Callable[..., Float[Array, ""]]:
    """A jitted function (params, images uint8 [b, h, w, c], labels [b] or None, key) -> loss without any dropout."""

    @jax.jit
    def evaluate(params: Params, images: Array, labels: Labels, key: PRNGKeyArray) -> Float[Array, ""]:
        batch = Examples(_to_float(images), labels, jnp.arange(len(images)))
        return weighted_loss(network, sde, objective, len(images), params, batch, key, train=False)[0]

    return evaluate


def _accumulated(gradient: Callable[[Params, Examples], Any], count: int, params: Params, batch: Examples) -> Any:
    """((loss, levels), gradient) of a batch taken in `count` micro-batches: mean loss and gradient, summed levels."""
    if count == 1:
        return gradient(params, batch)

    def add(total: Params, examples: Examples) -> tuple[Params, Any]:
        value, grad = gradient(params, examples)
        return jax.tree.map(jnp.add, total, grad), value

    # micro-batch i has the rows i, i + count, i + 2 count ...: an equal share of every device's, and none moves
    micro_batches = jax.tree.map(lambda leaf: leaf.reshape(-1, count, *leaf.shape[1:]).swapaxes(0, 1), batch)
    total, (losses, levels) = jax.lax.scan(add, jax.tree.map(jnp.zeros_like, params), micro_batches)
    levels = jax.tree.map(lambda leaf: leaf.sum(0), levels)
    return (losses.mean(), levels), jax.tree.map(lambda leaf: leaf / count, total)


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
