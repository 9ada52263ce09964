"""Files as torch and EDM write them, made without either: names of theirs that stand for nothing."""

import io
import pickle
import struct
import sys
import types
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from typing import Any
from unittest.mock import patch

import numpy as np


class Call:
    """Pickles as the call of a function."""

    def __init__(self, function: Callable[..., Any], *args: Any):
        self.function, self.args = function, args

    def __reduce__(self) -> tuple[Any, ...]:
        return self.function, self.args


def _named(module: str, name: str) -> Callable[..., Any]:
    def function(*_: Any) -> None:
        raise AssertionError(f"{module}.{name} was run")

    function.__module__, function.__qualname__, function.__name__ = module, name, name
    return function


class ModuleDict:
    """torch's, as its attributes."""

    def __init__(self, state: dict[str, Any]):
        vars(self).update(state)


class EasyDict(dict):
    """EDM's."""


ModuleDict.__module__, EasyDict.__module__ = "torch.nn.modules.container", "dnnlib.util"
RECONSTRUCT = _named("torch_utils.persistence", "_reconstruct_persistent_obj")
LOAD = _named("torch.storage", "_load_from_bytes")
REBUILD = _named("torch._utils", "_rebuild_tensor_v2")
PARAMETER = _named("torch._utils", "_rebuild_parameter")
KINDS = {
    name: _named("torch", f"{kind}Storage")
    for name, kind in [
        ("float32", "Float"),
        ("float64", "Double"),
        ("float16", "Half"),
        ("bfloat16", "BFloat16"),
        ("int64", "Long"),
        ("int32", "Int"),
        ("int16", "Short"),
        ("int8", "Char"),
        ("uint8", "Byte"),
        ("bool", "Bool"),
    ]
}


class Storage:
    """The numbers of one or more tensors, which a file of torch.save holds outside its pickle.

    size: how many the pickle says they are, if not the truth.
    """

    def __init__(self, numbers: np.ndarray, key: str = "0", size: int | None = None):
        self.numbers, self.key, self.size = numbers.ravel(), key, numbers.size if size is None else size


class _Pickler(pickle.Pickler):
    def persistent_id(self, obj: Any) -> Any:
        if not isinstance(obj, Storage):
            return None
        return "storage", KINDS[obj.numbers.dtype.name], obj.key, "cpu", obj.size


def pickled(content: Any, protocol: int = 4) -> bytes:
    """The pickle of `content`, in which the names above are as if from torch and EDM."""
    modules = {
        name: types.ModuleType(name) for name in ("torch", "torch.nn", "torch.nn.modules", "dnnlib", "torch_utils")
    }
    things: tuple[Any, ...] = (ModuleDict, EasyDict, RECONSTRUCT, LOAD, REBUILD, PARAMETER, *KINDS.values())
    for thing in things:
        module = modules.setdefault(thing.__module__, types.ModuleType(thing.__module__))
        setattr(module, thing.__name__, thing)
    file = io.BytesIO()
    with patch.dict(sys.modules, modules):
        _Pickler(file, protocol).dump(content)
    return file.getvalue()


def legacy(content: Any, *storages: Storage) -> bytes:
    """What torch.save wrote before it wrote zip archives."""
    system = {"protocol_version": 1001, "little_endian": True, "type_sizes": {"short": 2, "int": 4, "long": 4}}
    head = [pickled(item, 2) for item in (0x1950A86A20F9469CFC6C, 1001, system, content, [s.key for s in storages])]
    return b"".join(head + [struct.pack("<q", s.numbers.size) + s.numbers.tobytes() for s in storages])


def zipped(content: Any, *storages: Storage, compression: int = zipfile.ZIP_STORED) -> bytes:
    """What torch.save writes."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as archive:
        archive.writestr("archive/data.pkl", pickled(content, 2))
        archive.writestr("archive/byteorder", "little")
        for storage in storages:
            archive.writestr(f"archive/data/{storage.key}", storage.numbers.tobytes())
        archive.writestr("archive/version", "3\n")
    return file.getvalue()


def view(storage: Any, size: tuple[int, ...], stride: tuple[int, ...], offset: int = 0) -> Call:
    """A tensor of a storage."""
    return Call(REBUILD, storage, offset, size, stride, False, OrderedDict())


def tensor(numbers: np.ndarray) -> Call:
    """A tensor with a storage of its own inside the pickle."""
    storage = Storage(numbers)
    stride = tuple(step // numbers.itemsize for step in np.ascontiguousarray(numbers).strides)
    return view(Call(LOAD, legacy(storage, storage)), numbers.shape, stride)


def persistent(class_name: str, state: dict[str, Any]) -> Call:
    """An object of a class of EDM's, which carries its source."""
    source = "raise SystemExit('the source was run')"
    return Call(
        RECONSTRUCT, {"type": "class", "version": 6, "module_src": source, "class_name": class_name, "state": state}
    )
