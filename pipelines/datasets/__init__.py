"""The data sets that this package can prepare: a module for each, with one tfds builder."""

import importlib
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from pipelines.datasets.local_builder import LocalBuilder


class Entry(NamedTuple):
    """Where a builder is found, without importing it."""

    module: str
    builder: str
    summary: str

    def load(self) -> "type[LocalBuilder]":
        return getattr(importlib.import_module(f"pipelines.datasets.{self.module}"), self.builder)


ENTRIES = {
    entry.module: entry
    for entry in (
        Entry(
            "digit_scenes", "DigitScenes", "coloured digits and captions, 16x16x3: two red threes above a blue seven"
        ),
        Entry("digits", "Digits", "handwritten digits, 8x8x1, 10 classes (scikit-learn's load_digits)"),
        Entry("emoji", "Emoji", "emoji of a colour font as NotoColorEmoji.ttf, with their names as captions"),
        Entry("fields", "Fields", "fields of named variables in physical units, NetCDF or Zarr: one, or a folder"),
        Entry("image_folder", "ImageFolder", "images: SOURCE/split/class/*.png, SOURCE/class/*.png or SOURCE/*.png"),
        Entry("imagenet", "Imagenet", "ImageNet (ILSVRC 2012), from the official tar files or an extracted tree"),
        Entry("kinetics600", "Kinetics600", "Kinetics-600, from a folder of clips and the official CSV files"),
        Entry("npz", "Npz", "arrays by name, images or clips, labels and others: an .npz, or a folder of one a split"),
        Entry("photo_patches", "PhotoPatches", "patches of two colour photographs, 64x64x3 (scikit-learn's)"),
    )
}


def dataset_names() -> tuple[str, ...]:
    """Returns the names of the data sets that `prepare` can write, sorted."""
    return tuple(sorted(ENTRIES))
