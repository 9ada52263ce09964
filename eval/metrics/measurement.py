"""The metrics, and all that are asked for from one pass over the samples.

A new metric is a module here and its entry in METRICS.
"""

import logging
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import reduce
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int, UInt8

from data.config import DatasetConfig
from eval.features.config import ExtractorConfig, load_extractor
from eval.features.extractor import Extractor
from eval.metrics.frechet import Statistics, empty_statistics, frechet_distance, merge, metric_name, rank_warning
from eval.metrics.inception_score import inception_score
from eval.metrics.jackknife import BLOCKS, distances_without, extend_blocks, standard_error
from eval.metrics.kid import kernel_distance
from eval.metrics.precision_recall import precision_recall
from eval.metrics.reference import Reference, chunk_size, kept_radii, load_reference, missing_features
from runs.errors import checking

log = logging.getLogger(__name__)


class MetricConfig(NamedTuple):
    """Names of the metrics to compute, of METRICS, and the subsets of the kernel distance (kid)."""

    names: Sequence[str] = ("fid",)
    kid_subsets: int = 100
    kid_subset_size: int = 1000

    def need(self, what: str) -> bool:
        """Whether a metric needs "features" or "logits" of every image."""
        return any(METRICS[name].needs == what for name in self.names)


class Measurement:
    """Takes samples batch by batch and keeps only what the metrics need of them, besides means and covariances.

    blocks: statistics of so many blocks of the samples, of which a Fréchet distance has its standard error.
    Raises ValueError if a metric needs what the extractor or the reference does not have.
    """

    def __init__(self, extractor: Extractor, reference: Reference, config: MetricConfig, blocks: int = BLOCKS):
        if reference.features is None:
            if config.need("features"):
                raise ValueError(
                    f"metrics={','.join(config.names)} needs the features of every reference image, but "
                    f"{reference.statistics.data} has a mean and a covariance only; leave out kid and pr, or reference"
                )
        elif "kid" in config.names and len(reference.features) < config.kid_subset_size:
            raise ValueError(
                f"kid_subset_size={config.kid_subset_size} is more than the {len(reference.features)} images of "
                f"{reference.data_name}; use that many or fewer"
            )
        if "is" in config.names and extractor.outputs(np.zeros((1, *reference.image_shape), np.uint8))[1] is None:
            raise ValueError(f"metrics=is needs class scores, and extractor {extractor.name} has none; leave it out")
        if "classes" in config.names and extractor.accuracy is None:
            raise ValueError(
                f"metrics=classes needs the data set's own classes, which extractor {extractor.name} does not know; "
                "use extractor=classifier"
            )
        self.extractor, self.reference, self.config = extractor, reference, config
        self.blocks = [empty_statistics(extractor.name, f"block {i} of the samples") for i in range(blocks)]
        self._features: list[np.ndarray] = []
        self._logits: list[np.ndarray] = []
        self._labels: list[np.ndarray] = []
        self._waiting = np.empty((0, *reference.image_shape), np.uint8)

    def add(self, images: UInt8[np.ndarray, "b h w c"], labels: Int[np.ndarray, " b"] | None = None) -> None:
        """Take more samples; they go through the extractor as soon as there is a `chunk_size` of them.

        labels: the classes that they were asked for, which the metric "classes" needs.
        Raises ValueError if the images are not uint8, or not of the reference's shape, and for labels that are missing.
        """
        if "classes" in self.config.names:
            if labels is None:
                raise ValueError(
                    "metrics=classes needs the class that each sample was asked for, as sample.py knows it of a "
                    "network with classes; leave it out"
                )
            self._labels.append(np.asarray(labels))
        if images.dtype != np.uint8 or images.shape[1:] != self.reference.image_shape:
            raise ValueError(
                f"samples are {images.dtype} {list(images.shape[1:])}, but the images of "
                f"{self.reference.data_name} are uint8 {list(self.reference.image_shape)}"
            )
        self._waiting = np.concatenate([self._waiting, images])
        self._extract(len(self._waiting) - len(self._waiting) % chunk_size(self.extractor))

    def result(self) -> dict[str, Any]:
        """Every metric with the name it goes by, and what it was measured with and against.

        Raises ValueError for too few samples.
        """
        self._extract(len(self._waiting))
        validate_metrics(self.config, self.statistics.n)
        found: dict[str, Any] = {}
        for name in self.config.names:
            found |= METRICS[name].compute(self)
        return found | {
            "extractor": self.extractor.name,
            "extractor_accuracy": self.extractor.accuracy,
            "reference": self.reference.statistics.data,
            "reference_extractor": self.reference.statistics.extractor,
            "reference_n": self.reference.statistics.n,
        }

    def gather(self) -> None:
        """Put together what all processes have taken, in all of them, so that `result` is of all samples.

        Raises ConnectionError if a process has been lost.
        """
        import jax

        from models.training.devices import gather

        self._extract(len(self._waiting))
        if jax.process_count() == 1:
            return
        rows = {"features": self._features, "logits": self._logits, "labels": self._labels}
        kept = {name: np.concatenate(batches) for name, batches in rows.items() if batches}
        for i, block in enumerate(self.blocks):
            if block.n > 0:
                kept |= {f"mean {i}": block.mean, f"cov {i}": block.cov, f"n {i}": np.asarray(block.n)}
        parts, empty = gather(kept), empty_statistics(self.extractor.name, "samples")
        for i in range(len(self.blocks)):
            found = [[part[f"{name} {i}"] for name in ("mean", "cov", "n")] for part in parts if f"n {i}" in part]
            theirs = [replace(empty, mean=mean, cov=cov, n=int(n)) for mean, cov, n in found]
            self.blocks[i] = reduce(merge, theirs, empty)
        self._features, self._logits, self._labels = ([part[name] for part in parts if name in part] for name in rows)

    def _extract(self, count: int) -> None:
        """Take the features of the first `count` images that wait."""
        if count == 0:
            return
        features, logits = self.extractor.outputs(self._waiting[:count])
        self._waiting = self._waiting[count:]
        self.blocks = extend_blocks(self.blocks, features)
        if self.config.need("features"):
            self._features.append(features)
        if logits is not None and self.config.need("logits"):
            self._logits.append(logits)

    @property
    def statistics(self) -> Statistics:
        """Mean and covariance of the features of all samples."""
        taken = [block for block in self.blocks if block.n > 0]
        return reduce(merge, taken, empty_statistics(self.extractor.name, "samples"))

    @property
    def features(self) -> tuple[np.ndarray, Any]:
        """The features of all samples, and those of the reference."""
        return np.concatenate(self._features), self.reference.features


