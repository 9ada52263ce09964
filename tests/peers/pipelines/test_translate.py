"""Configurations of diffusers' own schedulers as ones of TableScheduler."""

import json
import logging
from pathlib import Path
from typing import Any

import pytest

import deis
from deis import tables

torch = pytest.importorskip("torch", reason="tests a scheduler of diffusers; make test-peers installs it")
diffusers = pytest.importorskip("diffusers", reason="tests a scheduler of diffusers; make test-peers installs it")

from loops import run  # noqa: E402

from deis.diffusers import TableScheduler  # noqa: E402

OF_DDPMS_KIND = [
    *("DDIM", "DDPM", "PNDM", "LMSDiscrete", "EulerDiscrete", "EulerAncestralDiscrete", "HeunDiscrete", "LCM", "TCD"),
    *("KDPM2Discrete", "DEISMultistep", "DPMSolverMultistep", "DPMSolverSinglestep", "UniPCMultistep", "SASolver"),
]


@pytest.mark.parametrize("name", OF_DDPMS_KIND)
def test_each_of_ddpm_s_kind(name: str) -> None:
    peer = getattr(diffusers, f"{name}Scheduler")(beta_start=0.0009, prediction_type="v_prediction")
    made = TableScheduler.from_config(peer.config, method="ddim")
    assert (made.config.beta_start, made.config.prediction_type) == (0.0009, "v_prediction")
    assert (made.config.beta_end, made.config.beta_schedule) == (peer.config.beta_end, peer.config.beta_schedule)
    assert torch.isfinite(run(made, 5)).all()
    back = type(peer).from_config(made.config)
    assert back.config.beta_start == 0.0009


def test_what_has_no_effect_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    peer = diffusers.DPMSolverMultistepScheduler(solver_order=3, algorithm_type="sde-dpmsolver++")
    with caplog.at_level(logging.WARNING):
        TableScheduler.from_config(peer.config, method="tab3")
    (said,) = [record.getMessage() for record in caplog.records]
    assert said == "TableScheduler runs method='tab3', for which algorithm_type, solver_order mean nothing"


def test_pipelines_read_the_type_of_the_variance() -> None:
    assert TableScheduler().config.variance_type is None
    config = diffusers.DDPMScheduler(variance_type="learned_range").config
    assert TableScheduler.from_config(config).config.variance_type == "learned_range"


@pytest.mark.parametrize(("to_one", "ending"), [(True, "zero"), (False, "sigma_min")])
def test_where_ddim_ends(to_one: bool, ending: str) -> None:
    config = diffusers.DDIMScheduler(set_alpha_to_one=to_one).config
    assert TableScheduler.from_config(config).config.final_sigmas_type == ending


@pytest.mark.parametrize("name", ["EDMEuler", "EDMDPMSolverMultistep", "KarrasVe", "ScoreSdeVe", "CogVideoXDDIM"])
def test_models_of_another_kind_are_refused(name: str) -> None:
    config = getattr(diffusers, f"{name}Scheduler")().config
    with pytest.raises(ValueError, match="is an option of a scheduler whose models TableScheduler does not know"):
        TableScheduler.from_config(config)


@pytest.mark.parametrize("name", ["IPNDM", "DDPMWuerstchen"])
def test_a_diffusion_that_is_not_said_is_not_guessed(name: str) -> None:
    config = getattr(diffusers, f"{name}Scheduler")().config
    with pytest.raises(ValueError, match="does not say which diffusion its model was trained under: give beta_sch"):
        TableScheduler.from_config(config)
    assert TableScheduler.from_config(config, beta_schedule="linear").config.beta_end == 0.02


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (diffusers.EulerDiscreteScheduler(timestep_type="continuous").config, "networks that are told log sigma"),
        (diffusers.DDIMScheduler(), "config must be a scheduler's configuration, .*, got DDIMScheduler"),
    ],
    ids=["log sigma", "scheduler"],
)
def test_what_is_no_configuration_of_ours(config: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TableScheduler.from_config(config)


@pytest.mark.parametrize("name", ["LCM", "FlowMatchEulerDiscrete", "DDIM"])
def test_what_a_file_leaves_out_is_the_default_of_its_scheduler(name: str, tmp_path: Path) -> None:
    (tmp_path / "scheduler_config.json").write_text(json.dumps({"_class_name": f"{name}Scheduler"}))
    expected = TableScheduler.from_config(getattr(diffusers, f"{name}Scheduler")().config)
    made = TableScheduler.from_pretrained(tmp_path)
    assert {key: value for key, value in made.config.items() if key[0] != "_"} == {
        key: value for key, value in expected.config.items() if key[0] != "_"
    }


def test_another_solver_leaves_nothing_of_the_last_one(tmp_path: Path) -> None:
    tables.build(deis.discrete_vp(), num_step=2).save(tmp_path / "two.safetensors")
    made = TableScheduler.from_config(TableScheduler(method="ddim_eta", options={"eta": 0.5}).config, method="tab2")
    made = TableScheduler.from_config(made.config, table=tmp_path / "two.safetensors", clip_sample=True)
    assert (made.config.method, made.config.options, made.config.table["name"]) == ("t_ab", None, "tAB3")
    made = TableScheduler.from_config(made.config, method="ddim")
    assert (made.config.method, made.config.table, made.config.clip_sample) == ("ddim", None, True)
    with pytest.raises(ValueError, match="give a table, or a method with its options, not both"):
        TableScheduler(table=tmp_path / "two.safetensors", method="ddim")
