"""Finding records on disk, and saying what they hold before anything is read.

A prepared data set is a directory as tfds writes it: dataset_info.json, features.json and the shards of each
split, by convention at data_dir/name/version or data_dir/name/config/version. Records without such a directory are
given by a file name or a glob. Paths may be local or of any kind that tfds reads (gs://...). TensorFlow is not needed.
"""

import dataclasses
import glob
import os
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from pipelines.datasets import dataset_names
from pipelines.extras import near, require_tfds, tfds_path
from pipelines.reading.records import FORMATS
from pipelines.reading.schemas import DatasetDescription, common_size, fields_of, schema_of_data_set, schema_of_files
from pipelines.reading.settings import ReadSettings
from pipelines.values import RecordFeatures, Schema

if TYPE_CHECKING:
    from etils import epath

StrPath = str | os.PathLike
INFO_FILE = "dataset_info.json"
INFO_SUFFIXES = (".json", ".txt", ".npy")  # files of a prepared data set that hold no records
VERSION = re.compile(r"\d+\.\d+\.\d+")
MAX_DEPTH = 3  # data_dir/name/version, or data_dir/name/config/version


@dataclasses.dataclass(frozen=True)
class Located:
    """One split: what it holds and where its records are. `shards` are in file order; `lengths` None: not known."""

    description: DatasetDescription
    schema: Schema
    shards: tuple[str, ...]
    lengths: tuple[int, ...] | None
    file_format: str


def describe(
    name_or_dir: StrPath,
    *,
    split: str = "train",
    data_dir: StrPath | None = None,
    features: RecordFeatures | None = None,
    values: Sequence[str] | None = None,
    image_size: int | tuple[int, int] | None = None,
    crop: str | None = None,
    missing_shards: bool = False,
) -> DatasetDescription:
    """Returns what one split of a prepared data set holds, without reading its records.

    With `image_size` or `crop`, as in `make_dataset`, shapes are those that then come out; else those that are stored.
    With `missing_shards` it does not matter whether all of them are there. The other arguments and the errors are those
    of `make_dataset`.
    """
    which = {"split": split, "data_dir": data_dir, "features": features, "values": values}
    found = locate(name_or_dir, **which, missing_shards=missing_shards)
    if image_size is None and crop is None:
        return found.description
    outputs = ReadSettings(batch_size=1, image_size=image_size, crop=crop).outputs(found.schema, found.description.name)
    return dataclasses.replace(found.description, **fields_of(outputs), common_size=None)


def locate(
    name_or_dir: StrPath,
    *,
    split: str,
    data_dir: StrPath | None,
    features: RecordFeatures | None = None,
    values: Sequence[str] | None = None,
    missing_shards: bool = False,
) -> Located:
    """Finds one split of a prepared data set, or plain files; arguments and errors are those of `make_dataset`. With
    `missing_shards` shards may be missing, because the reader counts what is in them as bad."""
    if features is not None and not isinstance(features, RecordFeatures):
        raise ValueError(f"features must be a pipelines.RecordFeatures or None, got {features!r}")
    if isinstance(values, str) or not all(isinstance(name, str) for name in values or ()):
        raise ValueError(f"values must be names, as ['label', 'text'], or None, got {values!r}")
    if files := _plain_files(name_or_dir):
        name = os.fspath(name_or_dir)
        if split != "train" or data_dir is not None:
            raise ValueError(f"split and data_dir go with a prepared data set, and {name!r} stands for plain files")
        if files[0].endswith(INFO_SUFFIXES):
            raise ValueError(f"expected a directory that holds a prepared data set, and {files[0]} is a file")
        schema = schema_of_files(features or RecordFeatures(), values, name)
        known = {"name": name, "split": split, "num_examples": None, "class_names": None}
        file_format = "array_record" if ".array_record" in os.path.basename(files[0]) else "tfrecord"
        description = DatasetDescription(**known, **fields_of(schema.values))
        return Located(description, schema, tuple(files), None, file_format)
    directory = prepared_directory(name_or_dir, data_dir)
    info = require_tfds().builder_from_directory(directory).info
    if not isinstance(split, str) or split not in info.splits:
        raise ValueError(f"unknown split {split!r}: {info.name} in {directory} has {', '.join(sorted(info.splits))}")
    file_format, found = info.file_format.value, info.splits[split]
    if file_format not in FORMATS:
        raise ValueError(f"{directory} is in the format {file_format}: only {' and '.join(FORMATS)} are read")
    if not found.num_examples:
        raise ValueError(f"the split {split!r} of {info.name} in {directory} has no examples")
    if not missing_shards:
        _check_shards(found.filepaths, directory)
    schema = schema_of_data_set(info.features, features, values, directory)
    names = getattr(info.features[schema.key("label")], "names", None) if "label" in schema.values else None
    description = DatasetDescription(
        name=info.name,
        split=split,
        num_examples=found.num_examples,
        class_names=tuple(names) if names else None,
        common_size=common_size(directory, split) if None in schema.sample.shape else None,
        config=info.config_name or None,
        **fields_of(schema.values),
    )
    return Located(description, schema, tuple(map(os.fspath, found.filepaths)), tuple(found.shard_lengths), file_format)


