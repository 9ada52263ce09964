"""Which network a command takes when none is named."""

from pathlib import Path

import pytest

from models.checkpoints import checkpoint
from models.sampling.source import SHIPPED, find


def test_the_newest_run_that_has_saved_a_network_and_did_not_fail(tmp_path: Path) -> None:
    """A run that has only begun, or was killed before its first checkpoint, is passed over; a stopped one counts."""
    saved = tmp_path / "digits" / "1" / "checkpoints"
    (saved / "00000004" / "state").mkdir(parents=True)
    begun = tmp_path / "sweeps" / "2" / "0" / "checkpoints"
    begun.mkdir(parents=True)
    assert find(None, None, str(tmp_path)).path == SHIPPED
    checkpoint.seal(saved / "00000004", {"model": {}, "sde": {}, "dataset": {}}, score=None)
    assert find(None, None, str(tmp_path))[:2] == (saved, 4)
    for status, taken in (("running", saved), ("stopped", saved), ("failed", SHIPPED), ("done", saved)):
        saved.with_name("status.json").write_text(f'{{"status": "{status}"}}')
        assert find(None, None, str(tmp_path)).path == taken, status
    with pytest.raises(FileNotFoundError, match=r"no checkpoint in .*; give the folder of a training run"):
        find(str(begun), None, str(tmp_path))
