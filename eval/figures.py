"""Pictures for people: image grids, denoising animations, FID-versus-NFE plots and loss curves."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
from jaxtyping import Float, Int, Num, UInt8
from PIL import Image, ImageDraw, ImageFont

import data
from data.pictures import picture_of
from formats.files import atomic_path

GAP = 2  # pixels between tiles
MARKERS = ("o", "s", "^", "D")  # the first, second ... sampler of a family

# Okabe and Ito's colour-blind-safe palette, and Tol's purple. A method that is not listed is a baseline: grey, dashed.
FAMILY_COLOUR = {
    "t_ab": "#0072B2",
    "rho_ab": "#D55E00",
    "log_rho_ab": "#E69F00",
    "rho_rk": "#009E73",
    "ipndm": "#AA4499",
}
BASELINE_COLOUR = "#666666"


def image_grid(images: UInt8[np.ndarray, "n h w c"], columns: int | None = None) -> UInt8[np.ndarray, "height width c"]:
    """Tile images row by row, small ones enlarged smoothly: as blocks of pixels an 8x8 digit is hard to read.

    By default the grid is as square as it can be. Tiles are enlarged to about 56 pixels.

    Raises ValueError if the images are not a non-empty uint8 [n, h, w, c] array.
    """
    if images.ndim != 4 or images.dtype != np.uint8 or len(images) == 0:
        raise ValueError(f"a grid needs uint8 images [n, h, w, c], not {images.dtype} {list(images.shape)}")
    n, height, width, channels = images.shape
    columns = min(columns or int(np.ceil(np.sqrt(n))), n)
    rows = -(-n // columns)
    scale = max(1, round(56 / max(height, width)))
    height, width = height * scale, width * scale
    tiles = np.full((rows * columns, height + GAP, width + GAP, channels), 255, np.uint8)
    for tile, image in zip(tiles, images, strict=False):  # the tiles after the last image stay white
        enlarged = picture_of(image).resize((width, height), Image.Resampling.BICUBIC)
        tile[GAP:, GAP:] = np.asarray(enlarged).reshape(height, width, channels)
    grid = tiles.reshape(rows, columns, *tiles.shape[1:]).swapaxes(1, 2).reshape(rows * (height + GAP), -1, channels)
    return np.pad(grid, ((0, GAP), (0, GAP), (0, 0)), constant_values=255)


def save_png(path: Path, array: UInt8[np.ndarray, "height width c"]) -> None:
    """Write a grey (c = 1) or RGB (c = 3) picture as PNG, so that a file that is there is whole."""
    with atomic_path(path) as partial:
        picture_of(array).save(partial, "PNG")


def save_class_grid(
    path: Path, images: UInt8[np.ndarray, "n h w c"], labels: Int[np.ndarray, " n"] | None, count: int
) -> int:
    """Write a picture of `count` images at most: the first ones, or of several classes a row each; returns how many."""
    labels = np.empty(0, int) if labels is None else labels
    present = np.unique(labels)
    rows = [np.flatnonzero(labels[: len(images)] == label)[: count // len(present)] for label in present]
    columns = min(map(len, rows), default=0)
    if len(rows) < 2 or columns == 0:
        rows, columns = [np.arange(len(images))], count
    shown = images[np.concatenate([row[:columns] for row in rows])]
    save_png(path, image_grid(shown, columns if len(rows) > 1 else None))
    return len(shown)


def denoising_gif(
    path: Path, x_t: Num[np.ndarray, "frames n h w c"], x_0: Num[np.ndarray, "frames_or_one_less n h w c"]
) -> None:
    """Animate the state x_t (left) beside the image the network predicts from it (right).

    x_t: one state per network call, and the result last if there is one more than x_0; the result then stands on
        both sides. uint8, or floats whose images lie in [-1, 1]; a float state of root mean square above 1, as
        the variance-exploding diffusion has, is divided by it, so that its noise can be seen.
    x_0: the prediction of each call, uint8 or float as above. Raises ValueError if there are too few or too many.
    """
    calls = len(x_0)
    states, predictions = [_to_uint8(x) for x in x_t], [_to_uint8(x) for x in x_0]
    if len(states) == calls + 1:
        predictions.append(states[-1])
    if not len(states) == len(predictions) > 0:
        raise ValueError(f"cannot animate {len(states)} states with {calls} predictions")
    bar, gutter = 30, 20
    frames = []
    for i, sides in enumerate(zip(states, predictions, strict=True)):
        left, right = (picture_of(image_grid(side)) for side in sides)
        canvas = Image.new(left.mode, (2 * left.width + gutter, left.height + 2 * bar), "white")
        pen = ImageDraw.Draw(canvas)
        for x, grid, title in ((0, left, "xₜ"), (left.width + gutter, right, "predicted x₀")):
            canvas.paste(grid, (x, bar))
            pen.text((x + left.width / 2, bar / 2), title, "black", _font(18), anchor="mm")
        label = f"network call {i + 1} of {calls}" if i < calls else "result"
        pen.text((canvas.width / 2, canvas.height - bar / 2), label, "black", _font(14), anchor="mm")
        frames.append(canvas)
    durations = [250] * (len(frames) - 1) + [2500]  # milliseconds; the last frame is held
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=durations, loop=0)


def _to_uint8(images: Num[np.ndarray, "n h w c"]) -> UInt8[np.ndarray, "n h w c"]:
    if images.dtype == np.uint8:
        return images
    spread = max(1.0, float(np.sqrt(np.mean(np.square(images, dtype=np.float64)))))
    return data.to_uint8(images / spread)


def _font(size: int) -> ImageFont.FreeTypeFont:
    """The font that comes with matplotlib; Pillow's own has no subscripts."""
    from matplotlib import get_data_path

    return ImageFont.truetype(str(Path(get_data_path()) / "fonts/ttf/DejaVuSans.ttf"), size)


