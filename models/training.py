"""One step of training: the loss's gradient, the optimiser, the moving average."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, PRNGKeyArray

from deis import SDE
from models.score import Network, Params, dsm_loss


class TrainState(NamedTuple):
    """All that a run must remember to go on bit for bit.

    step: int32, steps done. params, ema: the network's parameters and their moving average, float32.
    key: raw key data; the randomness of step n is `fold_in(key, n)`.
    """

    step: Int[Array, ""]
    params: Params
    ema: Params
    opt_state: optax.OptState
    key: Any


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
    ema = jax.tree.map(jnp.copy, params)
    return TrainState(jnp.zeros((), jnp.int32), params, ema, optimizer.init(params), jax.random.key_data(key))


def make_train_step(
    network: Network, sde: SDE, optimizer: optax.GradientTransformation, ema_decay: float, flip: bool
) -> Callable[[TrainState, Any, Any], tuple[TrainState, dict[str, Array]]]:
    """A jitted function (state, images float32 [b, h, w, c] in [-1, 1], labels [b] or None) -> (state, metrics).

    The old state's memory is reused. metrics: loss and gradient norm before clipping, float32 scalars.
    """

    @partial(jax.jit, donate_argnums=0)
    def train_step(
        state: TrainState, images: Float[Array, "b h w c"], labels: Int[Array, " b"] | None
    ) -> tuple[TrainState, dict[str, Array]]:
        flip_key, loss_key = jax.random.split(jax.random.fold_in(jax.random.wrap_key_data(state.key), state.step))
        if flip:
            mirrored = jax.random.bernoulli(flip_key, 0.5, (len(images), 1, 1, 1))
            images = jnp.where(mirrored, images[:, :, ::-1], images)
        loss, grad = jax.value_and_grad(partial(dsm_loss, network, sde))(state.params, images, labels, loss_key)
        updates, opt_state = optimizer.update(grad, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        decay = ema_at(state.step, ema_decay)
        ema = optax.incremental_update(params, state.ema, 1 - decay)
        metrics = {"loss": loss, "grad_norm": optax.global_norm(grad)}
        return TrainState(state.step + 1, params, ema, opt_state, state.key), metrics

    return train_step


def ema_at(step: Int[Array, ""], decay: float) -> Float[Array, ""]:
    """Decay of the moving average after `step` steps: it rises to `decay`, so that the start is soon forgotten."""
    return jnp.minimum(decay, (1.0 + step) / (10.0 + step))
