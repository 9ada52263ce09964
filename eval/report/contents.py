"""What a report shows of a folder: facts, tables, pictures and options, of one run or of every run of a sweep."""

import io
from pathlib import Path
from typing import Any

from eval.figures import fid_vs_nfe_plot, loss_curve_plot
from eval.paper.sweep import arrange, gather, sweep_page
from eval.paper.trainings import trainings_page
from eval.report.page import facts, folded, heading, html_of_markdown, page, picture, preformatted
from formats.files import read_json
from runs.folder import read_status
from runs.log import read_metrics

PICTURES = (".png", ".svg", ".gif")
GRIDS_OF_A_TRAINING = 6  # samples_<step>.png that are shown, evenly spaced, the newest among them
LEFT_OUT = ("pid", "host", "exit_code")  # fields of status.json that say nothing of the result


def report(folder: Path) -> str:
    """The HTML page of a run's or a sweep's folder. Raises FileNotFoundError or ValueError, in one sentence."""
    if (folder / "status.json").is_file():
        return page(str(folder), [heading(1, str(folder)), *_run(folder)])
    runs = sorted({path.parent for path in folder.glob("*/status.json")}, key=lambda run: (len(run.name), run.name))
    if not runs:
        raise FileNotFoundError(
            f"{folder} holds no run, nor runs one level below; give the folder that a command printed"
        )
    parts = [heading(1, str(folder))]
    if any("sampler" in status or status.get("command") == "train" for status in map(read_status, runs)):
        parts += _comparison(folder)
    for run in runs:
        values, *shown = _run(run)
        options = " ".join(_values(run).get("overrides", ()))
        parts += [heading(2, f"{run.name}: {options}" if options else run.name), *shown, folded("numbers", values)]
    return page(str(folder), parts)


def _comparison(folder: Path) -> list[str]:
    """The table of a sweep of sample.py, with its plot if FIDs were measured, and that of one of train.py."""
    runs, trainings = gather(folder)
    rows = arrange(runs)
    parts = [html_of_markdown(sweep_page(rows))] if runs else []
    parts += [html_of_markdown(trainings_page(trainings))] if trainings else []
    plot = io.BytesIO()
    fid_vs_nfe_plot(plot, [run | {"sampler": name} for name, cells in rows.items() for run in cells.values()])
    return parts + ([picture("FID against network calls", ".png", plot.getvalue())] if plot.getvalue() else [])


def _values(folder: Path) -> dict[str, Any]:
    """What status.json and, of a run that is done, result.json say."""
    values = {key: value for key, value in read_status(folder).items() if key not in LEFT_OUT}
    if (folder / "result.json").is_file() and values["status"] == "done":
        values |= read_json(folder / "result.json")
    return values


def _run(folder: Path) -> list[str]:
    """The parts of one run, its table of values first."""
    values = _values(folder)
    records = read_metrics(folder / "metrics.jsonl") if (folder / "metrics.jsonl").is_file() else []
    trained = any("loss" in record for record in records)
    if trained:
        values |= {
            key: value for record in records for key, value in record.items() if not key.startswith("loss_level")
        }
    parts = [facts(values)]
    parts += [html_of_markdown(path.read_text()) for path in sorted(folder.glob("*.md"))]
    if trained:
        plot = io.BytesIO()
        loss_curve_plot(plot, records)
        parts += [picture("loss", ".png", plot.getvalue())] if plot.getvalue() else []
    parts += [picture(path.stem, path.suffix, path.read_bytes()) for path in _pictures(folder, trained)]
    if (folder / "config.yaml").is_file():
        parts.append(folded("options", preformatted((folder / "config.yaml").read_text())))
    return parts


def _pictures(folder: Path, trained: bool) -> list[Path]:
    """The picture files of a run: plots as SVG where there are both, and a few of a training's grids."""
    found: dict[str, Path] = {path.stem: path for kind in PICTURES for path in sorted(folder.glob(f"*{kind}"))}
    if trained:
        found.pop("loss", None)  # drawn anew: a run that is not done has none
    grids = [stem for stem in sorted(found) if stem.startswith("samples_")]
    step = max(1, -(-len(grids) // GRIDS_OF_A_TRAINING))
    hidden = set(grids) - set(grids[::-1][::step])
    return [found[stem] for stem in sorted(found) if stem not in hidden]
