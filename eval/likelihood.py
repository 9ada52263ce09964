"""Bits per dimension of held-out images under a trained network. See: python -m eval.likelihood --help"""

if not __package__:  # python eval/likelihood.py, which finds no other package of the repository
    raise SystemExit("error: this command is typed as python -m eval.likelihood")

import json
import sys
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from omegaconf import MISSING, DictConfig

import data
from data.config import DatasetConfig
from eval.job import NetworkJob, dataset_of, origin, require_positive, require_seed, require_signal
from formats.files import write_atomically
from formats.tables import markdown_table
from models.sampling.build import build_sde, check_sampler, end_sde, refuse_own_times
from models.sampling.source import Source, find
from runs import cli, folder, jax_setup
from runs.errors import checking, writing
from runs.log import open_log


@dataclass
class LikelihoodJob(NetworkJob):
    """The options of this command; conf/likelihood.yaml explains them."""

    dataset: DatasetConfig = field(default_factory=DatasetConfig)
    methods: list[str] = MISSING
    sampler: Any = MISSING
    nfe: list[int] | None = MISSING
    tolerance: float = MISSING
    trace: str = MISSING
    num_probes: int = MISSING
    num_images: int | None = MISSING
    batch_size: int = MISSING
    seed: int = MISSING


def main(cfg: DictConfig) -> None:
    """Check the configuration, then measure by each method, compare, and write result.json."""
    with checking():
        job: LikelihoodJob = cli.to_object(cfg)
        check(job)
        source = find(job.checkpoint, job.step, job.output_root)
        sde = end_sde(check_sampler(job.sampler), build_sde(source.config["sde"]))
        require_signal(sde)
        dataset, split = held_out(job, source)
        using = jax_setup.configure_jax()
        # these import JAX, which is configured by now
        from deis import adaptive
        from eval.metrics.bits_per_dim import measure_bits, paired_difference, table_flow

        nfes = (job.nfe or [job.sampler["nfe"]]) if "table" in job.methods else []
        chosen = [table_flow(job.sampler | {"nfe": nfe}, sde) for nfe in nfes]
        if "dopri5" in job.methods:
            chosen.append(("DOPRI5", partial(adaptive.encode, rtol=job.tolerance, atol=job.tolerance)))
    config, run_dir = cli.to_dict(cfg), folder.of_job(job.run_dir, job.output_root, job.name)
    if folder.finished(run_dir, config, source.path):
        return
    with writing(), folder.occupy(run_dir, config):
        print(using, file=sys.stderr)
        rows, bits = measure_bits(
            source, sde, split, chosen, job.batch_size, seed=job.seed, trace=job.trace, num_probes=job.num_probes
        )
        result = {
            "rows": rows,
            "dataset": dataset.name,
            "split": dataset.test_split,
            "num_images": len(split.images),
            **origin(source),
            "trace": job.trace,
            "num_probes": None if job.trace == "exact" else job.num_probes,
            "seed": job.seed,
            "tolerance": job.tolerance if "dopri5" in job.methods else None,
            "overrides": folder.overrides(),
        }
        if len(bits) == len(job.methods) == 2:
            result["difference"] = paired_difference(*bits)
        write_atomically(run_dir / "result.json", json.dumps(result, indent=2) + "\n")
        with open_log(job.logger, run_dir, "likelihood", config) as log:
            for row in rows:
                name, measured = row["solver"], ("nfe", "bits_per_dim", "standard_error", "seconds")
                values = {f"{name}_{row['nfe']:.4g}/{key}": row[key] for key in measured if row[key] is not None}
                log.metrics(source.step or 0, values)
    print(f"{report(result)}\n{run_dir}")


def check(job: LikelihoodJob) -> None:
    """Refuse with a ValueError what cannot work, before anything expensive starts."""
    require_positive(job, "num_probes", "batch_size", "num_images")
    refuse_own_times(job.sampler)
    if sorted(job.methods) not in (["table"], ["dopri5"], ["dopri5", "table"]):
        raise ValueError(f"methods must be [table], [dopri5] or [table,dopri5], got {job.methods}")
    if job.nfe is not None and (not job.nfe or "table" not in job.methods):
        raise ValueError(f"nfe={job.nfe} chooses network calls of the method table; give some, and methods=[table]")
    if not 0 < job.tolerance < 1:
        raise ValueError(f"tolerance must be between 0 and 1, got {job.tolerance:g}")
    if job.trace not in ("exact", "rademacher", "gaussian"):
        raise ValueError(f"trace must be exact, rademacher or gaussian, got {job.trace!r}")
    require_seed(job.seed)


def held_out(job: LikelihoodJob, source: Source) -> tuple[DatasetConfig, "data.Split"]:
    """The data set asked for, else the one the network was trained on, and the images of its test split to measure.

    Raises ValueError if neither is known, or the images are too few or of another shape than the network's.
    """
    dataset = dataset_of(source, job.dataset)
    split = data.load(dataset, "test")
    size, channels = (source.config["model"][key] for key in ("image_size", "image_channels"))
    if split.images.shape[1:] != (size, size, channels):
        raise ValueError(
            f"the network makes images of shape {[size, size, channels]}, but those of {dataset.name} are "
            f"{list(split.images.shape[1:])}; give another dataset, or dataset.image_size={size}"
        )
    classes = source.config["model"].get("num_classes")
    if classes and not 0 < split.num_classes <= classes:
        raise ValueError(
            f"the network takes one of {classes} classes with every image, but {dataset.name} has "
            f"{split.num_classes or 'none'}; give the dataset that it was trained on"
        )
    if job.num_images is not None and job.num_images > len(split.images):
        raise ValueError(
            f"num_images={job.num_images} is more than the {len(split.images)} images of {dataset.name}'s test split; "
            "num_images=null takes all"
        )
    labels = None if split.labels is None else split.labels[: job.num_images]
    return dataset, replace(split, images=split.images[: job.num_images], labels=labels)


def report(result: dict[str, Any]) -> str:
    """The result as Markdown: a table of the solvers, what was measured, and how they differ."""
    formats = {"nfe": ".4g", "bits_per_dim": ".4f", "standard_error": ".4f", "seconds": ".1f"}
    rows = [
        [row["solver"], *("-" if row[key] is None else f"{row[key]:{shown}}" for key, shown in formats.items())]
        for row in result["rows"]
    ]
    at_step = "" if result["step"] is None else f" at step {result['step']}"
    lines = [
        markdown_table(["solver", "NFE", "bits/dim", "standard error", "seconds with compilation"], rows),
        "",
        f"{result['num_images']} images of {result['dataset']} ({result['split']}), uniform dequantisation, "
        f"{result['trace']} trace; {result['checkpoint']}{at_step}.",
    ]
    if "difference" in result:
        first, second = (row["solver"] for row in result["rows"])
        found = result["difference"]
        error = "" if found["standard_error"] is None else f" (standard error {found['standard_error']:.4f})"
        lines.append(
            f"On the same noise and probes {first} less {second} is {found['mean']:+.4f} bits/dim{error}, "
            f"at most {found['largest']:.4f} for one image."
        )
    return "\n".join(lines)


if __name__ == "__main__":
    cli.run(main, "likelihood", LikelihoodJob)
