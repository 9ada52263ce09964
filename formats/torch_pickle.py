"""Reader of the files of pickle and torch.save that needs no torch and runs no code in them.

A pickle is a program that calls what it names. Here it may name only what stands in `_ADMITTED`, where every name has
a harmless meaning of this file's own; any other name is refused. Time and memory are in proportion to the file's size,
though a pickle may use an object any number of times. Tensors come out as NumPy arrays. Three forms:

    pickle.dump            a pickle; each storage of a tensor is in it as bytes, a whole file of torch.save
    torch.save             a zip archive: data.pkl, and a raw storage in each of data/0, data/1, ...
    torch.save, legacy     pickles of a magic number, a version, the system, the object and the storages' keys; then
                           each storage: its number of elements in 8 bytes, and its raw bytes
"""

import io
import math
import pickle
import re
import zipfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

import ml_dtypes
import numpy as np

from formats.short import short, shown

_LEGACY = pickle.dumps(0x1950A86A20F9469CFC6C, protocol=2)  # the magic number, with which such a file begins
_DAMAGED = "is cut short, damaged, or not a file of pickle or torch.save"

_DTYPES = {
    "FloatStorage": np.float32,
    "DoubleStorage": np.float64,
    "HalfStorage": np.float16,
    "BFloat16Storage": ml_dtypes.bfloat16,
    "LongStorage": np.int64,
    "IntStorage": np.int32,
    "ShortStorage": np.int16,
    "CharStorage": np.int8,
    "ByteStorage": np.uint8,
    "BoolStorage": np.bool_,
}


class Refused(ValueError):
    """Raised for a file that is not allowed; the message continues a sentence that begins with the file's path."""


class Record(dict):
    """A dictionary, or an object of an unknown class, with its attributes in `state` and without its methods."""

    state: Any = None

    def __init__(self, *items: Any) -> None:
        if items:  # one list may be copied into any number of dictionaries
            raise Refused("makes a dictionary of a list, as Python 2 did")

    def __setstate__(self, state: Any) -> None:
        self.state = state


class _Function:
    """A function that a pickle may call but not change: a pickle can set attributes of plain functions."""

    def __init__(self, function: Callable[..., Any]):
        self._function = function

    def __call__(self, *args: Any) -> Any:
        return self._function(*args)

    def __setstate__(self, state: Any) -> None:
        raise Refused("sets attributes of a function")


def read_torch(path: Path) -> Any:
    """Read a file in any of the three forms: containers, numbers, strings, NumPy arrays and `Record`s.

    Raises FileNotFoundError; ValueError, one sentence, if the file is damaged or names what is not admitted.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist")
    try:
        return load(path.read_bytes())
    except Refused as error:
        raise ValueError(f"{path} {error}") from None


def is_saved_by_torch(path: Path) -> bool:
    """Whether a file begins as those of torch.save do; others of pickle do not."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(len(_LEGACY)).startswith((_LEGACY, b"PK"))


def load(data: bytes) -> Any:
    """Read the bytes of such a file as `read_torch` does. Raises Refused."""
    return _load(data, _Allowance(len(data)))


class _Allowance:
    """The bytes inside a file that may still be read as files of their own: no more than the whole file has."""

    def __init__(self, left: int):
        self.left = left

    def load(self, data: bytes) -> Any:
        self.left -= len(data)
        if self.left < 0:
            raise Refused("holds a file that it reads more than once")
        return _load(data, self)


def _load(data: bytes, allowance: _Allowance) -> Any:
    try:
        if data.startswith(b"PK"):
            return _load_zip(data, allowance)
        if data.startswith(_LEGACY):
            return _load_legacy(data, allowance)
        return _Unpickler(io.BytesIO(data), allowance).load()
    except Refused:
        raise
    except Exception as error:  # a damaged pickle can fail in any way
        raise Refused(_DAMAGED) from error


Storage = Callable[[str, np.dtype, int], np.ndarray]  # (key, dtype, number of elements)


class _Unpickler(pickle._Unpickler):  # in Python: the one in C takes as much memory as a damaged file's memo says
    """An unpickler of admitted names only; `storage` finds the storages that the pickle refers to, if it may."""

    dispatch: ClassVar = dict(pickle._Unpickler.dispatch)

    def __init__(self, file: io.BytesIO, allowance: _Allowance, storage: Storage | None = None):
        super().__init__(file)
        self._storage = storage
        self._admitted = _ADMITTED | {("torch.storage", "_load_from_bytes"): _Function(allowance.load)}

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self._admitted:
            asked = short(f"{module}.{name}")
            raise Refused(f"asks for {asked}, which is not among the tensors and containers that may be loaded")
        return self._admitted[module, name]

    def persistent_load(self, reference: Any) -> np.ndarray:
        match reference:
            case ("storage", str(kind), str(key), _, int(size)) | ("storage", str(kind), str(key), _, int(size), None):
                if self._storage is not None and kind in _DTYPES and size >= 0:
                    return self._storage(key, np.dtype(_DTYPES[kind]), size)
        raise Refused("refers to something outside the pickle that is not a storage of numbers")


