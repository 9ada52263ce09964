"""EDM's pickles, without EDM and torch: a small network's weights in our layout, and what cannot be imported."""

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch_files
from edm_files import ARGUMENTS, STATE, published, write

import deis
from models.published.edm import read_edm
from models.published.network import read_published, write_published
from models.published.translate import flat


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "network-snapshot.pkl"


def refused(path: Path) -> str:
    with pytest.raises(ValueError) as error:
        read_edm(path)
    said = str(error.value)
    assert said.startswith(str(path))
    assert "\n" not in said
    return said.removeprefix(str(path)).removeprefix(":").strip()


def test_what_is_known_of_the_network(path: Path) -> None:
    found = read_edm(write(path))
    assert found.family == "edm"
    assert found.source == str(path)
    assert found.sde == {"name": "edm", "t_0": 0.002, "T": 80.0}
    model = found.model
    assert (model.time, model.input, model.output, model.sigma_data) == ("log_sigma_4", "unit", "edm", 0.5)
    assert (model.channels, model.multipliers, model.num_blocks, model.dropout) == (4, [1, 2], 1, 0.13)
    assert (model.image_size, model.image_channels, model.num_classes) == (8, 3, 3)
    assert (model.attention_resolutions, model.fir, model.input_pyramid) == ([4], False, False)
    used = {name: tensor for name, tensor in published().items() if "augment" not in name and "filter" not in name}
    count = sum(tensor.size for tensor in used.values()) - 4  # the bias of map_label is added to each class
    assert sum(leaf.size for leaf in flat(found.params).values()) == count


def test_the_weights_in_our_layout(path: Path) -> None:
    params, theirs = flat(read_edm(write(path)).params), published()
    ours = params["stages.down_4_resample.conv_1.kernel"]
    np.testing.assert_array_equal(ours[0, 2, 1], theirs["enc.4x4_down.conv0.weight"][:, 1, 0, 2])
    np.testing.assert_array_equal(params["embed_in.kernel"], theirs["map_layer0.weight"].T)
    np.testing.assert_array_equal(params["norm_out.scale"], theirs["dec.8x8_aux_norm.weight"])
    for k, one_hot in enumerate(np.eye(3)):
        label = theirs["map_label.weight"] @ (np.sqrt(3) * one_hot) + theirs["map_label.bias"]
        np.testing.assert_allclose(params["embed_label.embedding"][k], label, rtol=1e-6)


def test_a_network_that_labels_were_dropped_for_has_a_null_class(path: Path) -> None:
    """EDM gives it zeros for a one-hot vector, so that the bias is left."""
    found = read_edm(write(path, label_dropout=0.1))
    embedding, plain = (flat(net.params)["embed_label.embedding"] for net in (found, read_edm(write(path))))
    assert (found.model.num_classes, found.model.null_class) == (3, True)
    np.testing.assert_array_equal(embedding, [*plain, published()["map_label.bias"]])


def test_queries_keys_and_values_come_out_of_their_interleaving(path: Path) -> None:
    """EDM splits the 3C outputs as [C, 3], ours as [3, C]."""
    params, theirs = flat(read_edm(write(path)).params), published()
    x = np.random.default_rng(1).normal(size=8)
    weight, bias = theirs["dec.4x4_block1.qkv.weight"][:, :, 0, 0], theirs["dec.4x4_block1.qkv.bias"]
    expected = (weight @ x + bias).reshape(8, 3)
    ours = "stages.up_4_1.attention.qkv"
    got = (x @ params[f"{ours}.kernel"] + params[f"{ours}.bias"]).reshape(3, 8)
    np.testing.assert_allclose(got.T, expected, rtol=1e-5, atol=1e-6)


def test_the_round_trip_through_the_published_form_is_bit_exact(path: Path, tmp_path: Path) -> None:
    found = read_edm(write(path))
    write_published(tmp_path / "net", found)
    back = read_published(tmp_path / "net")
    assert back.model == found.model
    assert back.sde == found.sde
    for name, leaf in flat(found.params).items():
        np.testing.assert_array_equal(flat(back.params)[name], leaf, err_msg=name)


@pytest.mark.parametrize(
    ("form", "told", "sde"),
    [
        (
            "VPPrecond",
            ("t_999", "x", "eps"),
            {"name": "vp_linear", "beta_0": 0.1, "beta_1": 20.0, "t_0": 1e-3, "T": 1.0},
        ),
        (
            "VEPrecond",
            ("log_half_sigma", "x", "sigma_score"),
            {"name": "ve", "sigma_min": 0.02, "sigma_max": 100.0, "t_0": 1e-5, "T": 1.0},
        ),
    ],
)
def test_other_preconditioners(form: str, told: tuple[str, ...], sde: dict[str, Any], path: Path) -> None:
    found = read_edm(write(path, form=form))
    assert (found.model.time, found.model.input, found.model.output) == told
    assert found.sde == pytest.approx(sde)
    getattr(deis, sde["name"])(**{name: value for name, value in sde.items() if name != "name"})