def _fid(samples: Measurement) -> dict[str, Any]:
    stats, reference = samples.statistics, samples.reference.statistics
    if warning := rank_warning(stats, reference):
        log.warning("warning: %s", warning)
    name = metric_name(stats, samples.extractor.distance, samples.reference.split)
    found = {"fid": frechet_distance(stats, reference), "fid_name": name}
    if sum(block.n > 0 for block in samples.blocks) < BLOCKS:
        return found
    return found | {"fid_standard_error": standard_error(distances_without(samples.blocks, reference))}


def _kid(samples: Measurement) -> dict[str, Any]:
    subsets, size = samples.config.kid_subsets, samples.config.kid_subset_size
    mean, std = kernel_distance(*samples.features, subsets, size)
    word = "KID" if samples.extractor.distance == "FID" else "KD"
    name = metric_name(samples.statistics, word, samples.reference.split)
    return {"kid": mean, "kid_std": std, "kid_name": name, "kid_subsets": subsets, "kid_subset_size": size}


def _inception_score(samples: Measurement) -> dict[str, Any]:
    mean, std = inception_score(np.concatenate(samples._logits))
    return {"is": mean, "is_std": std, "is_name": metric_name(samples.statistics, "IS")}


def _precision_recall(samples: Measurement) -> dict[str, Any]:
    name = metric_name(samples.statistics, "PR", samples.reference.split)
    features, reference = samples.features
    radii = kept_radii(samples.extractor, samples.reference.statistics.data, reference)
    return precision_recall(features, reference, radii=radii)._asdict() | {"pr_name": name}


def _classes(samples: Measurement) -> dict[str, Any]:
    """The share of samples that the extractor's classifier takes for the class that was asked for."""
    found = np.concatenate(samples._logits).argmax(axis=1)
    name = metric_name(samples.statistics, "classes")
    return {"right_class": float(np.mean(found == np.concatenate(samples._labels))), "classes_name": name}


