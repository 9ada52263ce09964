"""A solver of few network calls, learned for a trained network. See: python -m eval.learn --help"""

if not __package__:  # python eval/learn.py, which finds no other package of the repository
    raise SystemExit("error: this command is typed as python -m eval.learn")

import json
import sys
from dataclasses import dataclass
from functools import partial
from typing import Any

from omegaconf import MISSING, DictConfig

import deis
from eval.figures import samples_picture
from eval.job import MeasuringJob, check_measuring, dataset_of, origin, require_positive, say_next
from eval.metrics.measurement import Measurement, MetricConfig, lines, open_measurement, validate_metrics
from formats.files import write_atomically
from formats.tables import markdown_table
from models.sampling.build import build_sde, build_table
from models.sampling.options import EpsOptions, check_eps
from models.sampling.source import find, identity
from runs import cli, folder, jax_setup
from runs.errors import Stopped, checking, writing
from runs.log import open_log


@dataclass
class LearnJob(MeasuringJob, EpsOptions):
    """The options of this command; conf/learn.yaml explains them."""

    sampler: Any = None
    nfe: int = MISSING
    trajectories: int = MISSING
    reference_nfe: int = MISSING
    learn: list[str] | None = MISSING
    loss: str = MISSING
    features: str | None = MISSING
    steps: int = MISSING
    micro_batch: int = MISSING


FIXED = (
    *("network", "sampler", "nfe", "trajectories", "reference_nfe", "learn", "loss", "features", "steps"),
    *("micro_batch", *EpsOptions.__dataclass_fields__),
)
"""What the trajectories and the steps in a folder follow from."""


def main(cfg: DictConfig) -> None:
    """Check the configuration, then solve finely, choose a base, learn, and compare base, learned and fine samples."""
    with checking():
        job: LearnJob = cli.to_object(cfg)
        check(job)
        if any(text.startswith("sampler.nfe=") for text in folder.overrides()):
            raise ValueError("the number of calls is nfe= here, with every solver, and not sampler.nfe=")
        source = find(job.checkpoint, job.step, job.output_root)
        worse = check_eps(job, source.config)
        dataset = None if job.extractor is None else dataset_of(source, job.dataset)
        sde = build_sde(source.config["sde"])
        base = None if job.sampler is None else build_table({**job.sampler, "nfe": job.nfe}, sde)
        nfe = base.nfe if base else job.nfe  # more than was asked for, if the solver rounds it up
        if job.reference_nfe <= nfe:
            raise ValueError(f"reference_nfe must be above nfe={nfe}, got {job.reference_nfe}")
        deis.learn.check(sde, base, job.learn, job.loss)
        config = cli.to_dict(cfg) | {"network": identity(source, worse)}
        run_dir = folder.of_job(job.run_dir, job.output_root, job.name, config)
        folder.refuse_changes(run_dir, config, FIXED)
    if folder.finished(run_dir, config, source.path):
        return
    with writing(), folder.occupy(run_dir, config, nfe=nfe, nfe_asked=job.nfe):
        print(jax_setup.configure_jax(job.batch_size), file=sys.stderr)
        from eval.features.efficientnet_lite0 import features_of_samples
        from eval.few_calls import learning, trajectories  # import JAX, which is configured by now
        from models.sampling.draw import guided, load_trained

        with checking():
            net = guided(load_trained(source.path, source.step), worse)
        open_one = None
        if dataset is not None and job.extractor is not None:  # now, as features may have to be made, or be impossible
            ready = open_measurement(job.extractor, dataset, MetricConfig())
            open_one = partial(Measurement, ready.extractor, ready.reference, MetricConfig())
        with checking(), writing():
            kept = run_dir / "trajectories.npz"
            fine = trajectories.solve(net, job.trajectories, job.batch_size, job.reference_nfe, job, kept)
            base = base or learning.chosen(sde, fine, job.nfe, job.micro_batch)
            how: dict[str, Any] = {"learn": job.learn, "loss": job.loss, "steps": job.steps}
            if job.features:
                how["features"] = features_of_samples
            learned, stopped = learning.learned(sde, fine, base, run_dir, job.micro_batch, **how)
        learned.save(run_dir / "learned.safetensors")
        if stopped:
            raise Stopped(
                stopped, f"stopped; {run_dir}/learned.safetensors is the best so far, the same command goes on"
            )
        solvers = {"base": base, "learned": learned, "fine": trajectories.fine_table(sde, job.reference_nfe)}
        with checking():
            rows, images = learning.compare(net, solvers, job.num_samples, job.batch_size, job.rounding, job, open_one)
        samples_picture(run_dir / "samples.png", images)
        rows = [row | {"nfe_asked": row["nfe"] if row["solver"] == "fine" else job.nfe} for row in rows]
        result = origin(source) | {"about": dict(learned.about), "solvers": rows}
        write_atomically(run_dir / "result.json", json.dumps(result, indent=2) + "\n")
        write_atomically(run_dir / "learned.md", markdown(rows) + "\n")
        with open_log(job.logger, run_dir, "learn", config) as log:
            for row in rows:
                values = {key: row[key] for key in ("nfe", "rms", "fid") if key in row}
                log.metrics(0, {f"{row['solver']}/{key}": value for key, value in values.items()})
            log.image(0, "samples", run_dir / "samples.png")
    print(f"{markdown(rows)}\n{run_dir}")
    say_next(run_dir / "learned.safetensors", source)


def check(job: LearnJob) -> None:
    """Refuse with a ValueError what cannot work, before anything expensive starts."""
    check_measuring(job)
    if job.extractor is not None and job.extractor.name == "none":
        job.extractor = None
    require_positive(job, "nfe", "trajectories", "reference_nfe", "steps", "micro_batch")
    if job.extractor is not None:
        validate_metrics(MetricConfig(), job.num_samples)
    elif job.dataset.name:
        raise ValueError("dataset= is for FID, which nothing measures: add extractor=classifier")
    if job.features not in (None, "efficientnet_lite0"):
        raise ValueError(f"features must be null or efficientnet_lite0, got {job.features!r}")
    if job.features and job.extractor is not None and job.extractor.name == job.features:
        raise ValueError(
            f"FID is not to be measured by what is learned from: features={job.features} needs another extractor"
        )
    if job.trajectories < 2 * job.micro_batch:
        raise ValueError(f"trajectories must be at least two micro_batch of {job.micro_batch}, got {job.trajectories}")


def markdown(rows: list[dict[str, Any]]) -> str:
    """The comparison as a table."""
    header = ["", "solver", "calls", "RMS difference", "measured"]
    asked = ["" if row["nfe"] == row["nfe_asked"] else f" ({row['nfe_asked']} asked)" for row in rows]
    cells = [
        [row["solver"], row["table"], f"{row['nfe']}{also}", f"{row['rms']:.4g}", ", ".join(lines(row)) or "-"]
        for row, also in zip(rows, asked, strict=True)
    ]
    return markdown_table(header, cells, "llrrl")


if __name__ == "__main__":
    cli.run(main, "learn", LearnJob)
