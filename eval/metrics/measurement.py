"""Which metrics there are, and all that are asked for from one pass over the samples."""

import logging
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import UInt8

from eval.features.extractor import Extractor
from eval.metrics.frechet import extend, frechet_distance, metric_name, no_statistics, rank_warning
from eval.metrics.inception_score import inception_score
from eval.metrics.kid import kernel_distance
from eval.metrics.precision_recall import precision_recall
from eval.metrics.reference import Reference, chunk_size

log = logging.getLogger(__name__)

METRICS = ("fid", "kid", "is", "pr")
VALUES = ("fid", "kid", "is", "precision", "recall", "density", "coverage")  # what they give


class Choice(NamedTuple):
    """Metrics to compute, of METRICS, and the subsets of the kernel distance (kid)."""

    names: Sequence[str] = ("fid",)
    kid_subsets: int = 100
    kid_subset_size: int = 1000

    @property
    def need_features(self) -> bool:
        """Whether a mean and a covariance are not enough."""
        return "kid" in self.names or "pr" in self.names


def validate_choice(choice: Choice, num_samples: int | None) -> None:
    """Refuse what cannot be computed, before anything is drawn. num_samples: how many samples there will be, if any.

    Raises:
        ValueError: an unknown metric, or too few samples for one.
    """
    unknown = [name for name in choice.names if name not in METRICS]
    if unknown or not choice.names:
        raise ValueError(f"metrics must be some of {', '.join(METRICS)}, got {', '.join(unknown) or 'none'}")
    least = {"fid": 2, "kid": choice.kid_subset_size, "is": 10, "pr": 6}
    for name in choice.names:
        if num_samples is not None and num_samples < least[name]:
            hint = ", or a smaller kid_subset_size" if name == "kid" else ""
            raise ValueError(f"metrics={name} needs at least {least[name]} samples, got {num_samples}; draw more{hint}")
    if choice.kid_subsets < 1 or choice.kid_subset_size < 2:
        raise ValueError(
            f"kid_subsets must be at least 1 and kid_subset_size at least 2, got {choice.kid_subsets} and "
            f"{choice.kid_subset_size}"
        )


class Measurement:
    """Takes samples batch by batch and keeps of them only what the metrics need.

    That is a mean and a covariance for fid; the features of all samples for kid and pr; their logits for is.

    Raises:
        ValueError: a metric needs what the extractor or the reference does not have.
    """

    def __init__(self, extractor: Extractor, reference: Reference, choice: Choice):
        features = reference.features
        if choice.need_features and features is None:
            raise ValueError(
                f"metrics={','.join(choice.names)} needs the features of every reference image, but "
                f"{reference.statistics.data} has a mean and a covariance only; leave out kid and pr, or reference"
            )
        if "kid" in choice.names and features is not None and len(features) < choice.kid_subset_size:
            raise ValueError(
                f"kid_subset_size={choice.kid_subset_size} is more than the {len(features)} images of "
                f"{reference.data_name}; use that many or fewer"
            )
        if "is" in choice.names and extractor.outputs(np.zeros((1, *reference.image_shape), np.uint8))[1] is None:
            raise ValueError(f"metrics=is needs class scores, and extractor {extractor.name} has none; leave it out")
        self.extractor, self.reference, self.choice = extractor, reference, choice
        self.statistics = no_statistics(extractor.name, "samples")
        self._features: list[np.ndarray] = []
        self._logits: list[np.ndarray] = []
        self._waiting = np.empty((0, *reference.image_shape), np.uint8)

    def add(self, images: UInt8[np.ndarray, "b h w c"]) -> None:
        """Take more samples; they go through the extractor as soon as there is a `chunk_size` of them.

        Raises:
            ValueError: the images are not uint8, or not of the reference's shape.
        """
        if images.dtype != np.uint8 or images.shape[1:] != self.reference.image_shape:
            raise ValueError(
                f"samples are {images.dtype} {list(images.shape[1:])}, but the images of "
                f"{self.reference.data_name} are uint8 {list(self.reference.image_shape)}"
            )
        waiting = np.concatenate([self._waiting, images])
        full = len(waiting) // (size := chunk_size(self.extractor)) * size
        self._measure(waiting[:full])
        self._waiting = waiting[full:]

    def result(self) -> dict[str, Any]:
        """Every metric with the name it goes by, and what it was measured with and against.

        Raises:
            ValueError: too few samples.
        """
        self._measure(self._waiting)
        self._waiting = self._waiting[:0]
        validate_choice(self.choice, self.statistics.n)
        compute = {"fid": self._fid, "kid": self._kid, "is": self._inception_score, "pr": self._precision_recall}
        found: dict[str, Any] = {}
        for name in self.choice.names:
            found |= compute[name]()
        return found | {
            "extractor": self.extractor.name,
            "extractor_accuracy": self.extractor.accuracy,
            "reference": self.reference.statistics.data,
            "reference_extractor": self.reference.statistics.extractor,
            "reference_n": self.reference.statistics.n,
        }

    def _fid(self) -> dict[str, Any]:
        stats, distance = self.statistics, self.extractor.distance
        if warning := rank_warning(stats, distance):
            log.warning("warning: %s", warning)
        return {"fid": frechet_distance(stats, self.reference.statistics), "fid_name": metric_name(stats, distance)}

    def _kid(self) -> dict[str, Any]:
        subsets, size = self.choice.kid_subsets, self.choice.kid_subset_size
        mean, std = kernel_distance(*self._both_features(), subsets, size)
        name = metric_name(self.statistics, "KID" if self.extractor.distance == "FID" else "KD")
        return {"kid": mean, "kid_std": std, "kid_name": name, "kid_subsets": subsets, "kid_subset_size": size}

    def _inception_score(self) -> dict[str, Any]:
        mean, std = inception_score(np.concatenate(self._logits))
        return {"is": mean, "is_std": std, "is_name": metric_name(self.statistics, "IS")}

    def _precision_recall(self) -> dict[str, Any]:
        return precision_recall(*self._both_features())._asdict() | {"pr_name": metric_name(self.statistics, "PR")}

    def _both_features(self) -> tuple[np.ndarray, np.ndarray]:
        assert self.reference.features is not None
        self._features = [np.concatenate(self._features)]
        return self._features[0], self.reference.features

    def _measure(self, images: UInt8[np.ndarray, "b h w c"]) -> None:
        if len(images) == 0:
            return
        features, logits = self.extractor.outputs(images)
        self.statistics = extend(self.statistics, features)
        if self.choice.need_features:
            self._features.append(features)
        if "is" in self.choice.names:
            assert logits is not None
            self._logits.append(logits)


def lines(found: dict[str, Any]) -> list[str]:
    """The metrics of a `Measurement.result` for people, one a line."""
    text = []
    if "fid" in found:
        text.append(f"{found['fid_name']} {found['fid']:.4g}")
    if "kid" in found:
        subsets = f"{found['kid_subsets']} subsets of {found['kid_subset_size']}"
        text.append(f"{found['kid_name']} {found['kid']:.3g}, standard deviation {found['kid_std']:.2g} over {subsets}")
    if "is" in found:
        text.append(f"{found['is_name']} {found['is']:.4g}, standard deviation {found['is_std']:.2g} over 10 parts")
    if "pr_name" in found:
        shares = ", ".join(f"{name} {found[name]:.3f}" for name in ("precision", "recall", "density", "coverage"))
        text.append(f"{found['pr_name']} {shares}")
    return text
