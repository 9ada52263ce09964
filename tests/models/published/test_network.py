"""Networks as published: what is read is bit for bit what was written, or a sentence says why not."""

import dataclasses
import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from formats.files import sha256
from models.config import UNetConfig
from models.published.network import PublishedNetwork, read_published, read_published_config, write_published
from models.published.translate import Rule, flat, translate
from models.unet import shapes

ROOT = Path(__file__).parents[3]
MODEL = UNetConfig(channels=8, multipliers=[1, 2], attention_resolutions=[4], image_size=8, image_channels=1)


def make_weights() -> PublishedNetwork:
    """The floats include -0, the smallest subnormal and the largest number."""
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda leaf: rng.standard_normal(leaf.shape, np.float32), shapes(MODEL))
    params["conv_in"]["bias"][:4] = [-0.0, 1e-45, np.finfo(np.float32).max, 1 / 3]
    sde = {"name": "ve", "sigma_min": 0.1, "sigma_max": 1 / 3 * 300, "t_0": 1e-5, "T": 1.0}
    return PublishedNetwork("score_sde", "there/checkpoint_8", MODEL, sde, params, {"name": "digits"})


@pytest.fixture(scope="module")
def weights() -> PublishedNetwork:
    return make_weights()


@pytest.fixture
def folder(weights: PublishedNetwork, tmp_path: Path) -> Path:
    write_published(tmp_path / "net", weights)
    return tmp_path / "net"


def refused(folder: Path) -> str:
    with pytest.raises((ValueError, FileNotFoundError)) as caught:
        read_published(folder)
    said = str(caught.value)
    assert said.startswith(str(folder))
    assert "\n" not in said
    return said


def rewrite(folder: Path, change: dict[str, np.ndarray | None]) -> None:
    """Change tensors (None takes one out) and the checksum with them."""
    path = folder / "model.safetensors"
    save_file({name: tensor for name, tensor in (load_file(path) | change).items() if tensor is not None}, path)
    reconfigure(folder, sha256=sha256(path))


def reconfigure(folder: Path, **change: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))


def test_what_is_loaded_is_what_was_saved_bit_for_bit(folder: Path, weights: PublishedNetwork) -> None:
    found = read_published(folder)
    assert found._replace(params={}) == weights._replace(params={})
    ours, theirs = flat(weights.params), flat(found.params)
    assert ours.keys() == theirs.keys()
    for name in ours:
        assert (theirs[name].dtype, theirs[name].shape) == (np.float32, ours[name].shape)
        assert theirs[name].tobytes() == ours[name].tobytes()
    assert jax.tree.all(jax.tree.map(np.array_equal, found.params, weights.params))
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "model.safetensors"]
    assert read_published_config(folder)["model"] == dataclasses.asdict(MODEL)


def test_arrays_of_jax_and_views_are_saved_as_they_look(weights: PublishedNetwork, tmp_path: Path) -> None:
    kernel = np.asfortranarray(weights.params["embed_in"]["kernel"])
    params = weights.params | {"embed_in": {"kernel": kernel, "bias": jax.numpy.ones(32)}}
    write_published(tmp_path / "net", weights._replace(params=params))
    found = read_published(tmp_path / "net").params["embed_in"]
    np.testing.assert_array_equal(found["kernel"], kernel)
    np.testing.assert_array_equal(found["bias"], np.ones(32))


