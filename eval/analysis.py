"""The figures of the paper's analysis, on a trained network or on a mixture. See: python -m eval.analysis --help"""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from omegaconf import MISSING, DictConfig

import deis
from models.sampling.build import build_sde
from models.sampling.source import Source, find
from runs import cli, folder
from runs.errors import NonFiniteError, checking
from runs.jax_setup import configure_jax

if TYPE_CHECKING:
    from jaxtyping import Array

    from deis.sampler import EpsFn

PROBLEMS = ("checkpoint", "mixture")


@dataclass
class AnalysisJob:
    """The options of this command; conf/analysis.yaml explains them."""

    name: str = MISSING
    output_root: str = MISSING
    run_dir: str | None = MISSING
    problem: str = MISSING
    checkpoint: str | None = MISSING
    step: int | None = MISSING
    nfe: list[int] = MISSING
    ts_phase: str = MISSING
    ts_order: float = MISSING
    num_samples: int = MISSING
    seed: int = MISSING
    fit_steps: int = MISSING


def main(cfg: DictConfig) -> None:
    """Check the configuration, then measure, and write every figure with its numbers."""
    with checking():
        job: AnalysisJob = cli.to_object(cfg)
        check(job)
        source = find(job.checkpoint, job.step, job.output_root) if job.problem == "checkpoint" else None
        sde = deis.vp_linear() if source is None else build_sde(source.config["sde"])
        deis.timesteps(sde, max(job.nfe), job.ts_phase, job.ts_order)
    config, run_dir = cli.to_dict(cfg), folder.of_job(job.run_dir, job.output_root, job.name)
    with folder.occupy(run_dir, config, problem=job.problem):
        print(configure_jax(), file=sys.stderr)
        table = trajectories(job, run_dir, sde, *start(job, source, sde))
        if source is None:
            toy_network(job, run_dir, sde)
    print(f"{table}\n{run_dir}")


def check(job: AnalysisJob) -> None:
    """Refuse with a ValueError what cannot work, before anything expensive starts."""
    if job.problem not in PROBLEMS:
        raise ValueError(f"problem must be one of {', '.join(PROBLEMS)}, got {job.problem!r}")
    if not job.nfe or min(job.nfe) < 1:
        raise ValueError(f"nfe must be a list of numbers of at least 1, as [5,10,20], got {job.nfe}")
    for key in ("num_samples", "fit_steps"):
        if getattr(job, key) < 1:
            raise ValueError(f"{key} must be at least 1, got {getattr(job, key)}")
    if not 0 <= job.seed <= 2**32 - job.num_samples:
        raise ValueError(f"seed must be 0 or more, and the last seed below 2^32, got {job.seed}")


def start(job: AnalysisJob, source: Source | None, sde: deis.SDE) -> "tuple[EpsFn, Array]":
    """(eps_fn, x_T) of the problem; without a source, the mixture's."""
    import jax

    from eval.exact.mixture import IN_2D
    from models.sampling.draw import load_trained, starts
    from models.score import eps_fn

    seeds = list(range(job.seed, job.seed + job.num_samples))
    if source is None:
        keys = jax.vmap(jax.random.key)(jax.numpy.array(seeds, jax.numpy.uint32))
        return IN_2D.eps_fn(sde), jax.vmap(lambda key: sde.prior_sample(key, (2,)))(keys)
    with checking():
        net = load_trained(source.path, source.step)
    at = starts(net, seeds)
    return eps_fn(net.network, net.sde, net.params, at.label), at.x_T


def trajectories(job: AnalysisJob, run_dir: Path, sde: deis.SDE, eps_fn: "EpsFn", x_T: "Array") -> str:
    """Write what is measured along trajectories; the table of pixel differences, as Markdown."""
    from eval.exact import discretisation, figures
    from eval.exact.records import markdown

    grid = (job.ts_phase, job.ts_order)
    path = discretisation.fine_trajectory(sde, eps_fn, x_T, *grid)
    if not (np.all(np.isfinite(path.x)) and np.all(np.isfinite(path.eps))):
        raise NonFiniteError("the trajectories hold NaN or infinite values; the network or the schedule is at fault")
    change = discretisation.relative_change_rows(path)
    held = discretisation.holding_rows(path)
    extrapolated = discretisation.extrapolation_rows(path)
    differences = discretisation.pixel_difference_rows(sde, eps_fn, x_T, path.x[-1], job.nfe, *grid)
    table = markdown(differences, "sampler", "nfe_asked", "pixel_difference")
    by_time = markdown(change, "t", "quantity", "relative_change")
    write(run_dir, "relative_change", figures.relative_change_figure(change), change, by_time)
    write(run_dir, "holding", figures.holding_figure(held), held, markdown(held, "t", "held", "eps_error"))
    by_order = markdown(extrapolated, "nfe", "order", "eps_error")
    write(run_dir, "extrapolation", figures.extrapolation_figure(extrapolated), extrapolated, by_order)
    write(run_dir, "pixel_difference", figures.pixel_difference_figure(differences), differences, table)
    return table


def toy_network(job: AnalysisJob, run_dir: Path, sde: deis.SDE) -> None:
    """Fit the toy network in one and in two dimensions, and write where it is wrong."""
    import jax

    from eval.exact import toy_network as toy
    from eval.exact.figures import fitting_figure
    from eval.exact.mixture import IN_1D, IN_2D
    from eval.exact.records import markdown, write_csv

    ts = deis.timesteps(sde, 40, "t", 2.0)
    by_time: list[dict[str, Any]] = []
    for dim, mixture in ((1, IN_1D), (2, IN_2D)):
        key_fit, key_measure = jax.random.split(jax.random.fold_in(jax.random.key(job.seed), dim))
        params = toy.fit(sde, mixture, key_fit, job.fit_steps)
        by_time += [row | {"dim": dim} for row in toy.error_by_time(params, sde, mixture, ts, key_measure)]
        if dim == 1:
            error_map = toy.error_map(params, sde, mixture, np.linspace(-2.5, 2.5, 101), ts)
    write_csv(run_dir / "fitting_map.csv", error_map)
    table = markdown(by_time, "t", "dim", "eps_error")
    write(run_dir, "fitting", fitting_figure(error_map, by_time), by_time, table)


def write(run_dir: Path, name: str, figure: Any, rows: list[dict[str, Any]], table: str) -> None:
    """A figure as .png and .svg, its numbers as .csv, and its table as .md."""
    from eval.exact.figures import save
    from eval.exact.records import write_csv

    save(figure, run_dir / name)
    write_csv(run_dir / f"{name}.csv", rows)
    (run_dir / f"{name}.md").write_text(table)


if __name__ == "__main__":
    cli.run(main, "analysis", AnalysisJob)