def split_names(name_or_dir: StrPath, data_dir: StrPath | None) -> list[str]:
    """The names of the splits of a prepared data set; ["train"] for plain files."""
    if _plain_files(name_or_dir):
        return ["train"]
    return sorted(require_tfds().builder_from_directory(prepared_directory(name_or_dir, data_dir)).info.splits)


def _plain_files(name_or_dir: StrPath) -> list[str]:
    """The files that a file name or a glob stands for, sorted; none if it is neither."""
    if not isinstance(name_or_dir, StrPath) or not os.fspath(name_or_dir):
        return []  # refused later, with the names that are known
    path = tfds_path(name_or_dir)
    if path.is_file():
        return [os.fspath(path)]
    fixed = next((number for number, part in enumerate(path.parts) if glob.has_magic(part)), None)
    if fixed is None:
        return []
    root, pattern = type(path)(*path.parts[:fixed]), "/".join(path.parts[fixed:])
    found = sorted(os.fspath(file) for file in root.glob(pattern) if file.is_file())
    if not found:
        raise FileNotFoundError(f"no file matches {os.fspath(path)}")
    return found


def prepared_directory(name_or_dir: StrPath, data_dir: StrPath | None) -> "epath.Path":
    """Returns the one directory with a prepared data set that the two arguments point to."""
    names = ", ".join(dataset_names())
    if not isinstance(name_or_dir, StrPath) or not os.fspath(name_or_dir):
        raise ValueError(f"expected a data set name ({names}) or a directory, got {name_or_dir!r}")
    if data_dir is not None and not isinstance(data_dir, StrPath):
        raise ValueError(f"data_dir must be a path or None, got {data_dir!r}")
    meant, root = near(os.fspath(name_or_dir), dataset_names()), tfds_path(data_dir)
    if name_or_dir in dataset_names():
        where = "" if data_dir is None else f" --data_dir={root}"
        return _find(root / name_or_dir, remedy=f"write it with: sid2-data prepare {name_or_dir}{where}")
    if data_dir is not None:
        if (root / name_or_dir).is_dir():
            return _find(root / name_or_dir, remedy="give the directory of a prepared data set")
        neither = f"neither one of {names} nor a folder in {data_dir}{meant}"
        raise ValueError(f"data_dir goes with a data set name, and {name_or_dir!r} is {neither}")
    directory = tfds_path(name_or_dir)
    if not directory.exists() and directory.name == os.fspath(name_or_dir):
        raise FileNotFoundError(f"{name_or_dir!r} is neither a data set name ({names}) nor a directory{meant}")
    return _find(directory, remedy=f"write one of {names} there with: sid2-data prepare NAME --data_dir={directory}")


def _find(directory: "epath.Path", *, remedy: str) -> "epath.Path":
    """Returns the directory of the only prepared data set in `directory`, the newest of its versions."""
    if not directory.exists():
        raise FileNotFoundError(f"there is no directory {directory}: {remedy}")
    if not directory.is_dir():
        raise ValueError(f"expected a directory that holds a prepared data set, and {directory} is a file")
    # What tfds is still writing, or was when it was killed, has a name of its own until it is whole.
    if (directory / INFO_FILE).exists() and not directory.name.startswith("incomplete."):
        return directory
    found = [path.parent for depth in range(1, MAX_DEPTH + 1) for path in directory.glob("*/" * depth + INFO_FILE)]
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


def _check_shards(shards: "Sequence[epath.Path]", directory: "epath.Path") -> None:
    # One listing: asking for each shard by itself is slow on remote storage.
    present = {path.name for path in directory.iterdir()}
    missing = [shard.name for shard in shards if shard.name not in present]
    if missing:
        raise FileNotFoundError(
            f"{len(missing)} of {len(shards)} shards are missing in {directory}, the first is "
            f"{missing[0]}: remove the directory and run sid2-data prepare again"
        )
