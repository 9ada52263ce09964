"""Fit a score network by denoising score matching. See: python train.py --help"""

import dataclasses
import math
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

import data
from models.config import validate
from runs import cli, folder
from runs.build import build_sde, build_table
from runs.config import TrainJob, to_dict, to_object
from runs.errors import ConfigError, NonFiniteError, Stopped, checking
from runs.jax_setup import configure_jax
from runs.signals import stop_requests


def main(cfg: DictConfig) -> None:
    """Check the configuration, choose the run's folder, and train in it."""
    with checking():
        job: TrainJob = to_object(cfg)
        check(job)
        config = to_dict(cfg)
        run_dir = choose_folder(job, config)
    with folder.occupy(run_dir, config, name=job.name):
        print(f"output: {run_dir}", file=sys.stderr)
        fit(job, config, run_dir)


def check(job: TrainJob) -> None:
    """Refuse with a ValueError what cannot work, before anything expensive starts."""
    build_table(job.sampler, build_sde(vars(job.sde)))
    for key, value in dataclasses.asdict(job.train).items():
        low = 0 if key in ("sample_every", "ema_decay") else 1
        if value < low:
            raise ValueError(f"train.{key} must be at least {low}, got {value}")
    if job.train.ema_decay >= 1:
        raise ValueError(f"train.ema_decay must be below 1, got {job.train.ema_decay}")
    if job.optimizer.learning_rate <= 0:
        raise ValueError(f"optimizer.learning_rate must be positive, got {job.optimizer.learning_rate}")


def choose_folder(job: TrainJob, config: dict[str, Any]) -> Path:
    """run_dir if it is given, else the newest unfinished run of this configuration, else a fresh folder."""
    if job.run_dir is None:
        found = folder.unfinished(job.output_root, job.name, config) if job.resume else None
        return found or folder.fresh(job.output_root, job.name)
    run_dir = Path(job.run_dir).expanduser()
    saved = folder.read_config(run_dir)
    if saved is not None and not job.resume:
        raise ConfigError(f"{run_dir} already holds a run; choose another run_dir, or go on with resume=true")
    changed = folder.differences(saved, config, ("dataset", "model", "sde", "optimizer")) if saved else []
    if changed:
        raise ConfigError(f"{run_dir} holds a run of another configuration: {'; '.join(changed)}")
    return run_dir


def fit(job: TrainJob, config: dict[str, Any], run_dir: Path) -> None:
    """Load the data, build the state or restore it, and take the steps that remain."""
    with checking():
        train_set, test_set = data.load(job.dataset, "train"), data.load(job.dataset, "test")
        _, size, _, channels = train_set.images.shape
        model = dataclasses.replace(job.model, image_size=size, image_channels=channels)
        validate(model)
        if model.num_classes not in (0, train_set.num_classes):
            classes = f"0 or {train_set.num_classes}" if train_set.num_classes else "0, since the images have no labels"
            raise ValueError(f"model.num_classes must be {classes}, got {model.num_classes}")
    config = config | {"model": dataclasses.asdict(model)}
    print(configure_jax(), file=sys.stderr)

    import jax
    from tqdm import tqdm

    from eval.figures import loss_curve_plot
    from models import checkpoint
    from models.training import init_state, make_optimizer, make_train_step
    from models.unet import init, network_of, num_params
    from runs.drawing import trained
    from runs.log import open_log, read_metrics, truncate_metrics

    sde, network = build_sde(vars(job.sde)), network_of(model)
    optimizer = make_optimizer(total_steps=job.train.steps, **dataclasses.asdict(job.optimizer))
    train_step = make_train_step(network, sde, optimizer, job.train.ema_decay, job.dataset.flip)
    init_key, state_key, eval_key = jax.random.split(jax.random.key(job.seed), 3)
    state = init_state(jax.jit(partial(init, model))(init_key), optimizer, state_key)
    checkpoints = run_dir / "checkpoints"
    start = checkpoint.latest_step(checkpoints) or 0
    if start:
        state = checkpoint.restore(checkpoints, start, like=state)
        print(f"resumed at step {start}", file=sys.stderr)
    truncate_metrics(run_dir, start)
    print(f"{num_params(state.params):,} parameters, {len(train_set.images):,} images", file=sys.stderr)

    evaluate = make_evaluation(job, network, sde, test_set, eval_key)
    steps, every = job.train.steps, job.train
    log = open_log(job.logger, run_dir, "train", config)
    bar = tqdm(total=steps, initial=start, unit="step", mininterval=0.5 if sys.stderr.isatty() else 10)

    def due(step: int, interval: int) -> bool:
        return interval > 0 and (step % interval == 0 or step == steps)

    with log, bar, stop_requests() as stop_signal:
        losses: list[Any] = []
        clock, aside = time.perf_counter(), 0.0  # since the last log line: when it was, and seconds not spent training
        for step in range(start + 1, steps + 1):
            state, metrics = train_step(state, *batch(job, train_set, step))
            losses.append(metrics["loss"])
            if step == start + 1:
                aside = seconds_until_ready(metrics, clock)  # this step compiled
            bar.update()

            stopped = stop_signal()
            if due(step, every.log_every) or due(step, every.checkpoint_every) or stopped:
                require_finite(step, metrics, losses)
            if due(step, every.log_every):
                seconds = time.perf_counter() - clock - aside
                loss, speed = float(sum(losses)) / len(losses), len(losses) * every.batch_size / seconds
                values = {"loss": loss, "grad_norm": float(metrics["grad_norm"]), "images_per_s": speed}
                log.metrics(step, values)
                bar.set_postfix_str(f"loss {loss:.4f}, {speed:.0f} images/s")
                losses, clock, aside = [], time.perf_counter(), 0.0
            before = time.perf_counter()
            if due(step, every.eval_every):
                log.metrics(step, {"eval_loss": evaluate(state.ema)})
            if due(step, every.sample_every):
                net = trained(model, sde, state.ema)
                log.image(step, "samples", draw_grid(job, net, run_dir / f"samples_{step:07d}.png"))
            if due(step, every.checkpoint_every) or stopped:
                checkpoint.save(checkpoints, step, state, config, keep=every.keep_checkpoints)
            aside += time.perf_counter() - before
            if stopped:
                raise Stopped(stopped, f"stopped at step {step} and saved; the same command goes on from there")
        loss_curve_plot(run_dir / "loss.png", read_metrics(run_dir / "metrics.jsonl"))
        log.image(steps, "loss_curve", run_dir / "loss.png")
    print(f"trained {steps} steps; samples: python sample.py checkpoint={run_dir}", file=sys.stderr)


