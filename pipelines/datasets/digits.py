"""tfds builder for the handwritten digits that come with scikit-learn."""

import functools

import numpy as np
import tensorflow_datasets as tfds

from pipelines import images
from pipelines.datasets.local_builder import Item, LocalBuilder, Made, digest_of
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

    HOMEPAGE = "https://archive.ics.uci.edu/dataset/80/optical+recognition+of+handwritten+digits"

    def values(self) -> dict[str, tfds.features.FeatureConnector]:
        image = tfds.features.Image(shape=(8, 8, 1), encoding_format="png")
        return {"image": image, "label": tfds.features.ClassLabel(num_classes=10)}

    def listed(self) -> tuple[dict[str, list[Item]], list[str]]:
        items = [Item(f"{index:04d}", label, (index,)) for index, label in enumerate(digit_pixels()[1].tolist())]
        train = [item for index, item in enumerate(items) if index % TEST_EVERY]
        return {"train": train, "test": items[::TEST_EVERY]}, []

    def example(self, item: Item) -> Made:
        image = images.from_pixels(digit_pixels()[0][item.source[0]][..., None])
        return Made({"image": image, "label": item.label}, digest_of(image))


@functools.cache
def digit_pixels() -> tuple[np.ndarray, np.ndarray]:
    """All digits in the order of the file: uint8 [1797, 8, 8] and which they are, integers [1797]."""
    digits = require("sklearn.datasets", extra="demo").load_digits()
    return np.rint(digits.images * (255 / 16)).astype(np.uint8), digits.target
