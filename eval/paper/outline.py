"""What every table of conf/paper would take, before one is started."""

import time
from pathlib import Path

import yaml

from eval.paper.spec import Paper
from formats.tables import markdown_table

FOLDER = Path(__file__).parents[2] / "conf" / "paper"
TIMED = 32  # images of the call that is timed


def outline(num_samples: int | None, seconds: float) -> str:
    """A line for each table, in Markdown: cells, images a cell, network calls an image, and how long it takes.

    num_samples: images a cell; None for as many as each table has. seconds: of one network call, for one image.
    Adaptive solvers call the network as often as they need, and features take their time: both come on top.
    """
    rows = []
    for file in sorted(FOLDER.glob("*.yaml")):
        fields = yaml.safe_load(file.read_text())
        paper = Paper(**fields)
        images = num_samples or paper.num_samples
        adaptive = sum(len(row["tolerances"]) for row in fields.get("adaptive", {}).values())
        cells = paper.repeats * (len(paper.methods) * len(paper.nfe) + adaptive)
        calls = paper.repeats * len(paper.methods) * sum(paper.nfe)
        about = duration(calls * images * seconds) + (" and more" if adaptive else "")
        rows.append([paper.name, paper.title, str(cells), f"{images:,}", f"{calls:,}", about])
    return markdown_table(["paper", "what", "cells", "images a cell", "calls an image", "takes"], rows, align="llrrrr")


def duration(seconds: float) -> str:
    """A time in the unit that fits it: "45 s", "33 min", "8.0 h" or "2.5 days"."""
    for unit, size, limit in (("s", 1, 90), ("min", 60, 5400)):
        if seconds < limit:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds / 3600:.1f} h" if seconds < 48 * 3600 else f"{seconds / 86400:.1f} days"


def seconds_per_call(path: Path, step: int | None) -> float:
    """The seconds that one call of a `Source`'s network takes here for one image, timed on a batch of TIMED.

    Imports JAX. Raises FileNotFoundError or ValueError for a network that cannot be read.
    """
    import deis
    from models.sampling.draw import draw, load_trained

    net = load_trained(path, step)
    table = deis.tables.ddim(net.sde, deis.timesteps(net.sde, 2))
    next(draw(net, table, [0], TIMED))  # compiles
    start = time.perf_counter()
    next(draw(net, table, [0], TIMED))
    return (time.perf_counter() - start) / (TIMED * table.nfe)
