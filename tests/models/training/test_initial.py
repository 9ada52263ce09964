"""Training that starts from the parameters of another network."""

import dataclasses
from pathlib import Path

import jax
import numpy as np
import published_network
import pytest
from commands import TINY, run_here

from data import Split
from deis import vp_linear
from models.config import UNetConfig
from models.published.network import read_checkpoint, read_published
from models.sampling.build import build_sde
from models.training.initial import find_initial, initial_params
from train import initial_network, network_for


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small network with random weights, for 8x8 digits under vp_linear."""
    return published_network.write(tmp_path_factory.mktemp("initial") / "network")


def config(folder: Path, **changes: object) -> UNetConfig:
    return dataclasses.replace(read_published(folder).model, **changes)  # type: ignore[arg-type]


def test_they_are_the_networks(folder: Path) -> None:
    source = find_initial(str(folder), vp_linear(t_0=0.01))
    params = initial_params(source, config(folder, dropout=0.3, dtype="bfloat16", remat=True))
    jax.tree.map(np.testing.assert_array_equal, params, read_published(folder).params)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"output": "v"}, "is another network; to start from it give model.output=eps$"),
        (
            {"multipliers": [1, 2, 2], "head_channels": 8, "fir": True},
            r"give model.multipliers=\[1\] model.head_channels=null model.fir=false$",
        ),
        ({"image_channels": 3}, "images of 1 channels, but those of the data set have 3"),
        ({"image_size": 32}, "images of 8 pixels a side, but those of the data set have 32"),
    ],
)
def test_another_network_is_refused(folder: Path, changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        initial_params(find_initial(str(folder), vp_linear()), config(folder, **changes))


@pytest.mark.parametrize(
    "sde",
    [{"name": "vp_linear", "beta_1": 10.0}, {"name": "vp_linear", "T": 0.9}, {"name": "ve"}, {"name": "discrete_vp"}],
)
def test_another_diffusion_is_refused(folder: Path, sde: dict[str, object]) -> None:
    message = r"another diffusion; to start from it give sde=vp_linear sde.beta_0=0.1 sde.beta_1=20.0 sde.t_0=0.001 "
    with pytest.raises(ValueError, match=message):
        find_initial(str(folder), build_sde(sde))


def test_a_folder_without_a_network_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no checkpoint in"):
        find_initial(str(tmp_path), vp_linear())


def test_images_of_another_shape_than_the_options_say_are_refused() -> None:
    images, job = Split(np.zeros((1, 8, 8, 1), np.uint8), None, 0), published_network.options("model.image_size=8")
    assert network_for(job, images).image_channels == 1
    for key, theirs, asked in (("image_channels", 1, 3), ("image_size", 8, 16)):
        setattr(job.model, key, asked)
        with pytest.raises(ValueError, match=rf"model.{key} must be null or .*, {theirs}, got {asked}"):
            network_for(job, images)
        setattr(job.model, key, None)


@pytest.mark.slow
def test_training_starts_there_and_goes_on_without_it(folder: Path, tmp_path: Path) -> None:
    """A step that moves nothing leaves the parameters; a run is a start too, and does not need its own to go on."""
    tiny = [*TINY, "train.sample_every=0", "optimizer.learning_rate=1e-12", "run_dir=run"]
    done = run_here("train.py", *tiny, f"init={folder}", "train.steps=2", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    params = initial_params(find_initial(str(tmp_path / "run"), vp_linear()), config(folder))
    jax.tree.map(np.testing.assert_array_equal, params, read_checkpoint(tmp_path / "run" / "checkpoints", 2).params)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), params, read_published(folder).params)
    gone = published_network.options("init=gone")
    assert initial_network(gone, tmp_path / "run") is None
    with pytest.raises(FileNotFoundError, match="no checkpoint in gone"):
        initial_network(gone, tmp_path / "new")
    for options, said in (
        (["train.steps=3"], f"init: {folder} -> None"),
        ([f"init={folder}", "train.steps=1", "allow_changes=true"], "run is at step 2 already, beyond train.steps=1"),
    ):
        refused = run_here("train.py", *tiny, *options, cwd=tmp_path)
        assert refused.returncode == 2
        assert said in refused.stderr