def test_the_range_of_sigma_is_the_networks_where_that_is_smaller(path: Path) -> None:
    found = read_edm(write(path, state={"sigma_min": 0.01, "sigma_max": 40}))
    assert found.sde == {"name": "edm", "t_0": 0.01, "T": 40.0}


def test_absent_arguments_are_songunets_own(path: Path) -> None:
    """An attn_resolutions of 16 is no size of this network, so only the middle has attention."""
    plain = ("enc.4x4_block0", "dec.4x4_block1"), (".norm2.", ".qkv.", ".proj.")
    tensors = {
        name: tensor
        for name, tensor in published().items()
        if not (name.startswith(plain[0]) and any(part in name for part in plain[1]))
    }
    absent: dict[str, Any] = dict.fromkeys(("attn_resolutions", "embedding_type", "resample_filter", "dropout"))
    model = read_edm(write(path, tensors, **absent)).model
    assert (model.attention_resolutions, model.embedding, model.fir, model.dropout) == ([], "positional", False, 0.1)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"form": "iDDPMPrecond"},
            "its network has the class iDDPMPrecond, and must have EDMPrecond or VPPrecond or VEPrecond",
        ),
        ({"unet": "DhariwalUNet"}, "its network has the class DhariwalUNet, and must have SongUNet"),
        ({"encoder_type": "skip"}, "SongUNet: encoder_type must be 'standard' or 'residual', got 'skip'"),
        ({"decoder_type": "skip"}, "SongUNet: decoder_type must be 'standard', got 'skip'"),
        ({"embedding_type": 1}, "SongUNet: embedding_type must be 'positional' or 'fourier', got 1"),
        ({"embedding_type": "no"}, "SongUNet: embedding_type must be 'positional' or 'fourier', got 'no'"),
        ({"resample_filter": [1, 2]}, "SongUNet: resample_filter must be [1, 1] or [1, 3, 3, 1], got [1, 2]"),
        ({"encoder_type": "residual"}, "SongUNet: resample_filter must be [1, 3, 3, 1], got [1, 1]"),
        ({"channel_mult_noise": 2}, "SongUNet: channel_mult_noise must be 1, got 2"),
        ({"channel_mult_emb": 2}, "SongUNet: channel_mult_emb must be 4, got 2"),
        ({"out_channels": 6}, "SongUNet: out_channels must be 3, got 6"),
        ({"channels_per_head": 64}, "SongUNet: channels_per_head=64 is an option that is not known here"),
        ({"img_resolution": None}, "SongUNet: img_resolution is missing; it must be a whole number of at least 1"),
        ({"model_channels": "4"}, "SongUNet: model_channels must be a whole number of at least 1, got '4'"),
        (
            {"channel_mult": [1, -2]},
            "SongUNet: channel_mult must be a list of whole numbers of at least 1, got [1, -2]",
        ),
        ({"dropout": float("nan")}, "SongUNet: dropout must be a number of at least 0 and below 1, got nan"),
        ({"state": {"sigma_data": -1}}, "EDMPrecond: sigma_data must be a number from 1e-06 to 1e+06, got -1"),
        ({"state": {"sigma_min": 2, "sigma_max": 1}}, "EDMPrecond: sigma_min must be below sigma_max, got 2 and 1"),
        ({"form": "VPPrecond", "state": {"M": 4000}}, "VPPrecond: M must be 1000, got 4000"),
        ({"num_blocks": 64}, "the network's options ask for 262 blocks, more than its 149 tensors can make"),
        ({"num_blocks": 10**9}, "model.num_blocks must be from 1 to 64, got 1000000000"),
        ({"model_channels": 10**30}, f"model.channels must be from 1 to 4096, got {10**30}"),
        (
            {"channel_mult": [1] * 1000},
            "model.multipliers must be at most 10 numbers up to 64, got [1, 1, 1 and 997 more]",
        ),
    ],
)
def test_what_cannot_be_expressed_is_named(changes: dict[str, Any], said: str, path: Path) -> None:
    assert refused(write(path, **changes)) == said


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"model_channels": 8}, "tensor model.map_layer0.weight [16, 4] makes embed_in.kernel [4, 16], but the"),
        ({"num_blocks": 2}, "tensor model.dec.4x4_block2.affine.bias, model.dec.4x4_block2.affine.weight, "),
        ({"label_dim": 0}, "tensor model.map_label.bias, model.map_label.weight has no place in this network"),
        ({"label_dim": 4}, "tensor model.map_label.weight [4, 3] and model.map_label.bias [4] makes embed_label."),
        ({"augment_dim": 0}, "tensor model.map_augment.weight has no place in this network"),
        ({"attn_resolutions": [4, 8]}, "tensor model.dec.8x8_block1.norm2.bias, model.dec.8x8_block1.norm2.weight, "),
        ({"embedding_type": "fourier", "channel_mult_noise": 2}, "tensor model.map_noise.freqs is missing"),
        ({"img_resolution": 16}, "tensor model.dec.16x16_aux_conv.bias, model.dec.16x16_aux_conv.weight, "),
        ({"img_resolution": 7}, "2 levels halve the image 1 times, so its side must be a multiple of 2, got 7"),
    ],
)
def test_arguments_that_lie_about_the_tensors(changes: dict[str, Any], said: str, path: Path) -> None:
    assert refused(write(path, **changes)).startswith(said)


