"""A training step that an earlier process has traced is not traced again, unless something it follows from changed."""

import importlib.metadata
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from models.training import programs

OPTIONS = {"model": {"channels": 8}, "ema_decay": 0.99}


class State(NamedTuple):
    step: jax.Array
    params: dict[str, jax.Array]


@pytest.fixture
def cache(tmp_path: Path) -> Iterator[Path]:
    before = jax.config.values["jax_compilation_cache_dir"]
    jax.config.update("jax_compilation_cache_dir", str(tmp_path / "cache"))
    yield tmp_path / "cache" / "traced"
    jax.config.update("jax_compilation_cache_dir", before)


def first_state() -> State:
    return State(jnp.int32(0), {"w": jnp.arange(6.0).reshape(2, 3), "b": jnp.ones(3)})


def counted_step() -> tuple[Callable[..., Any], list[int]]:
    """A step as training's, and one entry for each time that it is traced."""
    traced: list[int] = []

    @partial(jax.jit, donate_argnums=0)
    def step(state: State, images: jax.Array, labels: Any, index: jax.Array) -> tuple[State, dict[str, jax.Array]]:
        traced.append(1)
        assert labels is None
        grad = jax.grad(lambda params: jnp.sum(jnp.sin(images[index] @ params["w"] + params["b"])))(state.params)
        params = jax.tree.map(lambda leaf, change: leaf - 0.1 * change, state.params, grad)
        return State(state.step + 1, params), {"loss": grad["w"].sum()}

    return step, traced


BATCH = (jnp.linspace(-1, 1, 10).reshape(5, 2), None, jnp.array([3, 0]))


def started(options: dict[str, Any] = OPTIONS, batch: tuple[Any, ...] = BATCH) -> tuple[Any, int]:
    """What two steps of a new process come to, and how often it traced them."""
    step, traced = counted_step()
    kept, state = programs.kept(step, options), first_state()
    for _ in range(2):
        state, metrics = kept(state, *batch)
    return jax.device_get((state, metrics)), len(traced)


def test_a_second_start_finds_the_program_and_takes_the_same_steps(cache: Path) -> None:
    step, _ = counted_step()
    expected, _ = step(first_state(), *BATCH)
    expected, metrics = step(expected, *BATCH)
    for traced in (1, 0):
        (state, found), count = started()
        assert count == traced
        jax.tree.map(np.testing.assert_array_equal, (state, found), (expected, metrics))
        assert isinstance(state, State)
    assert len(list(cache.iterdir())) == 1


def test_the_memory_of_the_old_state_is_reused(cache: Path) -> None:
    kept = programs.kept(counted_step()[0], OPTIONS)
    old = first_state()
    new, _ = kept(old, *BATCH)
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(old))
    assert not any(leaf.is_deleted() for leaf in jax.tree.leaves(new))


@pytest.mark.usefixtures("cache")
def test_what_a_program_follows_from_is_traced_anew_when_it_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert started()[1] == 1
    assert started(OPTIONS | {"ema_decay": 0.999})[1] == 1
    assert started(batch=(*BATCH[:2], BATCH[2][:1]))[1] == 1
    monkeypatch.setenv("JAX_DEFAULT_MATMUL_PRECISION", "highest")
    assert started()[1] == 1
    monkeypatch.undo()
    assert started()[1] == 0

    version = importlib.metadata.version
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "0.0.1" if name == "flax" else version(name))
    assert started()[1] == 1
    monkeypatch.undo()

    code = tmp_path / "models" / "layers.py"
    code.parent.mkdir()
    monkeypatch.setattr(programs, "_ROOT", tmp_path)
    for text, traced in (("A = 1\n", 1), ("A = 1\n", 0), ("A = 2\n", 1)):
        code.write_text(text)
        assert started()[1] == traced


def test_the_code_that_makes_a_step_is_looked_at() -> None:
    names = {str(path.relative_to(programs._ROOT)) for path in programs._sources()}
    assert {"train.py", "models/training/step.py", "models/products.py", "deis/sde.py", "deis/tables/pndm.py"} <= names
    assert not any(name.startswith((".", "tests")) for name in names)


@pytest.mark.parametrize("fault", ["flipped", "truncated", "empty"])
def test_a_damaged_program_is_made_anew(fault: str, cache: Path) -> None:
    started()
    (path,) = cache.iterdir()
    whole = path.read_bytes()
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 1
    path.write_bytes({"flipped": bytes(flipped), "truncated": whole[:-7], "empty": b""}[fault])
    assert started()[1] == 1
    assert started()[1] == 0
    assert len(path.read_bytes()) == len(whole)


def test_a_cache_that_cannot_be_written_is_one_line(cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cache.parent.write_text("a file where the folder should be")
    assert [started()[1] for _ in range(2)] == [1, 1]
    assert capsys.readouterr().err.count("the traced training step was not kept: ") == 2


def test_without_a_cache_nothing_is_kept(cache: Path) -> None:
    jax.config.update("jax_compilation_cache_dir", None)
    assert [started()[1] for _ in range(2)] == [1, 1]
    assert not cache.exists()