def samples_picture(path: Path, cells: Mapping[tuple[str, str], UInt8[np.ndarray, "n h w c"]]) -> None:
    """Write a picture with a block of samples for every (row, column), in order of appearance; missing ones stay white.

    The blocks hold equally many images of one shape; n at most 9 looks well.
    """
    margin, size = 8, 15  # pixels between the blocks, and of a line of text
    rows, columns = (list(dict.fromkeys(names)) for names in zip(*cells, strict=True))
    blocks = {key: picture_of(image_grid(images)) for key, images in cells.items()}
    block = next(iter(blocks.values()))
    width = max(block.width, *(round(_font(size).getlength(name)) for name in columns)) + margin
    height = block.height + margin
    left, top = round(max(map(_font(size).getlength, rows))) + 2 * margin, size + 2 * margin
    xs = {column: left + j * width for j, column in enumerate(columns)}
    ys = {row: top + i * height for i, row in enumerate(rows)}
    canvas = Image.new(block.mode, (left + len(xs) * width, top + len(ys) * height), "white")
    pen = ImageDraw.Draw(canvas)
    for column, x in xs.items():
        pen.text((x + block.width / 2, top / 2), column, "black", _font(size), anchor="mm")
    for row, y in ys.items():
        pen.text((left - margin, y + block.height / 2), row, "black", _font(size), anchor="rm")
    for (row, column), each in blocks.items():
        canvas.paste(each, (xs[column], ys[row]))
    canvas.save(path)


def fid_vs_nfe_plot(path: Path | IO[bytes], rows: Sequence[Mapping[str, Any]]) -> None:
    """Plot FID against network evaluations, of those rows of `against_nfe` that have one; without any write nothing."""
    if measured := [row for row in rows if row.get("fid") is not None]:
        against_nfe(measured, "fid", measured[0].get("fid_name") or "FID").savefig(path)


