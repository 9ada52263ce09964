"""The paper's tables as data: entries, orderings and pages, and that every file of conf/paper can be computed."""

import csv
import os
import re
from collections.abc import Callable
from functools import cache
from pathlib import Path

import hydra
import numpy as np
import pytest
from commands import ROOT
from jobs import CONF, job

import deis
from eval.paper.grid import Entry, as_printed, markdown_grid, markdown_orders, measured_grid
from eval.paper.outline import duration, outline
from eval.paper.page import latex, paper_page, write_records
from eval.paper.plan import Adaptive, Analytic, plan_cells
from eval.paper.spec import AdaptiveRow, Ordering, Paper, Published, validate
from models.sampling.options import EpsOptions, given

PAPERS = sorted(path.stem for path in (ROOT / "conf" / "paper").glob("*.yaml"))
SDES: dict[str, Callable[[], deis.SDE]] = {
    "cifar10_ve": deis.ve,
    "edm_yardstick": deis.edm,
    "cifar10_discrete": deis.discrete_vp,
    "celeba_discrete": deis.discrete_vp,
}


def record(row="tAB3", nfe_asked=10, fid=4.17, **fields):
    return {
        "row": row, "sampler": row, "method": "t_ab", "nfe_asked": nfe_asked, "tolerance": None, "nfe": nfe_asked,
        "repeat": 0, "seeds": "0-999", "num_samples": 1000, "options": {"order": 3}, "fid": fid,
        "fid_name": "FID-digits-1k", "dataset": "digits", "extractor": "digits@0", "checkpoint": "run", "step": 800,
    } | fields  # fmt: skip


def paper(**fields):
    return Paper(
        name="p", title="Table", checkpoint="a network", nfe=[5, 10], methods={"tAB3": [], "DDIM": []}, **fields
    )


def rows_of(text):
    """The Markdown tables of a page as {first cell: the others}, headers included."""
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    return {cells[0]: cells[1:] for cells in ([cell.strip() for cell in line.strip("|").split("|")] for line in lines)}


@cache
def composed(name, *overrides):
    needed = ["paper.worse_network=network"] if name == "guidance" else []
    found = job("table", f"paper={name}", *needed, *overrides)
    validate(found.paper)
    sde = SDES.get(name, deis.vp_linear)()
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        return found.paper, plan_cells(found.paper, sde, found.num_samples)


@pytest.mark.parametrize("name", PAPERS)
def test_every_file_names_solvers_that_can_be_built(name):
    paper, planned = composed(name)
    assert paper.name == name
    fixed = [cell for cell in planned if cell.nfe_asked is not None]
    assert len(fixed) == len(paper.methods) * len(paper.nfe) * paper.repeats
    for cell in fixed:
        rounds = cell.options["round_nfe"]
        assert cell.solver.nfe == cell.nfe_asked or (rounds and 0 < cell.solver.nfe - cell.nfe_asked <= 3), cell
        assert len(cell.seeds) == 50_000
    names = [cell.file_name({}) for cell in planned]
    assert len(set(names)) == len(names)
    published = {row for block in paper.published for row in block.fid}
    assert published & {*paper.methods, *paper.adaptive} or not published or name == "dopri5"


def test_what_a_table_takes_is_said_before():
    """Main table: 10 rows at 5 + 10 + 15 + 20 + 50 network calls, 0.5 ms each."""
    rows = rows_of(outline(None, 5e-4))
    assert list(rows) == ["paper", *PAPERS]
    assert rows["cifar10_vp"][1:] == ["50", "50,000", "1,000", "6.9 h"]
    assert rows["seeds"][1:4] == ["48", "50,000", "1,020"], "four sets of 3 rows at 5 + 10 + 20 + 50"
    assert rows_of(outline(1000, 5e-4))["cifar10_vp"][1:] == ["50", "1,000", "1,000", "8 min"]
    assert rows_of(outline(10, 5e-4))["dopri5"][-1].endswith(" s and more")
    for name in ("cifar10_vp", "seeds", "dopri5"):
        assert rows[name][1] == str(len(composed(name)[1])), "as many cells as are planned"
    assert [duration(seconds) for seconds in (89, 91, 5399, 5401, 172801)] == [
        "89 s",
        "2 min",
        "90 min",
        "1.5 h",
        "2.0 days",
    ]


