"""The objectives of conf/objective by their names, and what is refused."""

import math
from dataclasses import replace

import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from jobs import CONF, job

import deis
from models.config import UNetConfig, validate
from models.training.config import ObjectiveConfig, validate_training
from models.training.objective import TIME_DISTRIBUTIONS, validate_objective
from models.unet import network_of, shapes

VP = deis.vp_linear()


def composed(*overrides: str) -> ObjectiveConfig:
    """A group of conf/objective, beside the sde that it may ask."""
    found = job("train", *overrides).objective
    assert isinstance(found, ObjectiveConfig)
    return found


def test_every_objective_by_its_name() -> None:
    names = {path.stem for path in (CONF / "objective").iterdir()}
    chosen = {name: composed("sde=vp_linear", f"objective={name}") for name in names}
    assert {name: (cfg.weight, cfg.times) for name, cfg in chosen.items()} == {
        "eps": ("eps", "uniform"),
        "ddpm": ("eps", "discrete"),
        "likelihood": ("likelihood", "importance"),
        "min_snr": ("min_snr", "discrete"),
        "edm": ("edm", "log_normal"),
        "output": ("output", "uniform"),
        "flow": ("output", "log_normal"),
    }
    assert chosen["eps"] == ObjectiveConfig()
    for cfg in chosen.values():
        validate_objective(cfg, UNetConfig(), VP)


def test_discrete_times_are_those_of_the_sde() -> None:
    assert composed("sde=vp_linear", "objective=ddpm").num_times == 1000
    assert composed("sde=discrete_vp", "sde.num_times=77", "objective=ddpm").num_times == 77


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"weight": "simple"}, "objective.weight must be one of eps, likelihood, .* got 'simple'"),
        ({"times": "continuous"}, "objective.times must be one of uniform, .* got 'continuous'"),
        ({"snr_gamma": 0.0}, "objective.snr_gamma"),
        ({"log_sigma_std": -1.0}, "objective.log_sigma_std"),
        ({"num_times": 1}, "objective.num_times must be at least 2"),
        ({"label_dropout": 1.0}, r"objective.label_dropout must be in \[0, 1\)"),
        ({"label_dropout": 0.1}, "need each other, .* got 0.1 and false"),
    ],
)
def test_impossible_objectives_are_refused(options: dict, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        validate_objective(ObjectiveConfig(**options), UNetConfig(num_classes=10), VP)


def test_a_null_class_that_would_learn_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match=r"need each other, .* got 0 and true"):
        validate_objective(ObjectiveConfig(), UNetConfig(num_classes=10, null_class=True), VP)


def test_times_between_those_of_the_sde_are_refused() -> None:
    sde = deis.discrete_vp(num_times=10)
    validate_objective(ObjectiveConfig(times="discrete", num_times=4), UNetConfig(), sde)  # 0, 3, 6, 9
    with pytest.raises(ValueError, match=r"num_times=1000 lie between .* give objective.num_times=10$"):
        validate_objective(ObjectiveConfig(times="discrete"), UNetConfig(), sde)


@pytest.mark.parametrize("cfg", [ObjectiveConfig("likelihood"), ObjectiveConfig(times="importance")])
def test_what_grows_without_bound_without_noise_is_refused(cfg: ObjectiveConfig) -> None:
    validate_objective(cfg, UNetConfig(), VP)
    with pytest.raises(ValueError, match=r"raise sde\.t_0"):
        validate_objective(cfg, UNetConfig(), deis.vp_linear(t_0=0.0))


@pytest.mark.parametrize(
    ("model", "objective", "said"),
    [
        ({"output": "eps"}, {}, "model.output must be one of x_0, v, flow under this diffusion, .* got eps"),
        ({"output": "edm"}, {}, "model.output must be one of x_0, v, flow"),
        ({"time": "log_sigma"}, {}, "model.time must be one of t, t_999, t_plus_1, flow_1000 under .* got log_sigma"),
        ({}, {"weight": "edm"}, "objective.weight must be one of eps, min_snr, output, .* got edm and uniform"),
        ({}, {"times": "importance"}, "objective.times not importance"),
    ],
)
def test_what_cannot_be_learned_of_pure_noise_is_refused(model: dict, objective: dict, said: str) -> None:
    flow = deis.flow()
    validate_objective(composed("sde=flow", "objective=flow"), UNetConfig(output="flow"), flow)
    with pytest.raises(ValueError, match=said):
        validate_objective(ObjectiveConfig(**objective), UNetConfig(**{"output": "v"} | model), flow)


def test_logit_normal_times_of_flow_matching() -> None:
    """ln rho is normal: arXiv 2403.03206, with the shift 3 of its large images."""
    cfg, u = composed("sde=flow", "objective=flow", f"objective.log_sigma_mean={math.log(3)}"), np.arange(0.05, 1, 0.1)
    t = TIME_DISTRIBUTIONS["log_normal"](cfg, deis.flow(), jnp.asarray(u))[0]
    unshifted = 1 / (1 + np.exp(-scipy.stats.norm.ppf(u)))
    np.testing.assert_allclose(t, 3 * unshifted / (1 + 2 * unshifted), rtol=1e-5)


def test_the_null_class_is_one_more_label() -> None:
    cfg = UNetConfig(channels=8, multipliers=[1], num_classes=3, null_class=True, image_size=8, image_channels=1)
    validate(cfg)
    validate_objective(ObjectiveConfig(label_dropout=0.1), cfg, VP)
    assert network_of(cfg).null_label == 3
    assert shapes(cfg)["embed_label"]["embedding"].shape == (4, 32)
    with pytest.raises(ValueError, match=r"model\.null_class adds a label"):
        validate(UNetConfig(null_class=True, image_size=8, image_channels=1))


def test_the_best_is_sought_among_checkpoints_that_are_measured() -> None:
    asked = job("train")
    for options in ({}, {"eval_every": 400}, {"eval_every": 100}, {"fid_every": 400, "eval_every": 300}):
        validate_training(replace(asked.train, keep_best=True, **options), asked.optimizer)
    for name in ("eval_every", "fid_every"):
        validate_training(replace(asked.train, **{name: 300}), asked.optimizer)
        with pytest.raises(ValueError, match=f"one of train.{name}=300 and train.checkpoint_every=200 must divide"):
            validate_training(replace(asked.train, keep_best=True, **{name: 300}), asked.optimizer)
