"""The training step: with or without micro-batches, on one device or several, and when something is not finite."""

from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import data
import deis
from models.score import Network
from models.training import devices
from models.training.config import ObjectiveConfig, OptimizerConfig
from models.training.objective import Examples, weighted_loss
from models.training.step import TrainState, ema_at, init_state, make_evaluation, make_optimizer, make_train_step

pytestmark = pytest.mark.slow

SDE, OBJECTIVE = deis.vp_linear(), ObjectiveConfig(label_dropout=0.2)
RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (40, 4, 4, 1), dtype=np.uint8)
LABELS = np.arange(40, dtype=np.int32) % 3
INDEX = RNG.permutation(40)[:16].astype(np.int32)
PARAMS = {"pixels": RNG.normal(0, 0.2, (16, 16)).astype(np.float32), "label": RNG.normal(size=4).astype(np.float32)}


def linear(params: Any, x: Any, t: Any, label: Any, dropout_keys: Any) -> Any:
    """Every pixel of the output is a sum over all pixels, plus what the label adds."""
    y = x.reshape(len(x), -1) @ params["pixels"]
    added = 0.0 if label is None else params["label"][label][:, None]
    return (y + added).reshape(x.shape)


NETWORK = Network(linear, time="t", input="x", null_label=3)
SGD = optax.sgd(1.0)  # the parameters fall by the gradient
ADAM = make_optimizer(OptimizerConfig(1e-2, 1, True, 0.9, 0.99, 1.0), total_steps=100)


@cache
def step_of(optimizer: Any = SGD, flip: bool = True, accumulate: int = 1, network: Network = NETWORK) -> Any:
    shardings = devices.shardings(fresh(optimizer), devices.mesh(), fsdp=False)
    return make_train_step(network, SDE, OBJECTIVE, optimizer, 0.99, flip, accumulate, shardings)


def fresh(optimizer: Any = SGD, step: int = 0) -> TrainState:
    state = init_state(jax.tree.map(jnp.array, PARAMS), optimizer, jax.random.key(5))
    return state._replace(step=jnp.array(step, jnp.int32))


def chosen() -> Examples:
    """The batch that INDEX chooses, before flips."""
    return Examples(jnp.asarray(data.to_float(IMAGES[INDEX])), jnp.asarray(LABELS[INDEX]), jnp.arange(16))


def assert_same(a: Any, b: Any, **tolerance: float) -> None:
    jax.tree.map(partial(np.testing.assert_allclose, **({"rtol": 0.0} | tolerance)), a, b)


def test_a_step_is_the_gradient_of_the_weighted_loss_of_the_chosen_images() -> None:
    state, metrics = step_of(flip=False)(fresh(step=3), IMAGES, LABELS, INDEX)
    _, key = jax.random.split(jax.random.fold_in(jax.random.key(5), 3))
    loss = partial(weighted_loss, NETWORK, SDE, OBJECTIVE, 16, examples=chosen(), key=key)
    (value, levels), grad = jax.jit(jax.value_and_grad(loss, has_aux=True))(PARAMS)
    assert_same(jax.tree.map(np.subtract, PARAMS, state.params), grad, atol=1e-5)
    assert_same(metrics["loss"], value, rtol=1e-5)
    assert_same(metrics["grad_norm"], np.sqrt(sum((leaf**2).sum() for leaf in grad.values())), rtol=1e-5)
    assert_same(metrics["param_norm"], np.sqrt(sum((leaf**2).sum() for leaf in state.params.values())), rtol=1e-5)
    assert_same({name: metrics[name] for name in levels}, levels, rtol=1e-5)
    assert metrics["level_count"].sum() == 16
    assert metrics["finite"]
    assert (state.step, state.skipped, state.skipped_in_a_row) == (4, 0, 0)
    decay = float(ema_at(jnp.array(3), 0.99))
    assert decay == pytest.approx(4 / 13)
    average = jax.tree.map(lambda old, new: decay * old + (1 - decay) * new, PARAMS, state.params)
    assert_same(state.ema, average, atol=1e-5)


def test_steps_differ_in_their_noise_and_repeat_by_their_number() -> None:
    losses = [float(step_of()(fresh(step=n), IMAGES, LABELS, INDEX)[1]["loss"]) for n in (0, 1, 0)]
    assert losses[0] == losses[2] != losses[1]


def test_images_are_mirrored_left_to_right_half_of_the_time() -> None:
    """Seen through a network that keeps what it is asked: x_0, since there is next to no noise."""
    asked: list[Any] = []

    def apply(params: Any, x: Any, t: Any, label: Any, dropout_keys: Any) -> Any:
        jax.debug.callback(lambda x: asked.append(np.asarray(x)), x)
        return params["pixels"][0, 0] * x

    network = Network(apply, time="t", input="x", null_label=3)
    shardings = devices.shardings(fresh(), devices.mesh(), fsdp=False)
    step = make_train_step(network, deis.vp_linear(t_0=0.0, T=1e-12), OBJECTIVE, SGD, 0.99, True, 1, shardings)
    jax.block_until_ready(step(fresh(), IMAGES, LABELS, None))
    jax.effects_barrier()
    plain = data.to_float(IMAGES)
    unchanged = np.abs(asked[0] - plain).max((1, 2, 3)) < 1e-4
    mirrored = np.abs(asked[0] - plain[:, :, ::-1]).max((1, 2, 3)) < 1e-4
    np.testing.assert_array_equal(mirrored, ~unchanged)
    assert 8 < mirrored.sum() < 32


