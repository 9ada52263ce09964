"""Data sets of tensorflow-datasets by what their examples have: labels of other kinds, pixels of other kinds."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow_datasets as tfds
from data_archives import config

from data import load, prepared
from data.config import DatasetConfig


def prepared_by(data_dir: Path, **features: tuple[tfds.features.FeatureConnector, list[Any]]) -> DatasetConfig:
    """A data set of these features, each with the values of its examples."""

    class Own(tfds.core.GeneratorBasedBuilder, skip_registration=True):  # type: ignore[call-arg]
        VERSION = tfds.core.Version("1.0.0")

        def _info(self) -> tfds.core.DatasetInfo:
            kinds = tfds.features.FeaturesDict({name: feature for name, (feature, _) in features.items()})
            return tfds.core.DatasetInfo(builder=self, features=kinds)

        def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
            return {"train": self._generate_examples()}

        def _generate_examples(self) -> Any:
            columns = [values for _, values in features.values()]
            return enumerate(dict(zip(features, row, strict=True)) for row in zip(*columns, strict=True))

    builder = Own(data_dir=data_dir)
    with prepared._without_tensorflow(builder):
        builder.download_and_prepare(file_format="array_record")
    return config("mnist", data_dir, tfds_name="own", image_size=None)


PIXELS = [np.full((2, 2, 1), i, np.uint8) for i in range(3)]
GREY = tfds.features.Image(shape=(2, 2, 1))


@pytest.mark.parametrize(
    ("label", "values"),
    [
        (tfds.features.Scalar(np.int64), [7, 0, 3]),
        (tfds.features.Text(), ["a", "b", "c"]),
        (tfds.features.ClassLabel(num_classes=3), [-1, -1, -1]),  # as TFDS has it where they are kept secret
    ],
)
def test_labels_that_are_no_classes_are_none(label: Any, values: list[Any], tmp_path: Path) -> None:
    split = load(prepared_by(tmp_path, image=(GREY, PIXELS), label=(label, values)), "train")
    assert (sorted(split.images[:, 0, 0, 0]), split.labels, split.num_classes) == ([0, 1, 2], None, 0)


@pytest.mark.parametrize(
    ("image", "channels", "dtype"),
    [
        (tfds.features.Image(shape=(2, 2, 1), dtype=np.uint16), 1, np.uint16),
        (tfds.features.Image(shape=(2, 2, 4)), 4, np.uint8),
        (tfds.features.Tensor(shape=(2, 2, 1), dtype=np.uint8), 1, np.uint8),
    ],
)
def test_pixels_that_are_not_grey_or_rgb_of_8_bits_are_refused(
    image: Any, channels: int, dtype: Any, tmp_path: Path
) -> None:
    cfg = prepared_by(tmp_path, image=(image, [np.ones((2, 2, channels), dtype)]))
    with pytest.raises(ValueError, match=r"dataset.tfds_name=own is not a data set of grey or RGB images of 8 bits"):
        load(cfg, "train")
