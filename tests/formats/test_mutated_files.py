"""Files of every foreign format, damaged 1,000 times: each is read or refused in one sentence, soon, in little memory.

Where a checksum would give every change away, half of the changes are made inside of it.
"""

import io
import json
import shutil
import time
import warnings
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import edm_files
import numpy as np
import pytest
import score_sde_files
import torch_files
from mutations import mutated
from PIL import Image
from safetensors.numpy import save

from data.config import DatasetConfig
from data.files import load_files
from eval.metrics.frechet import load_statistics
from eval.metrics.samples import open_samples
from formats.files import read_json, read_npz, read_safetensors
from formats.torch_pickle import read_torch
from models.published import diffusers, score_sde
from models.published.diffusers import read_diffusers
from models.published.edm import read_edm
from models.published.network import read_published_config
from models.published.score_sde import read_score_sde

GOLDEN = Path(__file__).parents[1] / "fixtures" / "unet2d"
SHIPPED = Path(__file__).parents[2] / "checkpoints" / "fashion_mnist"
RNG = np.random.default_rng(0)
IMAGES = RNG.integers(256, size=(2, 4, 4, 3), dtype=np.uint8)
FILES = 1000


class Format(NamedTuple):
    """A file's name, contents that are damaged, and what reads it; `wrap` makes files of `inside`, checksums right."""

    name: str
    whole: list[bytes]
    reads: list[Callable[[Path], Any]]
    inside: list[bytes] = []  # noqa: RUF012  it is not changed
    wrap: Callable[[bytes], bytes] = bytes


