"""The embedded data set: scikit-learn's handwritten digits as a builder of tensorflow-datasets."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow_datasets as tfds


class Digits(tfds.core.GeneratorBasedBuilder):
    """1,797 digits of 8x8 grey pixels, from the UCI repository (E. Alpaydin and C. Kaynak, 1998).

    They ship inside scikit-learn: nothing is downloaded. Every tenth image of each class is held out for testing.
    """

    VERSION = tfds.core.Version("1.0.0")

    def _info(self) -> tfds.core.DatasetInfo:
        features = {"image": tfds.features.Image(shape=(8, 8, 1)), "label": tfds.features.ClassLabel(num_classes=10)}
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Any]:
        return {"train": self._generate_examples(test=False), "test": self._generate_examples(test=True)}

    def _generate_examples(self, test: bool) -> Iterator[tuple[int, dict[str, Any]]]:
        from sklearn.datasets import load_digits

        digits, labels = load_digits(return_X_y=True)
        pixels = np.rint(digits.reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8)  # stored as ink counts 0 .. 16
        seen = np.zeros(10, int)
        for index, (image, label) in enumerate(zip(pixels, labels, strict=True)):
            if (seen[label] % 10 == 5) == test:
                yield index, {"image": image[..., None], "label": int(label)}
            seen[label] += 1
