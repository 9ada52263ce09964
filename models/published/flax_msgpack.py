"""Reader of flax's msgpack checkpoints that trusts no file; flax.serialization reads any dtype and raises anything."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgpack
import numpy as np

from formats.short import short, shown
from models.published.translate import FLOATS, Tensors

_MOST_DIMENSIONS = 32
_LONGEST = 200  # characters of a name, and of the names of the modules that it lies in


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
                file,
                ext_hook=_array,
                object_hook=_whole,
                max_buffer_size=size,
                max_array_len=_MOST_DIMENSIONS,
                max_str_len=_LONGEST,
            )
            for _ in range(unpacker.read_map_header()):
                if unpacker.unpack() == entry:
                    tensors = dict(_leaves(unpacker.unpack()))
                else:
                    unpacker.skip()
            if unpacker.tell() != size:
                raise ValueError("more follows after its end")
    except Exception as error:  # damaged bytes can fail in any way
        said = short(error, 200).rstrip(".") or type(error).__name__
        raise ValueError(f"{path} is damaged or not a checkpoint of flax: {said}") from None
    if tensors is None:
        raise ValueError(f"{path} has no entry {entry}, which is where the weights should be")
    for name, tensor in tensors.items():
        if not isinstance(tensor, np.ndarray) or tensor.dtype not in FLOATS.values():
            raise ValueError(f"{path}: {entry}.{short(name)} must be a tensor of floating-point numbers")
    return tensors


def _leaves(tree: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield what lies in a tree of maps, by path. Raises ValueError for a path that is too long for a tensor."""
    if len(prefix) > _LONGEST:
        raise ValueError(f"{short(prefix)} lies in too many maps")
    for name, inside in tree.items():
        if isinstance(inside, dict):
            yield from _leaves(inside, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", inside


def _array(code: int, data: bytes) -> np.ndarray:
    """Return the array in flax's extension 1: its shape, its dtype's name and its bytes, in C order, little-endian."""
    if code != 1:
        raise ValueError(f"extension {code} is not a tensor")
    shape, dtype, content = msgpack.unpackb(data, max_array_len=_MOST_DIMENSIONS)
    if dtype not in FLOATS:
        raise ValueError(f"a tensor has the dtype {shown(dtype)}, which is not one of {', '.join(FLOATS)}")
    return np.frombuffer(content, FLOATS[dtype]).reshape(shape)


def _whole(found: dict[str, Any]) -> dict[str, Any] | np.ndarray:
    """Return a map as it is, or the array that it stands for: flax cuts arrays of more than 1 GiB into chunks."""
    if "__msgpack_chunked_array__" not in found:
        return found
    chunks, shape = ([part[str(i)] for i in range(len(part))] for part in (found["chunks"], found["shape"]))
    return np.concatenate(chunks).reshape(shape)
