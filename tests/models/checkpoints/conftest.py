"""A checkpoint that tests of this folder read, and a copy of it to harm."""

import subprocess
from pathlib import Path

import pytest
from saved_states import make_state, save


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
