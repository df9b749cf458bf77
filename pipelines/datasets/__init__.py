"""The data sets that this package can prepare, one folder with one tfds builder for each."""

import dataclasses
import difflib


@dataclasses.dataclass(frozen=True, kw_only=True)
class Entry:
    """Where a builder is found, without importing it."""

    module: str
    builder: str
    summary: str


ENTRIES = {
    "digits": Entry(
        module="pipelines.datasets.digits.digits",
        builder="Digits",
        summary="handwritten digits, 8x8x1, 10 classes (scikit-learn's load_digits)",
    ),
    "photo_patches": Entry(
        module="pipelines.datasets.photo_patches.photo_patches",
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
