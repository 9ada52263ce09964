"""The best untrained solvers for a trained network, by number of calls. See: python -m eval.choose --help"""

if not __package__:  # python eval/choose.py, which finds no other package of the repository
    raise SystemExit("error: this command is typed as python -m eval.choose")

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from omegaconf import MISSING, DictConfig
from tqdm import tqdm

import deis
from eval.features.config import ExtractorConfig
from eval.figures import against_nfe, fid_vs_nfe_plot
from eval.job import MeasuringJob, check_measuring, dataset_of, require_positive, say_next
from formats.files import write_atomically
from formats.tables import markdown_table, write_csv
from models.sampling.build import build_sde
from models.sampling.options import EpsOptions, check_eps
from models.sampling.source import find
from runs import cli, folder, jax_setup
from runs.errors import checking, writing
from runs.log import open_log

LEAST = 40  # images of a finalist; the first ten of them, and ten blocks of all, have to have a FID
SHOWN = 5  # solvers of every number of calls in choices.md, where there are no finalists
MEASURED = ("fid_rank", "fid", "fid_standard_error", "tied", "fid_name")  # of a finalist, beside the rest of its row
TIED = "≈: behind the first by less than two standard errors of their difference, over the same seeds."

Row = dict[str, Any]  # a line of choices.csv


@dataclass
class ChooseJob(MeasuringJob, EpsOptions):
    """The options of this command; conf/choose.yaml explains them."""

    nfe: list[int] = MISSING
    trajectories: int = MISSING
    micro_batch: int = MISSING
    reference_nfe: int = MISSING
    finalists: int = MISSING


def main(cfg: DictConfig) -> None:
    """Check the configuration, try every solver, measure the finalists, write the ranking and the winners' tables."""
    with checking():
        job: ChooseJob = cli.to_object(cfg)
        check(job)
        job.extractor = job.extractor or ExtractorConfig()
        source = find(job.checkpoint, job.step, job.output_root)
        worse = check_eps(job, source.config)
        dataset = dataset_of(source, job.dataset) if job.finalists else None
        sde = build_sde(source.config["sde"])
        config = cli.to_dict(cfg)
        run_dir = folder.of_job(job.run_dir, job.output_root, job.name, config)
    if folder.finished(run_dir, config, source.path):
        return
    with writing(), folder.occupy(run_dir, config, nfe=list(job.nfe)):
        print(jax_setup.configure_jax(job.micro_batch), file=sys.stderr)
        from eval.few_calls import finalists, trajectories  # import JAX, which is configured by now
        from eval.paper.compute import set_up
        from models.sampling.draw import guided, load_trained

        with checking():
            net = guided(load_trained(source.path, source.step), worse)
        setup = None
        if dataset is not None:
            setup = set_up(source, {job.guidance_network: worse}, dataset, job, run_dir / "cells", False)
        fine = trajectories.solve(net, job.trajectories, job.micro_batch, job.reference_nfe, job, None)
        with checking():
            ranked = {
                nfe: deis.choose(sde, *fine[:3], nfe, batch_size=job.micro_batch, condition=fine.label)
                for nfe in tqdm(sorted(set(job.nfe)), unit="budget", leave=False)
            }
        rows = {one: row_of(nfe, rank, one) for nfe, found in ranked.items() for rank, one in enumerate(found, 1)}
        if setup is not None:
            for one, record in finalists.measure(setup, ranked, job.finalists, job.num_samples, job).items():
                rows[one] |= {name: record.get(name) for name in MEASURED}
        winners = {row["nfe"]: one for one, row in rows.items() if row["rank" if setup is None else "fid_rank"] == 1}
        files = {nfe: run_dir / f"nfe_{nfe:03}.safetensors" for nfe in winners}
        for nfe, one in winners.items():
            about = dict(one.table.about) | {"chosen_by": reason(rows[one], job.reference_nfe)}
            replace(one.table, about=about).save(files[nfe])
        write(run_dir, list(rows.values()))
        with open_log(job.logger, run_dir, "choose", config) as log:
            for nfe, one in winners.items():
                log.metrics(nfe, {key: rows[one][key] for key in ("nfe", "rms", "fid") if rows[one][key] is not None})
            for picture in run_dir.glob("*.png"):
                log.image(max(winners), picture.stem, picture)
    print(f"{(run_dir / 'choices.md').read_text()}\n{run_dir}: {', '.join(file.name for file in files.values())}")
    if setup is not None:
        print(setup.costs, file=sys.stderr)
    say_next(files[min(files)], source)