def test_main_table_runs_the_papers_solvers():
    _, planned = composed("cifar10_vp")
    solvers = {(cell.row, cell.nfe_asked): cell.solver for cell in planned}
    assert {row: solvers[row, 10].name for row, _ in solvers} == {row: row for row, _ in solvers}
    assert solvers["rho4RK", 10].nfe == 12
    nodes = solvers["tAB2", 10].t
    np.testing.assert_allclose(np.diff(np.sqrt(nodes)), (np.sqrt(1e-3) - 1) / 10, rtol=1e-9)


def test_special_rows_have_their_solvers():
    stochastic = {cell.row: cell for cell in composed("stochastic")[1]}
    assert [stochastic[row].solver.is_stochastic for row in ("DDIM eta=0", "DDIM eta=1", "tAB2 lambda=0.3")] == [
        False,
        True,
        True,
    ]
    analytic = {cell.row: cell for cell in composed("cifar10_discrete")[1]}["A-DDIM"]
    assert isinstance(analytic.solver, Analytic)
    assert analytic.solver.table(np.full(len(analytic.solver.ts), 0.9)).is_stochastic
    black_box = [cell for cell in composed("dopri5")[1] if isinstance(cell.solver, Adaptive)]
    assert {cell.solver.variable for cell in black_box} == {"rho", "t"}
    assert all(cell.solver.sde.t_0 == 1e-3 and cell.nfe_asked is None for cell in black_box)
    seeds = [cell.seeds for cell in composed("seeds", "num_samples=10")[1]][:4]
    assert [list(each)[:1] for each in seeds] == [[0], [10], [20], [30]]


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("+paper.methods.mine=['sampler=t_abb']", "row mine of the paper"),
        ("+paper.methods.mine=['sampler=t_ab', 'sampler.ordr=3']", "sampler.ordr"),
        ("+paper.methods.mine=['sampler=t_ab', 'sampler.order=9']", "order must be 0"),
        ("+paper.methods.mine=['sampler=rho_rk']", "use sampler.nfe=3 or 6"),
        ("+paper.methods.mine=['num_samples=5']", "a row chooses a sampler"),
        ("+paper.methods.mine=['sampler=ddim', 'guidance=much']", "guidance=much: Value 'much'"),
        ("+paper.methods.mine=['guidance_network=${paper.worse_network}']", "row mine needs a worse network"),
        ("+paper.methods.mine=['sampler=t_ab', 'sampler.nfe=7']", "a row chooses a sampler"),
        ("paper.analytic=[tAB3]", "sampler=ddim_eta"),
        ("paper.analytic=[mine]", "there is no row 'mine'"),
        ("paper.repeats=0", "paper.repeats must be at least 1"),
    ],
)
def test_what_cannot_be_computed_is_refused_before_anything_is(override, said):
    with pytest.raises(ValueError, match=re.escape(said)):
        composed("seeds", "paper.nfe=[5]", override)


def test_rows_have_guidance_of_their_own_over_that_of_the_table():
    """Rows without it are identified as before, so that finished cells are found again."""
    paper, planned = composed("guidance")
    cells = {cell.row: cell for cell in planned}
    assert given(cells["no guidance"].eps) == {}
    assert given(cells["interval"].eps) == {"guidance": 2.0, "guidance_interval": [0.2, 2.0]}
    assert given(cells["autoguidance"].eps) == {"guidance": 2.0, "guidance_network": "network"}
    assert "guidance" not in cells["no guidance"].options
    assert cells["rescale"].options["guidance_rescale"] == 0.7
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        whole = plan_cells(paper, deis.vp_linear(), 10, EpsOptions(label=3, guidance=4.0))
    assert {cell.row: (cell.eps.label, cell.eps.guidance) for cell in whole} == {
        row: (3, cell.eps.guidance or 4.0) for row, cell in cells.items()
    }


@pytest.mark.parametrize(
    ("row", "said"), [(AdaptiveRow("x", [0.1]), "must be rho or t"), (AdaptiveRow("t", [0.0]), "must be positive")]
)
def test_adaptive_rows_are_checked_too(row, said):
    with pytest.raises(ValueError, match=f"row mine of the paper: .*{said}"):
        plan_cells(Paper(adaptive={"mine": row}), deis.vp_linear(), 10)


