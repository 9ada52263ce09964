"""A state with every kind of leaf, saved as a checkpoint, and ways to harm a file of it."""

from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from models.checkpoints.saver import Saver

CONFIG = {"model": {"channels": 8, "multipliers": [1, 2]}, "seed": 3}


class State(NamedTuple):
    step: jax.Array
    params: dict
    ema: dict
    opt_state: optax.OptState
    key: jax.Array


def make_state(seed: int = 0, width: int = 5) -> State:
    """Every kind of leaf a run keeps; the floats include -0, subnormals, infinity and NaN."""
    rng = np.random.default_rng(seed)
    kernel = rng.standard_normal((3, width), np.float32)
    kernel[0, :4] = [-0.0, 1e-42, np.inf, np.nan]
    params = {"down": {"00": {"kernel": jnp.asarray(kernel), "bias": jnp.zeros(width)}}, "scale": jnp.float32(0.1)}
    opt_state = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(1e-3)).init(params)
    key = jax.random.key_data(jax.random.key(seed))
    return State(jnp.array(7, jnp.int32), params, jax.tree.map(jnp.copy, params), opt_state, key)


def save(
    folder: Path, step: int, state: object, *, keep: int = 1, keep_best: bool = False, score: float | None = None
) -> None:
    with Saver(folder, keep, keep_best) as writer:
        writer.save(step, state, CONFIG, score)


def assert_same_bits(a: object, b: object) -> None:
    named_a, named_b = jax.tree.leaves_with_path(a), jax.tree.leaves_with_path(b)
    assert [path for path, _ in named_a] == [path for path, _ in named_b]
    for (_, one), (_, other) in zip(named_a, named_b, strict=True):
        assert (one.dtype, one.shape) == (other.dtype, other.shape)
        assert np.asarray(one).tobytes() == np.asarray(other).tobytes()


def biggest_file(folder: Path) -> Path:
    return max((folder / "00000007" / "state").rglob("*"), key=lambda path: path.stat().st_size * path.is_file())


def flip_a_bit(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def cut_short(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-5])


def empty(file: Path) -> None:
    file.write_bytes(b"")
