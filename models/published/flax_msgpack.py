"""Reader of flax's msgpack checkpoints that trusts no file; flax.serialization reads any dtype and raises anything."""

from pathlib import Path
from typing import Any

import ml_dtypes
import msgpack
import numpy as np

from models.published.translate import Tensors, flat

_DTYPES = {np.dtype(kind).name: np.dtype(kind) for kind in (np.float16, ml_dtypes.bfloat16, np.float32, np.float64)}
_MOST_DIMENSIONS = 32


def read_tensors(path: Path, entry: str) -> Tensors:
    """Return the tensors below one entry of the map in the file, by path: ResnetBlockDDPM_0.Conv_0.kernel.

    Other entries are skipped and take no memory, but must be complete.
    Raises FileNotFoundError without the file; ValueError for one that is damaged, is no msgpack map, has no such entry
    or has anything but floating-point tensors in it.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist")
    size, tensors = path.stat().st_size, None
    try:
        with path.open("rb") as file:
            # only shapes are lists here: no memory is set aside for what claims to be a long one
            unpacker = msgpack.Unpacker(
                file, ext_hook=_array, object_hook=_whole, max_buffer_size=size, max_array_len=_MOST_DIMENSIONS
            )
            for _ in range(unpacker.read_map_header()):
                if unpacker.unpack() == entry:
                    tensors = flat(unpacker.unpack())
                else:
                    unpacker.skip()
            if unpacker.tell() != size:
                raise ValueError("more follows after its end")
    except Exception as error:  # damaged bytes can fail in any way
        said = str(error).rstrip(".") or type(error).__name__
        raise ValueError(f"{path} is damaged or not a checkpoint of flax: {said}") from None
    if tensors is None:
        raise ValueError(f"{path} has no entry {entry}, which is where the weights should be")
    for name, tensor in tensors.items():
        if not isinstance(tensor, np.ndarray) or tensor.dtype not in _DTYPES.values():
            raise ValueError(f"{path}: {entry}.{name} must be a tensor of floating-point numbers")
    return tensors


def _array(code: int, data: bytes) -> np.ndarray:
    """Return the array in flax's extension 1: its shape, its dtype's name and its bytes, in C order, little-endian."""
    if code != 1:
        raise ValueError(f"extension {code} is not a tensor")
    shape, dtype, content = msgpack.unpackb(data, max_array_len=_MOST_DIMENSIONS)
    if dtype not in _DTYPES:
        raise ValueError(f"a tensor has the dtype {dtype!r}, which is not one of {', '.join(_DTYPES)}")
    return np.frombuffer(content, _DTYPES[dtype]).reshape(shape)


def _whole(found: dict[str, Any]) -> dict[str, Any] | np.ndarray:
    """Return a map as it is, or the array that it stands for: flax cuts arrays of more than 1 GiB into chunks."""
    if "__msgpack_chunked_array__" not in found:
        return found
    chunks, shape = ([part[str(i)] for i in range(len(part))] for part in (found["chunks"], found["shape"]))
    return np.concatenate(chunks).reshape(shape)
