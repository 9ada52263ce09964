"""The table of a folder of runs: gathered, arranged in rows and columns, and written."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from eval.figures import fid_vs_nfe_plot, precision_recall_plot
from eval.metrics.jackknife import BLOCKS
from eval.metrics.measurement import VALUES
from eval.paper.grid import Entry, columns_of, grid_rows
from eval.paper.trainings import METRICS, draw_trainings, labels, trainings_page, with_metrics
from formats.files import read_json, write_atomically
from formats.tables import markdown_table, write_csv
from runs.log import Log

Run = dict[str, Any]  # the fields of status.json and result.json, and "folder"
Rows = dict[str, dict[int, Run]]  # row name -> NFE asked for -> run

ROW_ORDER = ("ddim", "rho_rk", "rho_ab", "log_rho_ab", "t_ab", "ipndm")  # of the methods
COLUMNS = (
    "sampler", "method", "order", "nfe_asked", "nfe", "fid_name", *VALUES, "rmse", "psnr", "images_per_s", "seconds",
    "num_samples", "seeds", "dataset", "extractor", "checkpoint", "step", "overrides", "status", "error", "folder",
    "command", "loss", "eval_loss",
)  # fmt: skip
SHARED = ("dataset", "checkpoint", "step", "fid_name")  # runs of one table have these in common
# options, and groups with theirs, that are the column, that the runs of a table share, or that change no image
NOT_IN_ROW_NAMES = (
    "sampler.nfe", "run_dir", "output_root", "name", "logger", "distributed", "checkpoint", "step",
    "batch_size", "gif", "gif_samples", "grid_samples", "guidance_sheet", "keep_samples", "save", "metrics",
    "kid_subsets", "kid_subset_size", "distance_to_nfe",
)  # fmt: skip


def gather(folder: Path) -> tuple[list[Run], list[Run]]:
    """(every sampling run below `folder`, in the order of the table's rows and columns; every training run).

    A sampling run is a folder whose result.json or status.json names a sampler. Raises FileNotFoundError if the folder
    does not exist or holds no run; ValueError if a file is not JSON, or sampling runs do not fit in one table.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is not a folder; give the folder that sample.py or train.py wrote runs into")
    places = {path.parent for name in ("status.json", "result.json") for path in folder.rglob(name)}
    every = [_read_run(place) for place in sorted(places, key=_in_order)]
    runs = [run for run in every if "sampler" in run and "nfe_asked" in run]
    trainings = [with_metrics(run) for run in every if run.get("command") == "train"]
    if not runs and not trainings:
        raise FileNotFoundError(f"{folder} holds no results; run sample.py or train.py first")
    for key in SHARED:
        found = sorted({str(run[key]) for run in runs if run.get(key) is not None})
        if len(found) > 1:
            raise ValueError(f"{folder} mixes runs of different {key} ({', '.join(found)}); give a narrower folder")
    runs.sort(key=lambda run: (run.get("order") or 0, run["sampler"], run["nfe_asked"]))
    runs.sort(key=lambda run: [*ROW_ORDER, run.get("method")].index(run.get("method")))  # others last
    return runs, trainings


def _in_order(place: Path) -> list[tuple[int, str]]:
    """By name, the jobs of a sweep by number: 2 before 10."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in place.parts]


def _read_run(folder: Path) -> Run:
    run: Run = {"status": "done", "folder": str(folder)}
    for path in (folder / "status.json", folder / "result.json"):
        if path.is_file() and run["status"] == "done":  # a result in a run that is not done is of an earlier one
            try:
                run |= read_json(path)
            except ValueError as error:
                raise ValueError(f"{error}; delete it, and start the run again") from None
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
    typed = [(text, text.partition("=")[0]) for text in run.get("overrides", ())]
    return {text for text, key in typed if not {key, key.partition(".")[0]} & {*NOT_IN_ROW_NAMES}}


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
    words = {" on": "dataset", ", checkpoint": "checkpoint", " at step": "step"}
    named = "".join(f"{word} {about[key]}" for word, key in words.items() if about[key] is not None)
    text = (
        f"{markdown_table(header, lines)}\n\n{about['fid_name'] or 'No FID'}{named}; lower is better. "
        "Bold: best of those within the NFE. +k: k more network calls were made.\n"
    )
    if any(run.get("fid_standard_error") is not None for run in runs):
        text += f"\n±: one standard error, by leaving out each of {BLOCKS} blocks of the samples in turn.\n"
    failed = [run for run in runs if run["status"] == "failed"]
    return text + "".join(f"\nERR: {run['sampler']} at NFE {run['nfe_asked']}: {run.get('error')}\n" for run in failed)


def _entry(run: Run) -> Entry:
    if run["status"] != "done":
        return Entry("ERR" if run["status"] == "failed" else "-")
    if run.get("fid") is None:
        return Entry("no FID")
    return Entry(float(run["fid"]), run["nfe"] - run["nfe_asked"], run.get("fid_standard_error"))


def write_table(folder: Path) -> str:
    """Write table.md, table.csv and what can be drawn; returns the Markdown. Raises as `gather`.

    fid_vs_nfe.png, precision_recall.png: of sampling runs that have these. loss.png and grids.png: of training runs.
    """
    runs, trainings = gather(folder)
    rows = arrange(runs)
    text = "\n".join(([sweep_page(rows)] if runs else []) + ([trainings_page(trainings)] if trainings else []))
    write_atomically(folder / "table.md", text)
    lines = [run | {"overrides": " ".join(run.get("overrides", ()))} for run in (*runs, *trainings)]
    write_csv(folder / "table.csv", lines, COLUMNS)
    measured = [run | {"sampler": name} for name, cells in rows.items() for run in cells.values()]
    fid_vs_nfe_plot(folder / "fid_vs_nfe.png", measured)
    precision_recall_plot(folder / "precision_recall.png", measured)
    draw_trainings(folder, trainings)
    return text


def log_table(folder: Path, log: Log) -> None:
    """Log the runs below `folder` as tables with their pictures, and FID against NFE with a line for each row."""
    runs, trainings = gather(folder)
    rows = [(name, run) for name, cells in arrange(runs).items() for run in cells.values()]
    for step, (name, run) in enumerate((name, run) for name, run in rows if run.get("fid") is not None):
        log.metrics(step, {f"fid/{name}": run["fid"], "nfe": run["nfe"]})
    shown = ["nfe_asked", "nfe", "fid", "fid_name", "fid_standard_error", "images_per_s", "seeds", "checkpoint", "step"]
    shown += ["status", "folder"]
    samples = [{"row": name} | {key: run.get(key) for key in shown} | picture(run) for name, run in rows]
    log.table(len(rows), "samples", samples)
    options = labels(trainings)
    metrics = [{key: run.get(key) for key in (*METRICS, "fid_name", "status", "folder")} for run in trainings]
    pictures = [picture(run) for run in trainings]
    log.table(len(rows), "trainings", [a | b | c for a, b, c in zip(options, metrics, pictures, strict=True)])


def picture(run: Run) -> dict[str, Path | None]:
    """The grid of a run of sample.py, or the newest one of a training, as a column of a table."""
    folder = Path(run["folder"])
    found = [*sorted(folder.glob("samples_*.png")), *folder.glob("grid.png")]
    return {"samples": found[-1] if found else None}
