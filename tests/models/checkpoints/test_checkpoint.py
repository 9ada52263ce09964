"""Checkpoints: what is read is bit for bit what was written, or a sentence says why not."""

import hashlib
import json
import logging
import math
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest
from commands import ROOT, environment

from formats.files import sha256
from models.checkpoints import checkpoint, saver
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


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("written")
    save(folder, 7, make_state())
    return folder


@pytest.fixture
def folder(written: Path, tmp_path: Path) -> Path:
    """A copy to damage."""
    subprocess.run(["cp", "-r", written, tmp_path / "run"], check=True)
    return tmp_path / "run"


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


def test_restored_bit_for_bit(written: Path) -> None:
    restored = checkpoint.restore(written, 7, like=jax.eval_shape(make_state))
    assert isinstance(restored, State)
    assert_same_bits(restored, make_state())
    assert checkpoint.read_config(written, 7) == CONFIG


def test_one_entry_alone(written: Path) -> None:
    """Sampling reads the EMA only, and needs no optimiser to say what it looks like."""
    like = {"ema": jax.eval_shape(make_state).ema}
    assert_same_bits(checkpoint.restore(written, 7, like), {"ema": make_state().ema})


def test_keeps_the_newest(tmp_path: Path) -> None:
    assert checkpoint.latest_step(tmp_path / "absent") is None
    for step in (1, 2, 10):
        save(tmp_path, step, {"w": jnp.full(2, step)}, keep=2)
    assert checkpoint.steps(tmp_path) == [2, 10]
    assert checkpoint.latest_step(tmp_path) == 10
    assert sorted(path.name for path in tmp_path.iterdir()) == ["00000002", "00000010"]


def test_a_harmed_or_missing_file_is_named(folder: Path) -> None:
    file = biggest_file(folder)
    for harm, what in (
        (flip_a_bit, "does not match its checksum"),
        (cut_short, "does not match"),
        (Path.unlink, "is miss"),
    ):
        harm(file)
        with pytest.raises(ValueError, match=f"{file.name} {what}") as caught:
            checkpoint.restore(folder, 7, make_state())
        assert "\n" not in str(caught.value)


def test_a_cut_off_json_file_is_named(folder: Path) -> None:
    for file in (folder / "00000007").glob("*.json"):
        file.write_text(file.read_text()[:-20])
    with pytest.raises(ValueError, match=r"00000007/config\.json is not JSON"):
        checkpoint.read_config(folder, 7)
    with pytest.raises(ValueError, match=r"checkpoint .* is damaged: manifest\.json is not JSON"):
        checkpoint.restore(folder, 7, make_state())


