"""The page of results: the tables of an exact network, and that every part of it is gathered."""

import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
from reference import loop

import deis
from docs import make_results

pytestmark = pytest.mark.slow


def test_the_tables_of_the_paper_with_an_exact_network() -> None:
    """The table's orders on the cluster problem, and an error that is the textbook loop's."""
    page = make_results.exact_table("cifar10_vp", "plane")
    for nfe in (10, 15, 20):
        assert f"| {nfe} | tAB3 < tAB2 < tAB1 < DDIM | yes |" in page
    sde, ts = make_results.SDE, deis.timesteps(make_results.SDE, 10)
    eps_fn, x_T, exact = make_results.solution("plane")
    with jax.enable_x64(True):
        x_0 = loop.ddim(sde.s, sde.sigma, lambda x, t: np.asarray(eps_fn(x, jax.numpy.asarray(t))), np.asarray(x_T), ts)
    error = np.median(np.sqrt(np.mean((x_0 - exact) ** 2, axis=1)))
    found = next(record for record in make_results.exact_records("cifar10_vp", "plane")[1] if record["nfe_asked"] == 10)
    assert found["row"] == "DDIM"
    assert found["fid"] == pytest.approx(1000 * error, rel=1e-6)


def test_a_table_with_noise_has_no_error() -> None:
    with pytest.raises(ValueError, match="is not a table without noise"):
        make_results.exact_records("stochastic", "plane")


def test_the_page_of_results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every part is there, the long table is kept, and what is not finished is refused."""
    monkeypatch.setattr(make_results, "exact_table", lambda table, problem: f"exact {table} {problem}")
    measured, docs = tmp_path / "measured", tmp_path / "docs"
    docs.mkdir()
    for name in (*make_results.SECTIONS, *make_results.ANALYSES, make_results.LONG):
        (measured / name).mkdir(parents=True)
        (measured / name / "status.json").write_text('{"status": "done"}')
        (measured / name / "table.md").write_text(f"# T\n\ntable {name}\n\n## Published, for X\n\nfigures\n")
        (measured / name / "pixel_difference.md").write_text(f"differences {name}")
        for picture in ("fid_vs_nfe", "grid", "pixel_difference"):
            (measured / name / f"{picture}.png").write_bytes(b"png")
    make_results.main(measured, docs)
    page = (docs / "results.md").read_text()
    for name in make_results.SECTIONS:
        assert f"table {name}\n" in page
        assert f"exact {name} digits" in page
        assert (docs / "results" / f"{name}_fid_vs_nfe.png").is_file()
    assert "### Published, for X" in page
    assert (docs / "results" / make_results.LONG_PAGE).read_text() == f"table {make_results.LONG}\n"
    shutil.rmtree(measured / make_results.LONG)
    make_results.main(measured, docs)
    assert (docs / "results.md").read_text() == page
    (measured / "last_step" / "status.json").write_text('{"status": "stopped"}')
    with pytest.raises(FileNotFoundError, match="last_step is not finished, its status is stopped"):
        make_results.main(measured, docs)