class Metric(NamedTuple):
    """One metric: what it takes and what it gives.

    compute: its numbers, from a finished `Measurement`. needs: "statistics" (mean and covariance), "features" of every
    image, or "logits". least: the fewest samples it can be computed from. line: its format in the summary for people.
    values: the keys of the numbers that are logged.
    """

    compute: Callable[[Measurement], dict[str, Any]]
    needs: str
    least: int
    line: str
    values: tuple[str, ...]


KID_LINE = "{kid_name} {kid:.3g}, standard deviation {kid_std:.2g} over {kid_subsets} subsets of {kid_subset_size}"
IS_LINE = "{is_name} {is:.4g}, standard deviation {is_std:.2g} over 10 parts"
PR_LINE = "{pr_name} precision {precision:.3f}, recall {recall:.3f}, density {density:.3f}, coverage {coverage:.3f}"
METRICS = {
    "fid": Metric(_fid, "statistics", 2, "{fid_name} {fid:.4g}{fid_error}", ("fid", "fid_standard_error")),
    "kid": Metric(_kid, "features", 2, KID_LINE, ("kid",)),  # and at least kid_subset_size
    "is": Metric(_inception_score, "logits", 10, IS_LINE, ("is",)),
    "pr": Metric(_precision_recall, "features", 4, PR_LINE, ("precision", "recall", "density", "coverage")),
    "classes": Metric(_classes, "logits", 1, "{classes_name} right {right_class:.1%}", ("right_class",)),
}
VALUES = tuple(value for metric in METRICS.values() for value in metric.values)


def validate_metrics(config: MetricConfig, num_samples: int | None) -> None:
    """Refuse what cannot be computed, before anything is drawn. num_samples: how many there will be, None if unknown.

    Raises ValueError for an unknown metric, or too few samples for one.
    """
    unknown = [name for name in config.names if name not in METRICS]
    if unknown or not config.names:
        raise ValueError(f"metrics must be some of {', '.join(METRICS)}, got {', '.join(unknown) or 'none'}")
    for name in config.names:
        least, hint = METRICS[name].least, ""
        if name == "kid":
            least, hint = config.kid_subset_size, ", or a smaller kid_subset_size"
        if num_samples is not None and num_samples < least:
            raise ValueError(f"metrics={name} needs at least {least} samples, got {num_samples}; draw more{hint}")
    if config.kid_subsets < 1 or config.kid_subset_size < 2:
        raise ValueError(
            f"kid_subsets must be at least 1 and kid_subset_size at least 2, got {config.kid_subsets} and "
            f"{config.kid_subset_size}"
        )


def lines(found: dict[str, Any]) -> list[str]:
    """The metrics of a `Measurement.result` for people, one a line; ± is the standard error."""
    error = found.get("fid_standard_error")
    found = found | {"fid_error": "" if error is None else f" ± {error:.2g}"}
    return [metric.line.format(**found) for metric in METRICS.values() if metric.values[0] in found]


def open_measurement(cfg: ExtractorConfig, dataset: DatasetConfig, config: MetricConfig) -> Measurement:
    """A measurement against the data set's training images, with the extractor that `cfg` names.

    Raises ConfigError for anything that cannot be used.
    """
    with checking():
        extractor = load_extractor(cfg, dataset)
        return Measurement(extractor, load_reference(extractor, dataset, config.need("features")), config)


def measurement_of(
    cfg: ExtractorConfig | None,
    dataset: DatasetConfig | None,
    config: MetricConfig,
    num_samples: int,
    is_asked: bool,
    label: int | None,
) -> Measurement | None:
    """What measures the samples, of the class `label` if all are of one.

    None if nobody asked and it cannot be, or something has to be made first, which one line says but for one image.
    Raises ConfigError for anything that cannot be used.
    """
    cfg = cfg or ExtractorConfig()
    if not is_asked:
        missing = "nobody wrote down what images the network learned; give dataset=NAME"
        if num_samples < 2:  # of which nobody expects it
            return None
        if dataset is not None:
            with checking():
                missing = missing_features(cfg, dataset) or ""
        if missing or label is not None:
            missing = missing or "images of one class do not compare with those of all"
            print(f"no FID: {missing}; extractor=classifier makes what it needs and measures it", file=sys.stderr)
            return None
    assert dataset is not None
    return open_measurement(cfg, dataset, config)
