"""The paper's analysis as files: every figure as .png and .svg, its rows as .csv, and a table of them as .md."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Float

import deis
from deis.sampler import EpsFn
from eval.exact import discretisation, figures
from eval.exact import toy_network as toy
from eval.exact.mixture import IN_1D, IN_2D
from formats.tables import markdown_table, write_csv
from models.sampling.draw import load_trained, starts
from models.sampling.source import Source
from models.score import eps_fn
from runs.errors import NonFiniteError, checking

Row = dict[str, Any]


def start(source: Source | None, sde: deis.SDE, seeds: list[int]) -> tuple[EpsFn, Float[Array, "batch *dims"]]:
    """(eps_fn, x_T) of the network's images with these seeds; without a network, of as many points of the mixture."""
    if source is None:
        keys = jax.vmap(jax.random.key)(jax.numpy.array(seeds, jax.numpy.uint32))
        return IN_2D.eps_fn(sde), jax.vmap(lambda key: sde.prior_sample(key, (2,)))(keys)
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
    change = discretisation.relative_change_rows(path)
    held = discretisation.holding_rows(path)
    extrapolated = discretisation.extrapolation_rows(path)
    differences = discretisation.pixel_difference_rows(sde, eps_fn, x_T, path.x[-1], nfes, *grid)
    by_quantity = ("t", "quantity", "relative_change")
    _write(run_dir / "relative_change", figures.relative_change_figure(change), change, *by_quantity)
    _write(run_dir / "holding", figures.holding_figure(held), held, "t", "held", "eps_error")
    by_order = ("nfe", "order", "eps_error")
    _write(run_dir / "extrapolation", figures.extrapolation_figure(extrapolated), extrapolated, *by_order)
    pixels = figures.pixel_difference_figure(differences)
    return _write(run_dir / "pixel_difference", pixels, differences, "sampler", "nfe_asked", "pixel_difference")


def write_toy_network(run_dir: Path, sde: deis.SDE, seed: int, fit_steps: int) -> None:
    """Fit the toy network in one and in two dimensions, and write where it is wrong."""
    ts = deis.timesteps(sde, 40, "t", 2.0)
    by_time: list[Row] = []
    for dim, mixture in ((1, IN_1D), (2, IN_2D)):
        key_fit, key_measure = jax.random.split(jax.random.fold_in(jax.random.key(seed), dim))
        params = toy.fit(sde, mixture, key_fit, fit_steps)
        by_time += [row | {"dim": dim} for row in toy.error_by_time(params, sde, mixture, ts, key_measure)]
        if dim == 1:
            error_map = toy.error_map(params, sde, mixture, np.linspace(-2.5, 2.5, 101), ts)
    write_csv(run_dir / "fitting_map.csv", error_map)
    _write(run_dir / "fitting", figures.fitting_figure(error_map, by_time), by_time, "t", "dim", "eps_error")


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
    figures.save(figure, path)
    write_csv(path.with_suffix(".csv"), rows)
    table = means_table(rows, index, columns, value)
    path.with_suffix(".md").write_text(table)
    return table
