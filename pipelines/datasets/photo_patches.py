"""tfds builder for patches of the two photographs that come with scikit-learn."""

import functools

import numpy as np
import tensorflow_datasets as tfds

from pipelines import images
from pipelines.datasets.local_builder import Item, LocalBuilder, Made, digest_of
from pipelines.extras import require

PATCH = 64
STRIDE = 8  # neighbours overlap by 56 of 64 pixels
TEST_COLUMNS = 2 * PATCH  # width of the strip on the right of each photograph that only the test split sees


class PhotoPatches(LocalBuilder):
    """Patches of two colour photographs: 64x64x3 uint8 RGB images in 0..255, no labels.

    Source: `sklearn.datasets.load_sample_images`, two photographs of 427x640 pixels (a temple in China, a
    flower), under a Creative Commons licence (CC BY 2.0; by danielbuechele and vultilion). Patches are cut at
    a stride of 8 pixels, so they overlap. Splits: `test` (828 patches) is cut from the rightmost 128 columns
    of each photograph, `train` (5244 patches) from the others, so no pixel is in both.
    """

    HOMEPAGE = "https://scikit-learn.org/stable/datasets/loading_other_datasets.html"

    def values(self) -> dict[str, tfds.features.FeatureConnector]:
        return {"image": tfds.features.Image(shape=(PATCH, PATCH, 3), encoding_format="png")}

    def listed(self) -> tuple[dict[str, list[Item]], list[str]]:
        splits = {"train": [], "test": []}
        for number, (height, width, _) in enumerate(photo.shape for photo in _photos()):
            edge = width - TEST_COLUMNS
            for split, start, stop in (("train", 0, edge), ("test", edge, width)):
                splits[split] += [
                    Item(f"{number}_{top}_{left}", None, (number, top, left))
                    for top in range(0, height - PATCH + 1, STRIDE)
                    for left in range(start, stop - PATCH + 1, STRIDE)
                ]
        return splits, []

    def example(self, item: Item) -> Made:
        number, top, left = item.source
        image = images.from_pixels(_photos()[number][top : top + PATCH, left : left + PATCH])
        return Made({"image": image}, digest_of(image))


@functools.cache
def _photos() -> list[np.ndarray]:
    return require("sklearn.datasets", extra="demo").load_sample_images().images