def test_micro_batches_have_the_gradient_of_the_whole_batch() -> None:
    """With the same flips, times, noise and dropped labels."""
    state, metrics = step_of()(fresh(), IMAGES, LABELS, INDEX)
    accumulated, accumulated_metrics = step_of(accumulate=4)(fresh(), IMAGES, LABELS, INDEX)
    assert metrics["grad_norm"] > 0.1
    assert_same(accumulated.params, state.params, atol=1e-5)
    assert_same(accumulated_metrics, metrics, rtol=1e-5)


def test_an_image_that_is_not_a_number_skips_the_update_bit_for_bit() -> None:
    step, good, bad = step_of(ADAM, accumulate=2), IMAGES.astype(np.float32), IMAGES.astype(np.float32)
    state, _ = step(fresh(ADAM), good, LABELS, INDEX)
    before = jax.tree.map(np.array, state)
    bad[INDEX[5], 0, 0] = np.nan
    for n in (1, 2):
        state, metrics = step(state, bad, LABELS, INDEX)
        assert not metrics["finite"]
        assert not np.isfinite(metrics["loss"])
        np.testing.assert_array_equal(metrics["level_loss"], np.zeros(8))
        np.testing.assert_array_equal(metrics["level_count"], np.zeros(8))
        for name in ("params", "ema", "opt_state", "key"):
            jax.tree.map(np.testing.assert_array_equal, getattr(state, name), getattr(before, name))
        assert (state.step, state.skipped, state.skipped_in_a_row) == (1 + n, n, n)
    state, metrics = step(state, good, LABELS, INDEX)
    assert metrics["finite"]
    assert (state.step, state.skipped, state.skipped_in_a_row) == (4, 2, 0)
    assert not np.array_equal(state.params["pixels"], before.params["pixels"])


def test_a_gradient_that_overflows_skips_the_update() -> None:
    """The loss is finite, its gradient is not: the root has an infinite slope at 0."""

    def apply(params: Any, x: Any, t: Any, label: Any, dropout_keys: Any) -> Any:
        return x * jnp.sqrt(params["label"][0])

    state = fresh()
    state = state._replace(params=state.params | {"label": jnp.zeros(4)})
    state, metrics = step_of(network=NETWORK._replace(apply=apply))(state, IMAGES, LABELS, INDEX)
    assert np.isfinite(metrics["loss"])
    assert not metrics["finite"]
    assert state.skipped == 1
    np.testing.assert_array_equal(state.params["label"], np.zeros(4))


def test_the_old_state_s_memory_is_reused() -> None:
    state = fresh()
    step_of()(state, IMAGES, LABELS, INDEX)
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves((state.params, state.ema)))


def test_evaluation_is_the_loss_without_dropped_labels_and_repeats() -> None:
    evaluate, key = make_evaluation(NETWORK, SDE, OBJECTIVE), jax.random.key(2)
    found = evaluate(PARAMS, IMAGES[INDEX], LABELS[INDEX], key)
    loss = jax.jit(partial(weighted_loss, NETWORK, SDE, OBJECTIVE, 16, train=False))
    assert_same(found, loss(PARAMS, chosen(), key)[0], rtol=1e-5)
    assert found == evaluate(PARAMS, IMAGES[INDEX], LABELS[INDEX], key)
    other_null_class = PARAMS | {"label": np.append(PARAMS["label"][:3], np.float32(1e3))}
    assert found == evaluate(other_null_class, IMAGES[INDEX], LABELS[INDEX], key)


def test_training_finds_the_best_linear_network() -> None:
    """The best network of normal pixels at one noise level is eps = sigma / (s^2 var + sigma^2) x, in closed form."""
    sde = deis.vp_linear(t_0=0.3, T=0.3 + 1e-6)
    images = np.random.default_rng(3).normal(127.5, 40, (4096, 1, 1, 1))
    network = Network(lambda params, x, t, label, key: params * x, time="t", input="x")
    state = init_state(jnp.zeros(()), optax.sgd(0.5), jax.random.key(0))
    shardings = devices.shardings(state, devices.mesh(), fsdp=False)
    step = make_train_step(network, sde, ObjectiveConfig(), optax.sgd(0.5), 0.99, False, 1, shardings)
    for _ in range(60):
        state, _ = step(state, images.astype(np.float32), None, None)
    s, sigma = sde.marginal(0.3)
    variance = np.mean((images / 127.5 - 1) ** 2)
    assert float(state.ema) == pytest.approx(sigma / (s**2 * variance + sigma**2), rel=0.02)
