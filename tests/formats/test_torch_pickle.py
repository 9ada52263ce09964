"""Files of pickle and torch.save, without torch: what they hold comes out, and nothing that they ask for is run."""

import io
import os
import pickle
import tracemalloc
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch_files
from torch_files import Call, EasyDict, ModuleDict, Storage

from formats.torch_pickle import Refused, load, read_torch

RNG = np.random.default_rng(0)
MATRIX = RNG.normal(size=(3, 4)).astype(np.float32)
FORMS = {"legacy": torch_files.legacy, "zip": torch_files.zipped}
forms = pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)


def state_dict() -> tuple[Any, ...]:
    """Two views of one storage and a number of another, and the attribute that torch gives a state_dict."""
    storage, steps = Storage(MATRIX, "0"), Storage(np.array([12]), "1")
    content = OrderedDict(
        weight=torch_files.view(storage, (3, 4), (4, 1)),
        column=torch_files.view(storage, (3,), (4,), offset=1),
        num_batches_tracked=torch_files.view(steps, (), ()),
    )
    content._metadata = OrderedDict(version=1)  # type: ignore[attr-defined]
    return content, storage, steps


@forms
def test_tensors_of_torch_save(form) -> None:
    found = load(form(*state_dict()))
    assert list(found) == ["weight", "column", "num_batches_tracked"]
    np.testing.assert_array_equal(found["weight"], MATRIX)
    np.testing.assert_array_equal(found["column"], MATRIX[:, 1])
    assert found["num_batches_tracked"] == 12
    assert found["num_batches_tracked"].shape == ()


@forms
@pytest.mark.parametrize("dtype", torch_files.KINDS)
def test_every_type_of_number(form, dtype) -> None:
    dtype = ml_dtypes.bfloat16 if dtype == "bfloat16" else np.dtype(dtype)
    storage = Storage(np.array([0, 1, 100, 3]).astype(dtype))
    found = load(form([torch_files.view(storage, (2, 2), (1, 2))], storage))[0]
    assert found.dtype == dtype
    np.testing.assert_array_equal(found.astype(float), storage.numbers.reshape(2, 2).T.astype(float))


@forms
def test_an_empty_tensor(form) -> None:
    storage = Storage(np.zeros(0, np.float32))
    assert load(form([torch_files.view(storage, (0, 5), (5, 1))], storage))[0].shape == (0, 5)


def test_containers_scalars_and_tensors_inside_a_pickle() -> None:
    content = {
        "dataset": EasyDict(path="cifar10.zip", use_labels=True),
        "layers": ModuleDict({"_modules": OrderedDict(conv=torch_files.persistent("Conv2d", {"weight": None}))}),
        "scalars": [np.float64(0.5), np.int32(7), np.bool_(True), np.array([1.5], ">f4")[0]],
        "parameter": Call(torch_files.PARAMETER, torch_files.tensor(MATRIX), True, OrderedDict()),
    }
    found = load(torch_files.pickled(content))
    assert found["dataset"] == {"path": "cifar10.zip", "use_labels": True}
    conv = found["layers"].state["_modules"]["conv"]
    assert conv == {"class_name": "Conv2d"}
    assert conv.state == {"weight": None}
    assert found["scalars"] == [0.5, 7, True, 1.5]
    assert [type(scalar) for scalar in found["scalars"]] == [float, int, bool, float]
    np.testing.assert_array_equal(found["parameter"], MATRIX)


class _Shell:
    def __init__(self, command: str):
        self.command = command

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (self.command,)


def _in_storage(attack: Any) -> bytes:
    return torch_files.pickled({"ema": Call(torch_files.LOAD, torch_files.legacy(attack))})


ATTACKS = {
    "pickle": lambda attack: pickle.dumps({"ema": attack}, 4),
    "storage": _in_storage,
    "legacy": torch_files.legacy,
    "zip": torch_files.zipped,
}


@pytest.mark.parametrize("wrap", ATTACKS.values(), ids=ATTACKS)
def test_a_foreign_function_is_named_and_not_run(wrap, tmp_path: Path) -> None:
    attack, trace, path = _Shell(f"touch {tmp_path}/trace"), tmp_path / "trace", tmp_path / "net.pkl"
    path.write_bytes(wrap(attack))
    with pytest.raises(ValueError) as error:
        read_torch(path)
    name = f"{os.system.__module__}.system"  # posix.system, or nt.system
    allowed = "which is not among the tensors and containers that may be loaded"
    assert str(error.value) == f"{path} asks for {name}, {allowed}"
    assert not trace.exists()
    pickle.loads(pickle.dumps(attack))
    assert trace.exists(), "the attack is none"


@pytest.mark.parametrize(
    ("attack", "asks"),
    [
        (b"cos\nsystem\n(S'true'\ntR.", "os.system"),
        (b"(S'true'\nios\nsystem\n.", "os.system"),
        (b"\x80\x04\x8c\x0ctorch._utils\x8c\x13_rebuild_tensor_v2.\x93.", "torch._utils._rebuild_tensor_v2."),
        (b"\x80\x04\x8c\x05numpy\x8c\x0edtype.__init__\x93.", "numpy.dtype.__init__"),
        (b"\x80\x04\x8c\x06numpy.\x8c\x05dtype\x93.", "numpy..dtype"),
        (b"cbuiltins\ngetattr\n.", "builtins.getattr"),
        (b"ctorch.storage\n_load_from_bytes.__globals__\n.", "torch.storage._load_from_bytes.__globals__"),
    ],
)
def test_names_are_matched_whole(attack: bytes, asks: str) -> None:
    with pytest.raises(Refused) as error:
        load(attack)
    assert str(error.value).startswith(f"asks for {asks}, ")


