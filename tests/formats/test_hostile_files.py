"""Small files made to take much time or memory: each is refused in one sentence before it does."""

import copy
import io
import json
import time
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch_files
from safetensors.numpy import save_file

from formats.files import read_json, read_npz, read_safetensors, read_safetensors_header
from formats.short import named, short, shown
from formats.torch_pickle import read_torch

MB = 1_000_000


def refused(read: Callable[[Path], Any], path: Path) -> str:
    start = time.perf_counter()
    tracemalloc.start()
    try:
        with pytest.raises(ValueError) as caught:
            read(path)
        assert tracemalloc.get_traced_memory()[1] < 100 * MB
    finally:
        tracemalloc.stop()
    assert time.perf_counter() - start < 5
    said = str(caught.value)
    assert said.startswith(str(path))
    assert "\n" not in said
    return said.removeprefix(str(path)).strip()


def write_npz(path: Path, *entries: tuple[str, bytes], **changes: Any) -> Path:
    """An .npz of entries of bytes; `changes` are made to what the archive's directory says of each."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in entries:
            archive.writestr(f"{name}.npy", content)
        for entry in archive.filelist:
            for attribute, value in changes.items():
                setattr(entry, attribute, value)
    return path


def npy(header: str, numbers: bytes = b"", version: bytes = b"\x01\x00") -> bytes:
    return b"\x93NUMPY" + version + len(header).to_bytes(2, "little") + header.encode() + numbers


def header(descr: Any = "'<f4'", shape: str = "(2,)") -> str:
    return f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}\n"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (npy(header(shape="(1000000000000,)"), bytes(8)), "mu.npy does not have the size that its header says"),
        (npy(header(shape="(3,)"), bytes(8)), "mu.npy does not have the size that its header says"),
        (npy(header("'<U0'", "(1000000000000,)")), "mu.npy does not have the size that its header says"),
        (npy(header("'|O'"), bytes(16)), "mu.npy is not an array of numbers or text"),
        (npy(header("[('a', '<f4')]"), bytes(8)), "mu.npy is not an array of numbers or text"),
        (npy(header(shape="(" * 4000), bytes(8)), "mu.npy is not an array of numbers or text"),
        (npy(header(shape="(-2,)"), bytes(8)), "mu.npy is not an array of numbers or text"),
        (npy(header(shape=f"({'9' * 5000},)"), bytes(8)), "Exceeds the limit"),
        (npy("import os", bytes(8)), "mu.npy is not an array of numbers or text"),
        (npy(header(), bytes(8), version=b"\x07\x00"), "mu.npy is not an array of numbers or text"),
        (b"", "mu.npy is not an array of numbers or text"),
    ],
)
def test_an_array_with_a_false_header(content: bytes, said: str, tmp_path: Path) -> None:
    assert said in refused(read_npz, write_npz(tmp_path / "stats.npz", ("mu", content)))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"flag_bits": 1}, "mu.npy is encrypted"),
        ({"compress_type": zipfile.ZIP_LZMA}, "mu.npy is compressed in another way than NumPy does"),
        ({"file_size": 2**40}, "it would unpack from 198 to 1,099,511,627,776 bytes"),
        ({"file_size": 400}, "mu.npy does not have the size that its header says"),
        ({"CRC": 1}, "Bad CRC-32"),
        ({"header_offset": 2**31}, "cannot be read as .npz"),
    ],
)
def test_an_archive_with_a_false_directory(changes: dict[str, Any], said: str, tmp_path: Path) -> None:
    content = npy(header(), bytes(8))
    assert said in refused(read_npz, write_npz(tmp_path / "stats.npz", ("mu", content), **changes))


def test_arrays_that_were_not_asked_for_take_no_memory(tmp_path: Path) -> None:
    zeros = npy(header(shape="(50000000,)"), bytes(200 * MB))
    path = write_npz(tmp_path / "stats.npz", ("mu", npy(header(), b"\0\0\x80?" * 2)), ("features", zeros))
    tracemalloc.start()
    found = read_npz(path, ("mu", "n"))
    assert tracemalloc.get_traced_memory()[1] < MB
    tracemalloc.stop()
    assert found.keys() == {"mu"}
    np.testing.assert_array_equal(found["mu"], [1, 1])
    assert "it would unpack from" in refused(read_npz, path)


def test_what_numpy_saves_is_read_as_numpy_reads_it(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    fortran = np.asfortranarray(rng.normal(size=(3, 4)))
    arrays = {
        "a": rng.normal(size=(2, 3)).astype(">f4"),
        "f": fortran,
        "text": np.array("floor"),
        "none": np.zeros((0, 3)),
    }
    arrays |= {"bool": np.array([True, False]), "scalar": np.array(3), "long": np.zeros((1,) * 20)}
    for save in (np.savez, np.savez_compressed):
        save(tmp_path / "a.npz", **arrays)  # type: ignore[arg-type]
        found = read_npz(tmp_path / "a.npz")
        assert found.keys() == arrays.keys()
        for name, array in arrays.items():
            assert (found[name].dtype, found[name].shape) == (array.dtype, array.shape)
            np.testing.assert_array_equal(found[name], array)
            assert found[name].flags.writeable


def with_copies_of_its_entry(path: Path, content: bytes, count: int) -> Path:
    """A zip archive in which many entries lie in one place."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", content)
        for i in range(count):
            entry = copy.copy(archive.filelist[0])
            entry.filename = entry.orig_filename = f"archive/data/{i}"
            archive.filelist.append(entry)
    return path