def test_a_cells_file_changes_with_what_it_depends_on_and_with_nothing_else():
    def names(*overrides, **surroundings):
        return [cell.file_name(surroundings) for cell in composed("seeds", *overrides)[1]]

    same = names("num_samples=100", weights="a")
    assert names("num_samples=100", "batch_size=7", "paper.title=other", weights="a") == same
    for changed in (names("num_samples=100", weights="b"), names("num_samples=101", weights="a")):
        assert not set(changed) & set(same)
    other_grid = names("num_samples=100", "paper.grid=['sampler.ts_order=3']", weights="a")
    assert not set(other_grid) & set(same)


def test_entries_are_means_with_spread_and_further_calls():
    grid = measured_grid([record(fid=fid, repeat=i) for i, fid in enumerate((4.0, 5.0, 7.0))] + [record("rk", nfe=12)])
    assert grid["tAB3"][10][:3] == (pytest.approx(16 / 3), 0, pytest.approx(np.std([4, 5, 7], ddof=1)))
    assert grid["rk"][10] == Entry(4.17, 2)
    assert measured_grid([record(fid=1.0), record(error="NaN", fid=None)])["tAB3"][10] == Entry("ERR")
    adaptive = record("DOPRI5", nfe_asked=None, tolerance=0.1, nfe=38, fid=10.0)
    assert measured_grid([adaptive]) == {}
    assert measured_grid([adaptive, record()], "tolerance") == {"DOPRI5": {0.1: Entry("10.00 at 38 NFE")}}
    failed = {key: value for key, value in adaptive.items() if key not in ("nfe", "fid")} | {"error": "NaN"}
    assert measured_grid([failed], "tolerance") == {"DOPRI5": {0.1: Entry("ERR")}}


def test_orderings_hold_only_if_every_step_does():
    table = paper(orderings=[Ordering(["tAB3", "tAB2", "DDIM"], [5, 10, 20])])
    grid = measured_grid([
        record("tAB3", 5, 15.4), record("tAB2", 5, 16.3), record("DDIM", 5, 26.9),
        record("tAB3", 10, 4.6), record("tAB2", 10, 4.6), record("DDIM", 10, 11.1),
    ])  # fmt: skip
    rows = rows_of(markdown_orders(table, grid))
    assert list(rows) == ["NFE", "5", "10"], "20 is no column"
    assert rows["5"] == ["tAB3 < tAB2 < DDIM", "yes", "15.40 < 16.30 < 26.90"]
    assert rows["10"][1:] == ["**no**", "4.60 >= 4.60 < 11.10"]
    del grid["DDIM"]
    assert rows_of(markdown_orders(table, grid))["5"][1:] == ["-", "not measured"]
    assert markdown_orders(paper(), grid) == ""


def test_verdicts_are_yes_no_or_within_noise():
    """Rows whose FIDs move together, block by block, are told apart by less than each one's own error."""

    def measured(row, fid, shifts, **fields):
        return record(row, 5, fid, fid_without_block=[fid + shift for shift in shifts], **fields)

    shared, alone = [0.1, -0.1] * 5, [0.1] * 5 + [-0.1] * 5
    table = paper(orderings=[Ordering(["tAB3", "DDIM"], [5])])

    def verdict(*records):
        return rows_of(markdown_orders(table, measured_grid(records)))["5"][1:]

    assert verdict(measured("tAB3", 4.0, shared), measured("DDIM", 4.2, shared)) == ["yes", "4.00 ± 0.30 < 4.20 ± 0.30"]
    assert verdict(measured("tAB3", 4.2, shared), measured("DDIM", 4.0, shared))[0] == "**no**"
    # their blocks have correlation 0.2, so that two standard errors of the difference are 6 sqrt(0.016) = 0.76
    for fid, said in ((4.75, "within noise"), (4.77, "yes")):
        assert verdict(measured("tAB3", 4.0, shared), measured("DDIM", fid, alone))[0] == said
    assert verdict(measured("tAB3", 4.0, shared), measured("DDIM", 4.0, alone))[1] == "4.00 ± 0.30 ≈ 4.00 ± 0.30"
    halves = [measured(row, fid, shifts, repeat=i) for row, fid, shifts in (("tAB3", 4.0, shared), ("DDIM", 4.7, alone))
              for i in range(2)]  # fmt: skip
    assert verdict(*halves)[0] == "yes", "two sets of seeds: the error is smaller by sqrt(2)"
    assert "two standard errors" in markdown_orders(table, measured_grid(halves))