def batch(job: TrainJob, split: "data.Split", step: int) -> tuple[Any, Any]:
    """The images [b, h, w, c] float32 in [-1, 1] and labels [b] of a step, a function of (seed, step)."""
    index = data.batch_indices(len(split.images), job.train.batch_size, job.seed, step - 1)
    labels = None if split.labels is None or job.model.num_classes == 0 else split.labels[index]
    return data.to_float(split.images[index]), labels


def make_evaluation(job: TrainJob, network: Any, sde: Any, split: "data.Split", key: Any) -> Callable[[Any], float]:
    """A function from parameters to the loss on held-out images, with the same images and noise each time."""
    import jax

    from models.score import dsm_loss

    loss = jax.jit(partial(dsm_loss, network, sde, dropout=False))

    def evaluate(params: Any) -> float:
        keys = jax.random.split(key, job.train.eval_batches)
        return float(sum(loss(params, *batch(job, split, i + 1), k) for i, k in enumerate(keys)) / len(keys))

    return evaluate


def draw_grid(job: TrainJob, net: Any, path: Path) -> Path:
    """Write a grid of samples, of seeds 0, 1, 2, ..., so that grids of other steps show the same images growing."""
    from eval.figures import image_grid, save_png
    from runs.drawing import draw

    count = job.train.num_samples
    (x_0,) = draw(net, build_table(job.sampler, net.sde), list(range(count)), count)
    save_png(path, image_grid(data.to_uint8(x_0)))
    return path


def seconds_until_ready(value: Any, since: float) -> float:
    import jax

    jax.block_until_ready(value)
    return time.perf_counter() - since


def require_finite(step: int, metrics: dict[str, Any], losses: list[Any]) -> None:
    """Raise NonFiniteError, so that a broken state is never saved."""
    loss, grad_norm = float(metrics["loss"]), float(metrics["grad_norm"])
    if not math.isfinite(loss + grad_norm):
        good = [float(value) for value in losses if math.isfinite(value)]
        last = f"{good[-1]:.4g}" if good else "none since the last log line"
        raise NonFiniteError(
            f"step {step}: loss {loss:.4g}, gradient norm {grad_norm:.4g}, last finite loss {last}; the last "
            "checkpoint is kept. Lower optimizer.learning_rate or optimizer.clip_norm"
        )


if __name__ == "__main__":
    cli.run(main, "train")
