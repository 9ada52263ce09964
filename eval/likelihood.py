"""Bits per dimension of held-out images under a trained network. See: python -m eval.likelihood --help"""

import json
import sys
import time
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from hydra.core.hydra_config import HydraConfig
from omegaconf import MISSING, DictConfig

import data
import deis
from data.config import DatasetConfig
from formats.files import write_atomically
from models.sampling.build import build_sde, build_table, check_sampler, end_sde, solver_of
from models.sampling.source import Source, find
from runs import cli, folder
from runs.errors import NonFiniteError, checking
from runs.jax_setup import configure_jax

if TYPE_CHECKING:
    from deis.likelihood import Flow

METHODS = ("table", "dopri5")

Row = dict[str, Any]


@dataclass
class LikelihoodJob:
    """The options of this command; conf/likelihood.yaml explains them."""

    name: str = MISSING
    output_root: str = MISSING
    run_dir: str | None = MISSING
    checkpoint: str | None = MISSING
    step: int | None = MISSING
    dataset: DatasetConfig | None = None
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
        dataset, split = held_out(job, source)
        jax_setup = configure_jax()
        flows = flows_of(job, sde)
    config, run_dir = cli.to_dict(cfg), folder.of_job(job.run_dir, job.output_root, job.name)
    with folder.occupy(run_dir, config):
        print(jax_setup, file=sys.stderr)
        rows, bits = measure(job, source, sde, split, flows)
        result = {"rows": rows, "dataset": dataset.name, "split": dataset.test_split} | facts(job, source, len(bits[0]))
        if len(bits) == len(job.methods) == 2:
            result["difference"] = paired(*bits)
        write_atomically(run_dir / "result.json", json.dumps(result, indent=2) + "\n")
    print(f"{report(result)}\n{run_dir}")


def check(job: LikelihoodJob) -> None:
    """Refuse with a ValueError what cannot work, before anything expensive starts."""
    for key in ("num_probes", "batch_size", "num_images"):
        if getattr(job, key) is not None and getattr(job, key) < 1:
            raise ValueError(f"{key} must be at least 1, got {getattr(job, key)}")
    if not job.methods or set(job.methods) - set(METHODS) or len(set(job.methods)) < len(job.methods):
        raise ValueError(f"methods must be [table], [dopri5] or [table,dopri5], got {job.methods}")
    if job.nfe is not None and (not job.nfe or "table" not in job.methods):
        raise ValueError(f"nfe={job.nfe} chooses network calls of the method table; give some, and methods=[table]")
    if not 0 < job.tolerance < 1:
        raise ValueError(f"tolerance must be between 0 and 1, got {job.tolerance:g}")
    if job.trace not in ("exact", "rademacher", "gaussian"):
        raise ValueError(f"trace must be exact, rademacher or gaussian, got {job.trace!r}")
    if job.seed < 0:
        raise ValueError(f"seed must be 0 or more, got {job.seed}")


def held_out(job: LikelihoodJob, source: Source) -> tuple[DatasetConfig, "data.Split"]:
    """The data set asked for, else the one the network was trained on, and the images of its test split to measure.

    Raises ValueError if neither is known, or the images are too few or of another shape than the network's.
    """
    dataset = job.dataset or (DatasetConfig(**source.config["dataset"]) if source.config["dataset"] else None)
    if dataset is None:
        raise ValueError(f"{source.path} does not say what it was trained on; give dataset=NAME to measure bits/dim of")
    split = data.load(dataset, "test")
    size, channels = (source.config["model"][key] for key in ("image_size", "image_channels"))
    if split.images.shape[1:] != (size, size, channels):
        raise ValueError(
            f"the network makes images of shape {[size, size, channels]}, but those of {dataset.name} are "
            f"{list(split.images.shape[1:])}; give another dataset, or dataset.image_size={size}"
        )
    count = len(split.images) if job.num_images is None else job.num_images
    if count > len(split.images):
        raise ValueError(
            f"num_images={count} is more than the {len(split.images)} images of {dataset.name}'s test split; "
            "num_images=null takes all"
        )
    labels = None if split.labels is None else split.labels[:count]
    return dataset, replace(split, images=split.images[:count], labels=labels)


def flows_of(job: LikelihoodJob, sde: deis.SDE) -> "list[tuple[str, Flow]]":
    """What carries images to noise, with its name: the sampler's tables run from x_0 to x_T, and DOPRI5.

    Raises ValueError for a sampler that does not run this way.
    """
    from deis import adaptive

    def flow(table: deis.Table) -> "Flow":
        return lambda sde, eps_fn, state: (deis.sample(table, eps_fn, state), table.nfe)

    flows = []
    if "table" in job.methods:
        tables = [encoding_table(job.sampler | {"nfe": nfe}, sde) for nfe in job.nfe or [job.sampler["nfe"]]]
        flows += [(table.name, flow(table)) for table in tables]
    if "dopri5" in job.methods:
        flows.append(("DOPRI5", partial(adaptive.encode, rtol=job.tolerance, atol=job.tolerance)))
    return flows


