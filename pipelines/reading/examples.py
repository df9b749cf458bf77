"""From a stored record (tf.train.Example) to encoded images and a label, each of them checked.

What is wrong is found here, by the headers of the images and without decoding them, for every reader alike.
"""

import dataclasses
import os

from pipelines.extras import require
from pipelines.images import (
    BadImage,
    Header,
    converts,
    name_of_channels,
    read_header,
)
from pipelines.reading.faults import BadRecord, BadRecords
from pipelines.reading.locating import Located, locate
from pipelines.reading.records import Records, open_records
from pipelines.values import RecordFeatures, Schema


@dataclasses.dataclass(frozen=True)
class Example:
    """A checked record: encoded images (one, or T frames of one size), the header of the first, and the label."""

    images: tuple[bytes, ...]
    header: Header
    label: int | None


def parse(record: bytes, schema: Schema) -> Example:
    """Parses and checks a record.

    Raises:
        ValueError: no tf.train.Example, a feature that is absent or of another kind, an image whose header is not
            what the schema says, or a label out of range.
    """
    proto = require("tensorflow_datasets.proto", extra="data").tf_example_pb2
    try:
        stored = proto.Example.FromString(record).features.feature
    except Exception:  # google.protobuf.message.DecodeError, whose place has moved between versions
        raise ValueError("is no tf.train.Example") from None
    features = schema.features
    images = _images(stored, features.image, schema.num_frames)
    header = _header(images[0], features.image, schema.image_shape)
    for frame in images[1:]:
        _header(frame, features.image, (header.height, header.width, schema.image_shape[2]))
    return Example(images, header, None if features.label is None else _label(stored, features))


def _images(stored, key: str, num_frames: int | None) -> tuple[bytes, ...]:
    _check_present(stored, key)
    values = tuple(stored[key].bytes_list.value)
    if len(values) != (num_frames or 1):
        raise ValueError(f"the feature {key} has {len(values)} encoded images, expected {num_frames or 1}")
    return values


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


def _label(stored, features: RecordFeatures) -> int:
    key = features.label
    _check_present(stored, key)
    values = stored[key].int64_list.value
    if len(values) != 1:
        raise ValueError(f"the feature {key} has {len(values)} integers, expected one")
    if not 0 <= values[0] < (features.num_classes or 2**31):
        known = f"0..{features.num_classes - 1}" if features.num_classes else "0..2**31-1"
        raise ValueError(f"the label {values[0]} is outside {known}")
    return values[0]


def _check_present(stored, key: str) -> None:
    if key not in stored:
        raise ValueError(f"there is no feature {key}, only {', '.join(sorted(stored)) or 'none at all'}")


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
        """Reads and checks an example, up to the headers of its images.

        Raises:
            BadRecord: it cannot be used.
        """
        try:
            return parse(self.records[number], self.schema)
        except BadRecord:
            raise
        except ValueError as error:
            raise self.records.fault(number, str(error)) from None


def open_source(
    name_or_dir: str | os.PathLike,
    *,
    split: str,
    data_dir: str | os.PathLike | None,
    features: RecordFeatures | None,
    max_bad_records: int | BadRecords,
) -> Source:
    """Finds and opens one split; the arguments and the errors are those of `make_dataset`."""
    bad = max_bad_records if isinstance(max_bad_records, BadRecords) else BadRecords(max_bad_records)
    located = locate(name_or_dir, split=split, data_dir=data_dir, features=features, missing_shards=bad.limit > 0)
    return Source(located, bad)
