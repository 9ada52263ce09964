"""Saving in the background: what was given is what is written, whatever happens to it, the process or the disk."""

import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from commands import ROOT, environment

from models.checkpoints import checkpoint
from models.checkpoints.saver import Saver

LIKE = {"w": jax.ShapeDtypeStruct((50_000,), jnp.int32)}


def state(step: int) -> dict[str, jax.Array]:
    return {"w": jnp.full(50_000, step, jnp.int32)}


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """No write ends before this is set."""
    opened, seal = threading.Event(), checkpoint.seal

    def when_opened(*arguments: Any) -> None:
        assert opened.wait(30)
        seal(*arguments)

    monkeypatch.setattr(checkpoint, "seal", when_opened)
    yield opened
    opened.set()


def test_the_state_may_be_donated_at_once(tmp_path: Path, gate: threading.Event) -> None:
    add_one = jax.jit(lambda state: jax.tree.map(lambda leaf: leaf + 1, state), donate_argnums=0)
    now: dict[str, Any] = {"w": jnp.zeros(50_000, jnp.int32), "host": np.zeros(3, np.float32)}
    with Saver(tmp_path, keep=1) as saver:
        saver.save(1, now, {})
        assert not list(tmp_path.glob("00000001")), (
            "the caller does not wait, and a step has no name before it is whole"
        )
        now["host"] += 1
        now = add_one(now)
        jax.block_until_ready(now)
        gate.set()
    restored = checkpoint.restore(tmp_path, 1, now)
    assert not np.any(restored["w"])
    assert not np.any(restored["host"])
    assert np.all(now["w"] == 1)


def test_one_at_a_time(tmp_path: Path, gate: threading.Event) -> None:
    with Saver(tmp_path, keep=None) as saver:  # all are kept
        saver.save(1, state(1), {})
        threading.Timer(0.2, gate.set).start()
        saver.save(2, state(2), {"two": 2}, 0.5, [{"loss": 0.1}])
        assert 1 in checkpoint.steps(tmp_path)
        saver.wait()
        assert checkpoint.steps(tmp_path) == [1, 2]
        assert checkpoint.read_config(tmp_path, 2) == {"two": 2}
        saver.save(3, state(3), {})
    assert checkpoint.steps(tmp_path) == [1, 2, 3]
    assert [checkpoint.read_unlogged(tmp_path, step) for step in (1, 2)] == [[], [{"loss": 0.1}]]
    assert checkpoint.scores(tmp_path) == {1: None, 2: 0.5, 3: None}


def test_leaving_with_an_error_still_writes(tmp_path: Path) -> None:
    def run() -> None:
        with Saver(tmp_path, keep=1) as saver:
            saver.save(1, state(1), {})
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run()
    np.testing.assert_array_equal(checkpoint.restore(tmp_path, 1, LIKE)["w"], np.full(50_000, 1))


TOO_LARGE = """
import resource, sys
from pathlib import Path
import numpy as np
from models.checkpoints import checkpoint
from models.checkpoints.saver import Saver

resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))
folder, small, large = Path(sys.argv[1]), {"w": np.zeros(1000)}, {"w": np.zeros(1_000_000)}

def attempt(step, call, *arguments):
    try:
        call(*arguments)
    except OSError as error:
        print(error)
    print(step, checkpoint.steps(folder))

with Saver(folder, keep=1) as saver:
    attempt(1, saver.save, 1, small, {})
    attempt(2, saver.save, 2, large, {})
    attempt(3, saver.save, 3, small, {})
    attempt(4, saver.save, 4, small, {})
    attempt(4, saver.wait)
    checkpoint.restore(folder, 4, small)
    saver.save(5, large, {})
"""


def test_a_failed_write_is_told_at_the_next_call_or_at_the_end(tmp_path: Path) -> None:
    """The system refuses files above 1 MB, as a quota would; the last error leaves the context. No line but these."""
    done = python(TOO_LARGE, str(tmp_path))
    lines = done.communicate(timeout=60)[0].splitlines()
    assert done.returncode == 1
    said = "checkpoint {}, about 8.0 MB, cannot be written to " + f"{tmp_path}: File too large; "
    assert lines[:2] == ["1 []", "2 [1]"]
    assert lines[2].startswith(said.format(2))
    assert lines[3:7] == ["3 [1]", "4 [1]", "4 [4]", "Traceback (most recent call last):"]
    assert lines[-1].startswith("OSError: " + said.format(5))
    assert lines[-1].endswith("; earlier checkpoints are kept")
    assert checkpoint.steps(tmp_path) == [4]


SAVE_FOREVER = """
import sys
from pathlib import Path
import jax.numpy as jnp
from models.checkpoints import checkpoint
from models.checkpoints.saver import Saver

folder, step = Path(sys.argv[1]), checkpoint.latest_step(Path(sys.argv[1])) or 0
saver = Saver(folder, keep=2)
while True:
    step += 1
    print("saving", step, flush=True)
    saver.save(step, {"w": jnp.full(50_000, step)}, {"step": step})
"""


