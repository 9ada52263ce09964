"""Gather what `make paper` measured into one page, docs/results.md, with its pictures in docs/results/.

python -m benchmarks.results outputs/paper docs

The main table with 10,000 images, which `make paper-long` measures, is kept as docs/results/main_10000.md and put into
the page as it is there.
"""

import json
import shutil
import sys
from pathlib import Path

from benchmarks.exact_tables import main as exact

LONG, LONG_PAGE = "cifar10_vp_10000", "main_10000.md"
SECTIONS = {  # folder below outputs/paper, which is a table's name: heading, and what it shows
    "cifar10_vp": (
        "The main table",
        "Every solver of the paper by network calls, with the paper's rule for Runge-Kutta rows: +k where k more calls "
        "were made. `python -m eval.table paper=cifar10_vp checkpoint=checkpoints/fashion_mnist num_samples=2000`",
    ),
    "cifar10_ablation": (
        "The ingredients",
        "What each ingredient of DEIS adds. `python -m eval.table paper=cifar10_ablation "
        "checkpoint=checkpoints/fashion_mnist num_samples=1000 paper.nfe=[5,10,20,50]`",
    ),
    "last_step": (
        "The last step of a linear grid",
        "Why the cubic of the ablation needs another grid. `python -m eval.table paper=last_step "
        "checkpoint=checkpoints/fashion_mnist num_samples=1000`",
    ),
}
EXACT = {  # of benchmarks.exact_tables
    "plane": "Four clusters in the plane",
    "digits": "400 blurred digits of 8x8 pixels, in 64 dimensions",
}
ANALYSES = {
    "network": ("Distance from the exact solution, trained network", "`python -m eval.analysis`, 16 images"),
    "mixture": (
        "Distance from the exact solution, exact eps",
        "`python -m eval.analysis problem=mixture num_samples=256`: a mixture of Gaussians in the plane, whose eps is "
        "known in closed form, so that only the solver is at fault",
    ),
}
PICTURES = {
    "pixel_difference": "mean difference to the solution of 1,000 calls from the same noise, by solver and calls",
    "extrapolation": "error of the extrapolated eps, by order of the polynomial and number of steps",
    "relative_change": "how fast score and eps change along trajectories",
    "holding": "error of holding score or eps over a step",
    "fitting": "where a toy network, fitted to the mixture, is wrong",
}
WHY = """## Where the paper's order holds, and where not
"""
INTRODUCTION = """# Results

Made by `make paper`, from the network that comes with the repository and from problems that are known exactly. The
network is small (0.65 M parameters, Fashion-MNIST, see `checkpoints/fashion_mnist/`), and FID is measured in the
features of a small classifier: these figures compare solvers with each other, and not with the published figures, which
are of another network, other images and other features. Those stand in tables of their own.
"""


def main(measured: Path, docs: Path) -> None:
    """Write the page. Raises FileNotFoundError for a measurement that is not there or not finished."""
    pictures = docs / "results"
    pictures.mkdir(exist_ok=True)
    if (measured / LONG).is_dir():
        (pictures / LONG_PAGE).write_text(f"{here(table(finished(measured / LONG)))}\n")
    text = [INTRODUCTION]
    for name, (heading, about) in SECTIONS.items():
        plot = picture(measured / name, "fid_vs_nfe", pictures)
        text.append(f"## {heading}\n\n{about}\n\n{table(measured / name)}\n\n{plot}\n")
        if name == "cifar10_vp":
            text.append(f"The same noise through every solver:\n\n{picture(measured / name, 'grid', pictures)}\n")
            if (pictures / LONG_PAGE).is_file():
                text.append(f"### With 10,000 images\n\n`make paper-long`\n\n{(pictures / LONG_PAGE).read_text()}")
        text += [
            f"### With an exact network: {what.lower()}\n\nErrors in thousandths, not FID.\n\n{exact(name, problem)}\n"
            for problem, what in EXACT.items()
        ]
    text.append(WHY)
    for name, (heading, about) in ANALYSES.items():
        text.append(f"## {heading}\n\n{about}.\n\n{(measured / name / 'pixel_difference.md').read_text()}\n")
        for kind, caption in PICTURES.items():
            if (measured / name / f"{kind}.png").is_file():
                text.append(f"{caption[0].upper()}{caption[1:]}:\n\n{picture(measured / name, kind, pictures)}\n")
    (docs / "results.md").write_text("\n".join(text))


def table(folder: Path) -> str:
    """The page of a table, its title left out and its headings one level further down."""
    lines = (folder / "table.md").read_text().splitlines()[1:]
    return "\n".join(f"#{line}" if line.startswith("#") else line for line in lines).strip()


def here(page: str) -> str:
    """Of a table's page what was measured here, without what is published."""
    return page.partition("### Published")[0].strip()


def picture(folder: Path, name: str, to: Path) -> str:
    """A copy of the picture, as Markdown."""
    shutil.copyfile(finished(folder) / f"{name}.png", to / f"{folder.name}_{name}.png")
    return f"![{name}](results/{folder.name}_{name}.png)"


def finished(folder: Path) -> Path:
    """`folder`, or FileNotFoundError if its run did not finish."""
    status = json.loads((folder / "status.json").read_text())["status"]
    if status != "done":
        raise FileNotFoundError(f"{folder} is not finished, its status is {status}; the same command goes on with it")
    return folder


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
