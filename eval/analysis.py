"""The figures of the paper's analysis, on a trained network or on a mixture. See: python -m eval.analysis --help"""

if not __package__:  # python eval/analysis.py, which finds no other package of the repository
    raise SystemExit("error: this command is typed as python -m eval.analysis")

import sys
import time
from dataclasses import dataclass

from omegaconf import MISSING, DictConfig

import deis
from eval.job import NetworkJob, require_positive, require_seed, require_signal
from models.sampling.build import build_sde
from models.sampling.source import find
from runs import cli, folder, jax_setup
from runs.errors import checking, writing
from runs.log import open_log


@dataclass
class AnalysisJob(NetworkJob):
    """The options of this command; conf/analysis.yaml explains them."""

    problem: str = MISSING
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
        require_signal(sde)
        deis.timesteps(sde, max(1000, *job.nfe), job.ts_phase, job.ts_order)  # 1000 of the fine trajectories
    config, run_dir = cli.to_dict(cfg), folder.of_job(job.run_dir, job.output_root, job.name)
    if folder.finished(run_dir, config, source and source.path):
        return
    with writing(), folder.occupy(run_dir, config, problem=job.problem):
        print(jax_setup.configure_jax(), file=sys.stderr)
        from eval.exact import study  # imports JAX, which is configured by now

        began = time.perf_counter()
        start = study.start(source, sde, list(range(job.seed, job.seed + job.num_samples)))
        table = study.write_trajectories(run_dir, sde, *start, job.nfe, (job.ts_phase, job.ts_order))
        if source is None:
            study.write_toy_network(run_dir, sde, job.seed, job.fit_steps)
        with open_log(job.logger, run_dir, "analysis", config) as log:
            log.metrics(0, {"seconds": time.perf_counter() - began, "num_samples": job.num_samples})
            for picture in sorted(run_dir.glob("*.png")):
                log.image(0, picture.stem, picture)
    unit = "coordinates" if source is None else "pixels from -1 to 1"
    print(f"Mean |x - exact solution| of {unit}, by solver and network calls at most:\n\n{table}\n{run_dir}")


def check(job: AnalysisJob) -> None:
    """Refuse with a ValueError what cannot work, before anything expensive starts."""
    if job.problem not in ("checkpoint", "mixture"):
        raise ValueError(f"problem must be one of checkpoint, mixture, got {job.problem!r}")
    if job.problem == "mixture" and (job.checkpoint is not None or job.step is not None):
        raise ValueError("problem=mixture has no network; leave out checkpoint and step, or problem")
    if not job.nfe or min(job.nfe) < 1:
        raise ValueError(f"nfe must be a list of numbers of at least 1, as [5,10,20], got {job.nfe}")
    require_positive(job, "num_samples", "fit_steps")
    require_seed(job.seed, job.num_samples)


if __name__ == "__main__":
    cli.run(main, "analysis", AnalysisJob)
