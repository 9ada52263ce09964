"""Fit a score network by denoising score matching. See: python train.py --help"""

import dataclasses
import math
import sys
import time
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from omegaconf import MISSING, DictConfig

import data
from data.config import DatasetConfig
from eval.features.config import ExtractorConfig, validate_extractor
from eval.job import check_shared, require_seed
from eval.metrics.measurement import Measurement, MetricConfig, open_measurement
from models.checkpoints import checkpoint
from models.config import UNetConfig, for_images
from models.sampling.build import build_sde, build_table
from models.sampling.options import EpsOptions, check_eps
from models.sampling.source import Source
from models.training.config import DistributedConfig, ObjectiveConfig, OptimizerConfig, TrainConfig, validate_training
from models.training.initial import find_initial, initial_params
from runs import cli, folder, jax_setup
from runs.errors import ConfigError, NonFiniteError, Stopped, checking, stop_requests, writing
from runs.hints import option_of
from runs.log import Log, LoggerConfig, last_values, open_log, read_metrics, truncate_metrics

SHOWN = ("loss", "images_per_s")  # beside the progress bar


@dataclass
class TrainJob(EpsOptions):
    """The options of train.py; conf/train.yaml explains them."""

    name: str = MISSING
    seed: int = MISSING
    output_root: str = MISSING
    run_dir: str | None = MISSING
    init: str | None = MISSING
    resume: bool = MISSING
    allow_changes: bool = MISSING
    optimized_metric: str = MISSING
    dataset: DatasetConfig = MISSING
    model: UNetConfig = MISSING
    sde: Any = MISSING
    objective: ObjectiveConfig = MISSING
    optimizer: OptimizerConfig = MISSING
    train: TrainConfig = MISSING
    sampler: Any = MISSING
    extractor: ExtractorConfig = MISSING
    distributed: DistributedConfig = MISSING
    logger: LoggerConfig = MISSING


