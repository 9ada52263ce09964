"""hf:// against a hub on the loopback interface: fetched, kept, found without it, and one sentence for what fails."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import loopback_hub
import numpy as np
import published_network
import pytest
from commands import run_here

import deis
from models.checkpoints.hub import local, local_table, parsed
from models.convert import main as convert
from models.publish import main as publish
from models.published.network import read_published
from models.sampling.build import build_table
from models.sampling.source import find

pytest.importorskip("huggingface_hub", reason="asks a hub; make test-peers installs its client")
from huggingface_hub import constants

pytestmark = pytest.mark.slow


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return published_network.write(tmp_path_factory.mktemp("network") / "net")


@pytest.fixture
def repositories(network: Path) -> loopback_hub.Repositories:
    return {"team/digits": files_of(network)}


@pytest.fixture
def endpoint(repositories: loopback_hub.Repositories, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The hub's; the cache of this machine is an empty folder, and there is no other token."""
    with loopback_hub.serving(repositories) as endpoint:
        template = constants.HUGGINGFACE_CO_URL_TEMPLATE.replace(constants.ENDPOINT, endpoint)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "ENDPOINT", endpoint)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setenv("HF_TOKEN", "none")
        yield endpoint


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> Any:
    def switch() -> None:
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)

    return switch


def same(one: Path, other: Path) -> bool:
    a, b = read_published(one), read_published(other)
    return a.model == b.model and jax.tree.all(jax.tree.map(np.array_equal, a.params, b.params))


def test_a_network_is_fetched_once_and_then_there_without_a_network(
    endpoint: str, network: Path, offline: Any, repositories: loopback_hub.Repositories
) -> None:
    found = find("hf://team/digits", None, "")
    assert same(found.path, network)
    repositories["team/digits"]["model.safetensors"] = b""  # is not asked for again
    commit = found.path.name
    assert same(local(f"hf://team/digits@{commit}"), network)
    offline()
    assert same(find("hf://team/digits", None, "").path, network)


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("hf://team/nothing", "there is no team/nothing at http://127.0.0.1"),
        ("hf://team/digits@old", "hf://team/digits@old: team/digits has no revision old"),
        ("hf://team/digits/none.safetensors", "team/digits has no file none.safetensors"),
        ("hf://digits", r"an address of the Hub is hf://owner/name\[@revision\]\[/file\], got hf://digits"),
    ],
)
def test_what_is_not_there(endpoint: str, address: str, message: str) -> None:
    with pytest.raises((FileNotFoundError, ValueError), match=message) as error:
        local(address)
    assert "\n" not in str(error.value)


def test_without_a_network_what_was_never_fetched(endpoint: str, offline: Any) -> None:
    offline()
    with pytest.raises(FileNotFoundError, match=r"hf://team/digits is not in the cache, .* cannot be reached"):
        local("hf://team/digits")


def test_a_hub_that_does_not_answer(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(FileNotFoundError, match=r"is not in the cache, .* and http://127.0.0.1:9 cannot be reached"):
        local("hf://team/digits")


def test_a_damaged_file(endpoint: str, repositories: loopback_hub.Repositories) -> None:
    content = bytearray(repositories["team/digits"]["model.safetensors"])
    content[-5] ^= 1
    repositories["team/digits"]["model.safetensors"] = bytes(content)
    with pytest.raises(ValueError, match=r"is damaged: its SHA-256 is not the one in config.json; fetch or convert it"):
        read_published(local("hf://team/digits"))


def test_without_its_client(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ValueError, match="need huggingface_hub: pip install huggingface_hub"):
        local("hf://team/digits")


def test_addresses() -> None:
    assert parsed("hf://a/b") == ("a/b", None, None)
    assert parsed("hf://a.x/b-1@v1.0/c/d.safetensors") == ("a.x/b-1", "v1.0", "c/d.safetensors")
    assert local("~/x") == Path.home() / "x"


def test_sample_py_says_it_in_one_sentence(endpoint: str, tmp_path: Path) -> None:
    done = run_here("sample.py", "checkpoint=hf://team/nothing", "logger=none", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith("error: hf://team/nothing: there is no team/nothing at ")
    assert done.stderr.count("\n") == 1


def test_a_network_is_published_with_a_card_and_drawn_from(
    endpoint: str, network: Path, repositories: loopback_hub.Repositories, tmp_path: Path, capsys: Any
) -> None:
    result = tmp_path / "drawn"
    result.mkdir()
    (result / "result.json").write_text(
        json.dumps({"sampler": "tAB3", "nfe": 10, "fid": 4.8123, "fid_name": "FID-digits-1k"})
    )
    (result / "grid.png").write_bytes(b"picture")
    arguments = [str(network), "hf://team/mine", "--results", str(result), "--license", "mit"]
    assert publish(arguments) == 0, capsys.readouterr().err
    assert capsys.readouterr().out == "published at hf://team/mine\n"
    files = repositories["team/mine"]
    assert files.keys() == {"README.md", "config.json", "model.safetensors", "grid.png"}
    card = files["README.md"].decode()
    assert card.startswith("---\nlicense: mit\nlibrary_name: deis-sampler\n")
    assert "| tAB3 | 10 | FID-digits-1k | 4.812 |" in card
    assert "parameters  " in card
    assert "SDE         vp_linear" in card
    assert "python sample.py checkpoint=hf://team/mine" in card
    assert same(local("hf://team/mine"), network)
    assert publish([str(network), str(tmp_path / "folder"), "--license", "mit"]) == 0
    assert files_of(tmp_path / "folder").keys() == {"README.md", "config.json", "model.safetensors"}
    assert same(tmp_path / "folder", network)


def test_a_learned_table_is_published_and_used(
    endpoint: str, network: Path, repositories: loopback_hub.Repositories, tmp_path: Path, capsys: Any
) -> None:
    sde = deis.vp_linear()
    table = deis.tables.t_ab(sde, deis.timesteps(sde, 5))
    table.save(tmp_path / "learned.safetensors")
    assert publish([str(tmp_path / "learned.safetensors"), "hf://team/five"]) == 0, capsys.readouterr().err
    assert "sampler=learned sampler.table=hf://team/five" in repositories["team/five"]["README.md"].decode()
    assert deis.Table.load(local_table("hf://team/five")).nfe == 5
    assert deis.Table.load(local_table("hf://team/five/table.safetensors")).nfe == 5
    assert build_table({"method": "learned", "table": "hf://team/five"}, sde).nfe == 5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("{net}", "{net}"), "is not empty; choose another folder"),
        (("{net}/none", "{tmp}/x"), "none does not exist"),
        (("{net}", "hf://team/x@main"), "publish to hf://owner/name, without a revision or a file"),
        (("{net}", "{tmp}/x", "--results", "{net}"), "result.json"),
        (("{tmp}", "{tmp}/x"), "config.json"),
    ],
)
def test_what_cannot_be_published(
    endpoint: str, network: Path, tmp_path: Path, capsys: Any, arguments: tuple[str, ...], message: str
) -> None:
    assert publish([argument.format(net=network, tmp=tmp_path) for argument in arguments]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ")
    assert message in said
    assert said.count("\n") == 1


def test_convert_reads_addresses(endpoint: str, tmp_path: Path, capsys: Any) -> None:
    assert convert(["hf://team/digits", str(tmp_path / "x")]) == 2
    assert "is in the published form already" in capsys.readouterr().err
