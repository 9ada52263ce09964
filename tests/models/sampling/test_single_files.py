"""Samples as single files: where they are, that they come back, and which of them are still to be drawn."""

from pathlib import Path

import numpy as np
import pytest

from formats.files import atomic_path
from models.checkpoints import checkpoint
from models.sampling.options import EpsOptions
from models.sampling.single_files import (
    drawn_before,
    file_of,
    origin_of_images,
    read_images,
    write_images,
    write_origin,
)
from models.sampling.source import find


@pytest.mark.parametrize("channels", [1, 3])
def test_images_come_back_from_folders_of_a_thousand(channels: int, tmp_path: Path) -> None:
    seeds = [0, 999, 1000, 4_294_967_295]
    images = np.random.default_rng(0).integers(0, 256, (4, 5, 5, channels), np.uint8)
    write_images(tmp_path, seeds, images)
    np.testing.assert_array_equal(read_images(tmp_path, seeds[::-1]), images[::-1])
    names = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.png"))
    assert names == [
        "images/000000/000000.png",
        "images/000000/000999.png",
        "images/001000/001000.png",
        "images/4294967000/4294967295.png",
    ]
    assert not list(tmp_path.rglob(".*")), "nothing unfinished is left"


def test_what_was_drawn_before_counts_if_it_was_drawn_alike(tmp_path: Path) -> None:
    origin = {"sampler.nfe": 10, "clip": False}
    assert drawn_before(tmp_path, [0, 1], origin) == []
    write_origin(tmp_path, origin)
    write_images(tmp_path, [5, 2], np.zeros((2, 4, 4, 1), np.uint8))
    assert drawn_before(tmp_path, [1, 2, 3, 5], origin) == [2, 5]
    with pytest.raises(ValueError, match=r"drawn otherwise \(clip: False -> True\); choose another run_dir"):
        drawn_before(tmp_path, [1, 2], origin | {"clip": True})


def test_a_network_trained_anew_and_a_table_learned_anew_are_others(tmp_path: Path) -> None:
    """Though both lie where the earlier ones did, under the same names."""
    saved, table = tmp_path / "run" / "checkpoints" / "00000004", tmp_path / "table.safetensors"
    (saved / "state").mkdir(parents=True)

    def origin(seed: int, content: bytes) -> dict:
        checkpoint.seal(saved, {"model": {}, "sde": {}, "dataset": {}, "seed": seed}, score=None)
        table.write_bytes(content)
        source = find(str(tmp_path / "run"), None, "")
        return origin_of_images(source, source, {"method": "learned", "table": str(table)}, EpsOptions(), "floor")

    first = origin(0, b"a")
    assert origin(0, b"a") == first
    for other, changed in (origin(1, b"a"), {"sha256", "guidance_sha256"}), (origin(0, b"b"), {"sampler.table"}):
        assert {key for key in first if first[key] != other[key]} == changed


def test_processes_of_several_machines_may_write_one_file_at_once(tmp_path: Path) -> None:
    """Their numbers may be equal."""
    with atomic_path(tmp_path / "file") as one, atomic_path(tmp_path / "file") as other:
        one.write_text("1")
        other.write_text("2")
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("file", "1")]


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    write_images(tmp_path, [7], np.zeros((1, 4, 4, 1), np.uint8))
    file_of(tmp_path, 7).write_bytes(b"no picture")
    with pytest.raises(ValueError, match=r"000007\.png cannot be read as an image .*; delete it"):
        read_images(tmp_path, [7])