def encoding_table(sampler: dict[str, Any], sde: deis.SDE) -> deis.Table:
    """The table of a `sampler` group run from x_0 to x_T, of as many network calls as when it samples."""
    from deis.likelihood import encoding

    options, nfe = check_sampler(sampler), build_table(sampler, sde).nfe

    def table(num_step: int) -> deis.Table:
        return encoding(
            sde, deis.timesteps(sde, num_step, options["ts_phase"], options["ts_order"]), solver_of(options)
        )

    return table(deis.tables.fewest_steps(table, nfe))


def measure(
    job: LikelihoodJob, source: Source, sde: deis.SDE, split: "data.Split", flows: "list[tuple[str, Flow]]"
) -> tuple[list[Row], list[np.ndarray]]:
    """(one row of numbers, bits/dim of each image) of every flow."""
    from tqdm import tqdm

    from eval.metrics.bits_per_dim import bits_of_batches, standard_error
    from models.sampling.draw import load_trained
    from models.score import eps_fn

    with checking():
        net = load_trained(source.path, source.step)
    labels = split.labels if net.num_classes else None
    rows, all_bits = [], []
    for name, flow in flows:
        clock, chunks, nfes = time.perf_counter(), [], []
        batches = bits_of_batches(
            *(sde, partial(eps_fn, net.network, sde, net.params), split.images, labels, flow),
            *(job.batch_size, job.seed, job.trace, job.num_probes),
        )
        with tqdm(total=len(split.images), desc=name, unit="image", leave=False) as bar, checking():
            for chunk, nfe in batches:
                chunks.append(chunk)
                nfes.append(nfe)
                bar.update(len(chunk))
        bits = np.concatenate(chunks)
        if not np.all(np.isfinite(bits)):
            bad = int(np.flatnonzero(~np.isfinite(bits))[0])
            raise NonFiniteError(
                f"{name} gave NaN or infinite bits/dim, first for image {bad}; the network is at fault"
            )
        all_bits.append(bits)
        rows.append(
            {
                "solver": name,
                "nfe": float(np.mean(nfes)),
                "bits_per_dim": float(np.mean(bits)),
                "standard_error": standard_error(bits),
                "seconds": time.perf_counter() - clock,
            }
        )
    return rows, all_bits


def facts(job: LikelihoodJob, source: Source, num_images: int) -> dict[str, Any]:
    """What the numbers are of."""
    return {
        "num_images": num_images,
        "checkpoint": str(source.path if source.step is None else source.path.parent),
        "step": source.step,
        "trace": job.trace,
        "num_probes": None if job.trace == "exact" else job.num_probes,
        "seed": job.seed,
        "tolerance": job.tolerance if "dopri5" in job.methods else None,
        "overrides": list(HydraConfig.get().overrides.task),
    }


def paired(first: np.ndarray, second: np.ndarray) -> dict[str, float]:
    """How the first method differs from the second on the same images, noise and probes."""
    from eval.metrics.bits_per_dim import standard_error

    difference = first - second
    return {
        "mean": float(np.mean(difference)),
        "standard_error": standard_error(difference),
        "largest": float(np.max(np.abs(difference))),
    }


def report(result: dict[str, Any]) -> str:
    """The numbers as Markdown."""
    lines = ["| solver | NFE | bits/dim | standard error | seconds |", "|---|---:|---:|---:|---:|"]
    for row in result["rows"]:
        cells = (f"{row['nfe']:.4g}", f"{row['bits_per_dim']:.4f}", f"{row['standard_error']:.4f}")
        lines.append(f"| {row['solver']} | {' | '.join(cells)} | {row['seconds']:.1f} |")
    at_step = "" if result["step"] is None else f" at step {result['step']}"
    lines += [
        "",
        f"{result['num_images']} images of {result['dataset']} ({result['split']}), uniform dequantisation, "
        f"{result['trace']} trace; {result['checkpoint']}{at_step}.",
    ]
    if "difference" in result:
        first, second = (row["solver"] for row in result["rows"])
        found = result["difference"]
        lines.append(
            f"On the same noise and probes {first} less {second} is {found['mean']:+.4f} bits/dim "
            f"(standard error {found['standard_error']:.4f}), at most {found['largest']:.4f} for one image."
        )
    return "\n".join(lines)


if __name__ == "__main__":
    cli.run(main, "likelihood", LikelihoodJob)
