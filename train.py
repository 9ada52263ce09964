"""Fit a score network by denoising score matching. See: python train.py --help"""

import dataclasses
import sys
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import MISSING, DictConfig

import data
from data.config import DatasetConfig
from eval.features.config import ExtractorConfig, validate_extractor
from models.config import UNetConfig, validate
from models.sampling.build import build_sde, build_table
from models.training.config import DistributedConfig, ObjectiveConfig, OptimizerConfig, TrainConfig, validate_objective
from runs import cli, folder
from runs.errors import ConfigError, NonFiniteError, Stopped, checking, writing
from runs.jax_setup import configure_jax
from runs.log import LoggerConfig
from runs.signals import stop_requests

if TYPE_CHECKING:
    from eval.watching import Watch

SHOWN = ("loss", "images_per_s")  # beside the progress bar


@dataclass
class TrainJob:
    """The options of train.py; conf/train.yaml explains them."""

    name: str = MISSING
    seed: int = MISSING
    output_root: str = MISSING
    run_dir: str | None = MISSING
    resume: bool = MISSING
    allow_changes: bool = MISSING
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


def main(cfg: DictConfig) -> None:
    """Check the configuration, choose the run's folder, and train in it."""
    with checking():
        job: TrainJob = cli.to_object(cfg)
        check(job)
        config = cli.to_dict(cfg)
        run_dir = choose_folder(job, config)
    alone = job.distributed.mode == "none"
    using = configure_jax(job.train.batch_size // job.train.accumulate if alone else None)
    from models.training import devices

    with checking():
        devices.connect(**dataclasses.asdict(job.distributed))
        devices.check_batch_size(job.train.batch_size, devices.mesh(), job.train.accumulate)
        splits = data.load(job.dataset, "train"), data.load(job.dataset, "test")
        model = network_for(job, splits[0])
    with ExitStack() as owned:
        if devices.is_main():
            owned.enter_context(folder.occupy(run_dir, config, name=job.name))
            print(f"{using}\noutput: {run_dir}", file=sys.stderr)
        with writing():
            fit(job, config | {"model": dataclasses.asdict(model)}, run_dir, model, *splits)


def check(job: TrainJob) -> None:
    """Refuse with a ValueError what cannot work, before anything expensive starts."""
    build_table(job.sampler, build_sde(job.sde))
    validate_extractor(job.extractor)
    may_be_zero = ("sample_every", "fid_every", "ema_decay", "fsdp", "keep_best")
    for key, value in dataclasses.asdict(job.train).items():
        if not isinstance(value, str) and value < (0 if key in may_be_zero else 1):
            raise ValueError(f"train.{key} must be at least {0 if key in may_be_zero else 1}, got {value}")
    if job.train.ema_decay >= 1:
        raise ValueError(f"train.ema_decay must be below 1, got {job.train.ema_decay}")
    if job.train.placement not in ("auto", "device", "stream"):
        raise ValueError(f"train.placement must be auto, device or stream, got {job.train.placement!r}")
    if job.train.batch_size % job.train.accumulate:
        raise ValueError(f"train.accumulate={job.train.accumulate} must divide train.batch_size={job.train.batch_size}")
    if job.train.fid_every and job.extractor.name == "none":
        raise ValueError("train.fid_every needs features for FID; add extractor=classifier")
    if job.optimizer.learning_rate <= 0:
        raise ValueError(f"optimizer.learning_rate must be positive, got {job.optimizer.learning_rate}")


def choose_folder(job: TrainJob, config: dict[str, Any]) -> Path:
    """run_dir if it is given, else the newest unfinished run of this configuration, else a fresh folder."""
    if job.run_dir is None:
        if job.distributed.mode != "none":
            raise ConfigError("several processes need one folder that all can reach: give run_dir=FOLDER")
        found = folder.unfinished(job.output_root, job.name, config) if job.resume else None
        return found or folder.fresh(job.output_root, job.name)
    run_dir = Path(job.run_dir).expanduser()
    saved = folder.read_config(run_dir)
    if saved is not None and not job.resume:
        raise ConfigError(f"{run_dir} already holds a run; choose another run_dir, or go on with resume=true")
    changed = folder.differences(saved, config, ("dataset", "model", "sde", "objective", "optimizer")) if saved else []
    if changed and not job.allow_changes:
        raise ConfigError(
            f"{run_dir} holds a run of another configuration: {'; '.join(changed)}; choose another run_dir, or "
            "go on all the same with allow_changes=true"
        )
    return run_dir


def network_for(job: TrainJob, split: "data.Split") -> UNetConfig:
    """The network's options, completed by what the images are like. Raises ValueError if it cannot learn them."""
    _, size, _, channels = split.images.shape
    model = dataclasses.replace(job.model, image_size=size, image_channels=channels)
    validate(model)
    if model.num_classes not in (0, split.num_classes):
        classes = f"0 or {split.num_classes}" if split.num_classes else "0, since the images have no labels"
        raise ValueError(f"model.num_classes must be {classes}, got {model.num_classes}")
    validate_objective(job.objective, model, build_sde(job.sde))
    return model


def fit(
    job: TrainJob,
    config: dict[str, Any],
    run_dir: Path,
    model: UNetConfig,
    train_set: "data.Split",
    test_set: "data.Split",
) -> None:
    """Build the state or restore it, and take the steps that remain."""
    import jax

    from eval.watching import Watch
    from models import unet
    from models.checkpoints import checkpoint
    from models.training import devices, programs
    from models.training.packing import pack, pack_state, packed, unpack_state
    from models.training.step import init_state, make_optimizer, make_train_step

    mesh, sde = devices.mesh(), build_sde(job.sde)
    if model.num_classes == 0:
        train_set, test_set = (dataclasses.replace(split, labels=None) for split in (train_set, test_set))
    optimizer = make_optimizer(total_steps=job.train.steps, **dataclasses.asdict(job.optimizer))
    init_key, state_key = jax.random.split(jax.random.key(job.seed))
    shapes = unet.shapes(model)
    state = init_state(pack(jax.jit(partial(unet.init, model))(init_key), mesh.size), optimizer, state_key)
    with checking():
        saved = jax.eval_shape(partial(unpack_state, like=shapes), state)
        found = checkpoint.restore_latest(run_dir / "checkpoints", like=saved)
    start = 0
    if found is not None:
        start, state = found[0], pack_state(found[1], state, mesh.size)
    laid = devices.shardings(state, mesh, job.train.fsdp)
    state = devices.lay(state, laid)
    network, flip = packed(unet.network_of(model), shapes), job.dataset.flip
    train_step = make_train_step(
        network, sde, job.objective, optimizer, job.train.ema_decay, flip, job.train.accumulate, laid
    )
    options = {name: config[name] for name in ("model", "sde", "objective", "optimizer")}
    options |= {"flip": flip, **{name: config["train"][name] for name in ("steps", "ema_decay", "accumulate")}}
    if devices.is_main():
        resumed = f"resumed at step {start}; " if start else ""
        size = f"{unet.num_params(shapes):,} parameters, {len(train_set.images):,} images"
        print(f"{resumed}{size}, {mesh.size} x {jax.devices()[0].device_kind}", file=sys.stderr)
    watch = Watch(job, model, train_set, test_set, mesh, run_dir)
    take_steps(job, config, run_dir, watch, programs.kept(train_step, options), state, start)


def take_steps(
    job: TrainJob,
    config: dict[str, Any],
    run_dir: Path,
    watch: "Watch",
    train_step: Callable[..., Any],
    state: Any,
    start: int,
) -> None:
    """Train from step `start` to the last, and report, evaluate, draw and save on the way."""
    import jax
    from tqdm import tqdm

    from eval.figures import loss_curve_plot
    from models.checkpoints.saver import Saver
    from models.training import devices
    from models.training.feeding import feed
    from models.training.packing import unpack_state
    from models.training.progress import Progress, step_flops
    from models.unet import shapes
    from runs.log import Log, open_log, read_metrics, truncate_metrics

    train, main, alone = job.train, devices.is_main(), jax.process_count() == 1
    if main:
        truncate_metrics(run_dir, start)
    log = open_log(job.logger, run_dir, "train", config) if main else Log(None)
    interval = 0.5 if sys.stderr.isatty() else 10
    bar = tqdm(total=train.steps, initial=start, unit="step", mininterval=interval, disable=not main)
    written = partial(unpack_state, like=shapes(watch.model))
    saver = Saver(run_dir / "checkpoints", train.keep_checkpoints, train.keep_best)
    batches = feed(watch.train, train.placement, train.batch_size, job.seed, start, train.steps, watch.mesh)
    progress = Progress(train.batch_size, step_flops(watch.model, train.batch_size))

    def due(every: int) -> bool:
        return every > 0 and (step % every == 0 or step == train.steps)

    with log, bar, saver, stop_requests() as stop_signal:
        for step in range(start + 1, train.steps + 1):
            state, metrics = train_step(state, *next(batches))
            progress.add(metrics)
            bar.update()
            if step == start + 1:
                progress.start_clock()
            # several processes stop at the same step, which they agree upon now and then
            stopped = stop_signal() if alone else devices.agree(stop_signal()) if due(train.log_every) else 0
            if due(train.checkpoint_every) or stopped:
                progress.flush()
            require_finite(step, progress.skipped_in_a_row, progress.last_loss, train.max_skipped)
            if due(train.log_every):
                values = progress.summary()
                log.metrics(step, values)
                bar.set_postfix_str(", ".join(f"{key} {values[key]:.4g}" for key in SHOWN if key in values))
            with progress.aside():
                score = None
                if due(train.eval_every):
                    score = watch.held_out_loss(state.ema)
                    log.metrics(step, {"eval_loss": score})
                if due(train.sample_every) and (path := watch.draw_grid(step, state.ema)):
                    log.image(step, "samples", path)
                if due(train.fid_every) and (found := watch.fid(state.ema)):
                    score = min(found.values())
                    log.metrics(step, found)
                if due(train.checkpoint_every) or stopped:
                    saver.save(step, written(state), config, score)
            if stopped:
                saver.wait()
                raise Stopped(stopped, f"stopped at step {step} and saved; the same command goes on from there")
        if main:
            loss_curve_plot(run_dir / "loss.png", read_metrics(run_dir / "metrics.jsonl"))
            log.image(train.steps, "loss_curve", run_dir / "loss.png")
            print(f"trained {train.steps} steps; samples: python sample.py checkpoint={run_dir}", file=sys.stderr)


def require_finite(step: int, skipped: int, last_loss: float, most: int) -> None:
    """Raise NonFiniteError if `most` updates in a row were left out."""
    if skipped >= most:
        raise NonFiniteError(
            f"step {step}: loss or gradient was not finite {skipped} times in a row, last finite loss {last_loss:.4g}; "
            "these updates were skipped and the last checkpoint is kept. Look for NaN in the images, or lower "
            "optimizer.learning_rate or optimizer.clip_norm"
        )


if __name__ == "__main__":
    cli.run(main, "train", TrainJob)
