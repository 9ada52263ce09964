"""A feature extractor learned from the data set itself: a small classifier's penultimate layer.

It needs no download and no ImageNet, so it fits small images; its distances compare samplers on one data
set and mean nothing across data sets.
"""

import logging
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jaxtyping import Array, Float, UInt8

import data
from data.config import DatasetConfig
from eval.features.config import ExtractorConfig
from eval.features.extractor import Extractor, identity
from formats.files import read_npz, write_npz

log = logging.getLogger(__name__)

RECIPE = "2"  # part of the cache key: raise it when the network or its training changes
EMBED_BATCH = 256


class Classifier(nnx.Module):
    """Convolutions that halve the image down to 4 or fewer pixels a side, then two dense layers."""

    def __init__(self, shape: tuple[int, ...], classes: int, features: int, *, rngs: nnx.Rngs):
        height, width, channels = shape
        self.convs = nnx.List([nnx.Conv(channels, 16, (3, 3), rngs=rngs)])
        out = 16
        while max(height, width) > 4:
            self.convs.append(nnx.Conv(out, min(2 * out, 64), (3, 3), strides=2, rngs=rngs))
            height, width, out = -(-height // 2), -(-width // 2), min(2 * out, 64)
        self.hidden = nnx.Linear(height * width * out, features, rngs=rngs)
        self.head = nnx.Linear(features, classes, rngs=rngs)

    def __call__(
        self, images: UInt8[Array, "batch h w c"]
    ) -> tuple[Float[Array, "batch d"], Float[Array, "batch classes"]]:
        """(features, logits)."""
        x = images.astype(jnp.float32) / 127.5 - 1.0
        for conv in self.convs:
            x = nnx.silu(conv(x))
        features = nnx.silu(self.hidden(x.reshape(len(x), -1)))
        return features, self.head(features)


def extractor(cfg: ExtractorConfig, dataset: DatasetConfig) -> Extractor:
    """The classifier in the file `cfg.weights`, else the one trained on the data set's labels."""
    if cfg.weights is not None:
        return read_classifier(Path(cfg.weights).expanduser())
    return classifier_extractor(data.load(dataset, "train"), data.load(dataset, "test"), cfg, dataset.name)


def classifier_extractor(train: data.Split, test: data.Split, cfg: ExtractorConfig, dataset_name: str) -> Extractor:
    """The penultimate layer of a classifier that is trained on the data set once, and kept in `cfg.cache_dir`.

    The file's name holds a hash of data and settings; the same data, settings and seed give the same weights.
    Raises ValueError for no labels, fewer than two classes, no held-out images, diverged training, or a damaged file in
    the cache.
    """
    if train.labels is None or test.labels is None:
        raise ValueError(
            f"data set {dataset_name} has no labels, so no classifier can be trained on it; "
            "use extractor=none or give labels"
        )
    if (classes := len(np.unique(train.labels))) < 2 or len(test.images) == 0:
        raise ValueError(
            f"data set {dataset_name} has {classes} class(es) and {len(test.images)} held-out images; "
            "the classifier needs at least 2 classes and 1 held-out image, or use extractor=none"
        )
    settings = f"{RECIPE} {cfg.steps} {cfg.batch_size} {cfg.learning_rate} {cfg.features} {cfg.seed}"
    name = identity(dataset_name, settings, train.images, train.labels, test.images, test.labels)
    path = Path(cfg.cache_dir).expanduser() / f"classifier_{name}.npz"
    if not path.is_file():
        start, shape = time.perf_counter(), train.images.shape[1:]
        network = Classifier(shape, int(np.max(train.labels)) + 1, cfg.features, rngs=nnx.Rngs(cfg.seed))
        network = _train(network, train.images, train.labels, cfg)
        _, logits = _extractor(network, name, path.parent, shape).outputs(test.images)
        assert logits is not None
        arrays = {_array_name(key): np.asarray(leaf) for key, leaf in jax.tree.leaves_with_path(nnx.state(network))}
        accuracy = np.mean(logits.argmax(axis=1) == test.labels)
        write_npz(path, arrays | {"name": np.array(name), "image_shape": np.array(shape), "accuracy": accuracy})
        log.info("Trained extractor %s in %.1f s and wrote %s", name, time.perf_counter() - start, path)
    found = read_classifier(path)
    log.info("Extractor %s has accuracy %.3f on %d held-out images", name, found.accuracy, len(test.images))
    return found


def read_classifier(path: Path) -> Extractor:
    """The extractor that `classifier_extractor` keeps at `path`; it needs no images.

    Raises FileNotFoundError if there is no such file; ValueError if it is damaged, or holds something else.
    """
    arrays = read_npz(path)
    try:
        shape, (classes,) = tuple(map(int, arrays["image_shape"])), arrays["head.bias"].shape
        graphdef, template = nnx.split(
            nnx.eval_shape(lambda: Classifier(shape, classes, arrays["hidden.bias"].size, rngs=nnx.Rngs(0)))
        )
        params = jax.tree.map_with_path(lambda key, _: jnp.asarray(arrays[_array_name(key)]), template)
        network = nnx.merge(graphdef, params)
        return _extractor(network, str(arrays["name"]), path.parent, shape, float(arrays["accuracy"]))
    except KeyError as error:
        raise ValueError(f"{path} is not a classifier: it has no {error}") from None


def _extractor(
    network: Classifier, name: str, cache_dir: Path, shape: tuple[int, ...], accuracy: float | None = None
) -> Extractor:
    graphdef, params = nnx.split(network)
    embed = jax.jit(lambda params, images: nnx.merge(graphdef, params)(images))
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


def _train(network: Classifier, images: np.ndarray, labels: np.ndarray, cfg: ExtractorConfig) -> Classifier:
    """Adam with cosine decay on batches drawn with replacement; cross-entropy loss."""
    graphdef, params = nnx.split(network)
    optimiser = optax.adam(optax.cosine_decay_schedule(cfg.learning_rate, cfg.steps))

    def loss_fn(params: Any, images: Array, labels: Array) -> Array:
        _, logits = nnx.merge(graphdef, params)(images)
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

    @jax.jit
    def step(params: Any, state: Any, images: Array, labels: Array) -> tuple[Any, Any, Array]:
        loss, grads = jax.value_and_grad(loss_fn)(params, images, labels)
        updates, state = optimiser.update(grads, state)
        return optax.apply_updates(params, updates), state, loss

    state, rng = optimiser.init(params), np.random.default_rng(cfg.seed)
    for _ in range(cfg.steps):
        batch = rng.integers(len(images), size=cfg.batch_size)
        params, state, loss = step(params, state, images[batch], labels[batch].astype(np.int32))
    if not np.isfinite(loss):
        raise ValueError(f"the classifier's loss became {loss}; lower extractor.learning_rate={cfg.learning_rate}")
    return nnx.merge(graphdef, params)


def _array_name(key: tuple[Any, ...]) -> str:
    """The path of a parameter, such as "convs.0.kernel"; Flax versions differ in whether ".value" follows."""
    return jax.tree_util.keystr(key, simple=True, separator=".").removesuffix(".value")
