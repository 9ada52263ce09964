"""The paper's analysis as files: every figure as .png and .svg, its rows as .csv, and a table of them as .md."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Float
from matplotlib.figure import Figure

import deis
from deis.sampler import EpsFn
from eval.exact import discretisation
from eval.exact import toy_network as toy
from eval.exact.discretisation import Row
from eval.exact.mixture import IN_1D, IN_2D
from eval.figures import MARKERS, against_nfe, panels
from formats.tables import markdown_table, write_csv
from models.sampling.draw import load_trained, starts
from models.sampling.source import Source
from models.score import eps_fn
from runs.errors import NonFiniteError, checking

PAIR = {"eps": "#0072B2", "score": "#D55E00"}
ORDER_COLOURS = ("#666666", "#56B4E9", "#0072B2", "#D55E00")


def start(source: Source | None, sde: deis.SDE, seeds: list[int]) -> tuple[EpsFn, Float[Array, "batch *dims"]]:
    """(eps_fn, x_T) of the network's images with these seeds; without a network, of as many points of the mixture."""
    if source is None:
        noise = jax.vmap(lambda seed: sde.prior_sample(jax.random.key(seed), (2,)))
        return IN_2D.eps_fn(sde), noise(jax.numpy.array(seeds, jax.numpy.uint32))
    with checking():
        net = load_trained(source.path, source.step)
    at = starts(net, seeds)
    return eps_fn(net.network, net.sde, net.params, at.label), at.x_T


def write_trajectories(
    run_dir: Path, sde: deis.SDE, eps_fn: EpsFn, x_T: Array, nfes: Sequence[int], grid: tuple[str, float]
) -> str:
    """Write what is measured along trajectories; returns the table of pixel differences, as Markdown.

    grid: the phase and order of `deis.timesteps`. Raises NonFiniteError for trajectories with NaN or infinity.
    """
    path = discretisation.fine_trajectory(sde, eps_fn, x_T, *grid)
    if not (np.all(np.isfinite(path.x)) and np.all(np.isfinite(path.eps))):
        raise NonFiniteError("the trajectories hold NaN or infinite values; the network or the schedule is at fault")
    rows, shown = discretisation.relative_change_rows(path), ("quantity", "relative_change")
    figure = pair_figure(rows, *shown, ylabel="relative change", yscale="log")
    _write(run_dir / "relative_change", figure, rows, "t", *shown)
    rows, shown = discretisation.holding_rows(path), ("held", "eps_error")
    figure = pair_figure(rows, *shown, ylabel="error in eps", title="held constant over each step")
    _write(run_dir / "holding", figure, rows, "t", *shown)
    rows = discretisation.extrapolation_rows(path)
    _write(run_dir / "extrapolation", extrapolation_figure(rows), rows, "nfe", "order", "eps_error")
    rows = discretisation.pixel_difference_rows(sde, eps_fn, x_T, path.x[-1], nfes, *grid)
    figure, shown = pixel_difference_figure(rows), ("nfe_asked", "pixel_difference")
    return _write(run_dir / "pixel_difference", figure, rows, "sampler", *shown)


def write_toy_network(run_dir: Path, sde: deis.SDE, seed: int, fit_steps: int) -> None:
    """Fit the toy network in one and in two dimensions, and write where it is wrong."""
    ts = deis.timesteps(sde, 40, "t", 2.0)
    by_time: list[Row] = []
    for dim, mixture in ((1, IN_1D), (2, IN_2D)):
        key_fit, key_measure = jax.random.split(jax.random.fold_in(jax.random.key(seed), dim))
        net = toy.fit(sde, mixture, key_fit, fit_steps)
        by_time += [row | {"dim": dim} for row in toy.error_by_time(net, sde, mixture, ts, key_measure)]
        if dim == 1:
            error_map = toy.error_map(net, sde, mixture, np.linspace(-2.5, 2.5, 101), ts)
    write_csv(run_dir / "fitting_map.csv", error_map)
    _write(run_dir / "fitting", fitting_figure(error_map, by_time), by_time, "t", "dim", "eps_error")


def means_table(rows: Sequence[Row], index: str, columns: str, value: str) -> str:
    """A Markdown table with a line for each `index` and a column for each `columns`, in order of appearance.

    A cell is the mean of `value` over the rows it stands for, or "-" where there are none.
    """
    lines, heads = ([*dict.fromkeys(row[key] for row in rows)] for key in (index, columns))
    cells: dict[tuple, list[float]] = {}
    for row in rows:
        cells.setdefault((row[index], row[columns]), []).append(row[value])
    shown = {key: f"{np.mean(values):.3g}" for key, values in cells.items()}
    names = [f"{line:.4g}" if isinstance(line, float) else str(line) for line in lines]
    body = [[name, *(shown.get((line, head), "-") for head in heads)] for name, line in zip(names, lines, strict=True)]
    return markdown_table([index, *(f"{columns} {head}" for head in heads)], body) + "\n"


