"""Checkpoints of score_sde: what is imported answers as score_sde's networks do, or a sentence says why not."""

import dataclasses
import json
import os
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import flax.serialization
import hydra
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from omegaconf import OmegaConf
from reference.score_sde import ddpm, ddpmpp
from score_sde_files import DDPM, DDPMPP, NCSNPP, SIZE, changed, make_tensors, write

from models.config import UNetConfig
from models.published import score_sde
from models.published.network import PublishedNetwork
from models.published.score_sde import PUBLISHED, read_score_sde
from models.published.translate import flat
from models.sampling.build import build_sde
from models.score import Network, predict_eps
from models.unet import network_of, num_params

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[3]
SHARED = os.environ.get("DEIS_SHARED")
TENSORS = make_tensors("ddpmpp")
T = np.array([0.02, 0.7])


@pytest.fixture(scope="module")
def ddpmpp_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("score_sde") / "checkpoint_26", TENSORS)


def images(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(2, SIZE, SIZE, 3)).astype(np.float32)


def relative_error(found: Any, expected: np.ndarray) -> float:
    return float(np.abs(np.asarray(found) - expected).max() / np.abs(expected).max())


@cache
def compiled(network: Network) -> Network:
    return network._replace(apply=jax.jit(network.apply))


def eps_of(found: PublishedNetwork, x: np.ndarray, t: np.ndarray) -> jax.Array:
    """As solvers are given it, under the SDE that was imported."""
    network, sde = compiled(network_of(found.model)), build_sde(found.sde)
    return predict_eps(network, sde, found.params, jnp.asarray(x), jnp.asarray(t, jnp.float32))


def refused(path: Path, config: Any) -> str:
    with pytest.raises(ValueError) as caught:
        read_score_sde(path, config)
    said = str(caught.value)
    assert said.startswith(f"{path}: ")
    assert "\n" not in said
    return said


@pytest.mark.skipif(SHARED is None, reason="DEIS_SHARED does not name a folder with fixtures/score_sde")
@pytest.mark.parametrize("name", ["ddpm", "ddpmpp", "ncsnpp"])
def test_answers_of_score_sde_s_own_code(name: str) -> None:
    folder = Path(str(SHARED)) / "fixtures" / "score_sde"
    config = json.loads((folder / f"{name}.json").read_text())
    found = read_score_sde(folder / f"{name}.msgpack", config)
    assert num_params(found.params) == config["parameters_here"]
    io = np.load(folder / f"{name}_io.npz")
    x, labels, y = (io[key] for key in ("x", "labels", "y"))
    apply, sde = compiled(network_of(found.model)).apply, build_sde(found.sde)
    if name == "ncsnpp":  # the label is sigma, the answer the score
        sigma = labels[:, None, None, None]
        assert relative_error(apply(found.params, x, np.log(labels)) / sigma, y) < 1e-4
        assert relative_error(eps_of(found, x, sde.t_of_rho(labels)) / -sigma, y) < 1e-4
    else:
        assert relative_error(apply(found.params, x, labels), y) < 1e-4
        assert relative_error(eps_of(found, x, labels / 999), y) < 1e-4


def test_ddpm_answers_as_its_formula(tmp_path: Path) -> None:
    tensors, x = make_tensors("ddpm"), images(0)
    found = read_score_sde(write(tmp_path / "checkpoint_14", tensors), DDPM)
    assert relative_error(eps_of(found, x, T), ddpm(tensors, x, 999 * T)) < 1e-4


@pytest.mark.parametrize(("sde", "name"), [("vpsde", "vp_linear"), ("subvpsde", "sub_vp"), (..., "vp_linear")])
def test_ddpmpp_answers_as_its_formula(sde: Any, name: str, ddpmpp_file: Path) -> None:
    found, x = read_score_sde(ddpmpp_file, changed(DDPMPP, training__sde=sde)), images(0)
    assert found.sde == {"name": name, "beta_0": 0.1, "beta_1": 20.0, "t_0": 1e-3, "T": 1.0}
    assert relative_error(eps_of(found, x, T), ddpmpp(TENSORS, x, 999 * T)) < 1e-4


