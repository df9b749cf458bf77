"""Finding a prepared data set on disk, and saying what it holds before anything is read.

A prepared data set is a directory as tfds writes it: dataset_info.json, features.json and the shards of each
split, by convention at data_dir/name/version. Paths may be local or of any kind that tfds reads (gs://...).
"""

import dataclasses
import os
import re
from typing import TYPE_CHECKING

import numpy as np

from pipelines.datasets import dataset_names, near_names
from pipelines.extras import require_tensorflow, require_tfds

if TYPE_CHECKING:
    import tensorflow_datasets as tfds
    from etils import epath

INFO_FILE = "dataset_info.json"
VERSION = re.compile(r"\d+\.\d+\.\d+")
MAX_DEPTH = 3  # data_dir/name/version, or data_dir/name/config/version


@dataclasses.dataclass(frozen=True, kw_only=True)
class DatasetDescription:
    """What one split of a prepared data set holds.

    Attributes:
        name: name of the data set.
        split: name of the split.
        num_examples: number of examples in the split.
        image_shape: (H, W, C) of the stored images; None where it differs from image to image.
        num_classes: number of classes, None if there are no labels, or labels without a known number of
            classes.
        class_names: a name for each class, None if `num_classes` is.
    """

    name: str
    split: str
    num_examples: int
    image_shape: tuple[int | None, int | None, int | None]
    num_classes: int | None
    class_names: tuple[str, ...] | None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Located:
    """One split of a prepared data set: what it holds and where its records are.

    `shards` are in file order. `features` has "image" and, if there are labels, "label".
    """

    description: DatasetDescription
    features: "dict[str, tfds.features.FeatureConnector]"
    shards: tuple[str, ...]


def describe(
    name_or_dir: str | os.PathLike, *, split: str = "train", data_dir: str | os.PathLike | None = None
) -> DatasetDescription:
    """Returns what one split of a prepared data set holds, without reading its records.

    The arguments and the errors are those of `make_dataset`.
    """
    return locate(name_or_dir, split=split, data_dir=data_dir).description


def locate(name_or_dir: str | os.PathLike, *, split: str, data_dir: str | os.PathLike | None) -> Located:
    """Finds one split of a prepared data set and checks that its shards are there.

    Raises:
        ValueError: an argument of the wrong type, an unknown split, several data sets to choose from, or
            features that are not an image of uint8 named "image" and at most one integer named "label", or
            a format other than TFRecord.
        FileNotFoundError: no such directory, no prepared data set in it, or a shard is missing.
    """
    directory = _prepared_directory(name_or_dir, data_dir)
    require_tensorflow()  # before tfds imports it by itself, with every accelerator
    builder = require_tfds().builder_from_directory(directory)
    splits = builder.info.splits
    if not isinstance(split, str) or split not in splits:
        raise ValueError(f"unknown split {split!r}: {builder.name} in {directory} has {', '.join(sorted(splits))}")
    if builder.info.file_format.value != "tfrecord":
        raise ValueError(f"{directory} is in the format {builder.info.file_format.value}: only tfrecord is read")
    if not splits[split].num_examples:
        raise ValueError(f"the split {split!r} of {builder.name} in {directory} has no examples")
    shards = tuple(splits[split].filepaths)
    _check_shards(shards, directory)
    features = _image_and_label(builder.info.features, directory)
    return Located(
        description=_description(builder, split, features),
        features=features,
        shards=tuple(os.fspath(shard) for shard in shards),
    )