def precision_recall_plot(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Plot recall against precision, of those rows of `against_nfe` that have both; without any write nothing.

    A line for each sampler joins its numbers of network calls, which stand at the points. Rows of one number are
    joined as well if their names "SAMPLER (OPTIONS)" begin alike, as with several weights of guidance.
    """
    measured = [row for row in rows if row.get("precision") is not None and row.get("recall") is not None]
    if not measured:
        return
    one_nfe = len({row["nfe_asked"] for row in measured}) == 1
    lines: dict[str, list[tuple[float, float, str]]] = {}
    for row in measured:
        sampler, _, options = row["sampler"].partition(" (")
        name, text = (sampler, options.rstrip(")")) if one_nfe else (row["sampler"], str(row["nfe_asked"]))
        lines.setdefault(name, []).append((row["precision"], row["recall"], text))
    figure, (axes,) = panels(1, (7.0, 4.2))
    axes.set(xlabel="precision", ylabel="recall")
    for number, (name, points) in enumerate(lines.items()):
        axes.plot(
            *zip(*(point[:2] for point in points), strict=True), label=name, marker=MARKERS[number % len(MARKERS)]
        )
        for x, y, text in points:
            axes.annotate(text, (x, y), (4, 4), textcoords="offset points", fontsize="x-small")
    figure.legend(loc="outside right center", frameon=False)
    figure.savefig(path)


def against_nfe(rows: Sequence[Mapping[str, Any]], value: str, label: str, top: float | None = None) -> Any:
    """A figure of `value` against network evaluations, both logarithmic, with one line per sampler.

    Each row has "sampler", "method", "nfe" and `value`, and may have "nfe_asked". Samplers of one method share a
    colour, and their order of appearance sets shade and marker. Of a single number of evaluations it is a figure of
    bars. top: values above this are cut off.
    """
    from matplotlib.colors import to_rgb
    from matplotlib.ticker import FixedLocator, NullLocator

    colours = {row["sampler"]: FAMILY_COLOUR.get(row["method"], BASELINE_COLOUR) for row in rows}
    nodes = sorted({row.get("nfe_asked", row["nfe"]) for row in rows})
    if len(nodes) == 1:
        figure, (axes,) = panels(1, (7.0, 1.0 + 0.25 * len(rows)))
        values = [row[value] for row in rows]
        axes.barh([row["sampler"] for row in rows], values, color=[colours[row["sampler"]] for row in rows])
        axes.set(xlabel=f"{label}, {nodes[0]} network evaluations", xlim=(0, min(top or np.inf, 1.05 * max(values))))
        axes.invert_yaxis()
        return figure
    figure, (axes,) = panels(1, (7.0, 4.2))
    axes.set(xscale="log", yscale="log", xlabel="network evaluations (NFE)", ylabel=label)
    for sampler, colour in colours.items():
        points = sorted((row["nfe"], row[value]) for row in rows if row["sampler"] == sampler)
        family = [name for name in colours if colours[name] == colour]
        index = family.index(sampler)
        strength = 1.0 - 0.6 * (len(family) - 1 - index) / max(1, len(family) - 1)  # the last has the full colour
        axes.plot(
            *zip(*points, strict=True),
            label=sampler,
            color=[1.0 - strength * (1.0 - part) for part in to_rgb(colour)],
            marker=MARKERS[index % len(MARKERS)],
            markersize=5.5,
            **({"linewidth": 1.4, "linestyle": "--"} if colour == BASELINE_COLOUR else {"linewidth": 1.8}),
        )
    if top is not None and axes.get_ylim()[1] > top:
        axes.set_ylim(top=top)
    _plain_numbers(axes)
    axes.xaxis.set(major_locator=FixedLocator(nodes), minor_locator=NullLocator(), major_formatter="{x:.0f}")
    figure.legend(loc="outside right center", frameon=False, handlelength=3.2, labelspacing=0.7)
    return figure


def held_out_plot(path: Path, runs: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
    """Plot the finite "eval_loss" of each named run's records against "step"; without any write nothing."""
    curves = {name: _curve(rows, "eval_loss") for name, rows in runs.items()}
    if not any(map(len, curves.values())):
        return
    figure, (axes,) = panels(1, (7.0, 4.2))
    axes.set(xlabel="step", ylabel="held-out loss", yscale="log")
    for name, points in curves.items():
        axes.plot(*points.T, label=name, marker="o", markersize=3, linewidth=1.2)
    _plain_numbers(axes)
    figure.legend(loc="outside right center", frameon=False, fontsize="small")
    figure.savefig(path)


def panels(count: int, size: tuple[float, float]) -> tuple[Any, Any]:
    """(a figure of `size` inches, its `count` axes side by side), with a faint grid and no box."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, dpi=160, layout="constrained")
    all_axes = figure.subplots(1, count, squeeze=False)[0]
    for axes in all_axes:
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(which="major", color="#dddddd", linewidth=0.6)
        axes.set_axisbelow(True)
    return figure, all_axes


def _plain_numbers(axes: Any) -> None:
    """A logarithmic y axis with plain numbers."""
    from matplotlib.ticker import LogLocator, NullFormatter

    axes.yaxis.set(major_locator=LogLocator(subs=(1, 2, 5)), major_formatter="{x:g}")
    axes.yaxis.set_minor_formatter(NullFormatter())


def _curve(records: Sequence[Mapping[str, Any]], key: str) -> Float[np.ndarray, "n 2"]:
    """The points (step, value) of the records that have a finite value."""
    points = [(record["step"], record[key]) for record in records if np.isfinite(record.get(key, np.nan))]
    return np.array(points).reshape(-1, 2)


def loss_curve_plot(path: Path | IO[bytes], records: Sequence[Mapping[str, Any]]) -> None:
    """Plot the loss of a run from its metrics.jsonl: "step" with "loss" (training), "eval_loss" (held out) or both.

    The training loss is drawn faintly, and again as a centred running mean over a twentieth of the run. Only what is
    finite is drawn; without any training loss write nothing.
    """
    train, held_out = _curve(records, "loss"), _curve(records, "eval_loss")
    if len(train) == 0:
        return
    figure, (axes,) = panels(1, (7.0, 3.6))
    axes.set(xlabel="step", ylabel="loss", yscale="log")
    width = max(1, len(train) // 20)
    window = np.ones(width) / width
    steps, smooth = (np.convolve(column, window, mode="valid") for column in train.T)
    axes.plot(*train.T, color="#0072B2", alpha=0.25, linewidth=0.8)
    axes.plot(steps, smooth, color="#0072B2", linewidth=1.8, label="training (running mean)")
    if len(held_out):
        axes.plot(*held_out.T, color="#D55E00", marker="o", markersize=4, label="held out")
    _plain_numbers(axes)
    axes.legend(frameon=False)
    figure.savefig(path)
