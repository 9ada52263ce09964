"""The order of images and their scale."""

import subprocess
import sys

import jax.numpy as jnp
import numpy as np
import pytest

from data import batch_indices, to_float, to_uint8


@pytest.mark.parametrize(("n", "batch_size"), [(10, 3), (10, 10), (7, 20), (1, 4), (1000, 128)])
def test_every_epoch_shows_every_image_once(n: int, batch_size: int) -> None:
    epochs = 3
    steps = -(-epochs * n // batch_size)
    stream = np.concatenate([batch_indices(n, batch_size, seed=5, step=step) for step in range(steps)])
    assert stream.dtype == np.int64
    for epoch in range(epochs):
        np.testing.assert_array_equal(np.sort(stream[epoch * n : (epoch + 1) * n]), np.arange(n))


def test_a_batch_depends_on_seed_and_step_alone() -> None:
    forwards = [batch_indices(100, 32, seed=1, step=step) for step in range(20)]
    backwards = [batch_indices(100, 32, seed=1, step=step) for step in reversed(range(20))]
    np.testing.assert_array_equal(forwards, backwards[::-1])
    assert not np.array_equal(forwards[0], batch_indices(100, 32, seed=2, step=0))
    assert not np.array_equal(batch_indices(100, 100, 1, 0), batch_indices(100, 100, 1, 1)), "epochs repeat each other"


def test_a_batch_can_be_changed_without_changing_the_next_call() -> None:
    batch = batch_indices(10, 10, seed=0, step=0)
    before = batch.copy()
    batch[:] = 0
    np.testing.assert_array_equal(batch_indices(10, 10, seed=0, step=0), before)


@pytest.mark.parametrize("wrong", [{"n": 0}, {"batch_size": 0}, {"seed": -1}, {"step": -1}])
def test_impossible_batches_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="got"):
        batch_indices(**{"n": 4, "batch_size": 2, "seed": 0, "step": 0} | wrong)


@pytest.mark.parametrize("xp", [np, jnp])
def test_scale_and_back(xp) -> None:
    levels = xp.arange(256, dtype=xp.uint8).reshape(4, 8, 8, 1)
    x = to_float(levels)
    assert type(x) is type(levels)
    assert x.dtype == xp.float32
    assert x.min() == -1
    assert x.max() == 1
    back = to_uint8(x)
    assert type(back) is type(levels)
    np.testing.assert_array_equal(back, levels)


@pytest.mark.parametrize("xp", [np, jnp])
def test_the_two_quantisers(xp) -> None:
    levels = np.array([-3.0, 0.0, 10.25, 10.75, 254.75, 255.0, 300.0], np.float32)
    x = xp.asarray(levels / 127.5 - 1)
    np.testing.assert_array_equal(to_uint8(x, "round"), [0, 0, 10, 11, 255, 255, 255])
    np.testing.assert_array_equal(to_uint8(x, "floor"), [0, 0, 10, 10, 254, 255, 255])
    with pytest.raises(ValueError, match='"round", "floor"'):
        to_uint8(x, "ceil")


def test_quantisers_differ_by_half_a_level_on_average() -> None:
    x = np.random.default_rng(0).uniform(-1, 1, 100_000)
    difference = to_uint8(x, "round").astype(int) - to_uint8(x, "floor")
    assert abs(difference.mean() - 0.5) < 0.01


def test_the_options_import_nothing_heavy() -> None:
    code = "import sys, data.config; print(sorted({'numpy', 'jax', 'PIL', 'tensorflow_datasets'} & set(sys.modules)))"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"
