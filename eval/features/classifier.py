"""A feature extractor learned from the data set itself: a small classifier's penultimate layer.

It needs no download and no ImageNet, so it fits small images; its distances compare samplers on one data
set and mean nothing across data sets.
"""

import logging
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from filelock import FileLock
from flax import nnx
from jaxtyping import Array, Float, UInt8
from tqdm import tqdm

import data
from data.config import DatasetConfig
from eval.features.config import ExtractorConfig
from eval.features.extractor import Extractor, identity
from formats.files import read_npz, write_npz

log = logging.getLogger(__name__)

RECIPE = 3  # part of every extractor's name, and so of every FID's: raise it when the network or its training changes
PASSES = 12  # over the training images, where the number of steps is not given,
STEPS = 600, 6000  # within these bounds
EMBED_BATCH = 256


class Classifier(nnx.Module):
    """Convolutions that halve the image down to 4 or fewer pixels a side, then two dense layers."""

    def __init__(self, shape: tuple[int, ...], classes: int, features: int, *, rngs: nnx.Rngs):
        height, width, channels = shape
        out, size, strides = 32, (5, 5), 2 if max(height, width) > 16 else 1
        self.convs: nnx.List[nnx.Conv] = nnx.List([])
        while not self.convs or max(height, width) > 4:
            self.convs.append(nnx.Conv(channels, out, size, strides=strides, rngs=rngs))
            height, width, channels = -(-height // strides), -(-width // strides), out
            out, size, strides = min(2 * out, 128), (3, 3), 2
        self.hidden = nnx.Linear(height * width * channels, features, rngs=rngs)
        self.head = nnx.Linear(features, classes, rngs=rngs)

    def __call__(
        self, images: UInt8[Array, "batch h w c"]
    ) -> tuple[Float[Array, "batch d"], Float[Array, "batch classes"]]:
        """(features, logits)."""
        x = images.astype(jnp.float32) / 127.5 - 0.5
        for conv in self.convs:
            x = nnx.relu(conv(x))
        features = nnx.silu(self.hidden(x.reshape(len(x), -1)))
        return features, self.head(features)


def extractor(cfg: ExtractorConfig, dataset: DatasetConfig) -> Extractor:
    """The classifier in the file `cfg.weights`, else the one trained on the data set's labels."""
    if cfg.weights is not None:
        found = replace(read_classifier(Path(cfg.weights).expanduser()), cache_dir=cfg.cache)
    else:
        train, test = data.load_splits(dataset, "train", "test")
        found = classifier_extractor(train, test, cfg, dataset.name)
    log.info("Extractor %s has accuracy %.4f on the test images", found.name, found.accuracy)
    return found


def classifier_extractor(train: data.Split, test: data.Split, cfg: ExtractorConfig, dataset_name: str) -> Extractor:
    """The penultimate layer of a classifier that is trained on the data set once, and kept in `cfg.cache_dir`.

    The file's name holds a hash of data and settings. That of the extractor covers the weights besides, since another
    machine or JAX rounds otherwise and trains others from the same seed.
    Raises ValueError for no labels, fewer than two classes, no held-out images, diverged training, or a damaged file in
    the cache.
    """
    if train.labels is None or test.labels is None:
        raise ValueError(
            f"data set {dataset_name} has no labels, so no classifier can be trained on it; "
            "use extractor=efficientnet_lite0 or give labels"
        )
    if (classes := len(np.unique(train.labels))) < 2 or len(test.images) == 0:
        raise ValueError(
            f"data set {dataset_name} has {classes} class(es) and {len(test.images)} held-out images; "
            "the classifier needs at least 2 classes and 1 held-out image, or use extractor=efficientnet_lite0"
        )
    path = path_of(train, test, cfg, dataset_name)
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_name(f".{path.name}.lock")):  # GPUs would train another one for every job of an array
            if not path.is_file():
                _make(path, train, test, cfg)
    return read_classifier(path)


def _make(path: Path, train: data.Split, test: data.Split, cfg: ExtractorConfig) -> None:
    """Train a classifier and write it to its file."""
    assert train.labels is not None
    start, cpu, shape = time.perf_counter(), time.process_time(), train.images.shape[1:]
    network = Classifier(shape, int(np.max(train.labels)) + 1, cfg.features, rngs=nnx.Rngs(cfg.seed))
    network = _train(network, train.images, train.labels, _steps(cfg, len(train.images)), cfg)
    arrays = {_array_name(key): np.asarray(leaf) for key, leaf in jax.tree.leaves_with_path(nnx.state(network))}
    name = identity(path.stem.partition("@")[0], path.stem, *arrays.values())
    _, logits = _extractor(network, name, path.parent, shape).outputs(test.images)
    assert logits is not None
    accuracy = np.mean(logits.argmax(axis=1) == test.labels)
    write_npz(path, arrays | {"name": np.array(name), "image_shape": np.array(shape), "accuracy": accuracy})
    seconds = time.perf_counter() - start, time.process_time() - cpu
    log.info("Trained extractor %s in %.1f s (CPU time %.1f s) and wrote %s", name, *seconds, path)