def _without(tensors: dict[str, np.ndarray]) -> None:
    del tensors["enc.8x8_block0.conv1.bias"]


def _with(tensors: dict[str, np.ndarray]) -> None:
    tensors["map_mean.weight"] = np.ones((2, 2), np.float32)


def _shorter(tensors: dict[str, np.ndarray]) -> None:
    tensors["dec.4x4_in0.qkv.bias"] = np.ones(23, np.float32)


def _one_bias(tensors: dict[str, np.ndarray]) -> None:
    tensors["map_label.bias"] = np.ones(1, np.float32)


def _not_finite(tensors: dict[str, np.ndarray]) -> None:
    tensors["dec.8x8_up.skip.bias"][3] = np.nan


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (_without, "tensor model.enc.8x8_block0.conv1.bias is missing"),
        (_with, "tensor model.map_mean.weight has no place in this network"),
        (_shorter, "tensor model.dec.4x4_in0.qkv.bias [23] makes stages.middle_0.attention.qkv.bias [23], but the"),
        (_one_bias, "tensor model.map_label.weight [4, 3] and model.map_label.bias [1] cannot make embed_label."),
        (_not_finite, "tensor model.dec.8x8_up.skip.bias [8] holds NaN or infinite values"),
    ],
)
def test_a_tensor_that_does_not_fit_is_named(change: Callable[..., None], said: str, path: Path) -> None:
    tensors = published()
    change(tensors)
    assert refused(write(path, tensors)).startswith(said)


class _Shell:
    def __init__(self, command: str):
        self.command = command

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (self.command,)


def test_code_in_the_pickle_is_refused_and_not_run(path: Path) -> None:
    """Somewhere in the attributes; the source that every object carries, which would end the test, is passed over."""
    trace = path.with_name("trace")
    write(path, state={"hook": _Shell(f"touch {trace}")})
    assert refused(path).startswith(f"asks for {os.system.__module__}.system, which is not among the tensors and")
    assert not trace.exists()


@pytest.mark.parametrize(
    "content",
    [
        [1, 2],
        {"G_ema": None},
        {"ema": None},
        {"ema": {"state": 1}},
        {"ema": torch_files.persistent("EDMPrecond", {"_modules": [1]})},
        {"ema": torch_files.persistent("EDMPrecond", {"_modules": {"model": 3}})},
        {"ema": torch_files.persistent(["list"], {})},  # type: ignore[arg-type]
    ],
)
def test_a_pickle_of_something_else_is_one_sentence(content: Any, path: Path) -> None:
    path.write_bytes(torch_files.pickled(content))
    refused(path)


def test_a_network_that_contains_itself_is_refused(path: Path) -> None:
    state: dict[str, Any] = {"_init_kwargs": ARGUMENTS}
    loop = torch_files.ModuleDict(state)
    vars(loop)["_modules"] = {"loop": loop}
    inner = torch_files.persistent("SongUNet", {"_init_kwargs": ARGUMENTS, "_modules": {"loop": loop}})
    outer = torch_files.persistent("EDMPrecond", {"_modules": {"model": inner}} | STATE["EDMPrecond"])
    path.write_bytes(torch_files.pickled({"ema": outer}))
    assert refused(path).endswith("is not a layer or tensor as EDM saves it")


def test_modules_in_many_places_are_refused_at_once(path: Path) -> None:
    """Each of seven levels holds the next one a hundred times: few bytes, and 10^14 paths."""
    inside: Any = torch_files.ModuleDict({"_parameters": {"weight": torch_files.tensor(np.ones(1, np.float32))}})
    for _ in range(6):
        inside = torch_files.ModuleDict({"_modules": {f"block{i}": inside for i in range(100)}})
    inner = torch_files.persistent("SongUNet", {"_init_kwargs": ARGUMENTS, "_modules": {"enc": inside}})
    outer = torch_files.persistent("EDMPrecond", {"_modules": {"model": inner}} | STATE["EDMPrecond"])
    path.write_bytes(torch_files.pickled({"ema": outer}))
    start = time.perf_counter()
    assert refused(path) == "its network has more than 20,000 layers and tensors, or one of them many times"
    assert time.perf_counter() - start < 5


def test_a_truncated_file_is_refused(path: Path) -> None:
    write(path)
    path.write_bytes(path.read_bytes()[:-1000])
    assert refused(path) == "is cut short, damaged, or not a file of pickle or torch.save"
