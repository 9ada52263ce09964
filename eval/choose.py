"""The best untrained solvers for a trained network, by number of calls. See: python -m eval.choose --help"""

if not __package__:  # python eval/choose.py, which finds no other package of the repository
    raise SystemExit("error: this command is typed as python -m eval.choose")

import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from omegaconf import MISSING, DictConfig
from tqdm import tqdm

import deis
from eval.figures import against_nfe
from eval.job import NetworkJob, require_positive
from formats.files import write_atomically
from formats.tables import markdown_table, write_csv
from models.sampling.build import build_sde
from models.sampling.options import EpsOptions, check_eps
from models.sampling.source import find
from runs import cli, folder, jax_setup
from runs.errors import checking
from runs.log import open_log

SHOWN = 5  # solvers of every number of calls in choices.md


@dataclass
class ChooseJob(NetworkJob, EpsOptions):
    """The options of this command; conf/choose.yaml explains them."""

    nfe: list[int] = MISSING
    num_samples: int = MISSING
    batch_size: int = MISSING
    reference_nfe: int = MISSING


def main(cfg: DictConfig) -> None:
    """Check the configuration, then try every solver, and write the ranking and the winners' tables."""
    with checking():
        job: ChooseJob = cli.to_object(cfg)
        check(job)
        source = find(job.checkpoint, job.step, job.output_root)
        worse = check_eps(job, source.config)
        sde = build_sde(source.config["sde"])
    config, run_dir = cli.to_dict(cfg), folder.of_job(job.run_dir, job.output_root, job.name)
    if folder.finished(run_dir, config, source.path):
        return
    with folder.occupy(run_dir, config, nfe=list(job.nfe)):
        print(jax_setup.configure_jax(job.batch_size), file=sys.stderr)
        from eval.few_calls.trajectories import solve  # imports JAX, which is configured by now
        from models.sampling.draw import guided, load_trained

        with checking():
            net = guided(load_trained(source.path, source.step), worse)
        fine = solve(net, job.num_samples, job.batch_size, job.reference_nfe, job, None)
        how: dict[str, Any] = {"batch_size": job.batch_size, "condition": fine.label}
        gits = partial(deis.learn.gits, deis.learn.step_errors(sde, *fine[:2], **how))
        rows: list[dict[str, Any]] = []
        for nfe in tqdm(job.nfe, unit="budget", leave=False):
            candidates = [*deis.learn.untrained(sde, nfe), *deis.learn.on_nodes(sde, nfe, gits)]
            ranked = deis.choose(sde, *fine[:3], nfe, candidates, **how)
            rows += [row_of(nfe, rank, choice) for rank, choice in enumerate(ranked, 1)]
            ranked[0].table.save(run_dir / f"nfe_{nfe:03}.safetensors")
        write(run_dir, rows)
        with open_log(job.logger, run_dir, "choose", config) as log:
            for row in (row for row in rows if row["rank"] == 1):
                log.metrics(row["nfe"], {"nfe": row["nfe"], "rms": row["rms"]})
            log.image(0, "choices", run_dir / "choices.png")
    print(f"{(run_dir / 'choices.md').read_text()}\n{run_dir}")


def check(job: ChooseJob) -> None:
    """Refuse with a ValueError what cannot work, before anything expensive starts."""
    require_positive(job, "num_samples", "batch_size", "reference_nfe")
    if not job.nfe or min(job.nfe) < 1:
        raise ValueError(f"nfe must be a list of numbers of at least 1, as [5,10,20], got {job.nfe}")
    if max(job.nfe) >= job.reference_nfe:
        raise ValueError(f"reference_nfe must be above every nfe, got {job.reference_nfe} and {max(job.nfe)}")
    if job.num_samples % job.batch_size:
        raise ValueError(f"num_samples must be a multiple of batch_size={job.batch_size}, got {job.num_samples}")


def row_of(nfe: int, rank: int, choice: "deis.learn.Choice") -> dict[str, Any]:
    """One line of choices.csv: the solver, as options of sample.py, and its error."""
    about = dict(choice.table.about)
    words = [f"sampler={about['method']}", f"sampler.nfe={nfe}"]
    words += [f"sampler.{key}={value}" for key, value in about.items() if key != "method"]
    return {
        **{"nfe": nfe, "rank": rank, "rms": choice.error, "sampler": choice.table.name, "method": about["method"]},
        **{"num_samples": choice.trajectories, "options": " ".join(words).replace("=True", "=true")},
    }


def write(run_dir: Path, rows: list[dict[str, Any]]) -> None:
    """choices.csv, all; choices.md, the best of every number of calls; choices.png, the best of every method."""
    write_csv(run_dir / "choices.csv", rows)
    header = ["calls", "", "RMS difference", "solver", "options of sample.py"]
    best = [
        [str(row["nfe"]), str(row["rank"]), f"{row['rms']:.4g}", row["sampler"], f"`{row['options']}`"]
        for row in rows
        if row["rank"] <= SHOWN
    ]
    write_atomically(run_dir / "choices.md", markdown_table(header, best, "rrrll") + "\n")
    first: dict[tuple[str, int], dict[str, Any]] = {}
    for row in rows:  # in order of their rank
        first.setdefault((row["method"], row["nfe"]), row | {"sampler": row["method"]})
    figure = against_nfe(list(first.values()), "rms", "RMS difference to the fine solution")
    figure.savefig(run_dir / "choices.png")


if __name__ == "__main__":
    cli.run(main, "choose", ChooseJob)