def path_of(train: data.Split, test: data.Split, cfg: ExtractorConfig, dataset_name: str) -> Path:
    """The file in `cfg.cache_dir` that keeps the classifier of these images, with labels, once it is trained."""
    steps = _steps(cfg, len(train.images))
    settings = f"{steps} {cfg.batch_size} {cfg.learning_rate} {cfg.features} {cfg.seed}"
    labels = (np.asarray(train.labels), np.asarray(test.labels))
    name = identity(f"{dataset_name}-classifier{RECIPE}", settings, train.images, labels[0], test.images, labels[1])
    return cfg.cache / f"{name}.npz"


def _steps(cfg: ExtractorConfig, num_images: int) -> int:
    return cfg.steps or int(np.clip(PASSES * num_images // cfg.batch_size, *STEPS))


def read_classifier(path: Path) -> Extractor:
    """The extractor that `classifier_extractor` keeps at `path`; it needs no images.

    Raises FileNotFoundError if there is no such file; ValueError if it is damaged or not of this RECIPE.
    """
    arrays = read_npz(path)
    try:
        if f"-classifier{RECIPE}@" not in (name := str(arrays["name"])):
            raise ValueError(
                f"{path} holds classifier {name}, but only those whose name has -classifier{RECIPE}@ can be read; "
                "delete it, or leave extractor.weights out, to have one trained anew"
            )
        shape, (classes,) = tuple(map(int, arrays["image_shape"])), arrays["head.bias"].shape
        graphdef, template = nnx.split(
            nnx.eval_shape(lambda: Classifier(shape, classes, arrays["hidden.bias"].size, rngs=nnx.Rngs(0)))
        )
        params = jax.tree.map_with_path(lambda key, _: jnp.asarray(arrays[_array_name(key)]), template)
        network = nnx.merge(graphdef, params)
        return _extractor(network, name, path.parent, shape, float(arrays["accuracy"]))
    except KeyError as error:
        raise ValueError(f"{path} is not a classifier: it has no {error}") from None


def _extractor(
    network: Classifier, name: str, cache_dir: Path, shape: tuple[int, ...], accuracy: float | None = None
) -> Extractor:
    graphdef, params = nnx.split(network)

    @jax.jit
    def embed(params: Any, images: Array) -> tuple[Array, Array]:
        with jax.default_matmul_precision("highest"):  # GPUs would otherwise round to TF32, which keeps 10 bits
            return nnx.merge(graphdef, params)(images)

    return Extractor(
        name=name,
        distance="FID",
        dim=network.hidden.out_features,
        batch_size=EMBED_BATCH,
        cache_dir=cache_dir,
        embed=lambda images: embed(params, images),
        image_shape=shape,
        accuracy=accuracy,
    )


def _train(network: Classifier, images: np.ndarray, labels: np.ndarray, steps: int, cfg: ExtractorConfig) -> Classifier:
    """AdamW with warm-up and cosine decay, on shifted images, with dropout of features and smoothed labels."""
    graphdef, params = nnx.split(network)
    schedule = optax.warmup_cosine_decay_schedule(0.0, cfg.learning_rate, steps // 7, steps)
    optimiser = optax.adamw(schedule, b2=0.99, weight_decay=0.05)

    def loss_fn(params: Any, images: Array, labels: Array, kept: Array) -> Array:
        network = nnx.merge(graphdef, params)
        logits = network.head(network(images)[0] * kept)
        targets = optax.smooth_labels(jax.nn.one_hot(labels, logits.shape[1]), 0.05)
        return optax.softmax_cross_entropy(logits, targets).mean()

    @jax.jit
    def step(params: Any, state: Any, *batch: Array) -> tuple[Any, Any, Array]:
        loss, grads = jax.value_and_grad(loss_fn)(params, *batch)
        updates, state = optimiser.update(grads, state, params)
        return optax.apply_updates(params, updates), state, loss

    state, rng = optimiser.init(params), np.random.default_rng(cfg.seed)
    passes = -(-steps * cfg.batch_size // len(images))
    order = np.concatenate([rng.permutation(len(images)) for _ in range(passes)])
    for batch in tqdm(order[: steps * cfg.batch_size].reshape(steps, -1), "classifier", leave=False, disable=None):
        kept = rng.binomial(1, 0.8, (cfg.batch_size, cfg.features)) / np.float32(0.8)
        params, state, loss = step(params, state, _shifted(images[batch], rng), labels[batch], kept.astype(np.float32))
    if not np.isfinite(loss):
        raise ValueError(f"the classifier's loss became {loss}; lower extractor.learning_rate={cfg.learning_rate}")
    return nnx.merge(graphdef, params)


def _shifted(images: UInt8[np.ndarray, "n h w c"], rng: np.random.Generator) -> UInt8[np.ndarray, "n h w c"]:
    """Every image moved at random by up to a 28th of its height, up or down and left or right, its edges repeated."""
    reach = images.shape[1] // 28
    padded = np.pad(images, ((0, 0), (reach, reach), (reach, reach), (0, 0)), mode="edge")
    windows = np.lib.stride_tricks.sliding_window_view(padded, images.shape[1:3], axis=(1, 2))
    down, right = rng.integers(2 * reach + 1, size=(2, len(images)))
    return windows[np.arange(len(images)), down, right].transpose(0, 2, 3, 1)


def _array_name(key: tuple[Any, ...]) -> str:
    """The path of a parameter, such as "convs.0.kernel"; Flax versions differ in whether ".value" follows."""
    return jax.tree_util.keystr(key, simple=True, separator=".").removesuffix(".value")
