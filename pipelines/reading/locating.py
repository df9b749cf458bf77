"""Finding records on disk, and saying what they hold before anything is read.

A prepared data set is a directory as tfds writes it: dataset_info.json, features.json and the shards of each
split, by convention at data_dir/name/version or data_dir/name/config/version. Records without such a directory are
given by a file name or a glob. Paths may be local or of any kind that tfds reads (gs://...). TensorFlow is not needed.
"""

import dataclasses
import os
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from pipelines.datasets import dataset_names
from pipelines.extras import near, require_tfds, tfds_path
from pipelines.reading.records import FORMATS
from pipelines.reading.schemas import DatasetDescription, described, description_of, schema_of_data_set, schema_of_files
from pipelines.reading.settings import ReadSettings
from pipelines.values import RecordFeatures, Schema

if TYPE_CHECKING:
    from etils import epath

INFO_FILE = "dataset_info.json"
INFO_SUFFIXES = (".json", ".txt", ".npy")  # files of a prepared data set that hold no records
VERSION = re.compile(r"\d+\.\d+\.\d+")
MAX_DEPTH = 3  # data_dir/name/version, or data_dir/name/config/version


@dataclasses.dataclass(frozen=True, kw_only=True)
class Located:
    """One split: what it holds and where its records are. `shards` are in file order; `lengths` None: not known."""

    description: DatasetDescription
    schema: Schema
    shards: tuple[str, ...]
    lengths: tuple[int, ...] | None
    file_format: str


def describe(
    name_or_dir: str | os.PathLike,
    *,
    split: str = "train",
    data_dir: str | os.PathLike | None = None,
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
    found = locate(
        name_or_dir, split=split, data_dir=data_dir, features=features, values=values, missing_shards=missing_shards
    )
    if image_size is None and crop is None:
        return found.description
    outputs = ReadSettings(batch_size=1, image_size=image_size, crop=crop).outputs(found.schema, found.description.name)
    return described(outputs, found.description)


def locate(
    name_or_dir: str | os.PathLike,
    *,
    split: str,
    data_dir: str | os.PathLike | None,
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
    files = _plain_files(name_or_dir)
    if files:
        return _located_files(files, os.fspath(name_or_dir), split, data_dir, features or RecordFeatures(), values)
    directory = prepared_directory(name_or_dir, data_dir)
    builder = require_tfds().builder_from_directory(directory)
    splits = builder.info.splits
    if not isinstance(split, str) or split not in splits:
        raise ValueError(f"unknown split {split!r}: {builder.name} in {directory} has {', '.join(sorted(splits))}")
    if builder.info.file_format.value not in FORMATS:
        known = " and ".join(FORMATS)
        raise ValueError(f"{directory} is in the format {builder.info.file_format.value}: only {known} are read")
    if not splits[split].num_examples:
        raise ValueError(f"the split {split!r} of {builder.name} in {directory} has no examples")
    shards = tuple(splits[split].filepaths)
    if not missing_shards:
        _check_shards(shards, directory)
    schema = schema_of_data_set(builder.info.features, features, values, directory)
    names = getattr(builder.info.features[schema.key("label")], "names", None) if "label" in schema.values else None
    return Located(
        description=description_of(builder.name, split, splits[split].num_examples, schema, names, directory),
        schema=schema,
        shards=tuple(os.fspath(shard) for shard in shards),
        lengths=tuple(splits[split].shard_lengths),
        file_format=builder.info.file_format.value,
    )


def split_names(name_or_dir: str | os.PathLike, data_dir: str | os.PathLike | None) -> list[str]:
    """The names of the splits of a prepared data set; ["train"] for plain files."""
    if _plain_files(name_or_dir):
        return ["train"]
    return sorted(require_tfds().builder_from_directory(prepared_directory(name_or_dir, data_dir)).info.splits)


def _plain_files(name_or_dir: str | os.PathLike) -> list[str]:
    """The files that a file name or a glob stands for, sorted; none if it is neither."""
    if not isinstance(name_or_dir, (str, os.PathLike)) or not os.fspath(name_or_dir):
        return []  # refused later, with the names that are known
    path = tfds_path(name_or_dir)
    if path.is_file():
        return [os.fspath(path)]
    if not any(character in os.fspath(path) for character in "*?["):
        return []
    fixed = next(number for number, part in enumerate(path.parts) if any(character in part for character in "*?["))
    root, pattern = type(path)(*path.parts[:fixed]), "/".join(path.parts[fixed:])
    found = sorted(os.fspath(file) for file in root.glob(pattern) if file.is_file())
    if not found:
        raise FileNotFoundError(f"no file matches {os.fspath(path)}")
    return found


def _located_files(
    files: list[str],
    given: str,
    split: str,
    data_dir: str | os.PathLike | None,
    features: RecordFeatures,
    names: Sequence[str] | None,
) -> Located:
    if split != "train" or data_dir is not None:
        raise ValueError(f"split and data_dir go with a prepared data set, and {given!r} stands for plain files")
    if files[0].endswith(INFO_SUFFIXES):
        raise ValueError(f"expected a directory that holds a prepared data set, and {files[0]} is a file")
    schema = schema_of_files(features, names, given)
    return Located(
        description=description_of(given, split, None, schema),
        schema=schema,
        shards=tuple(files),
        lengths=None,
        file_format="array_record" if ".array_record" in os.path.basename(files[0]) else "tfrecord",
    )


def prepared_directory(name_or_dir: str | os.PathLike, data_dir: str | os.PathLike | None) -> "epath.Path":
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
    meant = near(os.fspath(name_or_dir), dataset_names())
    if data_dir is not None and (tfds_path(data_dir) / name_or_dir).is_dir():
        return _find(tfds_path(data_dir) / name_or_dir, remedy="give the directory of a prepared data set")
    if data_dir is not None:
        raise ValueError(
            f"data_dir goes with a data set name, and {name_or_dir!r} is neither one of {names} "
            f"nor a folder in {data_dir}{meant}"
        )
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
    if (directory / INFO_FILE).exists() and not directory.name.startswith("incomplete."):
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


def _check_shards(shards: "tuple[epath.Path, ...]", directory: "epath.Path") -> None:
    # One listing: asking for each shard by itself is slow on remote storage.
    present = {path.name for path in directory.iterdir()}
    missing = [shard.name for shard in shards if shard.name not in present]
    if missing:
        raise FileNotFoundError(
            f"{len(missing)} of {len(shards)} shards are missing in {directory}, the first is "
            f"{missing[0]}: remove the directory and run sid2-data prepare again"
        )