def zipped(name: str, content: bytes, compression: int = zipfile.ZIP_STORED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as archive:
        archive.writestr(name, content)
    return file.getvalue()


def bytes_of(write: Callable[..., Any], *arguments: Any, **options: Any) -> bytes:
    """What a function writes into a file that is its first argument."""
    write(file := io.BytesIO(), *arguments, **options)
    return file.getvalue()


def npz(folder: Path) -> Format:
    arrays = {"images": IMAGES, "mu": RNG.normal(size=4), "sigma": np.eye(4), "rounding": np.array("floor")}
    return Format(
        "samples.npz",
        [bytes_of(np.savez, **arrays), bytes_of(np.savez_compressed, **arrays)],
        [read_npz, load_statistics, open_samples],
        [bytes_of(np.save, array) for array in arrays.values()],
        lambda content: zipped("images.npy", content, zipfile.ZIP_DEFLATED),
    )


def safetensors(folder: Path) -> Format:
    name = "diffusion_pytorch_model.safetensors"
    few, golden = save({kind: np.ones(3, kind) for kind in ("f4", "f2", "i8")}), (GOLDEN / name).read_bytes()
    end = 8 + int.from_bytes(golden[:8], "little")
    return Format(
        name,
        [few, golden],
        [read_safetensors, lambda path: read_diffusers(path.parent)],
        [golden[8:end]],
        lambda header: len(header).to_bytes(8, "little") + header + golden[end:],
    )


def msgpack(folder: Path) -> Format:
    sound = score_sde_files.write(folder / "checkpoint", score_sde_files.make_tensors("ddpmpp"))
    few = score_sde_files.write(folder / "few", {"a/b": np.ones(2, np.float32), "a/c": np.ones((2, 2), np.float16)})
    contents = [sound.read_bytes(), few.read_bytes()]
    return Format("checkpoint", contents, [lambda path: read_score_sde(path, score_sde_files.DDPMPP)])


def torch_zip(folder: Path) -> Format:
    numbers = torch_files.Storage(np.arange(12.0))
    content = {"model": torch_files.view(numbers, (3, 4), (4, 1)), "step": 3}
    few = {"all_modules.0.W": np.ones(4, np.float32), "all_modules.1.bias": np.ones(3, np.float32)}
    return Format(
        "net.pt",
        [torch_files.zipped(content, numbers), torch_files.zipped(*score_sde_files.torch_content(few))],
        [read_torch, lambda path: read_score_sde(path, score_sde_files.NCSNPP)],
        [torch_files.pickled(content, 2)],
        lambda content: zipped("archive/data.pkl", content),
    )


def pickle(folder: Path) -> Format:
    few = {name: t for name, t in edm_files.published().items() if name.startswith(("map_layer0", "dec.8x8_aux"))}
    network = edm_files.write(folder / "few.pkl", few).read_bytes()
    content = {"list": [1, 2.5, None, "text"], "tensor": torch_files.tensor(np.ones((2, 3), np.float32))}
    numbers = torch_files.Storage(np.arange(12.0))
    legacy = torch_files.legacy({"model": torch_files.view(numbers, (3, 4), (4, 1))}, numbers)
    return Format("net.pkl", [network, torch_files.pickled(content), legacy], [read_torch, read_edm])


def png(folder: Path) -> Format:
    """A chunk of a PNG ends with a checksum of its kind and its content, which is set right after damage."""
    files = [bytes_of(Image.fromarray(image).save, format="PNG") for image in (IMAGES[0], IMAGES[1, ..., 0])]

    def wrap(content: bytes) -> bytes:
        found, at = content[:8], 8
        while at + 12 <= len(content):
            length = int.from_bytes(content[at : at + 4])
            body = content[at + 4 : at + 8 + length]
            found += content[at : at + 4] + body + zlib.crc32(body).to_bytes(4)
            at += 12 + length
        return found + content[at:]

    return Format(
        "images/a.png", files, [lambda path: load_files(DatasetConfig(path=str(path.parent)), ["train"])], files, wrap
    )


def config_json(folder: Path) -> Format:
    configs = [(where / "config.json").read_bytes() for where in (SHIPPED, GOLDEN)]
    score_sde_files.write(folder / "checkpoint", {})
    return Format(
        "config.json",
        [*configs, json.dumps(score_sde_files.NCSNPP).encode()],
        [
            lambda path: read_published_config(path.parent),
            lambda path: read_diffusers(path.parent),
            lambda path: read_score_sde(path.parent / "checkpoint", read_json(path)),
        ],
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with everything that lies beside the file in question."""
    for path in (*GOLDEN.glob("*.json"), *GOLDEN.glob("*.safetensors"), SHIPPED / "model.safetensors"):
        shutil.copy(path, tmp_path)
    (tmp_path / "images").mkdir()
    Image.fromarray(IMAGES[0]).save(tmp_path / "images" / "b.png")
    return tmp_path


def peak_memory() -> int:
    """The most memory in bytes that this process had since the last call. 0 where Linux does not say."""
    status = Path("/proc/self/status")
    found = [line for line in status.read_text().splitlines() if line.startswith("VmHWM")] if status.exists() else []
    if found:
        Path("/proc/self/clear_refs").write_text("5")
    return 1024 * int(found[0].split()[1]) if found else 0


def refusal(read: Callable[[Path], Any], path: Path) -> Exception | None:
    start = time.perf_counter()
    try:
        read(path)
    except Exception as error:
        return error
    finally:
        assert time.perf_counter() - start < 5
    return None


@pytest.mark.slow
@pytest.mark.parametrize("make", [npz, safetensors, msgpack, torch_zip, pickle, png, config_json])
def test_a_damaged_file_is_read_or_refused_in_one_sentence(
    make: Callable[[Path], Format], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    form = make(folder)
    if make is config_json:  # the network is not made, which would take half a second for each
        for module in (diffusers, score_sde):
            monkeypatch.setattr(module, "translate", lambda rules, tensors, model: {})
    rng, path, refused = np.random.default_rng(2024), folder / form.name, 0
    bases, wraps = [form.whole, form.inside or form.whole], [bytes, form.wrap]
    peak_memory()
    before = peak_memory()
    with warnings.catch_warnings(record=True) as warned:
        for i in range(FILES):
            content, other = (bases[i % 2][rng.integers(len(bases[i % 2]))] for _ in range(2))
            path.write_bytes(wraps[i % 2](mutated(rng, content, other)))
            for error in filter(None, (refusal(read, path) for read in form.reads)):
                said = str(error).replace(str(folder), "")
                assert type(error) in (ValueError, FileNotFoundError), f"file {i}: {error!r}"
                assert "\n" not in said, f"file {i}: {said}"
                assert 10 < len(said) < 500, f"file {i}: {said}"
                refused += 1
    assert peak_memory() - before < 5e8
    assert not warned, [str(warning.message) for warning in warned]
    assert 0.2 * FILES < refused < FILES * len(form.reads)