def test_no_such_step(written: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no checkpoint of step 8 in .*; there are: 7"):
        checkpoint.restore(written, 8, make_state())
    with pytest.raises(FileNotFoundError, match="there are: none"):
        checkpoint.read_config(tmp_path, 1)


def test_another_network_is_refused_with_both_shapes(written: Path) -> None:
    with pytest.raises(ValueError, match=r"model\.channels") as caught:
        checkpoint.restore(written, 7, make_state(width=6))
    assert r"ema/down/00/bias is float32[5] there and float32[6] here" in str(caught.value)
    with pytest.raises(ValueError, match=r"ema/extra is absent there and float32\[2\] here"):
        checkpoint.restore(written, 7, {"ema": make_state().ema | {"extra": jnp.zeros(2)}})
    fewer = {name: value for name, value in make_state().ema.items() if name != "scale"}
    with pytest.raises(ValueError, match=r"ema/scale is float32\[\] there and absent here"):
        checkpoint.restore(written, 7, {"ema": fewer})


def test_killed_while_deleting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A step that is being deleted is no step any more, even if the deletion never ends."""
    save(tmp_path, 1, {"w": jnp.zeros(2)})

    def killed(path: Path, ignore_errors: bool) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(saver.shutil, "rmtree", killed)
    with pytest.raises(KeyboardInterrupt):
        save(tmp_path, 2, {"w": jnp.zeros(2)})
    assert checkpoint.steps(tmp_path) == [2]
    assert len(list(tmp_path.iterdir())) == 2
    monkeypatch.undo()
    save(tmp_path, 3, {"w": jnp.zeros(2)})
    assert [path.name for path in tmp_path.iterdir()] == ["00000003"]


def test_read_without_jax(written: Path) -> None:
    """So that a command can be refused at once."""
    code = (
        "import sys; from pathlib import Path; from models.checkpoints import checkpoint as c; f = Path(sys.argv[1]);"
        "print(c.latest_step(f), c.best_step(f), c.read_config(f, 7)['seed'], {'jax', 'orbax'} & {*sys.modules})"
    )
    command = [sys.executable, "-c", code, str(written)]
    done = subprocess.run(command, cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=60, check=True)
    assert (done.stdout, done.stderr) == ("7 None 3 set()\n", "")


def test_keeps_the_best(tmp_path: Path) -> None:
    for step, score in enumerate([3.0, 1.0, 2.0, math.nan, None, 1.0, -math.inf], start=1):
        save(tmp_path, step, {"w": jnp.zeros(2)}, keep=2, keep_best=True, score=score)
    assert checkpoint.steps(tmp_path) == [2, 6, 7]
    assert checkpoint.best_step(tmp_path) == 2
    save(tmp_path, 8, {"w": jnp.zeros(2)}, keep_best=True, score=0.5)
    assert checkpoint.steps(tmp_path) == [8]
    save(tmp_path, 9, {"w": jnp.zeros(2)})
    assert checkpoint.steps(tmp_path) == [9]
    assert checkpoint.best_step(tmp_path) is None


def test_every_bit_of_the_manifest_counts(written: Path, folder: Path) -> None:
    path = folder / "00000007"
    assert checkpoint.damage(path) is None
    content = (written / "00000007" / checkpoint.MANIFEST).read_bytes()
    for position in range(0, len(content), 7):
        flipped = bytearray(content)
        flipped[position] ^= 1 << position % 8
        (path / checkpoint.MANIFEST).write_bytes(flipped)
        assert checkpoint.damage(path) is not None, f"byte {position} of {flipped!r}"


def test_a_run_of_the_former_layout_goes_on(folder: Path) -> None:
    """Its manifest also lists the arrays, and Orbax's own notes lie in state/ alone."""
    old = folder / "00000003"
    old.mkdir()
    with ocp.PyTreeCheckpointer(use_compression=False) as checkpointer:
        checkpointer.save(old / "state", jax.tree.map(np.asarray, make_state(3)._asdict()))
    (old / "config.json").write_text(json.dumps(CONFIG))
    digests = {str(path.relative_to(old)): sha256(path) for path in old.rglob("*") if path.is_file()}
    content = {"score": 0.25, "arrays": {"step": "int32[]"}, "files": digests}
    digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    (old / "manifest.json").write_text(json.dumps(content | {"sha256": digest}))

    shutil.rmtree(folder / "00000007")
    step, state = restore_latest(folder)
    assert (step, checkpoint.read_config(folder, 3)) == (3, CONFIG)
    assert_same_bits(state, make_state(3))
    for step in (4, 5):
        save(folder, step, make_state(step), keep_best=True, score=0.5)
    assert checkpoint.steps(folder) == [3, 5]
    save(folder, 6, make_state(6), keep_best=True, score=0.1)
    assert checkpoint.steps(folder) == [6]


def restore_latest(folder: Path) -> tuple[int, State]:
    found = checkpoint.restore_latest(folder, make_state())
    assert found is not None
    return found


@pytest.fixture
def two_steps(folder: Path) -> Path:
    """Steps 6 and 7 of one run; 6 is good."""
    shutil.copytree(folder / "00000007", folder / "00000006")
    return folder


@pytest.mark.parametrize("harm", [flip_a_bit, cut_short, empty, Path.unlink])
def test_goes_on_from_the_one_before(
    two_steps: Path, harm: Callable[[Path], None], caplog: pytest.LogCaptureFixture
) -> None:
    """Whichever file of the newest is harmed, the one before is restored, and a line names both steps.

    Orbax's notes of the time of writing, which nobody reads, may be harmed.
    """
    newest, aside = two_steps / "00000007", two_steps / "00000007.damaged"
    names = sorted(path.relative_to(newest) for path in newest.rglob("*") if path.is_file())
    unread = {Path("_CHECKPOINT_METADATA"), Path("commit_success.txt")}
    assert len(names) > 7
    assert unread < {*names}
    for name in names:
        harm(newest / name)
        caplog.clear()
        step, state = restore_latest(two_steps)
        assert_same_bits(state, make_state())
        assert step == (7 if name in unread else 6)
        if name in unread:
            assert not caplog.records
            shutil.rmtree(newest)
        else:
            (record,) = caplog.records
            assert (record.name, record.levelno) == ("models.checkpoints.checkpoint", logging.WARNING)
            assert record.getMessage().startswith(f"checkpoint 7 is damaged ({name} ")
            assert record.getMessage().endswith("); going on from 6")
            assert aside.is_dir()
        shutil.copytree(two_steps / "00000006", newest)


def test_a_damaged_step_can_be_saved_again(two_steps: Path) -> None:
    for seed in (1, 2):
        flip_a_bit(biggest_file(two_steps))
        assert restore_latest(two_steps)[0] == 6
        save(two_steps, 7, make_state(seed), keep=2)
        step, state = restore_latest(two_steps)
        assert step == 7
        assert_same_bits(state, make_state(seed))
    assert sorted(path.name for path in two_steps.iterdir()) == ["00000006", "00000007", "00000007.damaged"]


def test_all_damaged_is_an_error_that_stays(two_steps: Path) -> None:
    """Nothing is renamed, or the next start would find no checkpoint and begin at step 0."""
    for step in ("00000006", "00000007"):
        cut_short(two_steps / step / "config.json")
    for _ in range(2):
        with pytest.raises(ValueError, match=r"every checkpoint in .* is damaged: 7 \(config.json .*\), 6 \(config"):
            checkpoint.restore_latest(two_steps, make_state())
    assert checkpoint.steps(two_steps) == [6, 7]


def test_no_checkpoint_at_all(tmp_path: Path) -> None:
    assert checkpoint.restore_latest(tmp_path, make_state()) is None
    assert checkpoint.restore_latest(tmp_path / "absent", make_state()) is None


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", disk], capture_output=True, check=False)
    if mounted.returncode:
        pytest.skip("mounting a tmpfs needs root")
    yield disk
    subprocess.run(["umount", disk], check=True)


def test_full_disk(small_disk: Path) -> None:
    """The error says what is needed and free, what was there stays, and with room again saving goes on."""
    folder, state = small_disk / "checkpoints", {"w": np.random.default_rng(0).standard_normal(250_000, np.float32)}
    save(folder, 1, state)
    (small_disk / "other").write_bytes(bytes(1_200_000))
    with pytest.raises(OSError, match="checkpoint 2") as full:
        save(folder, 2, state)
    assert str(full.value) == (
        f"checkpoint 2, about 1.0 MB, cannot be written to {folder}: No space left on device; 0.9 MB are free there; "
        "earlier checkpoints are kept"
    )
    assert [path.name for path in folder.iterdir()] == ["00000001"]
    assert_same_bits(checkpoint.restore(folder, 1, state), state)
    os.truncate(small_disk / "other", 0)
    save(folder, 2, state)
    assert checkpoint.steps(folder) == [2]
