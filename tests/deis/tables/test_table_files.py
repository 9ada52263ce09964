"""Tables as files: bit-equal, and refused in one sentence where they are damaged or belong elsewhere."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

import deis
from deis import Table, tables

SDE = deis.vp_linear()


@pytest.mark.parametrize("method", tables.METHODS)
def test_every_table_comes_back_bit_equal(tmp_path: Path, method: str) -> None:
    table = replace(tables.build(SDE, num_step=5, method=method), about={"made by": "a test", "by": "é"})
    table.save(tmp_path / "table.safetensors")
    found = Table.load(tmp_path / "table.safetensors", SDE)
    assert (found.name, found.about) == (table.name, table.about)
    for name in table.shapes():
        np.testing.assert_array_equal(getattr(found, name), getattr(table, name))
    assert [path.name for path in tmp_path.iterdir()] == ["table.safetensors"]


def test_a_table_of_another_sde_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    tables.build(SDE).save(path)
    assert Table.load(path, deis.vp_linear()).name == "tAB3"
    assert Table.load(path).name == "tAB3"
    for other in (deis.vp_linear(beta_1=19.0), deis.vp_cosine(), deis.ve(), deis.edm(), deis.vp_linear(T=0.9)):
        with pytest.raises(ValueError, match="tAB3 was made for another SDE than this network's"):
            Table.load(path, other)


def test_what_it_says_of_its_sde_counts_where_network_times_are_its_own(tmp_path: Path) -> None:
    table = tables.build(SDE)
    shifted = replace(table, t=np.clip(0.97 * table.t, SDE.t_0, None))
    shifted.save(tmp_path / "silent.safetensors")
    with pytest.raises(ValueError, match="another SDE"):
        Table.load(tmp_path / "silent.safetensors", SDE)
    replace(shifted, about={"sde": deis.table.about_sde(SDE)}).save(tmp_path / "told.safetensors")
    assert Table.load(tmp_path / "told.safetensors", SDE).nfe == 10
    with pytest.raises(ValueError, match="another SDE"):
        Table.load(tmp_path / "told.safetensors", deis.vp_cosine())


def test_foreign_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="there is no table"):
        Table.load(tmp_path / "none.safetensors")
    save_file({"weight": np.zeros(3)}, tmp_path / "network.safetensors")
    with pytest.raises(ValueError, match="no solver table of deis"):
        Table.load(tmp_path / "network.safetensors")
    (tmp_path / "text").write_text("nodes: 1, 2, 3")
    with pytest.raises(ValueError, match="is damaged, or no solver table"):
        Table.load(tmp_path / "text")


def test_every_damaged_byte_is_seen(tmp_path: Path) -> None:
    path, rng = tmp_path / "a.safetensors", np.random.default_rng(0)
    tables.build(SDE, num_step=3).save(path)
    whole = path.read_bytes()
    places = rng.choice(len(whole), 300, replace=False)
    for place in [*places, *(len(whole) - np.arange(1, 9))]:
        changed = bytearray(whole)
        changed[place] ^= 1 << int(rng.integers(8))
        path.write_bytes(changed)
        with pytest.raises(ValueError) as caught:
            Table.load(path)
        assert "\n" not in str(caught.value)
        assert len(str(caught.value)) < 400
    for length in (0, 5, 100, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(ValueError):
            Table.load(path)