def test_ncsnpp_answers_as_its_formula_on_images_in_0_1(tmp_path: Path) -> None:
    """It was trained on (x + 1) / 2, with half the noise, and sees 2 x - 1 of that: eps = -sigma score is the same."""
    tensors, x, sigma_in_0_1 = make_tensors("ncsnpp"), images(1), np.array([0.03, 7.0])
    path = write(tmp_path / "checkpoint_24", tensors)
    found = read_score_sde(path, NCSNPP)
    assert found.sde == {"name": "ve", "sigma_min": 0.02, "sigma_max": 100.0, "t_0": 1e-5, "T": 1.0}
    t = build_sde(found.sde).t_of_rho(2 * sigma_in_0_1)
    assert relative_error(eps_of(found, x, t), -ddpmpp(tensors, x, sigma_in_0_1, fir=True)) < 1e-4
    centered = read_score_sde(path, changed(NCSNPP, data__centered=True))
    assert centered.sde == found.sde | {"sigma_min": 0.01, "sigma_max": 50.0}
    assert centered.model == dataclasses.replace(found.model, time="log_sigma")


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("ResnetBlockBigGANpp_3", "ResnetBlockBigGANpp_4"),
        ("AttnBlockpp_0", "AttnBlockpp_2"),
        ("AttnBlockpp_1/NIN_0", "AttnBlockpp_1/NIN_2"),
    ],
)
def test_the_formulas_tell_tensors_of_one_shape_apart(one: str, other: str) -> None:
    x = images(0)
    names = {name: name.replace(one, "*").replace(other, one).replace("*", other) for name in TENSORS}
    exchanged = ddpmpp({name: TENSORS[names[name]] for name in TENSORS}, x, 999 * T)
    assert relative_error(exchanged, ddpmpp(TENSORS, x, 999 * T)) > 1e-2