def check(job: ChooseJob) -> None:
    """Refuse with a ValueError what cannot work, before anything expensive starts."""
    check_measuring(job)
    require_positive(job, "trajectories", "micro_batch", "reference_nfe")
    if not job.nfe or min(job.nfe) < 1:
        raise ValueError(f"nfe must be a list of numbers of at least 1, as [5,10,20], got {job.nfe}")
    if max(job.nfe) >= job.reference_nfe:
        raise ValueError(f"reference_nfe must be above every nfe, got {job.reference_nfe} and {max(job.nfe)}")
    if job.trajectories % job.micro_batch:
        raise ValueError(f"trajectories must be a multiple of micro_batch={job.micro_batch}, got {job.trajectories}")
    if job.finalists < 0 or job.finalists == 1:
        raise ValueError(f"finalists must be 0, for no FID, or at least 2, got {job.finalists}")
    if not job.finalists and (job.extractor is not None or job.dataset.name):
        raise ValueError("extractor= and dataset= are for the FID of finalists, and there are none: add finalists=8")
    if job.finalists and job.extractor is not None and job.extractor.name == "none":
        raise ValueError("finalists are measured by FID, which needs features: choose another extractor than none")
    if job.finalists and job.num_samples < LEAST:
        raise ValueError(f"num_samples must be at least {LEAST} for the FID of finalists, got {job.num_samples}")


def row_of(nfe: int, rank: int, choice: "deis.learn.Choice") -> Row:
    """One line of choices.csv, without FID: the solver, as options of sample.py, and its error."""
    about = dict(choice.table.about)
    words = [f"sampler={about['method']}", f"sampler.nfe={nfe}"]
    words += [f"sampler.{key}={value}" for key, value in about.items() if key != "method"]
    return {
        **{"nfe": nfe, "rank": rank, "rms": choice.error, **dict.fromkeys(MEASURED)},
        **{"sampler": choice.table.name, "method": about["method"], "trajectories": choice.trajectories},
        "options": " ".join(words).replace("=True", "=true"),
    }


def reason(row: Row, reference_nfe: int) -> str:
    """What a table was chosen by."""
    if row["fid"] is None:
        return f"RMS difference of {row['rms']:.4g} to {reference_nfe} calls, over {row['trajectories']} trajectories"
    return f"{row['fid_name']} of {row['fid']:.4g} ± {row['fid_standard_error']:.2g}"


def write(run_dir: Path, rows: Sequence[Row]) -> None:
    """choices.csv, all; choices.md, the best of every number of calls; plots of the best of every method."""
    write_csv(run_dir / "choices.csv", rows)
    finalists = sorted((row for row in rows if row["fid_rank"]), key=lambda row: (row["nfe"], row["fid_rank"]))
    name = finalists[0]["fid_name"] if finalists else "FID"
    header = ["calls", "", *([name] if finalists else []), "RMS difference", "solver", "options of sample.py"]
    lines = []
    for row in finalists or [row for row in rows if row["rank"] <= SHOWN]:
        fid = "ERR" if row["fid"] is None else f"{row['fid']:.2f} ± {row['fid_standard_error']:.2f}"
        first = [f"{row['fid_rank']}{' ≈' if row['tied'] else ''}", fid] if finalists else [str(row["rank"])]
        lines.append([str(row["nfe"]), *first, f"{row['rms']:.4g}", row["sampler"], f"`{row['options']}`"])
    text = markdown_table(header, lines, "r" * (len(header) - 2) + "ll") + "\n"
    write_atomically(run_dir / "choices.md", text + (f"\n{TIED}\n" if finalists else ""))
    against_nfe(best_of_methods(rows), "rms", "RMS difference to the fine solution").savefig(run_dir / "choices.png")
    fid_vs_nfe_plot(run_dir / "fid_vs_nfe.png", best_of_methods(finalists))


def best_of_methods(rows: Sequence[Row]) -> list[Row]:
    """The first row of every method at every number of calls, under the method's name."""
    first: dict[tuple[str, int], Row] = {}
    for row in rows:
        first.setdefault((row["method"], row["nfe"]), row | {"sampler": row["method"]})
    return list(first.values())


if __name__ == "__main__":
    cli.run(main, "choose", ChooseJob)
