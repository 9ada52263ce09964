"""Streamed batches: the order of images, resuming, shares of several processes, and threads that end."""

import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from data import batch_indices, stream

N, BATCH, SEED = 50, 12, 3
LABELS = np.arange(N, dtype=np.int32)  # every image's label is its place, and its pixels say it too
IMAGES = np.broadcast_to(LABELS.astype(np.uint8)[:, None, None, None], (N, 4, 4, 3))


def labels_of(start: int, stop: int, **options: int) -> np.ndarray:
    """The labels [steps, share] of a stream, its images compared with them."""
    batches = list(stream(IMAGES, LABELS, BATCH, SEED, start, stop, **options))
    for images, labels in batches:
        assert images.dtype == np.uint8
        np.testing.assert_array_equal(images, IMAGES[labels])
    return np.array([labels for _, labels in batches])


@pytest.mark.parametrize(("num_threads", "prefetch"), [(4, 8), (1, 1), (0, 0)])
def test_the_order_is_that_of_batch_indices(num_threads: int, prefetch: int) -> None:
    """Over several epochs, whether threads read ahead or none does."""
    expected = [batch_indices(N, BATCH, SEED, step) for step in range(20)]
    np.testing.assert_array_equal(labels_of(0, 20, num_threads=num_threads, prefetch=prefetch), expected)


def test_a_resumed_stream_goes_on_as_the_first_would_have() -> None:
    np.testing.assert_array_equal(labels_of(7, 20), labels_of(0, 20)[7:])
    assert len(labels_of(20, 20)) == 0


def test_the_shares_of_all_processes_make_the_batch() -> None:
    shares = [labels_of(0, 9, process_index=index, process_count=3) for index in range(3)]
    assert shares[0].shape == (9, BATCH // 3)
    np.testing.assert_array_equal(np.concatenate(shares, axis=1), labels_of(0, 9))


@pytest.mark.parametrize(("process_index", "process_count"), [(0, 5), (3, 3), (-1, 3), (0, 0)])
def test_impossible_shares_are_refused(process_index: int, process_count: int) -> None:
    with pytest.raises(ValueError, match="batch_size must be a multiple"):
        stream(IMAGES, LABELS, BATCH, SEED, 0, 1, process_index, process_count)


def test_a_memory_map_without_labels(tmp_path: Path) -> None:
    np.save(tmp_path / "images.npy", IMAGES)
    mapped = np.load(tmp_path / "images.npy", mmap_mode="r")
    for step, (images, labels) in enumerate(stream(mapped, None, BATCH, SEED, 0, 6)):
        assert labels is None
        np.testing.assert_array_equal(images, IMAGES[batch_indices(N, BATCH, SEED, step)])


def test_a_failed_read_is_raised_at_its_batch() -> None:
    batches = stream(IMAGES, LABELS[:-1], BATCH, SEED, 0, 20)  # the last image has no label
    bad = next(step for step in range(20) if N - 1 in batch_indices(N, BATCH, SEED, step))
    for _ in range(bad):
        next(batches)
    with pytest.raises(IndexError, match="out of bounds"):
        next(batches)
    batches.close()


@pytest.mark.parametrize("ending", ["close", "drop"])
def test_threads_end_with_the_stream(ending: str) -> None:
    before = set(threading.enumerate())
    batches = stream(IMAGES, LABELS, BATCH, SEED, 0, 10**9)
    next(batches)
    started = set(threading.enumerate()) - before
    assert started
    if ending == "close":
        batches.close()
    else:
        del batches
    for thread in started:
        thread.join(timeout=10)
        assert not thread.is_alive()


def test_a_program_may_end_in_the_middle() -> None:
    code = """
import numpy as np
from data import stream
batches = stream(np.zeros((1000, 32, 32, 3), np.uint8), None, 128, 0, 0, 10**9)
next(batches)
raise SystemExit(7)
"""
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (7, "")
