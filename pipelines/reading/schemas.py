"""What a data set says of its values: the description that tfds keeps, or what the user says of plain files."""

import dataclasses
import json
from collections.abc import Sequence
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np

from pipelines.extras import near, require_tfds
from pipelines.values import SAMPLES, ChannelStatistics, RecordFeatures, Schema, ValueSpec

if TYPE_CHECKING:
    import tensorflow_datasets as tfds
    from etils import epath

REPORT_FILE = "report.json"  # beside the shards that this package has prepared


@dataclasses.dataclass(frozen=True, kw_only=True)
class DatasetDescription:
    """What one split of a prepared data set holds.

    Attributes:
        name, split: of the data set, and of the split.
        num_examples: of the split; None for plain files, which say it only when they are read.
        image_shape: (H, W, C) of the images, or of the frames of clips; H and W None where they differ.
        num_classes: number of classes; None: no labels, or their number is not known.
        class_names: a name for each class, None if `num_classes` is, or if they are not known.
        num_frames: F if the examples are clips and not images.
        common_size: (H, W) of all images where `image_shape` leaves it open and they are alike; None: it is not known.
        sample_dtype: of the images or clips, "uint8" in 0..255, "float32" or "float16" in [-1, 1] or with channels.
        sample_channels: of floats in physical units, with the training split's mean and deviation; None: of others.
        values: {name: ValueSpec} of what comes out beside them and the label.
        config: of a data set made from the user's files, how it was made, as "clips-64-png-16x1-2w3c".
    """

    name: str
    split: str
    num_examples: int | None
    image_shape: tuple[int | None, int | None, int]
    num_classes: int | None
    class_names: tuple[str, ...] | None
    num_frames: int | None = None
    common_size: tuple[int, int] | None = None
    sample_dtype: str = "uint8"
    sample_channels: ChannelStatistics | None = None
    values: dict[str, ValueSpec] = dataclasses.field(default_factory=dict)
    config: str | None = None

    @property
    def sample_name(self) -> str:
        """ "image", or "video" for clips: under which name `make_dataset` gives them."""
        return "video" if self.num_frames else "image"

    @property
    def sample_shape(self) -> tuple[int | None, ...]:
        """(H, W, C), or (F, H, W, C) of clips; H and W None where they differ, and image_size must be given."""
        size = self.common_size or self.image_shape[:2]
        return (*((self.num_frames,) if self.num_frames else ()), *size, self.image_shape[2])


def fields_of(values: dict[str, ValueSpec]) -> dict[str, Any]:
    """What a description says of values, the sample first."""
    (name, sample), *others = values.items()
    return {
        "image_shape": sample.shape[-3:],
        "num_frames": sample.shape[0] if name == "video" else None,
        "sample_dtype": sample.dtype,
        "sample_channels": sample.channels,
        "num_classes": values["label"].num_classes if "label" in values else None,
        "values": {key: spec for key, spec in others if key != "label"},
    }


def common_size(directory: "epath.Path", split: str) -> tuple[int, int] | None:
    """(H, W) of all images of a split, if the report of its preparation says that they are alike."""
    report = directory / REPORT_FILE
    splits = json.loads(report.read_text())["splits"] if report.exists() else {}
    size = splits.get(split, {}).get("image_size")
    return tuple(size) if size else None


def _channels(directory: "epath.Path") -> dict[str, ChannelStatistics]:
    """By name of the value, as the report of the preparation says."""
    return {name: ChannelStatistics(**channels) for name, channels in _reported(directory, "channels").items()}


def _reported(directory: "epath.Path", what: str) -> dict[str, Any]:
    """What the report of the preparation says of values, by their names."""
    report = directory / REPORT_FILE
    return json.loads(report.read_text()).get(what, {}) if report.exists() else {}


def schema_of_files(features: RecordFeatures, names: Sequence[str] | None, given: str) -> Schema:
    """What the user says that the records in files hold."""
    values = dict(features.values)
    sample = "video" if "video" in values else "image"
    image = values.pop(sample, ValueSpec((None, None, features.channels), "uint8", True, key=features.image))
    if features.label is not None:
        values = {"label": ValueSpec((), "int32", num_classes=features.num_classes, key=features.label)} | values
    return Schema({sample: image} | _chosen(values, names, given), features.background)


def schema_of_data_set(
    stored: "tfds.features.FeaturesDict",
    wanted: RecordFeatures | None,
    names: Sequence[str] | None,
    directory: "epath.Path",
) -> Schema:
    """What the data set's own description says of the features that are wanted."""
    tfds, where = require_tfds(), f"the data set in {directory}"
    specs = {key: spec for key, feature in sorted(stored.items()) if (spec := _spec(tfds, feature)) is not None}
    for key, channels in _channels(directory).items():
        specs[key] = dataclasses.replace(specs[key], channels=channels)
    for key, told in _reported(directory, "text").items():
        specs[key] = dataclasses.replace(specs[key], encoder=told["signature"])
    image = wanted.image if wanted else next((key for key in SAMPLES if key in stored), "image")
    label = wanted.label if wanted else "label" if "label" in stored else None
    sample = specs.pop(image, None)
    if sample is None or not sample.lies_over or not (sample.encoded or sample.dtype in ("float16", "float32")):
        raise ValueError(
            f"{where} has no uint8 image [H,W,C] or clip [T,H,W,C] of 1, 3 or 4 channels, and no float one, named "
            f"{image!r}, but {', '.join(f'{key} ({kind})' for key, kind in sorted(stored.items()))}"
        )
    values = {}
    if label is not None:
        if label not in stored:
            raise ValueError(f"{where} has no feature {label!r}, but {', '.join(sorted(stored))}")
        spec = specs.pop(label, None)
        if spec is None or spec.shape or not np.issubdtype(spec.dtype, np.integer):
            raise ValueError(f"{label!r} of {where} must be one integer, and is {stored[label]}")
        values["label"] = dataclasses.replace(spec, key=label if label != "label" else None)
    # Data sets of others hold much that nobody has asked for.
    if names is not None or (directory / REPORT_FILE).exists():
        values |= specs
    name = "video" if len(sample.shape) == 4 else "image"
    sample = dataclasses.replace(sample, key=image if image != name else None)
    background = wanted.background if wanted else RecordFeatures.background
    return Schema({name: sample} | _chosen(values, names, directory), background)


def _spec(tfds: ModuleType, feature: "tfds.features.FeatureConnector") -> ValueSpec | None:
    """What is read of a feature; None if it is no array of numbers of a fixed shape, or no picture of 8 bits."""
    encoded = isinstance(getattr(feature, "feature", feature), tfds.features.Image)
    try:
        dtype = "int32" if feature.np_dtype == np.int64 else feature.np_dtype
        spec = ValueSpec(tuple(feature.shape), dtype, encoded, getattr(feature, "num_classes", None))
    except (ValueError, TypeError, AttributeError):  # of text, of sequences of any length, of several features
        return None
    return spec if None not in (spec.shape[:-3] if encoded else spec.shape) else None


def _chosen(values: dict[str, ValueSpec], names: Sequence[str] | None, where: object) -> dict[str, ValueSpec]:
    """The values of these names; all of them for None."""
    for name in names or ():
        if name not in values:
            have = ", ".join(values) or "none beside the image"
            raise ValueError(f"there is no value {name!r} in {where}, but {have}{near(name, values)}")
    return values if names is None else {name: values[name] for name in names}
