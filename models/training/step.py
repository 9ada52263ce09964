"""One step of training: the loss's gradient, the optimiser, the moving average."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from deis import SDE
from models.score import Images, Labels, Network, Params, per_image
from models.training.config import ObjectiveConfig
from models.training.objective import Examples, weighted_loss

WHOLE, CUT = PartitionSpec(), PartitionSpec("data")  # how an array lies over devices: whole on each, or by its rows


class TrainState(NamedTuple):
    """All that a run must remember to go on bit for bit.

    step: int32, steps done. params, ema: the network's parameters and their moving average, float32.
    key: raw key data; the randomness of step n is `fold_in(key, n)`.
    skipped, skipped_in_a_row: int32, steps whose update was left out because the loss or its gradient was not finite,
        in all and since the last one that was taken.
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
    laid: Any = None,
) -> Callable[..., tuple[TrainState, dict[str, Array]]]:
    """A jitted function (state, images, labels, index) -> (state, metrics), with the old state's memory reused.

    images: uint8 [n, h, w, c]; labels: int [n] or None. The batch is images[index], index int [b], in this order; or
        all images, in theirs, if index is None.
    flip: mirror every image left to right with probability 1/2.
    accumulate: parts that the batch is cut into, one after the other, to need less memory; b must be a multiple of it.
    laid: how the state lies over devices, as of `models.training.devices.shardings`; None for one device.
    metrics: loss, and the gradient's norm before clipping, grad_norm; param_norm; finite, whether both of the former
        are; level_loss and level_count as of `weighted_loss`. If not finite, the step is counted but the parameters,
        their average and the optimiser's state stay as they were, and the levels are empty.

    Random numbers follow from (state.key, state.step) and an image's place in the batch. Each device takes the gradient
    of its share of the batch, and then they meet once.
    """
    mesh = Mesh(jax.devices()[:1], "data") if laid is None else laid.step.mesh

    @partial(jax.jit, donate_argnums=0, out_shardings=None if laid is None else (laid, None))
    def train_step(
        state: TrainState, images: Array, labels: Labels, index: Int[Array, " b"] | None
    ) -> tuple[TrainState, dict[str, Array]]:
        images, labels = (images, labels) if index is None else jax.tree.map(lambda leaf: leaf[index], (images, labels))
        batch = Examples(images, labels, jnp.arange(len(images)))
        flip_key, loss_key = jax.random.split(jax.random.fold_in(jax.random.wrap_key_data(state.key), state.step))

        def loss_of(params: Params, part: Examples) -> tuple[Array, dict[str, Array]]:
            x_0 = _mirrored(flip_key, _to_float(part.images), part.place) if flip else _to_float(part.images)
            return weighted_loss(network, sde, objective, len(images), params, part._replace(images=x_0), loss_key)

        specs = jax.tree.map(lambda _: WHOLE, state.params) if laid is None else jax.tree.map(_spec, laid.params)
        gradient = _over_devices(jax.value_and_grad(loss_of, has_aux=True), mesh, specs, accumulate)
        (loss, levels), grad = gradient(state.params, batch)
        grad_norm = optax.tree.norm(grad)
        finite = jnp.isfinite(loss) & jnp.isfinite(grad_norm)
        state = _updated(optimizer, ema_decay, state, grad, finite)
        levels = jax.tree.map(lambda leaf: jnp.where(finite, leaf, 0), levels)
        norms = {"grad_norm": grad_norm, "param_norm": optax.tree.norm(state.params)}
        return state, {"loss": loss, "finite": finite, **norms, **levels}

    return train_step


def make_evaluation(network: Network, sde: SDE, objective: ObjectiveConfig) -> Callable[..., Float[Array, ""]]:
    """A jitted function (params, images uint8 [b, h, w, c], labels [b] or None, key) -> loss without any dropout."""

    @jax.jit
    def evaluate(params: Params, images: Array, labels: Labels, key: PRNGKeyArray) -> Float[Array, ""]:
        batch = Examples(_to_float(images), labels, jnp.arange(len(images)))
        return weighted_loss(network, sde, objective, len(images), params, batch, key, train=False)[0]

    return evaluate


def _over_devices(
    gradient: Callable[[Params, Examples], Any], mesh: Mesh, specs: Any, parts: int
) -> Callable[[Params, Examples], Any]:
    """The mean of `gradient` over the devices' shares of the batch, each taken in `parts`; of the levels, the sum.

    specs: how the parameters lie over the devices, WHOLE or CUT for each array; so will their gradient.
    """

    def of_share(params: Params, share: Examples) -> Any:
        take = gradient if parts == 1 else partial(_sum_over_parts, gradient, parts)
        (loss, levels), grad = take(jax.tree.map(_gathered, params, specs), share)
        loss, grad = jax.tree.map(lambda leaf: leaf / (parts * mesh.size), (loss, grad))
        return jax.lax.psum((loss, levels), "data"), jax.tree.map(_summed, grad, specs)

    return jax.shard_map(of_share, mesh=mesh, in_specs=(specs, CUT), out_specs=(WHOLE, specs), check_vma=False)


def _spec(sharding: NamedSharding) -> PartitionSpec:
    return sharding.spec


def _gathered(share: Array, spec: PartitionSpec) -> Array:
    """The whole of an array of which this device may hold a share only."""
    return share if spec == WHOLE else jax.lax.all_gather(share, "data", tiled=True)


def _summed(array: Array, spec: PartitionSpec) -> Array:
    """Summed over the devices, each of which may keep a share only."""
    return jax.lax.psum(array, "data") if spec == WHOLE else jax.lax.psum_scatter(array, "data", tiled=True)


def _sum_over_parts(gradient: Callable[[Params, Examples], Any], parts: int, params: Params, batch: Examples) -> Any:
    """The sum of `gradient` over `parts` parts of the batch."""

    def add(total: Params, part: Examples) -> tuple[Params, Any]:
        value, grad = gradient(params, part)
        return jax.tree.map(jnp.add, total, grad), value

    cut = jax.tree.map(lambda leaf: leaf.reshape(parts, -1, *leaf.shape[1:]), batch)
    grad, values = jax.lax.scan(add, jax.tree.map(jnp.zeros_like, params), cut)
    return jax.tree.map(lambda leaf: leaf.sum(0), values), grad


def _updated(
    optimizer: optax.GradientTransformation, ema_decay: float, state: TrainState, grad: Params, finite: Bool[Array, ""]
) -> TrainState:
    """The state after a step with this gradient, whose update is left out if it is not finite."""
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


def _mirrored(key: PRNGKeyArray, images: Images, place: Int[Array, " b"]) -> Images:
    """Each image as it is or left to right, as its place decides."""
    chosen = jax.vmap(lambda place: jax.random.bernoulli(jax.random.fold_in(key, place)))(place)
    return jnp.where(per_image(chosen), images[:, :, ::-1], images)


def _to_float(images: Array) -> Images:
    """0..255 as float32 in [-1, 1]."""
    return images.astype(jnp.float32) / 127.5 - 1


def ema_at(step: Int[Array, ""], decay: float) -> Float[Array, ""]:
    """Decay of the moving average after `step` steps: it rises to `decay`, so that the start is soon forgotten."""
    return jnp.minimum(decay, (1.0 + step) / (10.0 + step))
