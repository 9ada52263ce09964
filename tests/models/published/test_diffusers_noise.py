"""Import of diffusers' networks that begin at pure noise: flow models and zero terminal SNR."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from models.published.diffusers import read_diffusers
from models.published.network import described, read_published, write_published
from models.sampling.build import build_sde

SCHEDULER = "scheduler_config.json"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of the small network that diffusers saved."""
    return Path(shutil.copytree(Path(__file__).parents[2] / "fixtures" / "unet2d", tmp_path / "ddpm"))


def change(path: Path, **options: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | options))


def test_a_flow_model_is_told_1000_sigma(folder: Path) -> None:
    """The scheduler may be flow matching's own, or a multistep one with flow_prediction."""
    flow = {"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": 3.0, "num_train_timesteps": 1000}
    (folder / SCHEDULER).write_text(json.dumps(flow))
    found = read_diffusers(folder)
    assert (found.sde, found.model.output, found.model.time) == ({"name": "flow", "shift": 3.0}, "flow", "flow_1000")
    with pytest.raises(ValueError, match="is a flow model, which is told sigma: there is no time t_plus_1"):
        read_diffusers(folder, time="t_plus_1")
    change(folder / SCHEDULER, _class_name="UniPCMultistepScheduler", prediction_type="flow_prediction", flow_shift=2)
    change(folder / SCHEDULER, shift=1.0)
    assert read_diffusers(folder).sde == {"name": "flow", "shift": 2.0}
    change(folder / SCHEDULER, num_train_timesteps=500)
    with pytest.raises(ValueError, match="num_train_timesteps must be 1000, got 500"):
        read_diffusers(folder)


def test_zero_terminal_snr_and_betas_of_its_own(folder: Path, tmp_path: Path) -> None:
    change(folder / SCHEDULER, rescale_betas_zero_snr=True)
    with pytest.raises(ValueError, match="rescale_betas_zero_snr needs prediction_type v_prediction or sample"):
        read_diffusers(folder)
    betas = np.linspace(0.001, 0.5, 1000).tolist()
    for options in ({"rescale_betas_zero_snr": True}, {"trained_betas": betas, "beta_schedule": None}):
        change(folder / SCHEDULER, prediction_type="v_prediction", **options)
    found = read_diffusers(folder)
    assert (found.sde["zero_terminal_snr"], found.sde["betas"], found.model.output) == (True, betas, "v")
    assert " and 997 more]" in described(found)
    write_published(tmp_path / "ours", found)
    sde = build_sde(read_published(tmp_path / "ours").sde)
    root = np.sqrt(np.cumprod(1 - np.array(betas)))
    rescaled = (root - root[-1]) * root[0] / (root[0] - root[-1])
    np.testing.assert_allclose(sde.s(np.arange(1000.0)), rescaled, rtol=1e-9, atol=1e-12)
