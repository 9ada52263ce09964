"""Published weights, from the file that a user has to images, by the command line."""

import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
import published_network
import pytest
import score_sde_files
import torch_files
from commands import TINY, run, run_here
from safetensors.numpy import load_file, save_file

from formats.files import sha256
from models.convert import main
from models.published.network import read_published, write_published
from models.published.score_sde import read_score_sde

pytestmark = pytest.mark.slow

FIXTURES = Path(os.environ["DEIS_SHARED"]) / "fixtures" / "score_sde" if "DEIS_SHARED" in os.environ else None
GOLDEN = Path(__file__).parents[1] / "fixtures" / "unet2d"
FEW = ["logger=none", "extractor=none", "sampler.nfe=3", "num_samples=2"]


Convert = Callable[..., tuple[int, str, str]]


@pytest.fixture
def convert(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Convert:
    """`python -m models.convert ARGUMENTS` in tmp_path, in this process: exit code, stdout and stderr."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments: object) -> tuple[int, str, str]:
        code = main([str(argument) for argument in arguments])
        return code, *capsys.readouterr()

    return call


@pytest.mark.skipif(FIXTURES is None, reason="DEIS_SHARED does not name a folder with score_sde checkpoints")
def test_a_score_sde_checkpoint_is_converted_and_drawn_from(tmp_path: Path, convert: Convert) -> None:
    """Bit for bit as `read_score_sde` reads it, which tests/models/published compares with score_sde's own code."""
    assert FIXTURES is not None
    code, out, error = convert(FIXTURES / "ncsnpp.msgpack", "net")
    assert (code, error) == (0, "")
    config = json.loads((FIXTURES / "ncsnpp.json").read_text())
    assert f"parameters  {config['parameters_here']:,}, 16x16x3 images" in out
    found, expected = read_published(tmp_path / "net"), read_score_sde(FIXTURES / "ncsnpp.msgpack", config)
    assert found._replace(params={}) == expected._replace(params={})
    assert jax.tree.all(jax.tree.map(np.array_equal, found.params, expected.params))
    done = run_here("sample.py", "checkpoint=net", *FEW, "run_dir=drawn", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert np.load(tmp_path / "drawn" / "samples.npz")["images"].shape == (2, 16, 16, 3)


def test_a_diffusers_folder_just_works(tmp_path: Path) -> None:
    done = run("models.convert", str(GOLDEN), "net", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert "discrete_vp" in done.stdout
    done = run_here("sample.py", "checkpoint=net", "sampler=t_ab", "sampler.ts_phase=leading", *FEW, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    done = run_here("sample.py", "checkpoint=net", "logger=none", "num_samples=2", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "no FID: nobody wrote down what images the network learned; give dataset=NAME" in done.stderr


def test_a_run_of_ours_is_published_bit_for_bit(tmp_path: Path, convert: Convert) -> None:
    """The images are those of the run, and the images it was trained on are known."""
    done = run_here("train.py", *TINY, "run_dir=run", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert convert("run", "net")[0] == 0
    for source in ("run", "net"):
        done = run_here("sample.py", f"checkpoint={source}", *FEW, f"run_dir=from_{source}", cwd=tmp_path)
        assert done.returncode == 0, done.stderr
    drawn = [np.load(tmp_path / f"from_{source}" / "samples.npz")["images"] for source in ("run", "net")]
    np.testing.assert_array_equal(*drawn)
    assert json.loads((tmp_path / "from_net" / "result.json").read_text())["dataset"] == "digits"
    assert "published form already" in convert("net", "again")[2]
    assert "not the steps of a run" in run_here("sample.py", "checkpoint=net", "step=4", *FEW, cwd=tmp_path).stderr


def test_a_checkpoint_of_score_sde_s_pytorch_code_is_converted(tmp_path: Path, convert: Convert) -> None:
    state = score_sde_files.torch_state("ncsnpp", score_sde_files.make_tensors("ncsnpp"))
    (tmp_path / "checkpoint_8.pth").write_bytes(torch_files.zipped(*score_sde_files.torch_content(state)))
    (tmp_path / "checkpoint_8.json").write_text(json.dumps(score_sde_files.NCSNPP))
    code, out, error = convert("checkpoint_8.pth", "net")
    assert (code, error) == (0, "")
    assert f"parameters  {sum(tensor.size for tensor in state.values()):,}, 8x8x3 images, no classes" in out
    assert read_published(tmp_path / "net").family == "score_sde"


class Foreign:
    def __reduce__(self) -> tuple:
        return os.system, ("touch it_was_run",)


def test_refusals_are_one_sentence_and_write_nothing(tmp_path: Path, convert: Convert) -> None:
    (tmp_path / "evil.pkl").write_bytes(pickle.dumps({"ema": Foreign()}))
    (tmp_path / "empty").mkdir()
    (tmp_path / "torch.pt").write_bytes(b"PK\x03\x04")
    (tmp_path / "noise").write_bytes(b"\x93\x01\x02")
    (tmp_path / "lies").mkdir()
    for path in (GOLDEN / "scheduler_config.json", GOLDEN / "diffusion_pytorch_model.safetensors"):
        (tmp_path / "lies" / path.name).write_bytes(path.read_bytes())
    config = json.loads((GOLDEN / "config.json").read_text())
    config["block_out_channels"] = [2 * width for width in config["block_out_channels"]]
    (tmp_path / "lies" / "config.json").write_text(json.dumps(config))
    for source, arguments, said in (
        ("evil.pkl", [], "system"),
        ("empty", [], "empty"),
        ("torch.pt", [], "is taken for a checkpoint of score_sde, which does not hold its configuration"),
        ("torch.pt", ["--config", "vp/cifar10_ddpmpp_continuous"], "torch.pt is cut short, damaged"),
        ("noise", [], "does not hold its configuration"),
        ("noise", ["--config", "vp/cifar10_ddpmpp_continuous"], "noise"),
        ("lies", [], "but the configuration needs"),
        ("absent", [], "absent does not exist"),
        ("lies/diffusion_pytorch_model.safetensors", [], "has weights alone; give the folder that it lies in"),
        ("noise", ["--time", "t"], "--time is not for a checkpoint of score_sde; leave it out"),
        ("evil.pkl", ["--config", "vp/ddpm/cifar10_continuous"], "--config is not for a pickle of EDM; leave it out"),
        ("empty", ["--config", "x.json"], "--config is not for a folder of diffusers; leave it out"),
    ):
        code, out, error = convert(source, "net", *arguments)
        assert (code, out, error.count("\n")) == (2, "", 1), error
        assert error.startswith("error: ")
        assert said in error
        assert not (tmp_path / "net").exists()
    assert not (tmp_path / "it_was_run").exists()
    for dest, said in ((".", ". has no name"), ("hf://owner/net", "DEST must be a folder, got hf://owner/net")):
        (tmp_path / "new").mkdir(exist_ok=True)
        os.chdir(tmp_path / "new")  # the fixture goes back
        assert said in convert(GOLDEN, dest)[2]
        assert not list((tmp_path / "new").iterdir())


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"num_blocks": 1_000_000_000}, "model.num_blocks must be from 1 to 64, got 1000000000"),
        ({"num_blocks": 64}, "ask for 131 blocks, more than its"),
        ({}, "tensor conv_out.bias is of type I32, and must be of floating-point numbers"),
    ],
)
def test_sampling_refuses_a_hostile_network_before_it_makes_a_folder(change: dict, said: str, tmp_path: Path) -> None:
    net = published_network.write(tmp_path / "net")
    config = json.loads((net / "config.json").read_text())
    if not change:
        tensors = load_file(net / "model.safetensors")
        save_file(tensors | {"conv_out.bias": np.ones(1, np.int32)}, net / "model.safetensors")
        config["sha256"] = sha256(net / "model.safetensors")
    (net / "config.json").write_text(json.dumps(config | {"model": config["model"] | change}))
    done = run_here("sample.py", "checkpoint=net", *FEW, "run_dir=drawn", cwd=tmp_path)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert said in done.stderr
    assert not (tmp_path / "drawn").exists()


def test_a_folder_that_holds_something_is_not_written_to(tmp_path: Path, convert: Convert) -> None:
    (tmp_path / "net").mkdir()
    (tmp_path / "net" / "mine").write_text("")
    code, _, error = convert(GOLDEN, "net")
    assert (code, error) == (2, "error: net is not empty; choose another folder\n")
    assert [path.name for path in (tmp_path / "net").iterdir()] == ["mine"]


def test_arrays_survive_the_published_form_bit_for_bit(tmp_path: Path, convert: Convert) -> None:
    assert convert(GOLDEN, "net")[0] == 0
    found = read_published(tmp_path / "net")
    write_published(tmp_path / "again", found)
    again = read_published(tmp_path / "again")
    assert again._replace(params={}) == found._replace(params={})
    assert jax.tree.all(jax.tree.map(lambda a, b: a.tobytes() == b.tobytes(), found.params, again.params))
