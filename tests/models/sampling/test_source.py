"""Which network a command takes when none is named."""

from pathlib import Path

import pytest

from models.checkpoints import checkpoint
from models.sampling.source import SHIPPED, find


def test_the_newest_run_that_has_saved_a_network(tmp_path: Path) -> None:
    """A run that has only begun, or was killed before its first checkpoint, is passed over."""
    saved = tmp_path / "digits" / "1" / "checkpoints"
    (saved / "00000004" / "state").mkdir(parents=True)
    begun = tmp_path / "sweeps" / "2" / "0" / "checkpoints"
    begun.mkdir(parents=True)
    assert find(None, None, str(tmp_path)).path == SHIPPED
    checkpoint.seal(saved / "00000004", {"model": {}, "sde": {}, "dataset": {}}, score=None)
    assert find(None, None, str(tmp_path))[:2] == (saved, 4)
    with pytest.raises(FileNotFoundError, match=r"no checkpoint in .*; give the folder of a training run"):
        find(str(begun), None, str(tmp_path))