def _write(path: Path, figure: Any, rows: list[Row], index: str, columns: str, value: str) -> str:
    """Write a figure with its rows and their `means_table`; returns the table."""
    for suffix in (".png", ".svg"):
        figure.savefig(path.with_suffix(suffix))
    write_csv(path.with_suffix(".csv"), rows)
    table = means_table(rows, index, columns, value)
    path.with_suffix(".md").write_text(table)
    return table


def pair_figure(rows: Sequence[Row], by: str, value: str, **axes_options: Any) -> Figure:
    """Column `value` of eps and of the score, which column `by` tells apart, over time. axes_options: of `Axes.set`."""
    figure, (axes,) = panels(1, (6.5, 4.0))
    for name, colour in PAIR.items():
        axes.plot(*_columns(rows, "t", value, **{by: name}), color=colour, label=name)
    axes.set(xlabel="time t", **axes_options)
    axes.legend(frameon=False)
    return figure


def extrapolation_figure(rows: Sequence[Row], nfe: int = 10) -> Figure:
    """The error of extrapolated eps, by order: left over time with `nfe` steps, right its mean against the steps."""
    figure, (over_time, over_nfe) = panels(2, (11.5, 4.0))
    nfes = sorted({row["nfe"] for row in rows})
    for order, colour in enumerate(ORDER_COLOURS):
        style: dict[str, Any] = {"color": colour, "marker": MARKERS[order], "markersize": 4, "label": f"order {order}"}
        over_time.plot(*_columns(rows, "t", "eps_error", nfe=nfe, order=order), **style)
        means = [np.mean(_columns(rows, "t", "eps_error", nfe=n, order=order)[1]) for n in nfes]
        over_nfe.plot(nfes, means, **style)
    over_time.set(xlabel="time t", ylabel="error in eps", yscale="log", title=f"{nfe} steps")
    over_nfe.set(xlabel="steps", ylabel="mean error in eps", xscale="log", yscale="log", title="all times")
    over_nfe.set_xticks(nfes, map(str, nfes))
    over_nfe.minorticks_off()
    over_nfe.legend(frameon=False)
    return figure


def pixel_difference_figure(rows: Sequence[Row]) -> Figure:
    """The mean pixel difference of every sampler against network calls, cut off where it is as wrong as can be."""
    makers = {name: getattr(solver, "func", solver) for name, solver in discretisation.SOLVERS.items()}
    named = [row | {"method": makers[row["sampler"]].__name__} for row in rows]
    return against_nfe(named, "pixel_difference", "mean |x - reference|", top=1.0)  # half the range of a pixel


def fitting_figure(map_rows: Sequence[Row], by_time: Sequence[Row]) -> Figure:
    """The toy network's error: left a map over x and t in one dimension, with contours of log p_t; right over time.

    map_rows: of `error_map`, a full grid. by_time: of `error_by_time`, each with a "dim" besides.
    """
    figure, (over_x, over_time) = panels(2, (11.5, 4.0))
    xs, ts = (sorted({row[key] for row in map_rows}) for key in ("x", "t"))
    at = {(row["t"], row["x"]): row for row in map_rows}
    error, density = (np.array([[at[t, x][key] for x in xs] for t in ts]) for key in ("eps_error", "log_density"))
    picture = over_x.pcolormesh(xs, ts, np.log10(error + 1e-4), cmap="magma", vmin=-3, vmax=0.5, rasterized=True)
    over_x.contour(xs, ts, density, levels=[-12, -6, -2], colors="white", linewidths=0.7)
    over_x.set(xlabel="x", ylabel="time t", title="log10 of the error in eps; white: log p = -12, -6, -2")
    figure.colorbar(picture, ax=over_x)
    for dim, style in ((1, "-"), (2, "--")):
        for name, colour in PAIR.items():
            points = _columns(by_time, "t", f"{name}_error", dim=dim)
            over_time.plot(*points, style, color=colour, label=f"{name}, {dim}-d")
    over_time.set(xlabel="time t", ylabel="error where data are", xscale="log", yscale="log")
    over_time.legend(frameon=False)
    return figure


def _columns(rows: Sequence[Row], x: str, y: str, **chosen: Any) -> tuple[list[float], list[float]]:
    """The columns x and y of the rows whose other columns are as `chosen`."""
    found = [row for row in rows if all(row[key] == value for key, value in chosen.items())]
    return [row[x] for row in found], [row[y] for row in found]
