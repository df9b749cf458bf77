"""tfds builder for the handwritten digits that come with scikit-learn."""

import inspect
from collections.abc import Iterator

import numpy as np
import tensorflow_datasets as tfds

from pipelines.datasets.local_builder import LocalBuilder, LocalInfo
from pipelines.extras import require

# The file is ordered by writer, so every tenth image draws on all writers and all classes alike, where the
# last tenth would be the handwriting of one or two people. The test split thus asks for new images by known
# writers, not for new writers.
TEST_EVERY = 10


class Digits(LocalBuilder):
    """Handwritten digits: 8x8x1 uint8 images in 0..255 and their class, 0..9.

    Source: `sklearn.datasets.load_digits`, 1797 images, a copy of the test set of the UCI "Optical
    recognition of handwritten digits" by E. Alpaydin and C. Kaynak. The stored values 0..16 are scaled to
    0..255 and rounded. Splits: `test` is every tenth image (180), `train` the others (1617).
    """

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "First version."}

    def _info(self) -> LocalInfo:
        return LocalInfo(
            builder=self,
            description=inspect.cleandoc(self.__class__.__doc__),
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(shape=(8, 8, 1), encoding_format="png"),
                    "label": tfds.features.ClassLabel(num_classes=10),
                }
            ),
            supervised_keys=("image", "label"),
            homepage="https://archive.ics.uci.edu/dataset/80/optical+recognition+of+handwritten+digits",
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict:
        digits = require("sklearn.datasets", extra="demo").load_digits()
        images = np.rint(digits.images * (255 / 16)).astype(np.uint8)[..., None]
        is_test = np.arange(len(images)) % TEST_EVERY == 0
        return {
            "train": self._generate_examples(images, digits.target, ~is_test),
            "test": self._generate_examples(images, digits.target, is_test),
        }

    def _generate_examples(self, images: np.ndarray, labels: np.ndarray, chosen: np.ndarray) -> Iterator:
        for index in np.flatnonzero(chosen):
            yield int(index), {"image": images[index], "label": int(labels[index])}
