"""Reading of flax's msgpack files: nothing but whole floating-point tensors comes out, or a sentence."""

import pickle
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import pytest
from score_sde_files import make_tensors, write

from models.published.flax_msgpack import read_tensors

TENSORS = make_tensors("ddpmpp")


def refused(path: Path, content: bytes) -> str:
    path.write_bytes(content)
    with pytest.raises(ValueError) as caught:
        read_tensors(path, "params_ema")
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_tensors_come_back_bit_for_bit(tmp_path: Path) -> None:
    found = read_tensors(write(tmp_path / "checkpoint_1", TENSORS), "params_ema")
    assert {name.replace(".", "/") for name in found} == TENSORS.keys()
    for name, tensor in found.items():
        expected = TENSORS[name.replace(".", "/")]
        assert (tensor.dtype, tensor.shape, tensor.tobytes()) == (np.float32, expected.shape, expected.tobytes())


def ext(code: int, content: Any) -> bytes:
    """A checkpoint with one extension for a tensor."""
    return msgpack.packb({"params_ema": {"W": msgpack.ExtType(code, msgpack.packb(content))}})


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"PK\x03\x04",
        b"\x89PNG\r\n",
        b'{"params_ema": {}}',
        pickle.dumps({"params_ema": 1}),
        msgpack.packb([1, 2]),
        msgpack.packb({"params_ema": {}}) + b"\x00",
        msgpack.packb({"params_ema": [1, 2]}),
        msgpack.packb({"params_ema": {"W": {"__msgpack_chunked_array__": True, "shape": 3, "chunks": {}}}}),
        msgpack.packb({"params_ema": {"W": {"__msgpack_chunked_array__": True}}}),
        b"\x81\xaaparams_ema" + b"\x81\xa1a" * 1010 + b"\x01",
        b"\x81\xaaparams_ema" + b"\xdd\x7f\xff\xff\xff" * 9,
        ext(1, [[2], "object", bytes(16)]),
        ext(1, [[2], "float32,O", bytes(16)]),
        ext(1, [[2], "int32", bytes(8)]),
        ext(1, [[3], "float32", bytes(8)]),
        ext(1, [[2**62, 4], "float32", bytes(8)]),
        ext(1, [2**64 - 1, "float32", bytes(8)]),
        ext(1, [[1], ["float32"], bytes(4)]),
        ext(1, "text"),
        ext(3, [[], "float32", bytes(4)]),
        ext(9, [1]),
    ],
)
def test_what_is_no_checkpoint_is_said_to_be_none(content: bytes, tmp_path: Path) -> None:
    assert "is damaged or not a checkpoint of flax: " in refused(tmp_path / "checkpoint_1", content)


@pytest.mark.parametrize("leaf", ["text", 3, None, [1.5, 2.5, None]])
def test_what_is_no_tensor_is_named(leaf: Any, tmp_path: Path) -> None:
    content = msgpack.packb({"params_ema": {"Conv_0": {"bias": leaf}}})
    said = refused(tmp_path / "checkpoint_1", content)
    assert "params_ema.Conv_0.bias must be a tensor of floating-point numbers" in said


def test_no_weights_or_no_file(tmp_path: Path) -> None:
    content = msgpack.packb({"step": 1, "optimizer": {"target": {"W": 1.0}}})
    assert "has no entry params_ema" in refused(tmp_path / "checkpoint_1", content)
    with pytest.raises(FileNotFoundError, match="checkpoint_2 does not exist"):
        read_tensors(tmp_path / "checkpoint_2", "params_ema")


def test_a_file_that_is_cut_short_anywhere_is_noticed(tmp_path: Path) -> None:
    whole = write(tmp_path / "checkpoint_1", TENSORS).read_bytes()
    for length in [*np.linspace(0, len(whole), 50, endpoint=False, dtype=int), len(whole) - 1]:
        assert "is damaged or not a checkpoint of flax: " in refused(tmp_path / "cut", whole[:length])


def test_damage_of_any_kind_ends_in_tensors_or_in_a_sentence(tmp_path: Path) -> None:
    """Random bytes in random places, many of them in the names and headers before the numbers."""
    whole, path = write(tmp_path / "checkpoint_1", TENSORS).read_bytes(), tmp_path / "damaged"
    headers = [at for name in (b"params_ema", b"float32", b"kernel", b"bias") for at in _places(whole, name)]
    rng, said = np.random.default_rng(5), []
    for _ in range(300):
        content = bytearray(whole)
        for start in rng.choice(headers, 3):
            at = start + int(rng.integers(-8, 16))
            content[at : at + 1] = rng.bytes(1)
        path.write_bytes(content)
        try:
            read_tensors(path, "params_ema")
        except ValueError as error:
            said.append(str(error))
    assert len(said) > 100
    assert all(sentence.startswith(str(path)) and "\n" not in sentence for sentence in said)


def _places(content: bytes, name: bytes) -> list[int]:
    start = content.index(b"params_ema")
    return [at for at in range(start, len(content)) if content.startswith(name, at)]
