"""Learning a table for a trained network, so that a killed process goes on, and comparing it with what it came from."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from tqdm import tqdm

import data
import deis
from deis.learn import Progress
from eval.few_calls.trajectories import Trajectories
from eval.figures import panels
from eval.metrics.measurement import Measurement
from formats.files import read_npz, write_npz
from formats.tables import write_csv
from models.sampling.draw import Trained, draw
from models.sampling.options import EpsOptions
from runs.errors import stop_requests

CHOSEN_BY = 32  # trajectories that a base is chosen by
SHOWN = 9  # images of every solver in the picture


def chosen(sde: deis.SDE, fine: Trajectories, nfe: int, batch_size: int) -> deis.Table:
    """The best untrained table of `nfe` calls that can be learned from: one whose times do not turn back."""
    few = [None if one is None else one[: max(CHOSEN_BY, batch_size)] for one in fine[1:]]
    candidates = [table for table in deis.learn.untrained(sde, nfe) if np.all(np.diff(table.rho) <= 0)]
    x_T, x_0, label = few
    return deis.choose(sde, fine.eps_fn, x_T, x_0, nfe, candidates, batch_size, condition=label)[0].table


def learned(
    sde: deis.SDE, fine: Trajectories, base: deis.Table, folder: Path, batch_size: int, **options: Any
) -> tuple[deis.Table, int | None]:
    """`deis.learn.fit` with its options, and the signal that stopped it early, if one did.

    Every step is written into the folder: progress.npz, from which a later call goes on, and curve.csv.
    """
    path, steps = folder / "progress.npz", options["steps"]
    start = _progress(read_npz(path)) if path.is_file() else None
    rows = [] if start is None else [{"step": n, "rms": float(e)} for n, e in enumerate(read_npz(path)["curve"])]
    with stop_requests() as stop_signal, tqdm(total=steps, initial=start.step if start else 0, leave=False) as bar:

        def progress(at: Progress) -> Any:
            if not rows:
                rows.append({"step": 0, "rms": at.base})
            rows.append({"step": at.step, "rms": at.error})
            curve = np.array([row["rms"] for row in rows])
            write_npz(path, {name: np.asarray(value) for name, value in at._asdict().items()} | {"curve": curve})
            bar.set_postfix(rms=f"{at.error:.4f}", best=f"{at.best:.4f}", base=f"{at.base:.4f}")
            bar.update()
            return stop_signal()

        table = deis.learn.fit(
            sde,
            fine.eps_fn,
            base,
            fine.x_T,
            fine.x_0,
            batch_size=batch_size,
            condition=fine.label,
            progress=progress,
            start=start,
            **options,
        )
        if rows:
            write_csv(folder / "curve.csv", rows)
            _plot(folder / "curve.png", rows)
        return table, stop_signal()


def _progress(saved: dict[str, np.ndarray]) -> Progress:
    values: Any = {name: saved[name] for name in Progress._fields}
    return Progress(**{name: value if value.ndim else value.item() for name, value in values.items()})


def _plot(path: Path, rows: Sequence[dict[str, float]]) -> None:
    figure, (axes,) = panels(1, (7.0, 3.6))
    axes.set(xlabel="step", ylabel="RMS difference, held out", yscale="log")
    axes.plot([row["step"] for row in rows], [row["rms"] for row in rows], color="#0072B2", marker="o", markersize=3)
    figure.savefig(path)


def compare(
    net: Trained,
    solvers: dict[str, deis.Table],
    num_samples: int,
    batch_size: int,
    rounding: str,
    options: EpsOptions,
    measurement: Callable[[], Measurement] | None,
) -> tuple[list[dict[str, Any]], dict[tuple[str, str], UInt8[np.ndarray, "n h w c"]]]:
    """Every solver's samples of the seeds 0, 1, 2, ..., beside those of the last one.

    Returns the rows of a table, and the first images of every solver. rms: root mean square difference to the last
    solver's images, before they are rounded. measurement: what opens a new measurement of samples; None for no FID.
    """
    seeds, target = list(range(num_samples)), []
    rows: list[dict[str, Any]] = []
    shown: dict[tuple[str, str], np.ndarray] = {}
    for name, table in reversed(solvers.items()):
        measure = None if measurement is None else measurement()
        square = 0.0
        for i, x_0 in enumerate(draw(net, table, seeds, min(batch_size, num_samples), options)):
            if name == list(solvers)[-1]:
                target.append(x_0)
            square += float(np.sum((x_0 - target[i]) ** 2)) / x_0[0].size
            images = data.to_uint8(x_0, rounding)
            shown.setdefault((f"{name}, {table.nfe} calls", ""), images[:SHOWN])
            if measure is not None:
                measure.add(images)
        row = {"solver": name, "table": table.name, "nfe": table.nfe, "rms": (square / num_samples) ** 0.5}
        rows.insert(0, row | (measure.result() if measure is not None else {}))
    return rows, dict(reversed(shown.items()))