def test_an_empty_folder_is_filled_and_another_is_left_alone(weights: PublishedNetwork, tmp_path: Path) -> None:
    (tmp_path / "net").mkdir()
    write_published(tmp_path / "net", weights)
    before = {path.name: sha256(path) for path in (tmp_path / "net").iterdir()}
    with pytest.raises(FileExistsError, match="net is not empty; choose another folder"):
        write_published(tmp_path / "net", weights._replace(source="another"))
    assert {path.name: sha256(path) for path in (tmp_path / "net").iterdir()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["net"]


def test_nothing_is_left_of_what_could_not_be_written(weights: PublishedNetwork, tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="not JSON serializable"):
        write_published(tmp_path / "net", weights._replace(sde={"name": object()}))
    (tmp_path / "file").write_text("mine")
    for dest in (tmp_path / "file", tmp_path / "file" / "net"):
        with pytest.raises(OSError, match="file"):
            write_published(dest, weights)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize("moment", ["write_bytes", "write_text"])
def test_killed_while_saving_it_leaves_nothing_under_the_name(
    moment: str, weights: PublishedNetwork, tmp_path: Path
) -> None:
    """Killed when half of a file is written; the next attempt is not in the way of what is left of it."""
    code = f"""
import os, signal, sys
from pathlib import Path
import numpy as np
from models.config import UNetConfig
from models.published.network import PublishedNetwork, write_published
write = Path.{moment}
def write_half_and_die(path, content):
    write(path, content[: len(content) // 2])
    os.kill(os.getpid(), signal.SIGKILL)
Path.{moment} = write_half_and_die
params = {{"a": np.ones(1000, np.float32)}}
write_published(Path(sys.argv[1]), PublishedNetwork("f", "s", UNetConfig(), {{"name": "ve"}}, params))
"""
    dest = tmp_path / "net"
    done = subprocess.run([sys.executable, "-c", code, dest], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert not dest.exists()
    assert "does not exist" in refused(dest)
    write_published(dest, weights)
    assert flat(read_published(dest).params).keys() == flat(weights.params).keys()
    assert [path.name for path in tmp_path.iterdir()] == ["net"]


def test_a_file_that_is_missing_or_cut_short(folder: Path) -> None:
    path = folder / "model.safetensors"
    whole = path.read_bytes()
    for length in (0, 5, 200, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        assert "model.safetensors is damaged or not a safetensors file" in refused(folder)
    path.unlink()
    assert refused(folder).endswith("model.safetensors does not exist")
    (folder / "config.json").unlink()
    assert refused(folder).endswith("config.json does not exist")
    shutil.rmtree(folder)
    assert refused(folder).endswith("config.json does not exist")


def test_a_flipped_bit_is_noticed(folder: Path) -> None:
    path = folder / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    assert "model.safetensors is damaged: its SHA-256 is not the one in config.json" in refused(folder)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "config.json is not JSON"),
        ('{"model": ', "config.json is not JSON"),
        ("\x00\xff", "config.json is not JSON"),
        ("[]", "config.json must hold a JSON object, got a list"),
        ("{}", "config.json does not describe a network of this project"),
        ('{"_class_name": "UNet2DModel"}', "config.json does not describe a network of this project"),
    ],
)
def test_another_config_json(content: str, said: str, folder: Path) -> None:
    (folder / "config.json").write_bytes(content.encode("latin-1"))
    assert said in refused(folder)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"channels": 16}, "tensor conv_in.bias [8] makes conv_in.bias [8], but the configuration needs [16]"),
        ({"num_blocks": 2}, "tensor stages.down_"),
        ({"attention_resolutions": []}, "has no place in this network"),
        ({"dtype": "int8"}, "config.json: model.dtype must be one of float32, bfloat16, got 'int8'"),
        ({"width": 8}, "config.json: model.width is not an option of a network"),
        ({"channels": "8"}, "config.json: model.channels must be of type int, got '8'"),
        ({"channels": None}, "config.json: model.channels must be of type int, got None"),
        ({"channels": 8.0}, "config.json: model.channels must be of type int, got 8.0"),
        ({"norm_eps": float("nan")}, "config.json: model.norm_eps must be of type float, got nan"),
        ({"image_size": None}, "config.json: model.image_size must be of type int, got None"),
        ({"image_size": 0}, "config.json: model.image_size must be from 1 to 4096, got 0"),
        ({"head_channels": [1] * 1000}, "model.head_channels must be of type int | None, got [1, 1, 1 and 997 more]"),
        ({"num_blocks": 1_000_000_000}, "config.json: model.num_blocks must be from 1 to 64, got 1000000000"),
        ({"num_blocks": 64}, "the network's options ask for 262 blocks, more than its 128 tensors can make"),
    ],
)
def test_a_configuration_that_lies(options: dict, said: str, folder: Path) -> None:
    reconfigure(folder, model=dataclasses.asdict(MODEL) | options)
    assert said in refused(folder)


@pytest.mark.parametrize("sde", [None, [], {}, {"name": ["ve"]}, {"name": "ve", "sigma_min": [None]}, {"a b": 1}])
def test_an_sde_that_is_none(sde: Any, folder: Path) -> None:
    reconfigure(folder, sde=sde)
    assert refused(folder).endswith(
        "config.json: sde must be the name and the options of the SDE that the network was trained under"
    )
    reconfigure(folder, sde={"name": "ve"}, dataset=3)
    assert refused(folder).endswith("config.json: dataset must be the options of a data set, or null")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"conv_out.bias": None}, "model.safetensors: tensor conv_out.bias is missing"),
        ({"conv_out.extra": np.zeros(1, np.float32)}, "tensor conv_out.extra has no place in this network"),
        ({"conv_out.bias": np.zeros(2, np.float32)}, "tensor conv_out.bias [2] makes conv_out.bias [2], but"),
        ({"conv_out.bias": np.full(1, np.inf, np.float32)}, "tensor conv_out.bias [1] holds NaN or infinite values"),
        ({"conv_out.bias": np.ones(1, np.int32)}, "tensor conv_out.bias is of type I32, and must be of floating-point"),
        ({"conv_out.bias": np.full(1, 1e300)}, "tensor conv_out.bias [1] holds NaN or infinite values"),
        ({"a\nb": np.zeros(1, np.float32)}, r"tensor a\nb has no place in this network"),
    ],
)
def test_a_tensor_that_does_not_fit_is_named(change: dict, said: str, folder: Path) -> None:
    rewrite(folder, change)
    assert said in refused(folder)


def test_translate_converts_and_passes_over_what_has_no_part_in_sampling(weights: PublishedNetwork) -> None:
    tensors = {name: -tensor for name, tensor in flat(weights.params).items() if name != "conv_out.bias"}
    tensors |= {"left": np.array([1.0]), "right": np.array([2.0]), "step": np.array(7)}
    rules = {name: Rule((name,), np.negative) for name in tensors.keys() - {"left", "right", "step"}}
    rules |= {"conv_out.bias": Rule(("left", "right"), lambda a, b: a - b), "elsewhere": Rule(("absent",))}
    found = translate(rules, tensors, MODEL, unused=["step", "ema_step"])
    assert found["conv_out"]["bias"] == [-1.0]
    np.testing.assert_array_equal(found["conv_in"]["kernel"], weights.params["conv_in"]["kernel"])
    with pytest.raises(ValueError, match="tensor step has no place in this network"):
        translate(rules, tensors, MODEL)
    del rules["conv_out.bias"]
    with pytest.raises(AssertionError, match=r"no rules for conv_out\.bias"):
        translate(rules, tensors, MODEL, unused=["left", "right", "step"])


def test_parameters_are_named_by_their_paths() -> None:
    assert flat({"a": {"b": {"c": 1}, "d": 2}, "e": 3}) == {"a.b.c": 1, "a.d": 2, "e": 3}
