"""From stored records (tf.train.Example) to values by name, each of them checked.

What is wrong is found here, by the headers of images and without decoding them, for every reader alike.
"""

import math
import os
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from pipelines.extras import require
from pipelines.images import BadImage, Header, converts, name_of_channels, read_header
from pipelines.reading.faults import BadRecord, BadRecords
from pipelines.reading.locating import Located, locate
from pipelines.reading.records import Records, open_records
from pipelines.values import RecordFeatures, Schema, ValueSpec, fault_in


class Encoded(NamedTuple):
    """An image, or a clip of T frames of one size, as it is stored, and the header of the first."""

    images: tuple[bytes, ...]
    header: Header


Example = dict[str, Encoded | np.ndarray]


def size_of(value: Encoded | np.ndarray) -> tuple[int, int]:
    """(H, W) of a value that lies over the sample, or is it."""
    return (value.header.height, value.header.width) if isinstance(value, Encoded) else value.shape[-3:-1]


def parse(record: bytes, schema: Schema) -> Example:
    """Parses and checks a record. Raises ValueError: no tf.train.Example, a feature that is absent or of another kind,
    an image whose header is not what the schema says, a label out of range, or numbers that are not finite."""
    proto = require("tensorflow_datasets.proto", extra="data").tf_example_pb2
    try:
        stored = proto.Example.FromString(record).features.feature
    except Exception:  # google.protobuf.message.DecodeError, whose place has moved between versions
        raise ValueError("is no tf.train.Example") from None
    example: Example = {}
    for name, spec in schema.values.items():
        key = spec.key or name
        if key not in stored:
            raise ValueError(f"there is no feature {key}, only {', '.join(sorted(stored)) or 'none at all'}")
        if spec.encoded:
            shape = spec.shape
            if None in shape and example:  # where sizes differ, an image beside the sample has its size
                shape = (*shape[:-3], *size_of(example[schema.sample_name]), shape[-1])
            example[name] = _encoded(stored[key], key, shape)
        elif name == "label" or spec.num_classes:
            example[name] = np.int32(_label(stored[key], key, spec.num_classes))
        else:
            example[name] = _array(stored[key], key, spec)
            if reason := fault_in(name, example[name]):
                raise ValueError(f"the feature {key} {reason}")
    return example


def _encoded(feature: Any, key: str, shape: tuple[int | None, ...]) -> Encoded:
    images, expected = tuple(feature.bytes_list.value), 1 if len(shape) == 3 else shape[0]
    if len(images) != expected:
        raise ValueError(f"the feature {key} has {len(images)} encoded images, expected {expected}")
    header = _header(images[0], key, shape[-3:])
    for frame in images[1:]:
        _header(frame, key, (header.height, header.width, shape[-1]))
    return Encoded(images, header)


def _header(image: bytes, key: str, shape: tuple[int | None, int | None, int]) -> Header:
    try:
        header = read_header(image)
    except BadImage as error:
        raise ValueError(f"the feature {key} {error}") from None
    if not converts(header.channels, shape[2]):
        found, expected = name_of_channels(header.channels, header.format), name_of_channels(shape[2])
        raise ValueError(f"the feature {key} is {found}, expected {expected}")
    if (shape[0] or header.height, shape[1] or header.width) != (header.height, header.width):
        raise ValueError(
            f"the feature {key} is an image of {header.height}x{header.width}, expected {shape[0]}x{shape[1]}"
        )
    return header


def _label(feature: Any, key: str, num_classes: int | None) -> int:
    values = feature.int64_list.value
    if len(values) != 1:
        raise ValueError(f"the feature {key} has {len(values)} integers, expected one")
    if not 0 <= values[0] < (num_classes or 2**31):
        raise ValueError(f"the {key} {values[0]} is outside 0..{num_classes - 1 if num_classes else '2**31-1'}")
    return values[0]


def _array(feature: Any, key: str, spec: ValueSpec) -> np.ndarray:
    """Numbers as `prepare` keeps them, the bytes of the array, or as others do, a list."""
    dtype, expected = np.dtype(spec.dtype).newbyteorder("<"), math.prod(spec.shape)
    if feature.bytes_list.value:
        data = b"".join(feature.bytes_list.value)
        if len(data) != expected * dtype.itemsize:
            raise ValueError(
                f"the feature {key} has {len(data)} bytes, expected {expected * dtype.itemsize} for {spec}"
            )
        return np.frombuffer(data, dtype).reshape(spec.shape)
    numbers = np.asarray(feature.int64_list.value or feature.float_list.value)
    if len(numbers) != expected:
        raise ValueError(f"the feature {key} has {len(numbers)} numbers, expected {expected} for {spec}")
    kept = numbers.astype(spec.dtype).reshape(spec.shape)
    if feature.int64_list.value and (kept.ravel() != numbers).any():
        raise ValueError(f"the feature {key} has numbers that are no {spec.dtype}")
    return kept


class Source:
    """The examples of one split. Reads may come from several threads."""

    def __init__(self, located: Located, bad: BadRecords) -> None:
        self.description, self.schema, self.bad = located.description, located.schema, bad
        self.records: Records = open_records(
            located.shards, located.lengths, located.file_format, located.description.split, bad
        )
        if not len(self.records):
            raise ValueError(f"there are no records in {', '.join(located.shards[:3])}")
        self.shards, self.file_format = located.shards, located.file_format

    def __len__(self) -> int:
        return len(self.records)

    def example(self, number: int) -> Example:
        """Reads and checks an example, up to the headers of its images. Raises BadRecord: it cannot be used."""
        try:
            return parse(self.records[number], self.schema)
        except BadRecord:
            raise
        except ValueError as error:
            raise self.records.fault(number, str(error)) from None

    def undecodable(self, number: int, name: str, error: BadImage) -> BadRecord:
        """The fault of an example of which an image cannot be decoded."""
        return self.records.fault(number, f"the feature {self.schema.values[name].key or name} {error}")


def open_source(
    name_or_dir: str | os.PathLike,
    *,
    split: str,
    data_dir: str | os.PathLike | None,
    features: RecordFeatures | None,
    values: Sequence[str] | None,
    max_bad_records: int | BadRecords,
) -> Source:
    """Finds and opens one split; the arguments and the errors are those of `make_dataset`."""
    bad = max_bad_records if isinstance(max_bad_records, BadRecords) else BadRecords(max_bad_records)
    settings = {"split": split, "data_dir": data_dir, "features": features, "values": values}
    return Source(locate(name_or_dir, **settings, missing_shards=bad.limit > 0), bad)
