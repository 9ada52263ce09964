"""One array of an .npz file, read without pickle."""

import io
import math
import re
import zipfile

import numpy as np

from formats.short import short

_MOST_HEADER = 10_000  # bytes; that of a plain array has a hundred
_HEADER = re.compile(
    r"\{'descr': '([<>|=]?[biufcSU]\d+)', 'fortran_order': (True|False), 'shape': \(([\d, ]*)\),? *\}\s*"
)


def read_entry(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> np.ndarray:
    """Read an array. What its header and the archive say of its size must agree before memory is set aside.

    Raises ValueError for an entry that is not a whole array of numbers or text; zipfile raises other errors for
    damaged bytes.
    """
    name, size = short(entry.filename), entry.file_size
    if entry.flag_bits & 1:
        raise ValueError(f"{name} is encrypted")
    if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise ValueError(f"{name} is compressed in another way than NumPy does")
    with archive.open(entry) as file:
        assert isinstance(file, io.BufferedIOBase)
        magic, version = file.read(6), file.read(2)
        length = int.from_bytes(file.read(2 if version[:1] == b"\x01" else 4), "little")
        header = file.read(min(length, _MOST_HEADER)).decode("latin-1")
        described = _HEADER.fullmatch(header)
        if magic != b"\x93NUMPY" or length != len(header) or described is None:
            raise ValueError(f"{name} is not an array of numbers or text")
        dtype = np.dtype(described[1])
        shape = tuple(int(side) for side in described[3].split(",") if side.strip())
        if math.prod(shape) * dtype.itemsize != size - file.tell() or dtype.itemsize == 0:
            raise ValueError(f"{name} does not have the size that its header says")
        content = bytearray(size - file.tell())
        if file.readinto(memoryview(content)) != len(content) or file.read(1):
            raise ValueError(f"{name} does not have the size that its header says")
    return np.ndarray(shape, dtype, content, order="F" if described[2] == "True" else "C")
