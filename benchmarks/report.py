"""The tables of the work-precision benchmark, in Markdown."""

from collections.abc import Iterable, Sequence

import numpy as np

Errors = dict[tuple[str, str, str, int], float]
"""{(problem, solver, grid, NFE): root mean square error}"""
Means = dict[tuple[str, str, int], float]
"""{(solver, grid, NFE): geometric mean of the errors over the problems}"""

ROUNDING = 2e-6
"""What the float32 that some schedulers compute in may do to an error; data are of size 1."""


INTRODUCTION = """# Error against network calls

Written by `python -m benchmarks.work_precision`; nothing here is typed by hand. The error is the root mean square
distance to the exact solution of the probability-flow ODE, over 64 trajectories of a Gaussian mixture whose eps is
known exactly, or 16 in 64 dimensions. {problems} problems, {solvers} solvers, {grids} grids; C is the free corrector, L
lower_order_final. Data are of size 1. Means over problems are geometric."""

SAME_METHOD = """## The same method on the same nodes

Every scheduler of diffusers on its own nodes, and our table of the same conventions; means over problems. The last
column is the largest amount, over all problems, NFE and grids, by which the error of ours exceeds theirs. PNDM with 30
calls makes strides of 47 indices, whose middle is none: there the conventions differ (solvers.md)."""

BEST = """## The best of all

The smallest error of any solver on any grid. The last rows: of any one solver and grid, mean over the problems."""

RANKING = """## One choice for all problems

Solvers and grids in the order of their `factor`: the mean over NFE up to 20 of the error divided by the smallest error
of any choice at that NFE. Errors are means over the problems."""

EVERY = """## Every solver on the grid "{grid}"

Means over the problems. Where a method has no such number of network calls its cell is empty."""


def page(ours: Errors, theirs: Errors, same: Errors, nfes: Sequence[int], grid: str) -> str:
    """The report.

    ours: of every solver on every grid. theirs, same: of diffusers, and of our tables of the same methods, if any.
    """
    problems, solvers, grids = (len(dict.fromkeys(key[i] for key in ours)) for i in range(3))
    sections = [INTRODUCTION.format(problems=problems, solvers=solvers, grids=grids)]
    if theirs:
        sections += [SAME_METHOD, pairs(theirs, same, nfes), excesses(theirs, same)]
    sections += [BEST, best(ours | same, theirs, nfes), *([losses(ours | same, theirs)] if theirs else [])]
    sections += [RANKING, ranking(ours, theirs, nfes, count=12)]
    sections += [EVERY.format(grid=grid), every(ours, grid, nfes)]
    return "\n\n".join(sections)


def over_problems(errors: Errors) -> Means:
    logs: dict[tuple[str, str, int], list[float]] = {}
    for (_, solver, grid, nfe), error in errors.items():
        logs.setdefault((solver, grid, nfe), []).append(np.log(error))
    return {key: float(np.exp(np.mean(values))) for key, values in logs.items()}


def pairs(theirs: Errors, ours: Errors, nfes: Sequence[int]) -> str:
    """Every scheduler and our table of the same method on its own nodes, and the largest excess of ours on any."""
    rows = []
    their_means, our_means = over_problems(theirs), over_problems(ours)
    for solver in dict.fromkeys(key[1] for key in theirs):
        excess = max(ours[key] - theirs[key] for key in theirs if key[1] == solver)
        for library, means in (("diffusers", their_means), ("ours", our_means)):
            note = f"{excess:.0e}" if library == "ours" else ""
            rows.append([solver, library, *(_number(means.get((solver, "own", nfe))) for nfe in nfes), note])
    return _markdown(["method", "", *nfes, "largest excess"], rows)


def excesses(theirs: Errors, ours: Errors) -> str:
    """Where our table of the same method is worse by more than ROUNDING."""
    found = [key for key in theirs if ours[key] > theirs[key] + ROUNDING]
    lines = [f"* {', '.join(map(str, key))}: {ours[key]:.3e} against {theirs[key]:.3e}" for key in found]
    return "\n".join([f"Ours is worse by more than {ROUNDING:g} in {len(found)} of {len(theirs)} runs.", *lines])


def losses(ours: Errors, theirs: Errors) -> str:
    """How often the best of one library is better by more than ROUNDING than the best of the other."""
    cells = dict.fromkeys((key[0], key[3]) for key in theirs)
    least = [[min(e for k, e in errors.items() if (k[0], k[3]) == cell) for cell in cells] for errors in (ours, theirs)]
    gap = np.array(least[0]) - np.array(least[1])
    return (
        f"In {len(gap)} cells, diffusers is better by more than {ROUNDING:g} in {np.sum(gap > ROUNDING)}, "
        f"ours in {np.sum(gap < -ROUNDING)}."
    )


def best(ours: Errors, theirs: Errors, nfes: Sequence[int]) -> str:
    """The smallest error of any solver on any grid, for every problem, and for one choice over all problems."""
    rows = []
    for problem in dict.fromkeys(key[0] for key in ours):
        for library, errors in (("ours", ours), ("diffusers", theirs)):
            least = [
                min((e for k, e in errors.items() if (k[0], k[3]) == (problem, nfe)), default=None) for nfe in nfes
            ]
            rows.append([problem, library, *map(_number, least)])
    for library, errors in (("ours", ours), ("diffusers", theirs)):
        means = over_problems(errors)
        least = [min((e for key, e in means.items() if key[2] == nfe), default=None) for nfe in nfes]
        rows.append(["one choice for all", library, *map(_number, least)])
    return _markdown(["problem", "", *nfes], rows if theirs else rows[::2])


def ranking(ours: Errors, theirs: Errors, nfes: Sequence[int], count: int) -> str:
    """The best choices of solver and grid for all problems and NFE up to 20.

    Their order is that of the geometric mean, over the NFE, of the error divided by the smallest of any choice.
    """
    means = {("ours", *key): error for key, error in over_problems(ours).items()}
    means |= {("diffusers", *key): error for key, error in over_problems(theirs).items()}
    counted = [nfe for nfe in nfes if nfe <= 20]
    least = {nfe: min(error for key, error in means.items() if key[3] == nfe) for nfe in counted}
    choices = [c for c in dict.fromkeys(key[:3] for key in means) if all((*c, nfe) in means for nfe in counted)]
    factor = {c: np.exp(np.mean([np.log(means[(*c, nfe)] / least[nfe]) for nfe in counted])) for c in choices}
    top = sorted(choices, key=factor.__getitem__)[:count]
    rows = [[c[1], c[2], c[0], f"{factor[c]:.2f}", *(_number(means.get((*c, nfe))) for nfe in nfes)] for c in top]
    return _markdown(["solver", "grid", "", "factor", *nfes], rows)


def every(errors: Errors, grid: str, nfes: Sequence[int]) -> str:
    """All solvers on one grid: geometric means over the problems."""
    means = over_problems(errors)
    solvers = dict.fromkeys(key[0] for key in means if key[1] == grid)
    return _markdown(["solver", *nfes], [[s, *(_number(means.get((s, grid, nfe))) for nfe in nfes)] for s in solvers])


def _number(error: float | None) -> str:
    return "" if error is None else f"{error:.2e}"


def _markdown(head: Sequence[object], rows: Iterable[Sequence[object]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)
