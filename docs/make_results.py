"""Gather what `make paper` measured into one page, docs/results.md, with its pictures in docs/results/.

python -m docs.make_results outputs/paper docs

The main table with 10,000 images, which `make paper-long` measures, is kept as docs/results/main_10000.md and put into
the page as it is there. Beside each table of FIDs stands the same table with an exact network. There the data are a
mixture of Gaussians, whose eps is known, so that the solver alone is at fault; a cell has the median error of its
trajectories, which is the root mean square distance, over the coordinates, to where the probability-flow ODE leads from
the same noise.
"""

import json
import shutil
import sys
from functools import cache
from pathlib import Path

import hydra
import jax
import numpy as np
from sklearn.datasets import load_digits

import deis
from deis.sampler import EpsFn
from eval.exact.mixture import IN_2D, Mixture
from eval.paper.grid import Record, markdown_grid, markdown_orders, measured_grid
from eval.paper.plan import plan_cells
from eval.paper.spec import Paper
from eval.table import TableJob
from runs import cli

LONG, LONG_PAGE = "cifar10_vp_10000", "main_10000.md"
SECTIONS = {  # folder below outputs/paper, which is a table's name: heading, and what it shows
    "cifar10_vp": (
        "The main table",
        "Every solver of the paper by network calls, with the paper's rule for Runge-Kutta rows: +k where k more calls "
        "were made. `python -m eval.table paper=cifar10_vp checkpoint=checkpoints/fashion_mnist num_samples=1000 "
        "paper.nfe=[5,10,15,20]`",
    ),
    "cifar10_ablation": (
        "The ingredients",
        "What each ingredient of DEIS adds. `python -m eval.table paper=cifar10_ablation "
        "checkpoint=checkpoints/fashion_mnist num_samples=1000 paper.nfe=[5,10,20]`",
    ),
    "last_step": (
        "The last step of a linear grid",
        "Why the cubic of the ablation needs another grid. `python -m eval.table paper=last_step "
        "checkpoint=checkpoints/fashion_mnist num_samples=1000 paper.nfe=[5,10]`",
    ),
}
EXACT = {  # the keys of PROBLEMS
    "plane": "Four clusters in the plane",
    "digits": "400 blurred digits of 8x8 pixels, in 64 dimensions",
}
ANALYSES = {
    "network": ("Distance from the exact solution, trained network", "`python -m eval.analysis`, 16 images"),
    "network_edm": (
        "The same on EDM's grid",
        "`python -m eval.analysis ts_phase=rho ts_order=7`, 16 images from the same noise",
    ),
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

Read off the tables of this page. Rows are compared on the same seeds, so that the error of a difference is far below
that of each FID: 0.005 between tAB3 and tAB2, 0.03 between tAB1 and DDIM.

**tAB3 < tAB2 < tAB1 < DDIM.** tAB2, tAB1 and DDIM come in this order at 5, 10, 15 and 20 calls. tAB3 and tAB2 are
equal within 0.005 from 10 calls on, and at 5 tAB3 is worse by 0.012, more than twice its error. It is not the number
of images, then, and not the extractor alone: along this network's trajectories the distance to the exact solution
(below) is the same for both at 5 calls, and only at 20 has tAB3 half of it. With exact networks, too, the order fails
at 5 calls, and holds from 10 (the clusters) or 15 (the digits). From 10 calls on the tAB rows change by 0.05 at most:
what the solver leaves is less than what the network lacks. The rhoAB rows behave alike, behind the tAB rows by 0.5 at
5 calls and 0.04 at 20.

**Runge-Kutta poor at 5 calls, good at many.** DDIM < rho2Heun < rho3Kutta < rho4RK holds at 5, by far. That rho3Kutta
is ahead of DDIM at 20 calls does not hold here: 1.58 against 1.46, though its images are nearer to the exact solution
(0.024 against 0.043 on EDM's grid). Neither does it with exact networks; at 50 calls it is nearer everywhere, with
this network 17 times.

**EI on the score worse than Euler, EI on eps better than both.** Holds at 5, 10 and 20 calls. With exact networks the
second half depends on the data. Where they fill few of their dimensions, as the digits, eps is nearly constant and EI
on eps is better than Euler up to 20 calls, as on images; clusters that fill the plane have no such directions, and
there Euler is better.

**The cubic better than EI on eps, on a linear grid.** Holds at 10 and 20 calls, and is within noise at 5. At 5 its
last step, from t = 1/5 to t_0, makes all the detail, and a cubic through eps of before guesses it badly. A lower order
towards the end mends some of it, a lower order throughout (tAB1) more, and the quadratic grid, whose last steps are
short, most. At 10 calls all of these are equal within noise; so the quadratic grid's gain of the paper at 10 calls,
5.0 to 4.17, does not show.
"""
INTRODUCTION = """# Results

Made by `make paper`, from the network that comes with the repository and from problems that are known exactly. The
network is small (1.6 M parameters, Fashion-MNIST, see `checkpoints/fashion_mnist/`), and FID is measured in the
features of a small classifier: these figures compare solvers with each other, and not with the published figures, which
are of another network, other images and other features. Those stand in tables of their own.
"""


SDE = deis.vp_linear(t_0=1e-3)  # the tables' own t_0
REFERENCE_STEPS = 1000  # of the fourth order, even in log rho


def _digits() -> Mixture:
    """400 real digits of 8x8 pixels in [-1, 1], each a little blurred."""
    return Mixture(np.full(400, 1 / 400), load_digits().data[:400] / 8 - 1, np.full(400, 0.02))


PROBLEMS = {"plane": (IN_2D, 1024), "digits": (_digits(), 128)}
"""The data, and how many trajectories."""


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
        for problem, what in EXACT.items():
            errors = exact_table(name, problem)
            text.append(f"### With an exact network: {what.lower()}\n\nErrors in thousandths, not FID.\n\n{errors}\n")
    text.append(WHY)
    for name, (heading, about) in ANALYSES.items():
        text.append(f"## {heading}\n\n{about}.\n\n{(measured / name / 'pixel_difference.md').read_text()}\n")
        shown = {} if name == "network_edm" else PICTURES
        for kind, caption in shown.items():
            if (measured / name / f"{kind}.png").is_file():
                text.append(f"{caption[0].upper()}{caption[1:]}:\n\n{picture(measured / name, kind, pictures)}\n")
    (docs / "results.md").write_text("\n".join(text))


def table(folder: Path) -> str:
    """The page of a table, its title left out and its headings one level further down."""
    lines = (folder / "table.md").read_text().splitlines()[1:]
    return "\n".join(f"#{line}" if line.startswith("#") else line for line in lines).strip()


def here(page: str) -> str:
    """The part of a table's page that was measured here, without what is published."""
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


def exact_table(table: str, problem: str) -> str:
    """The table of conf/paper/`table`.yaml on one of PROBLEMS, as Markdown: thousandths of the data's units."""
    paper, records = exact_records(table, problem)
    grid = measured_grid(records)
    return f"{markdown_grid(grid)}\n\n{markdown_orders(paper, grid)}".rstrip()


def exact_records(table: str, problem: str) -> tuple[Paper, list[Record]]:
    """The table, and a record for each of its cells; its "fid" is 1,000 times the error."""
    cli.register("table", TableJob)
    with hydra.initialize_config_dir(str(cli.CONF), version_base="1.3"):
        paper = cli.to_object(hydra.compose("table", [f"paper={table}"])).paper
        planned = plan_cells(paper, SDE, 2)
    eps_fn, x_T, exact = solution(problem)
    records: list[Record] = []
    with jax.enable_x64(True):
        for cell in planned:
            if not isinstance(cell.solver, deis.Table) or cell.solver.is_stochastic:
                raise ValueError(f"{cell} is not a table without noise, whose error could be taken")
            x_0 = np.asarray(deis.sample(cell.solver, eps_fn, x_T))
            error = np.median(np.sqrt(np.mean((x_0 - exact) ** 2, axis=1)))
            records.append(
                {"row": cell.row, "nfe_asked": cell.nfe_asked, "nfe": cell.solver.nfe, "fid": 1000 * float(error)}
            )
    return paper, records


@cache
def solution(problem: str) -> tuple[EpsFn, jax.Array, np.ndarray]:
    """(eps_fn, x_T, the exact x_0) of one of PROBLEMS, float64 [trajectories, dim]."""
    mixture, trajectories = PROBLEMS[problem]
    with jax.enable_x64(True):
        eps_fn = jax.tree_util.Partial(mixture.eps_fn(SDE))
        x_T = SDE.prior_sample(jax.random.key(0), (trajectories, mixture.mean.shape[1])).astype(np.float64)
        fine = deis.tables.rho_rk(SDE, deis.timesteps(SDE, REFERENCE_STEPS, "log"), "4rk")
        return eps_fn, x_T, np.asarray(deis.sample(fine, eps_fn, x_T))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