def test_killed_while_saving(tmp_path: Path) -> None:
    """Wherever kill -9 falls, the steps announced before are there, whole; what is half written goes away."""
    for delay in (0.0, 0.01, 0.03):
        process = python(SAVE_FOREVER, str(tmp_path))
        assert process.stdout is not None
        announced = [int(process.stdout.readline().split()[1]) for _ in range(4)][-1]
        time.sleep(delay)
        process.kill()
        process.communicate()
        found = checkpoint.restore_latest(tmp_path, LIKE)
        assert found is not None
        assert found[0] >= announced - 2
        for step in checkpoint.steps(tmp_path):
            np.testing.assert_array_equal(checkpoint.restore(tmp_path, step, LIKE)["w"], np.full(50_000, step))
            assert checkpoint.read_config(tmp_path, step) == {"step": step}
    assert not list(tmp_path.glob("*.damaged"))
    with Saver(tmp_path, keep=1) as saver:
        saver.save(9999, state(9999), {})
    assert [path.name for path in tmp_path.iterdir()] == ["00009999"]


def test_an_unfinished_checkpoint_is_ignored_and_written_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with Saver(tmp_path, keep=1) as saver:
        saver.save(1, state(1), {})
    (tmp_path / "00000002.orbax-checkpoint-tmp" / "state").mkdir(parents=True)  # what a kill leaves
    found = checkpoint.restore_latest(tmp_path, LIKE)
    assert found is not None
    assert found[0] == 1
    assert caplog.messages == ["checkpoint 2 was not finished; it is ignored"]
    with Saver(tmp_path, keep=1) as saver:
        saver.save(2, state(2), {})
    assert [path.name for path in tmp_path.iterdir()] == ["00000002"]


TWO_PROCESSES = """
import hashlib, resource, sys
from pathlib import Path
import jax, numpy as np
from jax.experimental.multihost_utils import sync_global_devices
from jax.sharding import Mesh, NamedSharding, PartitionSpec as P
from models.checkpoints import checkpoint
from models.checkpoints.saver import Saver

folder, port, me = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
jax.distributed.initialize(f"127.0.0.1:{port}", num_processes=2, process_id=me)
mesh = Mesh(jax.devices(), "data")

def laid(values, spec):
    return jax.make_array_from_callback(values.shape, NamedSharding(mesh, spec), lambda index: values[index])

def state(step):
    ramp = np.arange(24, dtype=np.float32).reshape(8, 3) + step
    return {"split": laid(ramp, P("data")), "columns": laid(ramp.T.copy(), P(None, "data")), "all": laid(ramp, P())}

add_one = jax.jit(lambda state: jax.tree.map(lambda leaf: leaf + 1, state), donate_argnums=0)
with Saver(folder, keep=2) as saver:
    now = state(0)
    for step in (1, 2, 3):
        now = add_one(now)
        saver.save(step, now, {})
assert not now["split"].is_fully_addressable
sync_global_devices("saved")
if me == 1:
    (folder / "00000003" / "config.json").write_text("{")
sync_global_devices("damaged")
step, found = checkpoint.restore_latest(folder, now)
assert all(type(leaf) is np.ndarray for leaf in jax.tree.leaves(found))
print(step, *(hashlib.sha256(leaf.tobytes()).hexdigest()[:8] for leaf in jax.tree.leaves(found)))

resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))
saver = Saver(folder, keep=2)
saver.save(4, now, {})
try:
    saver.wait()
except OSError as error:
    print("refused:", error)
"""


def test_two_processes(tmp_path: Path) -> None:
    """One state over four devices of two processes: process 0 writes all of it, and both agree on what to restore.

    When process 0 fails to write, both learn it.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    both = [python(TWO_PROCESSES, str(tmp_path), port, str(me)) for me in range(2)]
    try:
        said = [process.communicate(timeout=100)[0] for process in both]
    finally:
        for process in both:
            process.kill()
    assert [process.returncode for process in both] == [0, 0], "\n".join(said)
    found = [next(line for line in text.splitlines() if line.startswith("2 ")) for text in said]
    assert found[0] == found[1]
    assert "refused: checkpoint 4, about 0.0 MB, cannot be written to" in said[0]
    assert "refused: process 0 could not write the last checkpoint" in said[1]
    assert "checkpoint 3 is damaged (config.json does not match its checksum); going on from 2" in said[0]
    assert "damaged" not in said[1]

    ramp = np.arange(24, dtype=np.float32).reshape(8, 3) + 2
    restored = checkpoint.restore(tmp_path, 2, {"split": ramp, "columns": ramp.T, "all": ramp})
    np.testing.assert_array_equal(restored["split"], ramp)
    np.testing.assert_array_equal(restored["columns"], ramp.T)
    np.testing.assert_array_equal(restored["all"], ramp)


def python(code: str, *arguments: str) -> subprocess.Popen[str]:
    """`python -c <code> <arguments>` with two devices; what it says on either stream is its output."""
    environ = environment() | {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": "2"}
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        cwd=ROOT,
        env=environ,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
