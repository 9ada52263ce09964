"""Damaged checkpoints: the one before is used, with a warning; and a disk that is full."""

import logging
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from saved_states import State, assert_same_bits, biggest_file, cut_short, empty, flip_a_bit, make_state, save

from models.checkpoints import checkpoint


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