def test_entries_that_overlap(tmp_path: Path) -> None:
    path = with_copies_of_its_entry(tmp_path / "net.zip", bytes(MB), 1000)
    assert refused(read_torch, path) == "has entries that overlap, which those of torch.save do not"
    assert "its entries overlap" in refused(read_npz, path)


def doubled(depth: int = 60, kind: type = tuple) -> Any:
    """A tuple or list of twice one of twice one ...: small in a pickle, and endless for who looks at every place."""
    found: Any = kind(("x",))
    for _ in range(depth):
        found = kind((found, found))
    return found


def pickle_of_a_doubled_tuple(end: bytes) -> bytes:
    """A tuple of twice a tuple, sixty deep, before the operations `end`."""
    return b"\x80\x04}N" + b"2\x86" * 60 + end


@pytest.mark.parametrize("end", [b"Ns.", b"0(" + b"N" + b"2\x86" * 60 + b"Nu.", b"0(N" + b"2\x86" * 60 + b"Nd."])
def test_a_key_that_takes_for_ever_to_hash(end: bytes, tmp_path: Path) -> None:
    path = tmp_path / "net.pkl"
    path.write_bytes(pickle_of_a_doubled_tuple(end))
    assert refused(read_torch, path) == "has (((...), (...)), ((...), (...))) for a key of a dictionary"


def test_a_file_inside_that_is_read_many_times(tmp_path: Path) -> None:
    inside, path = torch_files.pickled(list(range(1000))), tmp_path / "net.pkl"
    path.write_bytes(torch_files.pickled([torch_files.Call(torch_files.LOAD, inside) for _ in range(1000)]))
    assert refused(read_torch, path) == "holds a file that it reads more than once"


def test_one_list_in_many_dictionaries(tmp_path: Path) -> None:
    path = tmp_path / "net.pkl"
    path.write_bytes(b"\x80\x04ccollections\nOrderedDict\n]q\x00\x85R.")
    assert refused(read_torch, path) == "makes a dictionary of a list, as Python 2 did"


def test_storages_that_are_not_there_take_no_memory(tmp_path: Path) -> None:
    storages = [torch_files.Storage(np.zeros(0), str(i), size=1000) for i in range(10_000)]
    path = tmp_path / "net.pt"
    path.write_bytes(torch_files.legacy([torch_files.view(s, (1,), (1,)) for s in storages]))
    assert "is cut short, damaged" in refused(read_torch, path)


@pytest.mark.parametrize("content", ["[" * 100_000, '{"a": ' * 100_000, "9" * 5000, "\ud800"])
def test_json_without_end(content: str, tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_bytes(content.encode(errors="surrogatepass"))
    assert refused(read_json, path) == "is not JSON"
    path.write_text("{" + " " * 10_000_000)
    assert refused(read_json, path).startswith("is too large for a configuration: 10,000,001 bytes")


def test_a_tensor_of_a_type_that_numpy_does_not_have(tmp_path: Path) -> None:
    path, about = tmp_path / "net.safetensors", {"a": {"dtype": "F8_E4M3", "shape": [2], "data_offsets": [0, 2]}}
    content = json.dumps(about).encode()
    path.write_bytes(len(content).to_bytes(8, "little") + content + bytes(2))
    assert "holds numbers of a type that is not read, such as float8" in refused(read_safetensors, path)
    assert read_safetensors_header(path) == {"a": "F8_E4M3"}
    save_file({"a": np.ones(2, np.float32)}, path)
    assert read_safetensors_header(path) == {"a": "F32"}


def test_values_in_sentences_are_short_and_on_one_line() -> None:
    assert shown([0.1, 0.2]) == "[0.1, 0.2]"
    assert shown({"a": (1, None), "b": "x"}) == "{'a': (1, None), 'b': 'x'}"
    assert shown(list(range(1000))) == "[0, 1, 2 and 997 more]"
    assert shown(10**5000) == "an integer of 16610 bits"
    assert shown(io.BytesIO()) == "a BytesIO"
    assert shown("line\nbreak \ud800") == r"'line\nbreak \ud800'"
    assert short("line\nbreak \ud800") == r"line\nbreak \ud800"
    assert named({"b", "a", "d", "c"}) == "a, b, c and 1 more"
    for value in (doubled(), doubled(kind=list), "x" * MB, [["y" * MB] * 8] * 8, {"z" * MB: 1}):
        assert len(shown(value)) < 300
        assert len(named(["x" * MB] * 9)) < 400
