"""The table of a folder of trainings: the options they differ in against loss, FID and seconds, curves and samples."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from eval.figures import held_out_plot, samples_picture
from formats.tables import markdown_table
from runs.log import last_values, read_metrics

Run = dict[str, Any]  # the fields of status.json, the last values of metrics.jsonl, and "folder"

METRICS = {"loss": "{:.4g}", "eval_loss": "{:.5g}", "fid": "{:.2f}", "seconds": "{:.0f}"}  # columns, and how they look


def with_metrics(run: Run) -> Run:
    """The run of train.py with the last of everything that it logged."""
    path = Path(run["folder"]) / "metrics.jsonl"
    return run | (last_values(path) if path.is_file() else {})


def labels(runs: Sequence[Run]) -> list[dict[str, str]]:
    """The options in which the runs differ, for each run, in the order in which they were typed."""
    typed = [dict(text.partition("=")[::2] for text in run.get("overrides", ())) for run in runs]
    keys = dict.fromkeys(key for options in typed for key in options)
    differ = [key for key in keys if len({options.get(key) for options in typed}) > 1]
    return [{key: _short(options.get(key, "-")) for key in differ} for options in typed]


def _short(text: str) -> str:
    """A number of many digits, as a search proposes it, with four of them; any other text as it is."""
    return f"{float(text):.4g}" if re.fullmatch(r"[\d.e-]{9,}", text) else text


def trainings_page(runs: Sequence[Run]) -> str:
    """One line for each run, as Markdown: its folder, its options, its last metrics, the best of each in bold."""
    options, columns = labels(runs), [key for key in METRICS if any(run.get(key) is not None for run in runs)]
    done = [run for run in runs if run["status"] == "done"]
    best = {key: min((run[key] for run in done if run.get(key) is not None), default=None) for key in columns}
    names = sorted({run["fid_name"] for run in runs if run.get("fid_name")})
    if len(names) > 1:
        best["fid"] = None

    def cell(run: Run, key: str) -> str:
        if run.get(key) is None:
            return "-"
        text = METRICS[key].format(run[key])
        return f"**{text}**" if key != "seconds" and run["status"] == "done" and run[key] == best[key] else text

    lines = [
        [Path(run["folder"]).name, *own.values(), *(cell(run, key) for key in columns), run["status"]]
        for run, own in zip(runs, options, strict=True)
    ]
    text = f"{markdown_table(['training', *options[0], *columns, 'status'], lines)}\n\n"
    text += "eval_loss: of held-out images. seconds: of all starts. Lower is better; bold: best of those done.\n"
    text += f"fid: {', '.join(names)}{', which do not compare' if len(names) > 1 else ''}.\n" if names else ""
    failed = [run for run in runs if run["status"] == "failed"]
    return text + "".join(f"\nERR: {Path(run['folder']).name}: {run.get('error')}\n" for run in failed)


def draw_trainings(folder: Path, runs: Sequence[Run]) -> None:
    """Write loss.png, the held-out loss of every run by step, and grids.png, the newest samples of every run."""
    curves, pictures = {}, {}
    for run, own in zip(runs, labels(runs), strict=True):
        place = Path(run["folder"])
        label = " ".join([place.name, *(f"{key.rpartition('.')[2]}={value}" for key, value in own.items())])
        if (place / "metrics.jsonl").is_file():
            curves[label] = read_metrics(place / "metrics.jsonl")
        for newest in sorted(place.glob("samples_*.png"))[-1:]:
            pictures[label, "samples"] = np.atleast_3d(np.asarray(Image.open(newest)))[None]
    held_out_plot(folder / "loss.png", curves)
    if pictures:
        samples_picture(folder / "grids.png", pictures)
