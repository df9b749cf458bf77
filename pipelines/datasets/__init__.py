"""The data sets that this package can prepare, one folder with one tfds builder for each."""

import dataclasses
import difflib
import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pipelines.datasets.local_builder import LocalBuilder


@dataclasses.dataclass(frozen=True, kw_only=True)
class Entry:
    """Where a builder is found, without importing it. `needs_source`: it is made from the user's files."""

    module: str
    builder: str
    summary: str
    needs_source: bool = False

    def load(self) -> "type[LocalBuilder]":
        """Imports and returns the builder's class."""
        return getattr(importlib.import_module(self.module), self.builder)


ENTRIES = {
    "digits": Entry(
        module="pipelines.datasets.digits",
        builder="Digits",
        summary="handwritten digits, 8x8x1, 10 classes (scikit-learn's load_digits)",
    ),
    "image_folder": Entry(
        module="pipelines.datasets.image_folder",
        builder="ImageFolder",
        summary="a folder of images: SOURCE/split/class/*.png, SOURCE/class/*.png or SOURCE/*.png",
        needs_source=True,
    ),
    "imagenet": Entry(
        module="pipelines.datasets.imagenet",
        builder="Imagenet",
        summary="ImageNet (ILSVRC 2012), from the official tar files or an extracted tree",
        needs_source=True,
    ),
    "kinetics600": Entry(
        module="pipelines.datasets.kinetics600",
        builder="Kinetics600",
        summary="Kinetics-600, from a folder of clips and the official CSV files",
        needs_source=True,
    ),
    "npz": Entry(
        module="pipelines.datasets.npz",
        builder="Npz",
        summary="arrays: an .npz of uint8 [N,H,W,C] and labels, or a folder of them, one for each split",
        needs_source=True,
    ),
    "photo_patches": Entry(
        module="pipelines.datasets.photo_patches",
        builder="PhotoPatches",
        summary="patches of two colour photographs, 64x64x3, no labels (scikit-learn's load_sample_images)",
    ),
}


def dataset_names() -> tuple[str, ...]:
    """Returns the names of the data sets that `prepare` can write, sorted."""
    return tuple(sorted(ENTRIES))


def near_names(name: str) -> str:
    """Returns "; did you mean 'digits'?" for a name close to a known one, else the empty string."""
    near = difflib.get_close_matches(name, dataset_names(), n=1)
    return f"; did you mean {near[0]!r}?" if near else ""