def main(cfg: DictConfig) -> float | None:
    """Check the options, choose the run's folder, and train in it; returns what a search minimises."""
    with checking():
        job: TrainJob = cli.to_object(cfg)
        check(job)
        config = cli.to_dict(cfg)
        chosen = choose_folder(job, config)
        if chosen is not None and (done := folder.finished(chosen, config)):
            return done.get("metric")
        source = initial_network(job, chosen)
    alone = job.distributed.mode == "none"
    using = jax_setup.configure_jax(job.train.batch_size // job.train.accumulate if alone else None)
    import jax

    from models.training import devices

    with checking():
        devices.connect(**dataclasses.asdict(job.distributed))
        micro_batch = job.train.batch_size // job.train.accumulate
        devices.check_batch_size(job.train.batch_size, devices.mesh(micro_batch), job.train.accumulate)
        train_set, test_set = data.load_splits(job.dataset, "train", "test")
        model = network_for(job, train_set)
        network_for(job, test_set)  # which must fit the same network
        params = initial_params(source, model) if source else None
        measurement = None
        if job.train.fid_every and jax.process_index() == 0:  # now, as a classifier may have to be trained for it
            measurement = open_measurement(job.extractor, job.dataset, MetricConfig())
    if model.num_classes == 0:
        train_set, test_set = (dataclasses.replace(split, labels=None) for split in (train_set, test_set))
    run_dir = chosen or folder.fresh(job.output_root, job.name)
    with writing(), ExitStack() as owned:
        results: dict[str, Any] = {}
        if jax.process_index() == 0:  # it writes the logs and pictures
            results = owned.enter_context(folder.occupy(run_dir, config, name=job.name))
            print(f"{using}\noutput: {run_dir}", file=sys.stderr)
        saved = config | {"model": dataclasses.asdict(model), "num_images": len(train_set.images)}
        fit(job, saved, run_dir, model, params, train_set, test_set, measurement)
        if jax.process_index() == 0:
            results["metric"] = last_values(run_dir / "metrics.jsonl").get(job.optimized_metric)
            sampling = f"python sample.py {option_of('checkpoint', str(run_dir))}"
            print(f"trained {job.train.steps} steps; samples: {sampling}", file=sys.stderr)
    return results.get("metric")


def check(job: TrainJob) -> None:
    """Refuse with a ValueError what cannot work, before anything expensive starts."""
    build_table(job.sampler, build_sde(job.sde))
    check_eps(job, {"model": dataclasses.asdict(job.model), "sde": job.sde})
    validate_extractor(job.extractor)
    validate_training(job.train, job.optimizer)
    require_seed(job.seed)
    check_shared(job.distributed, job.run_dir)
    if job.train.fid_every and job.extractor.name == "none":
        raise ValueError("train.fid_every needs features for FID; add extractor=classifier")
    if not job.train.fid_every and job.extractor.name != "none":
        raise ValueError(f"extractor={job.extractor.name} is for FIDs in training: add train.fid_every=STEPS")
    if job.optimized_metric not in ("eval_loss", "fid"):
        raise ValueError(f"optimized_metric must be eval_loss or fid, got {job.optimized_metric!r}")
    if job.optimized_metric == "fid" and not job.train.fid_every:
        raise ValueError("optimized_metric=fid needs FIDs in training; add train.fid_every=STEPS extractor=classifier")


def choose_folder(job: TrainJob, config: dict[str, Any]) -> Path | None:
    """run_dir if it is given, or a job's folder of a sweep, else the newest unfinished run of this configuration.

    None: a new one is to be made. Raises ConfigError if run_dir holds anything but a run of this configuration.
    """
    run_dir = folder.of_sweep() if job.run_dir is None else Path(job.run_dir).expanduser()
    if run_dir is None and job.resume and (found := folder.unfinished(job.output_root, job.name, config)):
        return found
    if run_dir is None:
        return None
    folder.refuse_foreign(run_dir, "train")
    if not job.resume and folder.read_config(run_dir) is not None:
        raise ConfigError(f"{run_dir} already holds a run; choose another run_dir, or go on with resume=true")
    if not job.allow_changes:
        folder.refuse_changes(run_dir, config, fixed(job), ", or go on all the same with allow_changes=true")
    return run_dir


def fixed(job: TrainJob) -> list[str]:
    """The options and groups that a run cannot change half-way, and be a run of either."""
    found = ["dataset", "model", "sde", "objective", "optimizer", "init", "seed", "train.batch_size", "train.ema_decay"]
    found += ["train.steps"] if job.optimizer.cosine_decay else []
    measured_by = ["sampler", "extractor", "train.fid_samples", *EpsOptions.__dataclass_fields__]
    return found + (measured_by if job.train.fid_every else [])


def initial_network(job: TrainJob, run_dir: Path | None) -> Source | None:
    """The network that a run starts from, if it does not go on from a checkpoint of its own."""
    if job.init is None or (run_dir and checkpoint.latest_step(run_dir / "checkpoints") is not None):
        return None
    return find_initial(job.init, build_sde(job.sde))


def network_for(job: TrainJob, split: "data.Split") -> UNetConfig:
    """The network's options, completed by what the images are like. Raises ValueError if it cannot learn them."""
    model = for_images(job.model, *split.images.shape[2:])
    if model.num_classes not in (0, split.num_classes):
        classes = f"0 or {split.num_classes}" if split.num_classes else "0, since the images have no labels"
        raise ValueError(f"model.num_classes must be {classes}, got {model.num_classes}")
    from models.training.objective import validate_objective

    validate_objective(job.objective, model, build_sde(job.sde))
    return model


def fit(
    job: TrainJob,
    config: dict[str, Any],
    run_dir: Path,
    model: UNetConfig,
    params: Any,
    train_set: "data.Split",
    test_set: "data.Split",
    measurement: Measurement | None = None,
) -> None:
    """Train from the newest checkpoint in `run_dir`, or from the start, and report, evaluate, draw and save on the way.

    config: the options as they are saved with every checkpoint and given to the logger.
    params: where the start is, or None for one drawn by the seed. measurement: of no samples, for FIDs in training.
    """
    # these start JAX or take seconds to import: not before the options are checked, and never for --help
    import jax
    from tqdm import tqdm

    from eval.evaluator import Evaluator
    from eval.figures import loss_curve_plot
    from models import unet
    from models.checkpoints.saver import Saver
    from models.sampling.draw import load_trained
    from models.training import devices
    from models.training.feeding import feed
    from models.training.progress import Progress
    from models.training.step import init_state, make_optimizer, make_train_step

    # State
    train, mesh, sde = job.train, devices.mesh(job.train.batch_size // job.train.accumulate), build_sde(job.sde)
    main, alone = jax.process_index() == 0, jax.process_count() == 1
    optimizer = make_optimizer(job.optimizer, train.steps)
    init_key, state_key = jax.random.split(jax.random.key(job.seed))
    first_state = partial(init_state, optimizer=optimizer, key=state_key)
    shapes = jax.eval_shape(first_state, unet.shapes(model))
    shardings = devices.shardings(shapes, mesh, train.fsdp)
    with checking():
        found = checkpoint.restore_latest(run_dir / "checkpoints", like=shapes)
        if found and found[0] > train.steps:
            raise ValueError(f"{run_dir} is at step {found[0]} already, beyond train.steps={train.steps}; give more")
        if found and not job.allow_changes:
            checkpoint.refuse_other_images(run_dir / "checkpoints", found[0], len(train_set.images))
        guide = check_eps(job, config)
        worse = load_trained(guide.path, guide.step) if guide else None
    unlogged = checkpoint.read_unlogged(run_dir / "checkpoints", found[0]) if found else []
    if found:
        start, state = found[0], devices.shard_tree(found[1], shardings)
    else:
        params = jax.device_get(unet.init(model, init_key)) if params is None else params
        start, state = 0, jax.jit(first_state, out_shardings=shardings)(params)

    # Training step, data, evaluation
    recipe = (sde, job.objective, optimizer, train.ema_decay, job.dataset.flip, train.accumulate)
    train_step = make_train_step(unet.network_of(model), *recipe, shardings)
    batches = feed(train_set, train.placement, train.batch_size, job.seed, start, train.steps, mesh)
    table = build_table(job.sampler, sde)
    evaluator = Evaluator(model, sde, job.objective, table, job, worse, measurement, test_set, mesh, job.seed)
    progress = Progress(model, train.batch_size, int(state.skipped_in_a_row), unlogged)
    saver = Saver(run_dir / "checkpoints", train.keep_checkpoints, train.keep_best)

    # Logs
    if main:
        resumed = f"resumed at step {start}; " if start else ""
        size = f"{unet.num_params(shapes.params):,} parameters, {len(train_set.images):,} images"
        print(f"{resumed}{size}, {mesh.size} x {jax.devices()[0].device_kind}", file=sys.stderr)
        print("the first step compiles the network, or finds the code of an earlier start", file=sys.stderr)
        truncate_metrics(run_dir, start)
    log = open_log(job.logger, run_dir, "train", config, step=start) if main else Log(None)
    interval = 0.5 if sys.stderr.isatty() else 10
    bar = tqdm(total=train.steps, initial=start, unit="step", mininterval=interval, disable=not main)

    def due(*every: int) -> bool:
        return any(each > 0 and (step % each == 0 or step == train.steps) for each in every)

    # Train
    with log, bar, saver, stop_requests() as stop_signal:
        for step in range(start + 1, train.steps + 1):
            batch, clock = next(batches), time.perf_counter()
            state, metrics = train_step(state, *batch)
            if step == start + 1 and main:
                bar.write(f"compiled in {time.perf_counter() - clock:.1f} s", file=sys.stderr)
            progress.add(metrics)
            bar.update()
            if step == start + 1:
                progress.start_clock()
            # several processes stop at the same step, which they agree upon now and then
            stopped = stop_signal() if alone else devices.agree(stop_signal()) if due(train.log_every) else 0
            if due(train.log_every, train.checkpoint_every) or stopped:
                progress.flush()  # so that a line is of the same steps whenever the run was saved or resumed
            if progress.skipped_in_a_row >= train.max_skipped:
                raise NonFiniteError(
                    f"step {step}: loss or gradient was not finite {progress.skipped_in_a_row} times in a row, "
                    f"last finite loss {progress.last_loss:.4g}; these updates were skipped. "
                    "Look for NaN in the images, or lower optimizer.learning_rate or optimizer.clip_norm"
                )
            if due(train.log_every):
                values = progress.summary()
                log.metrics(step, values)
                bar.set_postfix_str(", ".join(f"{key} {values[key]:.4g}" for key in SHOWN if key in values))
            if not due(train.eval_every, train.sample_every, train.fid_every, train.checkpoint_every) and not stopped:
                continue
            with progress.aside():
                score = None  # FIDs alone, where there are any: they and losses do not compare
                if due(train.eval_every):
                    loss = evaluator.held_out_loss(state.ema, train.eval_batches, train.batch_size)
                    log.metrics(step, {"eval_loss": loss})
                    score = None if train.fid_every else loss
                if due(train.sample_every):
                    grid = run_dir / f"samples_{step:07d}.png"
                    evaluator.draw_grid(grid, state.ema, train.num_samples)
                    log.image(step, "samples", grid)
                if due(train.fid_every) and (fid := evaluator.fid(state.ema, train.fid_samples, train.batch_size)):
                    score = min(fid.values())
                    log.metrics(step, fid)
                if due(train.checkpoint_every) or stopped:
                    saver.save(step, state, config, score, progress.unlogged())
            if stopped:
                saver.wait()
                raise Stopped(stopped, f"stopped at step {step} and saved; the same command goes on from there")
        if main:
            loss_curve_plot(run_dir / "loss.png", read_metrics(run_dir / "metrics.jsonl"))
            log.image(train.steps, "loss_curve", run_dir / "loss.png")
            log.artifact(f"{job.name}-checkpoints", "model", run_dir / "checkpoints")
            # while the log is open, which is closed with the run's exit code
            if not math.isfinite(loss := last_values(run_dir / "metrics.jsonl").get("eval_loss", 0.0)):
                raise NonFiniteError(
                    f"trained {train.steps} steps, but the held-out loss is {loss}, so that no images can be drawn. "
                    "Lower optimizer.learning_rate, or look for NaN in the images"
                )


if __name__ == "__main__":
    cli.run(main, "train", TrainJob)
