"""From stored records (tf.train.Example) to values by name, each of them checked.

What is wrong is found here, by the headers of images and without decoding them, for every reader alike.
"""

import math
from typing import Any, NamedTuple

import numpy as np

from pipelines.extras import require
from pipelines.images import BadImage, Header, converts, name_of_channels, read_header
from pipelines.reading.faults import BadRecord, BadRecords
from pipelines.reading.locating import Located
from pipelines.reading.records import open_records
from pipelines.values import ValueSpec, fault_in


class Encoded(NamedTuple):
    """An image, or a clip of T frames of one size, as it is stored, and the header of the first."""

    images: tuple[bytes, ...]
    header: Header


Example = dict[str, Encoded | np.ndarray]


class Source:
    """The examples of one split; reads may come from several threads. Faults of whole shards are counted in `bad`.
    Raises ValueError: there are no records, or (BadRecord) more are bad than it allows."""

    def __init__(self, located: Located, bad: BadRecords) -> None:
        self.description, self.schema, self.shards, self.bad = located.description, located.schema, located.shards, bad
        self.records = open_records(
            located.shards, located.lengths, located.file_format, located.description.split, bad
        )
        if not len(self.records):
            raise ValueError(f"there are no records in {', '.join(located.shards[:3])}")
        self._proto = require("tensorflow_datasets.proto", extra="data").tf_example_pb2.Example

    def __len__(self) -> int:
        return len(self.records)

    def example(self, number: int) -> Example:
        """Reads and checks an example, up to the headers of its images. Raises BadRecord: it cannot be used, as it is
        damaged, no tf.train.Example, or has a value that is absent or not what the schema says."""
        try:
            return self._parsed(self.records[number])
        except (ValueError, OSError) as error:
            raise self.records.fault(number, str(error)) from None

    def _parsed(self, record: bytes) -> Example:
        try:
            stored = self._proto.FromString(record).features.feature
        except Exception:  # google.protobuf.message.DecodeError, whose place has moved between versions
            raise ValueError("is no tf.train.Example") from None
        example: Example = {}
        for name, spec in self.schema.values.items():
            key = spec.key or name
            if key not in stored:
                raise ValueError(f"there is no feature {key}, only {', '.join(sorted(stored)) or 'none at all'}")
            try:
                if spec.encoded:
                    shape = spec.shape
                    if None in shape and example:  # where sizes differ, an image beside the sample has its size
                        shape = (*shape[:-3], *size_of(example[self.schema.sample_name]), shape[-1])
                    example[name] = _encoded(stored[key].bytes_list.value, shape)
                elif name == "label" or spec.num_classes:
                    example[name] = _label(stored[key].int64_list.value, spec.num_classes)
                else:
                    example[name] = _array(stored[key], name, spec)
            except ValueError as error:
                raise ValueError(f"the feature {key} {error}") from None
        return example

    def undecodable(self, number: int, name: str, error: BadImage) -> BadRecord:
        """The fault of an example of which an image cannot be decoded."""
        return self.records.fault(number, f"the feature {self.schema.key(name)} {error}")


def size_of(value: Encoded | np.ndarray) -> tuple[int, int]:
    """(H, W) of a value that lies over the sample, or is it."""
    return (value.header.height, value.header.width) if isinstance(value, Encoded) else value.shape[-3:-1]


# The next three raise ValueError with what is wrong, in words that follow on "the feature image".


def _encoded(images: Any, shape: tuple[int | None, ...]) -> Encoded:
    expected = 1 if len(shape) == 3 else shape[0]
    if len(images) != expected:
        raise ValueError(f"has {len(images)} encoded images, expected {expected}")
    images, (height, width, channels) = tuple(images), shape[-3:]
    for number, image in enumerate(images):
        found = read_header(image)
        if not converts(found.channels, channels):
            kind = name_of_channels(found.channels, found.format)
            raise ValueError(f"is {kind}, expected {name_of_channels(channels)}")
        if not number:
            header, height, width = found, height or found.height, width or found.width
        if (found.height, found.width) != (height, width):
            raise ValueError(f"is an image of {found.height}x{found.width}, expected {height}x{width}")
    return Encoded(images, header)


def _label(values: Any, num_classes: int | None) -> np.int32:
    if len(values) != 1:
        raise ValueError(f"has {len(values)} integers, expected one")
    if not 0 <= values[0] < (num_classes or 2**31):
        raise ValueError(f"is {values[0]}, outside 0..{num_classes - 1 if num_classes else '2**31-1'}")
    return np.int32(values[0])


def _array(feature: Any, name: str, spec: ValueSpec) -> np.ndarray:
    """Numbers as `prepare` keeps them, the bytes of the array, or as others do, a list."""
    dtype, expected = np.dtype(spec.dtype).newbyteorder("<"), math.prod(spec.shape)
    if feature.bytes_list.value:
        data = b"".join(feature.bytes_list.value)
        if len(data) != expected * dtype.itemsize:
            raise ValueError(f"has {len(data)} bytes, expected {expected * dtype.itemsize} for {spec}")
        kept = np.frombuffer(data, dtype).reshape(spec.shape)
    else:
        numbers = np.asarray(feature.int64_list.value or feature.float_list.value)
        if len(numbers) != expected:
            raise ValueError(f"has {len(numbers)} numbers, expected {expected} for {spec}")
        kept = numbers.astype(spec.dtype).reshape(spec.shape)
        if feature.int64_list.value and (kept.ravel() != numbers).any():
            raise ValueError(f"has numbers that are no {spec.dtype}")
    if reason := fault_in(name, kept, of_any_range=spec.channels is not None):
        raise ValueError(reason)
    return kept