@pytest.mark.parametrize(
    ("name", "model", "options", "sde"),
    [
        ("vp/ddpm/cifar10_continuous", "ddpm_cifar10", {"up_attention": "last"}, "vp_linear"),
        ("vp/cifar10_ddpmpp_continuous", "ddpmpp_cifar10", {}, "vp_linear"),
        ("vp/cifar10_ddpmpp_deep_continuous", "ddpmpp_deep_cifar10", {}, "vp_linear"),
        ("subvp/cifar10_ddpmpp_continuous", "ddpmpp_cifar10", {}, "sub_vp"),
        ("subvp/cifar10_ddpmpp_deep_continuous", "ddpmpp_deep_cifar10", {}, "sub_vp"),
        ("ve/cifar10_ncsnpp_continuous", "ncsnpp_cifar10", {"time": "log_half_sigma"}, "ve"),
        ("ve/cifar10_ncsnpp_deep_continuous", "ncsnpp_deep_cifar10", {"time": "log_half_sigma"}, "ve"),
    ],
)
def test_published_configurations(
    name: str, model: str, options: dict[str, Any], sde: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By name and as a dictionary they are conf/model/MODEL.yaml, whose number of parameters tests/test_unet.py has."""
    monkeypatch.setattr(score_sde, "read_tensors", lambda path, entry: {})
    monkeypatch.setattr(score_sde, "translate", lambda rules, tensors, model: {})
    nested: dict[str, Any] = {}
    for option, value in PUBLISHED[name].items():
        section, key = option.split(".")
        nested.setdefault(section, {})[key] = value
    found = read_score_sde(Path("checkpoint_26"), name)
    assert read_score_sde(Path("checkpoint_26"), nested) == found
    assert found.sde["name"] == sde
    with hydra.initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        expected = OmegaConf.to_object(
            OmegaConf.merge(OmegaConf.structured(UNetConfig), hydra.compose(f"model/{model}").model)
        )
    assert isinstance(expected, UNetConfig)
    known: dict[str, Any] = {"dropout": 0.1, "image_size": 32, "image_channels": 3, **options}
    assert found.model == dataclasses.replace(expected, **known)


def test_narrower_floats_and_chunks_are_read(
    ddpmpp_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """flax cuts an array of more than MAX_CHUNK_SIZE bytes, 1 GiB, into chunks."""
    exact = flat(read_score_sde(ddpmpp_file, DDPMPP).params)
    for dtype in (jnp.float16, jnp.bfloat16):
        path = write(tmp_path / "narrow", {name: tensor.astype(dtype) for name, tensor in TENSORS.items()})
        narrow = flat(read_score_sde(path, DDPMPP).params)
        for name in exact:
            assert narrow[name].dtype == np.float32
            np.testing.assert_array_equal(narrow[name], exact[name].astype(dtype).astype(np.float32))
    monkeypatch.setattr(flax.serialization, "MAX_CHUNK_SIZE", 1000)
    path = write(tmp_path / "chunked", TENSORS)
    assert b"__msgpack_chunked_array__" in path.read_bytes()
    chunked = flat(read_score_sde(path, DDPMPP).params)
    assert all(np.array_equal(chunked[name], exact[name]) for name in exact)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"model__nonlinearity": "elu"}, "model.nonlinearity must be 'swish', got 'elu'"),
        ({"model__normalization": "InstanceNorm"}, "model.normalization must be 'GroupNorm', got 'InstanceNorm'"),
        ({"model__resblock_type": "ddpm"}, "model.resblock_type must be 'biggan', got 'ddpm'"),
        ({"model__progressive": "output_skip"}, "model.progressive must be 'none', got 'output_skip'"),
        ({"model__progressive_input": "input_skip"}, "model.progressive_input must be 'none' or 'residual', got"),
        ({"model__progressive_input": "residual"}, "model.fir must be True, got False"),
        ({"model__progressive_combine": "cat"}, "model.progressive_combine must be 'sum', got 'cat'"),
        ({"model__attention_type": "other"}, "model.attention_type must be 'ddpm', got 'other'"),
        ({"model__conv_size": 5}, "model.conv_size must be 3, got 5"),
        ({"model__fir_kernel": [1, 2, 1]}, "model.fir_kernel must be [1, 3, 3, 1], got [1, 2, 1]"),
        ({"model__conditional": False}, "model.conditional must be True, got False"),
        ({"model__resamp_with_conv": False}, "model.resamp_with_conv must be True, got False"),
        ({"model__embedding_type": "fourier"}, "model.embedding_type must be 'positional', got 'fourier'"),
        ({"model__name": "ncsnv2"}, "model.name must be 'ddpm' or 'ncsnpp', got 'ncsnv2'"),
        ({"model__name": ...}, "model.name is missing; it must be 'ddpm' or 'ncsnpp'"),
        ({"model__lsgm": True}, "model.lsgm=True is an option that is not known here"),
        ({"model__nf": ...}, "model.nf is missing; it must be a whole number of at least 1"),
        ({"model__nf": "8"}, "model.nf must be a whole number of at least 1, got '8'"),
        ({"model__nf": 7}, "model.channels must be even"),
        (
            {"model__ch_mult": [1, 2.5]},
            "model.ch_mult must be a list, empty or of whole numbers of at least 1, got [1, 2.5]",
        ),
        ({"model__skip_rescale": 1}, "model.skip_rescale must be False or True, got 1"),
        ({"model__attn_resolutions": [5]}, "model.attention_resolutions has 5"),
        ({"model__beta_max": 0.05}, "model.beta_min and model.beta_max must be positive and rise, got 0.1 and 0.05"),
        ({"data__centered": False}, "data.centered must be True, got False"),
        ({"training__continuous": False}, "training.continuous must be True, got False"),
        ({"training__sde": "edm"}, "training.sde must be 'vpsde' or 'subvpsde' or 'vesde', got 'edm'"),
        ({"training__sde": "vesde"}, "model.scale_by_sigma must be True, got False"),
        ({"training__sde": "vesde", "model__name": "ddpm"}, "model.name must be 'ncsnpp', got 'ddpm'"),
    ],
)
def test_options_that_cannot_be_expressed_are_named(options: dict, said: str, ddpmpp_file: Path) -> None:
    assert said in refused(ddpmpp_file, changed(DDPMPP, **options))


def test_a_discrete_ve_network_an_unknown_name_and_a_missing_section(ddpmpp_file: Path) -> None:
    assert "training.continuous must be True" in refused(ddpmpp_file, changed(NCSNPP, training__continuous=False))
    said = refused(ddpmpp_file, "vp/cifar10")
    assert all(name in said for name in [*PUBLISHED, "got 'vp/cifar10'"])
    assert "must have a section 'model'" in refused(ddpmpp_file, {"training": {}, "data": {}})


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"Conv_0/bias": None}, "tensor Conv_0.bias is missing"),
        ({"Conv_7/bias": np.zeros(3)}, "tensor Conv_7.bias has no place in this network"),
        ({"Conv_1/kernel": np.zeros((3, 3, 8, 4))}, "tensor Conv_1.kernel [3, 3, 8, 4] makes conv_out.kernel"),
        (
            {"GroupNorm_0/scale": np.zeros((1, 1, 2, 4))},
            "tensor GroupNorm_0.scale [1, 1, 2, 4] makes norm_out.scale [2, 4], but",
        ),
        ({"GroupNorm_0/scale": np.full(8, np.nan)}, "tensor GroupNorm_0.scale [8] holds NaN"),
        (
            {"AttnBlockpp_0/NIN_0/W": np.zeros((16, 15)), "AttnBlockpp_0/NIN_1/W": np.zeros((16, 17))},
            "tensor AttnBlockpp_0.NIN_0.W [16, 15] and AttnBlockpp_0.NIN_1.W [16, 17]",
        ),
    ],
)
def test_tensors_that_do_not_fit_are_named(change: dict, said: str, tmp_path: Path) -> None:
    tensors = {name: tensor for name, tensor in (TENSORS | change).items() if tensor is not None}
    assert said in refused(write(tmp_path / "checkpoint", tensors), DDPMPP)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (
            {"model__nf": 16},
            "Dense_0.kernel [8, 32] makes embed_in.kernel [8, 32], but the configuration needs [16, 64]",
        ),
        ({"model__num_res_blocks": 2}, "tensor AttnBlockpp_3.GroupNorm_0.bias, "),
        ({"model__attn_resolutions": []}, "tensor AttnBlockpp_1.GroupNorm_0.bias, "),
        ({"data__num_channels": 1}, "Conv_0.kernel [3, 3, 3, 8] makes conv_in.kernel"),
    ],
)
def test_a_configuration_that_lies_about_shapes(options: dict, said: str, ddpmpp_file: Path) -> None:
    assert said in refused(ddpmpp_file, changed(DDPMPP, **options))


def test_asking_for_help_does_not_wait_for_jax() -> None:
    code = "import sys, models.published.score_sde; assert 'jax' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