def _prepared_directory(name_or_dir: str | os.PathLike, data_dir: str | os.PathLike | None) -> "epath.Path":
    """Returns the one directory with a prepared data set that the two arguments point to."""
    names = ", ".join(dataset_names())
    if not isinstance(name_or_dir, (str, os.PathLike)) or not os.fspath(name_or_dir):
        raise ValueError(f"expected a data set name ({names}) or a directory, got {name_or_dir!r}")
    if data_dir is not None and not isinstance(data_dir, (str, os.PathLike)):
        raise ValueError(f"data_dir must be a path or None, got {data_dir!r}")
    if name_or_dir in dataset_names():
        root = tfds_path(data_dir)
        where = "" if data_dir is None else f" --data_dir={root}"
        return _find(root / name_or_dir, remedy=f"write it with: sid2-data prepare {name_or_dir}{where}")
    near = near_names(os.fspath(name_or_dir))
    if data_dir is not None:
        raise ValueError(f"data_dir goes with a data set name ({names}), and {name_or_dir!r} is none of them{near}")
    directory = tfds_path(name_or_dir)
    if not directory.exists() and directory.name == os.fspath(name_or_dir):
        raise FileNotFoundError(f"{name_or_dir!r} is neither a data set name ({names}) nor a directory{near}")
    return _find(directory, remedy=f"write one of {names} there with: sid2-data prepare NAME --data_dir={directory}")


def tfds_path(path: str | os.PathLike | None) -> "epath.Path":
    """Returns `path` as tfds reads paths, with ~ expanded; None: the default directory of tfds."""
    core = require_tfds().core
    return core.Path(core.constants.DATA_DIR if path is None else path).expanduser()


def _find(directory: "epath.Path", *, remedy: str) -> "epath.Path":
    """Returns the directory of the only prepared data set in `directory`, the newest of its versions."""
    if not directory.exists():
        raise FileNotFoundError(f"there is no directory {directory}: {remedy}")
    if not directory.is_dir():
        raise ValueError(f"expected a directory that holds a prepared data set, and {directory} is a file")
    if (directory / INFO_FILE).exists():
        return directory
    found = [path.parent for depth in range(1, MAX_DEPTH + 1) for path in directory.glob("*/" * depth + INFO_FILE)]
    # What tfds is still writing, or was when it was killed, has a name of its own until it is whole.
    found = [path for path in found if not path.name.startswith("incomplete.")]
    if not found:
        what = "no prepared data set" if any(directory.iterdir()) else "nothing"
        raise FileNotFoundError(f"there is {what} in {directory}: {remedy}")
    if len(found) == 1:
        return found[0]
    if len({path.parent for path in found}) > 1 or not all(VERSION.fullmatch(path.name) for path in found):
        listed = ", ".join(sorted(map(os.fspath, found)))
        raise ValueError(f"{directory} holds several data sets, give one of them: {listed}")
    return max(found, key=lambda path: [int(part) for part in path.name.split(".")])


def _description(
    builder: "tfds.core.DatasetBuilder", split: str, features: "dict[str, tfds.features.FeatureConnector]"
) -> DatasetDescription:
    names = getattr(features.get("label"), "names", None)  # only a ClassLabel has them
    return DatasetDescription(
        name=builder.name,
        split=split,
        num_examples=builder.info.splits[split].num_examples,
        image_shape=tuple(features["image"].shape),
        num_classes=None if names is None else len(names),
        class_names=None if names is None else tuple(names),
    )


def _image_and_label(
    features: "tfds.features.FeaturesDict", directory: "epath.Path"
) -> "dict[str, tfds.features.FeatureConnector]":
    image, label = (features[key] if key in features else None for key in ("image", "label"))
    if image is None or image.np_dtype != np.uint8 or len(image.shape) != 3:
        raise ValueError(
            f'the data set in {directory} has no uint8 image [H,W,C] named "image", but '
            + ", ".join(f"{key} ({feature})" for key, feature in features.items())
        )
    if label is None:
        return {"image": image}
    if label.shape != () or not np.issubdtype(label.np_dtype, np.integer):
        raise ValueError(f'"label" of the data set in {directory} must be one integer, and is {label}')
    return {"image": image, "label": label}


def _check_shards(shards: "tuple[epath.Path, ...]", directory: "epath.Path") -> None:
    # One listing: asking for each shard by itself is slow on remote storage.
    present = {path.name for path in directory.iterdir()}
    missing = [shard.name for shard in shards if shard.name not in present]
    if missing:
        raise FileNotFoundError(
            f"{len(missing)} of {len(shards)} shards are missing in {directory}, the first is "
            f"{missing[0]}: remove the directory and run sid2-data prepare again"
        )
