"""The table of a folder of sampling runs: gathered, arranged in rows and columns, and written."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from eval.figures import fid_vs_nfe_plot
from eval.paper.grid import Entry, columns_of, grid_rows
from formats.tables import markdown_table, write_csv

Run = dict[str, Any]  # the fields of status.json and result.json, and "folder"
Rows = dict[str, dict[int, Run]]  # row name -> NFE asked for -> run

ROW_ORDER = ("ddim", "rho_rk", "rho_ab", "log_rho_ab", "t_ab", "ipndm")  # of the methods
COLUMNS = (
    "sampler", "method", "order", "nfe_asked", "nfe", "fid_name", "fid", "images_per_s", "seconds", "num_samples",
    "seeds", "dataset", "extractor", "checkpoint", "step", "overrides", "status", "error", "folder",
)  # fmt: skip
SHARED = ("dataset", "checkpoint", "step", "fid_name")  # runs of one table have these in common
# overrides that are the column, or that change no image
NOT_IN_ROW_NAMES = (
    "sampler.nfe", "run_dir", "output_root", "name", "logger", "batch_size", "gif", "grid_samples", "guidance_sheet",
    "keep_samples", "save", "metrics", "kid_subsets", "kid_subset_size",
)  # fmt: skip


def gather(folder: Path) -> list[Run]:
    """Every sampling run below `folder`, in the order of the table's rows and columns.

    A run is a folder whose result.json or status.json names a sampler; training runs do not. Raises FileNotFoundError
    if the folder does not exist or holds no run; ValueError if a file is not JSON, or runs do not fit in one table.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is not a folder; give the folder that sample.py wrote its runs into")
    places = {path.parent for name in ("status.json", "result.json") for path in folder.rglob(name)}
    runs = [run for run in map(_read_run, sorted(places)) if "sampler" in run and "nfe_asked" in run]
    if not runs:
        raise FileNotFoundError(f"{folder} holds no results; run sample.py first")
    for key in SHARED:
        found = sorted({str(run[key]) for run in runs if run.get(key) is not None})
        if len(found) > 1:
            raise ValueError(f"{folder} mixes runs of different {key} ({', '.join(found)}); give a narrower folder")
    runs.sort(key=lambda run: (run.get("order") or 0, run["sampler"], run["nfe_asked"]))
    return sorted(runs, key=lambda run: [*ROW_ORDER, run.get("method")].index(run.get("method")))  # others last


def _read_run(folder: Path) -> Run:
    run: Run = {"status": "done", "folder": str(folder)}
    for path in (folder / "status.json", folder / "result.json"):
        if path.is_file() and run["status"] == "done":  # a result in a run that is not done is of an earlier one
            try:
                run |= json.loads(path.read_text())
            except ValueError as error:
                raise ValueError(f"{path} is not JSON ({error}); delete it and sample again") from error
            run["written"] = path.stat().st_mtime
    return run


def arrange(runs: Sequence[Run]) -> Rows:
    """Arrange runs in rows; runs of one sampler that differ in an override get rows that name it.

    Of several runs of a cell the newest finished one is shown. A run that does not know its overrides, having failed
    early, stands in the row of the bare sampler.
    """
    shared: dict[str, set[str]] = {}
    for run in runs:
        if "overrides" in run:
            shared[run["sampler"]] = shared.get(run["sampler"], _settings(run)) & _settings(run)
    rows: Rows = {}
    for run in runs:
        special = sorted(_settings(run) - shared.get(run["sampler"], set()))
        name = f"{run['sampler']} ({' '.join(special)})" if special else run["sampler"]
        cells = rows.setdefault(name, {})
        rivals = (run, cells.get(run["nfe_asked"], run))
        cells[run["nfe_asked"]] = max(rivals, key=lambda run: (run["status"] == "done", run["written"]))
    return rows


def _settings(run: Run) -> set[str]:
    return {text for text in run.get("overrides", ()) if text.partition("=")[0] not in NOT_IN_ROW_NAMES}


def sweep_page(rows: Rows) -> str:
    """The table as Markdown, in the paper's manner: best in bold, +k where k more network calls were made."""
    runs = [run for cells in rows.values() for run in cells.values()]
    grid = {name: {nfe: _entry(run) for nfe, run in cells.items()} for name, cells in rows.items()}
    columns = columns_of(grid)
    lines = grid_rows(grid)
    for line, cells in zip(lines, rows.values(), strict=True):
        speed = cells.get(columns[-1], {}).get("images_per_s")
        line.append("-" if speed is None else f"{speed:.4g}")
    header = ["sampler", *(f"NFE {nfe}" for nfe in columns), f"images/s at {columns[-1]}"]
    about = {key: next((run[key] for run in runs if run.get(key) is not None), None) for key in SHARED}
    text = (
        f"{markdown_table(header, lines)}\n\n"
        f"{about['fid_name'] or 'No FID'} on {about['dataset']}, checkpoint {about['checkpoint']} at step "
        f"{about['step']}; lower is better. Bold: best of those within the NFE. +k: k more network calls were made.\n"
    )
    failed = [run for run in runs if run["status"] == "failed"]
    return text + "".join(f"\nERR: {run['sampler']} at NFE {run['nfe_asked']}: {run.get('error')}\n" for run in failed)


def _entry(run: Run) -> Entry:
    if run["status"] != "done":
        return Entry("ERR" if run["status"] == "failed" else "-")
    return Entry("no FID") if run.get("fid") is None else Entry(float(run["fid"]), run["nfe"] - run["nfe_asked"])


def write_table(folder: Path) -> str:
    """Write table.md, table.csv and, if there is a FID, fid_vs_nfe.png; returns the Markdown. Raises as `gather`."""
    runs = gather(folder)
    rows = arrange(runs)
    text = sweep_page(rows)
    (folder / "table.md").write_text(text)
    write_csv(folder / "table.csv", [run | {"overrides": " ".join(run.get("overrides", ()))} for run in runs], COLUMNS)
    measured = [run | {"sampler": name} for name, cells in rows.items() for run in cells.values()]
    fid_vs_nfe_plot(folder / "fid_vs_nfe.png", measured)
    return text
