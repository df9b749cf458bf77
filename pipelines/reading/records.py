"""The records of one split by their number, in TFRecord or ArrayRecord shards, each read is checked."""

import bisect
import functools
import itertools
import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from pipelines import tfrecord
from pipelines.extras import require
from pipelines.reading.faults import BadRecord, BadRecords

if TYPE_CHECKING:
    from array_record.python.array_record_module import ArrayRecordReader

FORMATS = ("tfrecord", "array_record")
INDEX_FILE = "{split}.offsets.npy"  # offsets of the records of all shards, one shard after the other


class Records:
    """Record i of a split, 0 <= i < len(records), in file order: shard after shard. A damaged shard keeps its numbers,
    so one bad byte never moves the others. Reads may come from several threads."""

    def __init__(self, names: Sequence[str], lengths: Sequence[int], read: Callable[[int, int], bytes]) -> None:
        """`read(shard number, record number in it)` returns the record, or raises ValueError with the reason."""
        self._names, self._read = names, read
        self._starts = [0, *itertools.accumulate(map(int, lengths))]

    def __len__(self) -> int:
        return self._starts[-1]

    def _place(self, number: int) -> tuple[int, int]:
        """The number of the shard that holds a record, and the record's number in it."""
        shard = bisect.bisect(self._starts, number) - 1
        return shard, number - self._starts[shard]

    def name(self, number: int) -> str:
        """ "train-00001-of-00004, record 3"."""
        shard, record = self._place(number)
        return f"{self._names[shard]}, record {record}"

    def fault(self, number: int, reason: str) -> BadRecord:
        """The error that says what is wrong with a record."""
        shard, record = self._place(number)
        return BadRecord(self._names[shard], record, reason)

    def __getitem__(self, number: int) -> bytes:
        """Reads and checks a record. Raises ValueError or OSError: it is damaged or absent."""
        return self._read(*self._place(number))


def open_records(
    shards: Sequence[str], lengths: Sequence[int] | None, file_format: str, split: str, bad: BadRecords
) -> Records:
    """Opens the shards of a split, given in file order, and checks what can be checked without reading the data; faults
    are counted in `bad`. `lengths`: of records in each; None: as many as are found. Raises BadRecord: more faults than
    `bad` allows."""
    names = [os.path.basename(shard) for shard in shards]
    if len(set(names)) < len(names):
        names = list(shards)
    if file_format == "array_record":
        return _array_records(shards, names, lengths, bad)
    return _tfrecords(shards, names, lengths, split, bad)


def _tfrecords(
    shards: Sequence[str], names: Sequence[str], lengths: Sequence[int] | None, split: str, bad: BadRecords
) -> Records:
    stored = [None] * len(shards) if lengths is None else _stored_offsets(shards, lengths, split)
    found = [_offsets(shard, offsets) for shard, offsets in zip(shards, stored, strict=True)]
    for number, (offsets, reason) in enumerate(found):
        expected = None if lengths is None else lengths[number]
        for fault in _faults_of_shard(names[number], len(offsets) - 1, reason, expected):
            bad.add(fault)
    opened = functools.lru_cache(maxsize=tfrecord.OPEN_FILES)(tfrecord.open_file)

    def read(shard: int, record: int) -> bytes:
        offsets, reason = found[shard]
        if record + 1 >= len(offsets):
            raise ValueError(reason or f"the shard has only {len(offsets) - 1} records")
        return tfrecord.read_record(opened(shards[shard]), int(offsets[record]), int(offsets[record + 1]))

    return Records(names, [len(offsets) - 1 for offsets, _ in found] if lengths is None else lengths, read)


def _offsets(shard: str, stored: np.ndarray | None) -> tuple[np.ndarray, str]:
    """The offsets of the records in a shard, and why there are no more of them, or the empty string."""
    try:
        if stored is None:
            return tfrecord.find_records(shard)
        size = tfrecord.size_of(shard)
    except FileNotFoundError:
        return np.zeros(1, np.int64), "the shard is missing"
    whole = stored[stored <= size]
    return whole, "" if len(whole) == len(stored) else f"the shard ends early, after {size} bytes"


def _faults_of_shard(name: str, found: int, reason: str, expected: int | None) -> list[BadRecord]:
    """What is wrong with a shard as a whole, one fault for each record that cannot be reached."""
    if expected is None:
        reason = reason or ("" if found else "the file is empty")
        return [BadRecord(name, found, reason)] if reason else []
    if found > expected:
        return [BadRecord(name, expected, f"the shard has {found} records, and should have {expected}")]
    reason = reason or f"the shard has only {found} records"
    return [BadRecord(name, record, reason) for record in range(found, expected)]


def _stored_offsets(shards: Sequence[str], lengths: Sequence[int], split: str) -> list[np.ndarray | None]:
    """The offsets that lie beside the shards, an array [n + 1] for each; None where there are none."""
    path = require("etils.epath", extra="data").Path(shards[0]).parent / INDEX_FILE.format(split=split)
    if not path.exists():
        return [None] * len(shards)
    try:
        with path.open("rb") as file:
            offsets = np.load(file, allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise ValueError(f"{path} is damaged ({error}): remove it to do without it") from None
    ends = np.cumsum(np.asarray(lengths) + 1)
    if offsets.ndim != 1 or len(offsets) != ends[-1]:
        raise ValueError(f"{path} does not fit the {len(shards)} shards beside it: remove it to do without it")
    return np.split(offsets, ends[:-1])


def _array_records(
    shards: Sequence[str], names: Sequence[str], lengths: Sequence[int] | None, bad: BadRecords
) -> Records:
    module = require("array_record.python.array_record_module", extra="data")

    @functools.lru_cache(maxsize=tfrecord.OPEN_FILES)
    def opened(shard: int) -> "ArrayRecordReader":
        return module.ArrayRecordReader(shards[shard])

    def read(shard: int, record: int) -> bytes:
        try:
            reader = opened(shard)
            if record >= reader.num_records():
                raise ValueError(f"the shard has only {reader.num_records()} records")
            return reader.read([record])[0]
        except RuntimeError as error:  # how ArrayRecord reports whatever is wrong
            raise ValueError(str(error).partition(";")[0]) from None

    if lengths is None:
        lengths = [0] * len(shards)
        for shard, name in enumerate(names):
            try:
                lengths[shard] = opened(shard).num_records()
                reason = "" if lengths[shard] else "the file is empty or damaged"
            except RuntimeError as error:
                reason = str(error).partition(";")[0]
            if reason:
                bad.add(BadRecord(name, None, reason))
    return Records(names, lengths, read)