def _with_plain_keys(code: bytes, keys: slice) -> Callable[[Any], None]:
    """Return an operation of the unpickler that first looks at the keys on its stack: hashing others may take for ever.

    A tuple of twice a tuple of twice a tuple ... is hashed as often as its parts occur.
    """
    operation: Callable[[Any], None] = pickle._Unpickler.dispatch[code[0]]

    def checked(self: Any) -> None:
        for key in self.stack[keys]:
            if not isinstance(key, str | bytes | float | None) and not (isinstance(key, int) and abs(key) < 2**64):
                raise Refused(f"has {shown(key)} for a key of a dictionary")
        operation(self)

    return checked


_KEYS = {
    pickle.SETITEM: slice(-2, None, 2),
    pickle.SETITEMS: slice(None, None, 2),
    pickle.DICT: slice(None, None, 2),
    pickle.ADDITEMS: slice(None),
    pickle.FROZENSET: slice(None),
}
_Unpickler.dispatch |= {code[0]: _with_plain_keys(code, keys) for code, keys in _KEYS.items()}


def _load_zip(data: bytes, allowance: _Allowance) -> Any:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist()):
            raise Refused("is compressed, which torch.save does not do")
        if sum(entry.file_size for entry in archive.infolist()) > len(data):
            raise Refused("has entries that overlap, which those of torch.save do not")
        [root] = [name.removesuffix("data.pkl") for name in archive.namelist() if name.endswith("/data.pkl")]
        if f"{root}byteorder" in archive.namelist() and archive.read(f"{root}byteorder") != b"little":
            raise Refused("was written on a big-endian machine")

        @cache
        def raw(key: str) -> bytes:
            return archive.read(f"{root}data/{key}")

        def storage(key: str, dtype: np.dtype, size: int) -> np.ndarray:
            if len(raw(key)) != size * dtype.itemsize:
                raise Refused(_DAMAGED)
            return np.ndarray(size, dtype, raw(key))

        return _Unpickler(io.BytesIO(archive.read(f"{root}data.pkl")), allowance, storage).load()


def _load_legacy(data: bytes, allowance: _Allowance) -> Any:
    file = io.BytesIO(data)
    _magic, _version, system = (_Unpickler(file, allowance).load() for _ in range(3))
    if not system["little_endian"]:
        raise Refused("was written on a big-endian machine")
    storages: dict[str, np.ndarray] = {}
    left = len(data)

    def storage(key: str, dtype: np.dtype, size: int) -> np.ndarray:
        """Return the storage of a key, whose numbers are read into it later, when tensors are views of it already."""
        nonlocal left
        if key not in storages:
            left -= size * dtype.itemsize
            if left < 0:
                raise Refused(_DAMAGED)
            storages[key] = np.empty(size, dtype)
        found = storages[key]
        if found.dtype != dtype or found.size != size:
            raise Refused(_DAMAGED)
        return found

    content = _Unpickler(file, allowance, storage).load()
    keys = _Unpickler(file, allowance).load()
    if set(keys) != storages.keys():
        raise Refused(_DAMAGED)
    for key in keys:
        size = int.from_bytes(file.read(8), "little")
        there = file.readinto(storages[key].view(np.uint8).data)
        if size != storages[key].size or there != storages[key].nbytes:
            raise Refused(_DAMAGED)
    return content


def _tensor(storage: np.ndarray, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: Any) -> np.ndarray:
    """Return a view of a storage. NumPy checks that it lies inside, except for elements that occur more than once."""
    try:
        if math.prod(size) > storage.size or min(stride, default=0) < 0:
            raise ValueError
        step = storage.itemsize
        return np.ndarray(size, storage.dtype, storage, offset * step, tuple(n * step for n in stride))
    except (ValueError, OverflowError):
        raise Refused(
            f"holds a tensor of size {shown(list(size))}, strides {shown(list(stride))} and offset {shown(offset)}, "
            f"which is not inside its storage of {storage.size} numbers"
        ) from None


def _persistent(meta: dict[str, Any]) -> Record:
    """Return an object of EDM with its class name and attributes; the source code that comes with it is ignored."""
    found = Record()
    found["class_name"], found.state = meta["class_name"], meta["state"]
    return found


def _dtype(code: str, *_: Any) -> Record:
    found = Record()
    found["code"] = code
    return found


def _number(dtype: Record, raw: bytes) -> bool | int | float:
    """Return a NumPy scalar as a number. The second item of a dtype's state is its byte order."""
    code = f"{dtype.state[1]}{dtype['code']}"
    if not re.fullmatch("[<>|][biuf][1248]", code):
        raise Refused(f"holds a NumPy scalar of type {short(code)}, which is not a number")
    return np.frombuffer(raw, code, count=1)[0].item()


_ADMITTED: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): Record,
    ("dnnlib.util", "EasyDict"): Record,
    ("torch.nn.modules.container", "ModuleDict"): Record,
    ("torch_utils.persistence", "_reconstruct_persistent_obj"): _Function(_persistent),
    ("torch._utils", "_rebuild_tensor_v2"): _Function(_tensor),
    ("torch._utils", "_rebuild_parameter"): _Function(lambda tensor, *_: tensor),
    ("numpy", "dtype"): _Function(_dtype),
    ("numpy.core.multiarray", "scalar"): _Function(_number),
    ("numpy._core.multiarray", "scalar"): _Function(_number),
    **{("torch", name): name for name in _DTYPES},
}
