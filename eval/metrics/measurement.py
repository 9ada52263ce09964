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
from jaxtyping import UInt8

from data.config import DatasetConfig
from eval.features.config import ExtractorConfig, load_extractor
from eval.features.extractor import Extractor
from eval.metrics.frechet import empty_statistics, extend, frechet_distance, merge, metric_name, rank_warning
from eval.metrics.inception_score import inception_score
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
    """Takes samples batch by batch and keeps only what the metrics need of them, besides their mean and covariance.

    Raises ValueError if a metric needs what the extractor or the reference does not have.
    """

    def __init__(self, extractor: Extractor, reference: Reference, config: MetricConfig):
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
        if config.need("logits") and extractor.outputs(np.zeros((1, *reference.image_shape), np.uint8))[1] is None:
            raise ValueError(f"metrics=is needs class scores, and extractor {extractor.name} has none; leave it out")
        self.extractor, self.reference, self.config = extractor, reference, config
        self.statistics = empty_statistics(extractor.name, "samples")
        self._features: list[np.ndarray] = []
        self._logits: list[np.ndarray] = []
        self._waiting = np.empty((0, *reference.image_shape), np.uint8)

    def add(self, images: UInt8[np.ndarray, "b h w c"]) -> None:
        """Take more samples; they go through the extractor as soon as there is a `chunk_size` of them.

        Raises ValueError if the images are not uint8, or not of the reference's shape.
        """
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
        rows = {"features": self._features, "logits": self._logits}
        kept = {name: np.concatenate(batches) for name, batches in rows.items() if batches}
        own = {"mean": self.statistics.mean, "cov": self.statistics.cov, "n": np.asarray(self.statistics.n)}
        parts = [part for part in gather(own | kept) if part["n"] > 0]
        statistics = [replace(self.statistics, mean=p["mean"], cov=p["cov"], n=int(p["n"])) for p in parts]
        self.statistics = reduce(merge, statistics, empty_statistics(self.extractor.name, "samples"))
        self._features, self._logits = ([part[name] for part in parts if name in part] for name in rows)

    def _extract(self, count: int) -> None:
        """Take the features of the first `count` images that wait."""
        if count == 0:
            return
        features, logits = self.extractor.outputs(self._waiting[:count])
        self._waiting = self._waiting[count:]
        self.statistics = extend(self.statistics, features)
        if self.config.need("features"):
            self._features.append(features)
        if logits is not None and self.config.need("logits"):
            self._logits.append(logits)

    @property
    def features(self) -> tuple[np.ndarray, Any]:
        """The features of all samples, and those of the reference."""
        return np.concatenate(self._features), self.reference.features


def _fid(samples: Measurement) -> dict[str, Any]:
    stats, distance = samples.statistics, samples.extractor.distance
    if warning := rank_warning(stats, distance):
        log.warning("warning: %s", warning)
    name = metric_name(stats, distance, samples.reference.split)
    return {"fid": frechet_distance(stats, samples.reference.statistics), "fid_name": name}


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
    "fid": Metric(_fid, "statistics", 2, "{fid_name} {fid:.4g}", ("fid",)),
    "kid": Metric(_kid, "features", 2, KID_LINE, ("kid",)),  # and at least kid_subset_size
    "is": Metric(_inception_score, "logits", 10, IS_LINE, ("is",)),
    "pr": Metric(_precision_recall, "features", 6, PR_LINE, ("precision", "recall", "density", "coverage")),
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
    """The metrics of a `Measurement.result` for people, one a line."""
    return [metric.line.format(**found) for metric in METRICS.values() if metric.values[0] in found]


def open_measurement(cfg: ExtractorConfig, dataset: DatasetConfig, config: MetricConfig) -> Measurement:
    """A measurement against the data set's training images, with the extractor that `cfg` names.

    Raises ConfigError for anything that cannot be used.
    """
    with checking():
        extractor = load_extractor(cfg, dataset)
        return Measurement(extractor, load_reference(extractor, dataset, config.need("features")), config)


def measurement_of(
    cfg: ExtractorConfig | None, dataset: DatasetConfig | None, config: MetricConfig, num_samples: int, is_asked: bool
) -> Measurement | None:
    """What measures the samples; None, with one line that says why, if nobody asked and something has to be made first.

    Raises ConfigError for anything that cannot be used.
    """
    cfg = cfg or ExtractorConfig()
    if not is_asked:
        missing = "nobody wrote down what images the network learned; give dataset=NAME"
        if num_samples < 2:
            missing = "it needs at least 2 images"
        elif dataset is not None:
            with checking():
                missing = missing_features(cfg, dataset) or ""
        if missing:
            print(f"no FID: {missing}; extractor=classifier makes what it needs and measures it", file=sys.stderr)
            return None
    assert dataset is not None
    return open_measurement(cfg, dataset, config)


def measure_fid(images: UInt8[np.ndarray, "n h w c"], extractor: Extractor, dataset: DatasetConfig) -> dict[str, Any]:
    """FID of the images against the data set's training images, with the name it goes by. Raises ConfigError."""
    with checking():
        measurement = Measurement(extractor, load_reference(extractor, dataset), MetricConfig())
        measurement.add(images)
        return measurement.result()
