"""Checkpoints: what is read is bit for bit what was written, or a sentence says why not."""

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from commands import ROOT, environment

from models import checkpoint

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


def assert_same_bits(a: object, b: object) -> None:
    named_a, named_b = jax.tree.leaves_with_path(a), jax.tree.leaves_with_path(b)
    assert [path for path, _ in named_a] == [path for path, _ in named_b]
    for (_, one), (_, other) in zip(named_a, named_b, strict=True):
        assert (one.dtype, one.shape) == (other.dtype, other.shape)
        assert np.asarray(one).tobytes() == np.asarray(other).tobytes()


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("written")
    checkpoint.save(folder, 7, make_state(), CONFIG, keep=2)
    return folder


@pytest.fixture
def folder(written: Path, tmp_path: Path) -> Path:
    """A copy to damage."""
    subprocess.run(["cp", "-r", written, tmp_path / "run"], check=True)
    return tmp_path / "run"


def biggest_file(folder: Path) -> Path:
    return max((folder / "00000007" / "state").rglob("*"), key=lambda path: path.stat().st_size * path.is_file())


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
        checkpoint.save(tmp_path, step, {"w": jnp.full(2, step)}, CONFIG, keep=2)
    assert checkpoint.steps(tmp_path) == [2, 10]
    assert checkpoint.latest_step(tmp_path) == 10
    assert sorted(path.name for path in tmp_path.iterdir()) == ["00000002", "00000010"]
    checkpoint.save(tmp_path, 10, {"w": jnp.full(2, 11)}, CONFIG, keep=2)
    restored = checkpoint.restore(tmp_path, 10, {"w": jax.ShapeDtypeStruct((2,), jnp.int32)})
    np.testing.assert_array_equal(restored["w"], [11, 11])


def test_a_flipped_bit_is_noticed_and_named(folder: Path) -> None:
    file = biggest_file(folder)
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    with pytest.raises(ValueError, match=f"{file.name} does not match its checksum") as caught:
        checkpoint.restore(folder, 7, make_state())
    assert "\n" not in str(caught.value)


def test_a_truncated_or_missing_file_is_named(folder: Path) -> None:
    file = biggest_file(folder)
    file.write_bytes(file.read_bytes()[:-5])
    with pytest.raises(ValueError, match=f"{file.name} does not match its checksum"):
        checkpoint.restore(folder, 7, make_state())
    file.unlink()
    with pytest.raises(ValueError, match=f"{file.name} is missing"):
        checkpoint.restore(folder, 7, make_state())


def test_a_cut_off_json_file_is_named(folder: Path) -> None:
    for file in (folder / "00000007").glob("*.json"):
        file.write_text(file.read_text()[:-20])
    with pytest.raises(ValueError, match=r"checkpoint .* is damaged: config\.json is not JSON"):
        checkpoint.read_config(folder, 7)
    with pytest.raises(ValueError, match=r"checkpoint .* is damaged: manifest\.json is not JSON"):
        checkpoint.restore(folder, 7, make_state())


def test_a_changed_configuration_is_noticed(folder: Path) -> None:
    (folder / "00000007" / "config.json").write_text(json.dumps(CONFIG | {"seed": 4}))
    with pytest.raises(ValueError, match=r"config\.json does not match its checksum"):
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


SAVE_FOREVER = """
import sys
from pathlib import Path
import jax.numpy as jnp
from models import checkpoint

folder, step = Path(sys.argv[1]), checkpoint.latest_step(Path(sys.argv[1])) or 0
while True:
    step += 1
    print("saving", step, flush=True)
    checkpoint.save(folder, step, {"w": jnp.full(50_000, step)}, {"step": step}, keep=2)
"""


def test_killed_while_saving(tmp_path: Path) -> None:
    """Wherever kill -9 falls, the step announced before last is there, whole; what is half written goes away."""
    like = {"w": jax.ShapeDtypeStruct((50_000,), jnp.int32)}
    for delay in (0.0, 0.02, 0.05):
        command = [sys.executable, "-c", SAVE_FOREVER, str(tmp_path)]
        with subprocess.Popen(command, cwd=ROOT, env=environment(), stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            announced = [int(process.stdout.readline().split()[1]) for _ in range(3)][-1]
            time.sleep(delay)
            process.kill()
        steps = checkpoint.steps(tmp_path)
        assert steps[-1] >= announced - 1
        for step in steps:
            np.testing.assert_array_equal(checkpoint.restore(tmp_path, step, like)["w"], np.full(50_000, step))
            assert checkpoint.read_config(tmp_path, step) == {"step": step}
    checkpoint.save(tmp_path, 9999, {"w": jnp.zeros(1)}, {}, keep=1)
    assert [path.name for path in tmp_path.iterdir()] == ["00009999"]


def test_killed_while_deleting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A step that is being deleted is no step any more, even if the deletion never ends."""
    state = {"w": jnp.zeros(2)}
    checkpoint.save(tmp_path, 1, state, CONFIG, keep=1)

    def killed(path: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(checkpoint.shutil, "rmtree", killed)
    with pytest.raises(KeyboardInterrupt):
        checkpoint.save(tmp_path, 2, state, CONFIG, keep=1)
    assert checkpoint.steps(tmp_path) == [2]
    monkeypatch.undo()
    checkpoint.save(tmp_path, 3, state, CONFIG, keep=1)
    assert [path.name for path in tmp_path.iterdir()] == ["00000003"]


def test_a_process_that_saved_ends_and_says_nothing(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; import jax.numpy as jnp; from models import checkpoint as c;"
        "p = Path(sys.argv[1]); s = {'w': jnp.ones(3)}; c.save(p, 1, s, {}, keep=1); c.restore(p, 1, s)"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=60, check=True)
    assert (done.stdout, done.stderr) == ("", "")
