"""Import of diffusers' `UNet2DModel`, without diffusers and torch.

tests/fixtures/unet2d was saved by diffusers 0.42.1 with torch 2.13.0: random weights of about unit gain, and in io.npz
the answers y [2, 8, 8, 3] to x, t and label of the network with one option changed, by the change in JSON.
tests/peers/test_unet2d.py asks diffusers again.
"""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import deis
from models.published.diffusers import read_diffusers
from models.published.translate import Tensors, flat
from models.unet import network_of

GOLDEN = Path(__file__).parents[2] / "fixtures" / "unet2d"
IO = np.load(GOLDEN / "io.npz")
WEIGHTS, CONFIG, SCHEDULER = "diffusion_pytorch_model.safetensors", "config.json", "scheduler_config.json"
ATTENTION = "mid_block.attentions.0"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of the folder, to be changed."""
    return Path(shutil.copytree(GOLDEN, tmp_path / "ddpm"))


def change(path: Path, **options: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | options))


def change_tensors(folder: Path, edit: Callable[[Tensors], Any]) -> None:
    tensors = load_file(folder / WEIGHTS)
    edit(tensors)
    save_file(tensors, folder / WEIGHTS)


def refusal(folder: Path, **arguments: Any) -> str:
    with pytest.raises((ValueError, FileNotFoundError)) as refused:
        read_diffusers(folder, **arguments)
    assert "\n" not in str(refused.value)
    return str(refused.value).removeprefix(f"{folder}/")


def same(left: dict[str, Any], right: dict[str, Any]) -> bool:
    left, right = flat(left), flat(right)
    return left.keys() == right.keys() and all(np.array_equal(left[name], right[name]) for name in left)


@pytest.mark.parametrize("changed", [name for name in IO if name.startswith("{")])
def test_it_answers_as_diffusers_does(folder: Path, changed: str) -> None:
    change(folder / CONFIG, **json.loads(changed))
    found = read_diffusers(folder)
    apply = jax.jit(network_of(found.model).apply)
    y = apply(found.params, IO["x"], IO["t"].astype(np.float32), IO["label"], None)
    np.testing.assert_allclose(y, IO[changed], rtol=0, atol=1e-5 * np.abs(IO[changed]).max())


def test_a_network_knows_where_it_came_from_and_its_diffusion() -> None:
    found = read_diffusers(GOLDEN)
    assert (found.family, found.source) == ("diffusers", str(GOLDEN / WEIGHTS))
    assert (found.model.time, found.model.input, found.model.output) == ("t", "x", "eps")
    linear = {"schedule": "linear", "beta_start": 1e-4, "beta_end": 0.02, "num_times": 1000}
    assert found.sde == {"name": "discrete_vp", **linear}
    assert all(leaf.dtype == np.float32 for leaf in flat(found.params).values())


def test_a_pipeline_s_folder_is_read_as_well(folder: Path) -> None:
    (folder / "unet").mkdir()
    (folder / "scheduler").mkdir()
    for name in (CONFIG, WEIGHTS):
        (folder / name).rename(folder / "unet" / name)
    (folder / SCHEDULER).rename(folder / "scheduler" / SCHEDULER)
    found, expected = read_diffusers(folder), read_diffusers(GOLDEN)
    assert same(found.params, expected.params)
    assert found._replace(source="", params={}) == expected._replace(source="", params={})


@pytest.mark.parametrize("as_convolution", [False, True])
def test_old_names_of_attention_give_the_same_network(folder: Path, as_convolution: bool) -> None:
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}

    def rename(tensors: Tensors) -> None:
        for new, name in old.items():
            for key in [key for key in tensors if f".{new}." in key]:
                tensor = tensors.pop(key)
                wide = as_convolution and key.endswith("weight")
                tensors[key.replace(new, name)] = tensor[:, :, None, None] if wide else tensor

    change_tensors(folder, rename)
    assert "mid_block.attentions.0.query.weight" in load_file(folder / WEIGHTS)
    assert same(read_diffusers(folder).params, read_diffusers(GOLDEN).params)


def test_options_that_are_not_in_the_file_have_the_defaults_of_diffusers(folder: Path) -> None:
    """As in files older than the option: those that the golden case leaves at their default may as well be absent."""
    config = json.loads((folder / CONFIG).read_text())
    for name in ("act_fn", "add_attention", "mid_block_type", "time_embedding_dim", "upsample_type", "dropout"):
        del config[name]
    (folder / CONFIG).write_text(json.dumps(config))
    assert read_diffusers(folder).model == read_diffusers(GOLDEN).model
    for name in ("freq_shift", "downsample_padding", "norm_eps"):
        del config[name]
    (folder / CONFIG).write_text(json.dumps(config))
    model = read_diffusers(folder).model
    assert (model.freq_shift, model.downsample_padding, model.norm_eps) == (0, 1, 1e-5)


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_half_precision_becomes_float32(folder: Path, dtype: Any) -> None:
    change_tensors(folder, lambda tensors: tensors.update({name: t.astype(dtype) for name, t in tensors.items()}))
    found, expected = flat(read_diffusers(folder).params), flat(read_diffusers(GOLDEN).params)
    for name, tensor in expected.items():
        assert found[name].dtype == np.float32
        np.testing.assert_array_equal(found[name], tensor.astype(dtype).astype(np.float32))


def test_the_time_may_be_shifted_by_one() -> None:
    assert read_diffusers(GOLDEN, time="t_plus_1").model.time == "t_plus_1"
    assert refusal(GOLDEN, time="t_999") == "time must be t or t_plus_1 for a network of diffusers, got 't_999'"


@pytest.mark.parametrize(
    ("options", "schedule", "output"),
    [
        ({}, "linear", "eps"),
        ({"beta_schedule": "scaled_linear", "prediction_type": "v_prediction"}, "scaled_linear", "v"),
        ({"beta_schedule": "squaredcos_cap_v2", "prediction_type": "sample"}, "cosine", "x_0"),
        ({"timestep_spacing": "trailing", "clip_sample": False, "solver_order": 3}, "linear", "eps"),
    ],
)
def test_the_scheduler_says_what_was_trained(folder: Path, options: dict, schedule: str, output: str) -> None:
    change(folder / SCHEDULER, **options)
    found = read_diffusers(folder)
    assert (found.sde["schedule"], found.model.output) == (schedule, output)
    assert deis.discrete_vp(**{key: value for key, value in found.sde.items() if key != "name"}).T == 999


def test_a_missing_scheduler_may_be_written(folder: Path) -> None:
    (folder / SCHEDULER).unlink()
    assert refusal(folder).startswith("scheduler_config.json does not exist, and nothing else says under which")
    options = {"beta_schedule": "linear", "beta_start": 0.001, "beta_end": 0.1, "num_train_timesteps": 100}
    (folder / SCHEDULER).write_text(json.dumps(options))
    found = read_diffusers(folder)
    assert (found.sde["beta_end"], found.sde["num_times"], found.model.output) == (0.1, 100, "eps")


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("beta_schedule", "sigmoid", "must be 'linear' or 'scaled_linear' or 'squaredcos_cap_v2', got 'sigmoid'"),
        ("beta_start", None, "must be a number between 0 and 1, got None"),
        ("beta_end", 2.0, "must be a number between 0 and 1, got 2.0"),
        ("trained_betas", [0.1, 0.2], "must be 1000, as num_train_timesteps says"),
        ("trained_betas", [0.1, 2.0], "must be None or a list of numbers between 0 and 1, got [0.1, 2.0]"),
        ("prediction_type", "noise", "must be 'epsilon' or 'sample' or 'v_prediction', got 'noise'"),
        ("predict_epsilon", False, "must be True, got False"),
        ("num_train_timesteps", "many", "must be a whole number from 1 to 100000, got 'many'"),
        ("num_train_timesteps", 10**12, "must be a whole number from 1 to 100000, got 1000000000000"),
    ],
)
def test_a_diffusion_that_is_not_known_is_refused(folder: Path, option: str, value: Any, message: str) -> None:
    change(folder / SCHEDULER, **{option: value})
    assert refusal(folder).startswith(f"scheduler_config.json: {option} {message}")


def test_a_diffusion_that_cannot_be_is_refused(folder: Path) -> None:
    change(folder / SCHEDULER, num_train_timesteps=1)
    assert refusal(folder) == "scheduler_config.json: num_times must be at least 2, got 1"


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("sample_size", None, "must be the side of a square image in pixels, got None"),
        ("sample_size", [8, 16], "must be the side of a square image in pixels, got [8, 16]"),
        ("sample_size", 9, "must be a multiple of 2, got 9"),
        ("out_channels", 6, "must be equal to in_channels, got 6"),
        ("center_input_sample", True, "must be False, got True"),
        ("time_embedding_type", "fourier", "must be 'positional', got 'fourier'"),
        ("time_embedding_dim", 64, "must be None or 16, got 64"),
        ("freq_shift", 2, "must be 0 or 1, got 2"),
        ("down_block_types", ["DownBlock2D", "SkipDownBlock2D"], "must be a list of DownBlock2D, AttnDownBlock2D, got"),
        ("down_block_types", ["DownBlock2D"], "must be 2, as many as block_out_channels, got ['DownBlock2D']"),
        ("up_block_types", ["UpBlock2D", "AttnUpBlock2D"], "must be down_block_types from last to first, got ['UpBl"),
        ("mid_block_type", None, "must be 'UNetMidBlock2D', got None"),
        ("block_out_channels", [4, 6], "must be multiples of the first of them, got [4, 6]"),
        ("block_out_channels", [5, 10], "must be even and at least 4 in the first level, got [5, 10]"),
        ("block_out_channels", "4, 12", "must be a list of whole numbers of at least 1, got '4, 12'"),
        ("layers_per_block", 1.5, "must be a whole number of at least 1, got 1.5"),
        ("mid_block_scale_factor", 1.4, "must be 1, got 1.4"),
        ("downsample_padding", 2, "must be 0 or 1, got 2"),
        ("downsample_type", "resnet", "must be 'conv', got 'resnet'"),
        ("upsample_type", "resnet", "must be 'conv', got 'resnet'"),
        ("dropout", 1.0, "must be a number of at least 0 and below 1, got 1.0"),
        ("act_fn", "gelu", "must be 'silu' or 'swish', got 'gelu'"),
        ("attention_head_dim", 8, "must be None or a divisor of each of [4, 12], got 8"),
        ("norm_num_groups", 3, "must be a divisor of each of [4, 12], got 3"),
        ("attn_norm_num_groups", 4, "must be None or 2, got 4"),
        ("norm_eps", 0, "must be a number between 0 and 1, got 0"),
        ("resnet_time_scale_shift", "scale_shift", "must be 'default', got 'scale_shift'"),
        ("add_attention", False, "must be True, got False"),
        ("class_embed_type", "timestep", "must be None, got 'timestep'"),
    ],
)
def test_an_option_that_cannot_be_expressed_is_refused(folder: Path, option: str, value: Any, message: str) -> None:
    change(folder / CONFIG, **{option: value})
    assert refusal(folder).startswith(f"config.json: {option} {message}")


def test_a_configuration_of_something_else_is_refused(folder: Path) -> None:
    change(folder / CONFIG, skip_scale=0.5, _left_alone=1)
    assert refusal(folder) == "config.json: skip_scale=0.5 is an option that is not known here"
    change(folder / CONFIG, _class_name="UNet2DConditionModel")
    assert "must be of the class UNet2DModel, got _class_name='UNet2DConditionModel'" in refusal(folder)
    (folder / CONFIG).write_text("{")
    assert refusal(folder) == "config.json is not JSON"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"block_out_channels": [4, 8]}, "makes stages.down_4_0.conv_1.kernel [3, 3, 4, 12], but the configuration"),
        ({"layers_per_block": 2}, "tensor down_blocks.0.resnets.1.conv1.bias, down_blocks.0.resnets.1.conv1.weight,"),
        ({"num_class_embeds": None}, "tensor class_embedding.weight has no place in this network"),
        ({"num_class_embeds": 10}, "tensor class_embedding.weight [3, 16] makes embed_label.embedding [3, 16], but"),
        ({"in_channels": 1, "out_channels": 1}, "tensor conv_in.weight [4, 3, 3, 3] makes conv_in.kernel [3, 3, 3, 4]"),
        (
            {"down_block_types": ["DownBlock2D"] * 2, "up_block_types": ["UpBlock2D"] * 2},
            "tensor down_blocks.1.attentions.0.group_norm.bias",
        ),
    ],
)
def test_a_configuration_that_lies_about_the_weights_is_refused(folder: Path, options: dict, message: str) -> None:
    change(folder / CONFIG, **options)
    refused = refusal(folder)
    assert refused.startswith(f"{WEIGHTS}: tensor ")
    assert message in refused


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda t: t.pop("conv_out.bias"), "tensor conv_out.bias is missing"),
        (lambda t: t.pop(f"{ATTENTION}.to_k.weight"), f"tensor {ATTENTION}.to_k.weight is missing"),
        (lambda t: t.update(extra=np.zeros(3)), "tensor extra has no place in this network"),
        (
            lambda t: t.update({f"{ATTENTION}.query.weight": t[f"{ATTENTION}.to_q.weight"]}),
            f"tensor {ATTENTION}.key.bias, {ATTENTION}.key.weight, {ATTENTION}.proj_attn.bias and 4 more is missing",
        ),
        (
            lambda t: t.update({"conv_in.weight": np.zeros((4, 3))}),
            "tensor conv_in.weight [4, 3] makes conv_in.kernel [3, 4], but the configuration needs [3, 3, 3, 4]",
        ),
        (
            lambda t: t.update({"conv_in.bias": np.zeros(5)}),
            "tensor conv_in.bias [5] makes conv_in.bias [5], but the configuration needs [4]",
        ),
        (
            lambda t: t.update(  # of the right number of columns together
                {f"{ATTENTION}.to_q.weight": np.zeros((13, 12)), f"{ATTENTION}.to_k.weight": np.zeros((11, 12))}
            ),
            f"tensor {ATTENTION}.to_q.weight [13, 12] and {ATTENTION}.to_k.weight [11, 12] and "
            f"{ATTENTION}.to_v.weight [12, 12] cannot make stages.middle_0.attention.qkv.kernel [12, 36]",
        ),
        (
            lambda t: t.update({"conv_norm_out.bias": np.full(4, np.nan)}),
            "tensor conv_norm_out.bias [4] holds NaN or infinite values",
        ),
    ],
    ids=["missing", "missing k", "extra", "old and new", "rank", "shape", "unequal", "nan"],
)
def test_tensors_that_do_not_fit_are_named(folder: Path, edit: Callable[[Tensors], Any], message: str) -> None:
    change_tensors(folder, edit)
    assert refusal(folder) == f"{WEIGHTS}: {message}"


def test_files_that_are_absent_or_damaged_are_named(folder: Path, tmp_path: Path) -> None:
    path = folder / WEIGHTS
    whole = path.read_bytes()
    for size in (0, 100, len(whole) - 1):
        path.write_bytes(whole[:size])
        assert refusal(folder).startswith(f"{WEIGHTS} is damaged or not a safetensors file: ")
    path.unlink()
    assert refusal(folder) == f"{WEIGHTS} does not exist"
    path.with_suffix(".bin").write_bytes(b"PK")
    assert refusal(folder).startswith("diffusion_pytorch_model.bin is a pickle, which can run code and is not read; ")
    (folder / CONFIG).unlink()
    assert refusal(folder) == "config.json does not exist"
    assert refusal(tmp_path / "nowhere") == "config.json does not exist"