@pytest.mark.parametrize("state", [b"}S'__doc__'\nNs", b"(N}S'__doc__'\nNst"], ids=["items", "attributes"])
@pytest.mark.parametrize(
    "target",
    [
        b"ctorch._utils\n_rebuild_parameter\n",
        b"ccollections\nOrderedDict\n",
        b"ctorch\nFloatStorage\n",
        b"cnumpy\ndtype\n",
        b"]",
    ],
)
def test_nothing_but_a_loaded_object_can_be_given_attributes(target: bytes, state: bytes) -> None:
    with pytest.raises(Refused):
        load(target + state + b"b.")


def test_an_array_cannot_be_given_another_state() -> None:
    array = torch_files.pickled(torch_files.tensor(MATRIX), 2)[:-1]
    with pytest.raises(Refused):
        load(array + b"(I1\n(I99\ntS'f4'\nI00\nS''\ntb.")


@forms
@pytest.mark.parametrize(
    ("size", "stride", "offset"),
    [
        ((4, 4), (4, 1), 0),
        ((3, 4), (4, 1), 1),
        ((3, 4), (5, 1), 0),
        ((3, 4), (4, 1), -1),
        ((3,), (-1,), 5),
        ((-3,), (1,), 0),
        ((1000,), (0,), 0),
        ((2,), (2**62,), 0),
        ((2,), (1,), 2**70),
        ((10**30,), (1,), 0),
        ((3, 4), (4,), 0),
    ],
)
def test_a_tensor_must_lie_inside_its_storage(form, size, stride, offset) -> None:
    storage = Storage(MATRIX)
    with pytest.raises(Refused, match=r"holds a tensor of size .* which is not inside its storage of 12 numbers"):
        load(form([torch_files.view(storage, size, stride, offset)], storage))


@forms
@pytest.mark.parametrize("size", [11, 13, 10**8])
def test_a_storage_must_have_the_size_that_the_pickle_says(form, size) -> None:
    storage = Storage(MATRIX, size=size)
    tracemalloc.start()
    with pytest.raises(Refused, match="cut short, damaged"):
        load(form([storage], storage))
    assert tracemalloc.get_traced_memory()[1] < 2**20, "the storage was made before it was refused"
    tracemalloc.stop()


@forms
def test_a_storage_must_be_there(form) -> None:
    with pytest.raises(Refused, match="cut short, damaged"):
        load(form([Storage(MATRIX)]))


def test_a_compressed_archive_is_refused() -> None:
    """It could be a small file of a huge storage."""
    with pytest.raises(Refused, match="compressed"):
        load(torch_files.zipped(*state_dict(), compression=zipfile.ZIP_DEFLATED))


def test_a_file_of_another_byte_order_is_refused() -> None:
    head = torch_files.pickled(0x1950A86A20F9469CFC6C, 2) + torch_files.pickled(1001, 2)
    with pytest.raises(Refused, match="big-endian"):
        load(head + torch_files.pickled({"little_endian": False}, 2))
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("net/data.pkl", pickle.dumps([]))
        archive.writestr("net/byteorder", "big")
    with pytest.raises(Refused, match="big-endian"):
        load(file.getvalue())


@pytest.mark.parametrize("name", [*FORMS, "pickle"])
def test_a_truncated_file_is_one_sentence(name: str, tmp_path: Path) -> None:
    whole = FORMS[name](*state_dict()) if name in FORMS else torch_files.pickled([torch_files.tensor(MATRIX)])
    path = tmp_path / "net.pkl"
    for length in range(0, len(whole), 7):
        path.write_bytes(whole[:length])
        with pytest.raises(ValueError) as error:
            read_torch(path)
        sentences = "is cut short, damaged, or not a file of pickle or torch.save", "asks for "  # half a name
        assert str(error.value).removeprefix(f"{path} ").startswith(sentences)


@pytest.mark.parametrize("name", [*FORMS, "pickle"])
def test_a_damaged_file_is_read_or_refused_and_nothing_else(name: str) -> None:
    whole = FORMS[name](*state_dict()) if name in FORMS else torch_files.pickled([torch_files.tensor(MATRIX)])
    refused = 0
    for place, value in zip(RNG.integers(len(whole), size=300), RNG.integers(256, size=300), strict=True):
        damaged = bytearray(whole)
        damaged[place] = value
        try:
            load(bytes(damaged))
        except Refused:
            refused += 1
    assert 0 < refused < 300


def test_a_damaged_memo_takes_no_memory() -> None:
    """An object is kept under the number 2^31 - 1, for which the unpickler in C makes a list of 32 GiB."""
    assert load(b"\x80\x04Nr\xff\xff\xff\x7f.") is None


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"none\.pkl does not exist"):
        read_torch(tmp_path / "none.pkl")