def test_page_keeps_published_numbers_apart_and_marks_the_best():
    table = paper(
        published=[Published("CIFAR-10, their network", "the authors' table", {"theirs": {5: [108, 1], 10: ">200"}})]
    )
    text = paper_page(
        table, [record(), record("DDIM", fid=11.14), record("rk", fid=1.0, nfe=11), record("bad", error="NaN")]
    )
    measured, published = text.split("## Published, for CIFAR-10, their network")
    assert rows_of(measured)["tAB3"] == ["**4.17**"]
    assert rows_of(measured)["rk"] == ["1.00 <sup>+1</sup>"]
    assert rows_of(measured)["bad"] == ["ERR"]
    assert "ERR: bad: NaN" in measured
    assert "theirs" not in measured
    assert rows_of(published)["theirs"] == ["108 <sup>+1</sup>", ">200"]
    assert "Source: the authors' table." in published
    assert "FID-digits-1k against the training images of digits, network run at step 800" in measured


def test_latex_is_balanced_and_escaped():
    table = paper(grid=["sampler.ts_order=2"], published=[Published("50 %", "a & b", {"x_1 ± ^": {10: 3.0}})])
    text = latex(table, [record(), record("eta<1", nfe=11)])
    assert text.count(r"\begin{tabular}") == text.count(r"\end{tabular}") == 2
    bare = re.sub(r"\\[&%$#_{}^]|\$\\?\w*[<>]?\$|\\[a-z]+", "", text.replace(r" & ", " "))
    assert not re.search(r"(?<!\\)[%#_^&<>±]", bare.replace("\\\\", ""))
    assert r"eta$<$1 & 4.17\textsuperscript{+1} \\" in text
    assert r"tAB3 & \textbf{4.17} \\" in text
    assert r"50 \%" in text


def test_csv_names_source_of_what_was_published(tmp_path):
    table = paper(published=[Published("of", "the authors' table", {"tAB3": {10: 4.17}})])
    write_records(tmp_path / "results.csv", table, [record(fid=12.0), record(nfe_asked=5)])
    with (tmp_path / "results.csv").open() as file:
        ten, five = csv.DictReader(file)
    assert (ten["fid"], ten["published"], ten["published_source"]) == ("12.0", "4.17", "the authors' table")
    assert (five["published"], five["published_source"]) == ("", "")


def test_a_table_that_contradicts_itself_is_refused():
    validate(paper())
    with pytest.raises(ValueError, match="rename one"):
        validate(paper(adaptive={"DDIM": AdaptiveRow(tolerances=[0.1])}))
    with pytest.raises(ValueError, match="no row 'x'"):
        validate(paper(orderings=[Ordering(["x"], [5])]))


@pytest.mark.skipif("DEIS_SHARED" not in os.environ, reason="DEIS_SHARED names the folder with the paper's numbers")
@pytest.mark.parametrize(
    "name", ["cifar10_vp", "cifar10_ablation", "cifar10_discrete", "celeba_discrete", "edm_yardstick"]
)
def test_published_numbers_are_those_of_the_paper(name):
    """Every printed number of a file stands in the notes that were taken of the publications."""
    notes = set(re.findall(r"\d+(?:\.\d+)?", (Path(os.environ["DEIS_SHARED"]) / "PAPER.md").read_text()))
    for block in composed(name)[0].published:
        for row in as_printed(block).values():
            for entry in row.values():
                numbers = re.findall(r"\d+(?:\.\d+)?", str(entry.value))
                assert all({f"{float(n):g}", f"{float(n):.1f}", f"{float(n):.2f}"} & notes for n in numbers), entry


def test_main_tables_numbers_stand_where_the_paper_has_them():
    block = composed("cifar10_vp")[0].published[0]
    lines = rows_of(markdown_grid(as_printed(block)))
    assert lines["tAB3"] == ["**15.37**", "**4.17**", "**3.37**", "**2.86**", "**2.57**"]
    assert lines["rho3Kutta"][0] == "185 <sup>+1</sup>"
    assert lines["rho2Heun"][3:] == ["3.50", "2.60"]
    read_off = rows_of(markdown_grid(as_printed(composed("cifar10_ablation")[0].published[0])))
    assert read_off["Euler"] == [">200", "91", "27", "8.4", "5.0", "**2.6**"]
