"""The figures of the paper's analysis, from the rows of `eval.exact.discretisation` and `eval.exact.toy_network`."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from eval.figures import MARKERS, against_nfe, panels

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Row = Mapping[str, Any]

PAIR = {"eps": "#0072B2", "score": "#D55E00"}
ORDER_COLOURS = ("#666666", "#56B4E9", "#0072B2", "#D55E00")
FAMILIES = {"tAB": "t_ab", "rhoAB": "rho_ab", "rho2": "rho_rk", "rho3": "rho_rk", "rho4": "rho_rk", "iPNDM": "ipndm"}


def save(figure: "Figure", path: Path) -> None:
    """Write `path` as .png and as .svg."""
    for suffix in (".png", ".svg"):
        figure.savefig(path.with_suffix(suffix))


def relative_change_figure(rows: Sequence[Row]) -> "Figure":
    """The relative change of eps and of the score against time."""
    figure, (axes,) = panels(1, (6.5, 4.0))
    for name, colour in PAIR.items():
        axes.plot(*_columns(rows, "t", "relative_change", quantity=name), color=colour, label=name)
    axes.set(xlabel="time t", ylabel="relative change", yscale="log")
    axes.legend(frameon=False)
    return figure


def holding_figure(rows: Sequence[Row]) -> "Figure":
    """The error of holding eps or the score over each step, against time."""
    figure, (axes,) = panels(1, (6.5, 4.0))
    for name, colour in PAIR.items():
        axes.plot(*_columns(rows, "t", "eps_error", held=name), color=colour, label=f"{name} held constant")
    axes.set(xlabel="time t", ylabel="error in eps")
    axes.legend(frameon=False)
    return figure


def extrapolation_figure(rows: Sequence[Row], nfe: int = 10) -> "Figure":
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


def pixel_difference_figure(rows: Sequence[Row]) -> "Figure":
    """The mean pixel difference of every sampler against network calls, cut off where it is as wrong as can be."""
    families = {
        row["sampler"]: next((method for start, method in FAMILIES.items() if row["sampler"].startswith(start)), "")
        for row in rows
    }
    named = [{**row, "method": families[row["sampler"]]} for row in rows]
    return against_nfe(named, "pixel_difference", "mean |x - reference|", top=1.0)  # half the range of a pixel


def fitting_figure(map_rows: Sequence[Row], by_time: Sequence[Row]) -> "Figure":
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
