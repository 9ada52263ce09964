"""The report of a folder: what it shows of each kind of run, that it needs no other file, and its errors."""

import base64
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from commands import run_here

from eval.figures import save_png
from eval.report.contents import report
from eval.report.page import html_of_markdown

RESULT = {"sampler": "tAB3", "method": "t_ab", "order": 3, "nfe": 10, "nfe_asked": 10, "fid": 4.1712345} | {
    "fid_name": "FID-digits-1k",
    "num_samples": 1000,
    "dataset": "digits",
    "checkpoint": "run",
    "step": 800,
    "overrides": ["sampler=tab3"],
}


class Tags(HTMLParser):
    """The tags of a page, which must be closed in the order in which they were opened."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.links: list[str] = []
        self.feed(page)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in ("meta", "link", "img"):
            self.open.append(tag)
        self.links += [value or "" for key, value in attrs if key in ("src", "href")]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def pictures(page: str) -> list[bytes]:
    """The pictures of a page, which must need nothing but the page."""
    links = Tags(page).links
    assert all(link.startswith("data:") for link in links)
    assert "<script" not in page
    return [base64.b64decode(link.partition("base64,")[2]) for link in links if "base64," in link]


def write_run(folder: Path, status: str = "done", **result: object) -> Path:
    folder.mkdir(parents=True)
    fields = RESULT | result
    facts = {"sampler": fields["sampler"], "nfe_asked": fields["nfe_asked"], "pid": 4711}
    (folder / "status.json").write_text(json.dumps({"status": status, **facts}))
    (folder / "result.json").write_text(json.dumps(fields))
    (folder / "config.yaml").write_text("name: <samples>\n")
    save_png(folder / "grid.png", np.full((4, 4, 1), 9, np.uint8))
    return folder


def test_a_run_of_sampling(tmp_path: Path) -> None:
    page = report(write_run(tmp_path / "run"))
    assert pictures(page) == [(tmp_path / "run" / "grid.png").read_bytes()]
    assert "<td>fid</td><td>4.171</td>" in page
    assert "<td>overrides</td><td>sampler=tab3</td>" in page
    assert "name: &lt;samples&gt;" in page
    assert "4711" not in page


def test_a_result_of_an_earlier_run_is_not_shown(tmp_path: Path) -> None:
    assert "4.171" not in report(write_run(tmp_path / "run", status="failed"))


def test_a_training_that_still_runs(tmp_path: Path) -> None:
    """Its loss is drawn, its last values are shown, and of its grids six, the newest among them."""
    (tmp_path / "status.json").write_text('{"status": "running", "command": "train"}')
    records = [{"step": step, "loss": 1 / step, "loss_level_0": 0.5} for step in range(1, 21)]
    lines = [json.dumps(record) for record in [*records, {"step": 20, "eval_loss": 0.0625}]]
    (tmp_path / "metrics.jsonl").write_text("\n".join(lines) + '\n{"step": 21, "lo')
    for step in range(1, 12):
        save_png(tmp_path / f"samples_{step:07d}.png", np.full((4, 4, 1), step, np.uint8))
    page = report(tmp_path)
    assert len(pictures(page)) == 7
    assert re.findall("<figcaption>(.*?)<", page) == ["loss", *(f"samples_{step:07d}" for step in range(1, 12, 2))]
    assert "<td>eval_loss</td><td>0.0625</td>" in page
    assert "<td>loss</td><td>0.05</td>" in page


def test_a_sweep_has_a_table_a_plot_and_every_run(tmp_path: Path) -> None:
    for name, nfe, fid in (("10", 20, 3.0), ("9", 10, 4.0), ("2", 5, 9.0)):
        write_run(tmp_path / name, nfe=nfe, nfe_asked=nfe, fid=fid, overrides=[f"sampler.nfe={nfe}"])
    page = report(tmp_path)
    assert re.findall("<h2>(.*?)</h2>", page) == ["2: sampler.nfe=5", "9: sampler.nfe=10", "10: sampler.nfe=20"]
    assert '<td class="number"><strong>9.00</strong></td>' in page
    assert len(pictures(page)) == 4


def test_a_sweep_of_trainings(tmp_path: Path) -> None:
    for name in "01":
        (tmp_path / name).mkdir()
        (tmp_path / name / "status.json").write_text(
            f'{{"status": "done", "command": "train", "overrides": ["seed={name}"]}}'
        )
        (tmp_path / name / "metrics.jsonl").write_text('{"step": 1, "loss": 0.5}\n')
    page = report(tmp_path)
    assert re.findall("<h2>(.*?)</h2>", page) == ["0: seed=0", "1: seed=1"]
    assert re.findall('<tr><td>(.)</td><td class="number">(.)</td>', page) == [("0", "0"), ("1", "1")]  # the table
    assert len(pictures(page)) == 2


def test_a_table_of_the_paper(tmp_path: Path) -> None:
    """Its page, and its plot as SVG, which stays sharp."""
    (tmp_path / "status.json").write_text('{"status": "done", "command": "table"}')
    (tmp_path / "table.md").write_text(
        "# T\n\n| sampler | 5 |\n|---|---:|\n| a < b | **1** <sup>+1</sup> |\n\nOf `x_0`.\n"
    )
    (tmp_path / "fid_vs_nfe.svg").write_text("<svg/>")
    (tmp_path / "fid_vs_nfe.png").write_bytes(b"png")
    page = report(tmp_path)
    assert pictures(page) == [b"<svg/>"]
    assert '<td>a &lt; b</td><td class="number"><strong>1</strong> <sup>+1</sup></td>' in page


def test_markdown_of_results() -> None:
    assert html_of_markdown("# A\n\n## B\n\nC & `d < e`,\nf.\n") == (
        "<h2>A</h2>\n<h3>B</h3>\n<p>C &amp; <code>d &lt; e</code>,\nf.</p>"
    )


def test_the_command(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run")
    done = run_here("eval.report", str(folder))
    assert (done.returncode, done.stdout) == (0, f"{folder / 'report.html'}\n")
    assert (folder / "report.html").read_text() == report(folder)
    assert run_here("eval.report", "--help").returncode == 0


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ([], "error: give one folder, as python -m eval.report FOLDER; got 0 words\n"),
        (["none"], "error: none holds no run, nor runs one level below; give the folder that a command printed\n"),
        (["mixed"], "error: mixed mixes runs of different step (400, 800); give a narrower folder\n"),
    ],
)
def test_what_cannot_be_shown_is_one_sentence(tmp_path: Path, words: list[str], sentence: str) -> None:
    write_run(tmp_path / "mixed" / "0")
    write_run(tmp_path / "mixed" / "1", step=400, nfe_asked=5)
    done = run_here("eval.report", *words, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (2, sentence)
