"""The TFRecord format: written and read by random access, without TensorFlow.

    record = length (uint64) | masked CRC-32C of it (uint32) | data | masked CRC-32C of the data (uint32)

all little-endian. The offsets at which records begin are kept beside the shards of the data sets that this package
writes, and found by walking over the lengths for others.
"""

import io
import os
import struct
import threading
from collections.abc import Iterable
from typing import Any, BinaryIO

import numpy as np

from pipelines.extras import require

HEADER, FOOTER = 12, 4
OPEN_FILES = 128  # shards that are kept open
_REMOTE = threading.Lock()  # a place in a remote file is sought and read by one thread at a time


def masked_crc(data: bytes) -> int:
    """The CRC-32C of `data` as TFRecord stores it, rotated and shifted so that a CRC of CRCs is harmless."""
    crc = require("google_crc32c", extra="data").value(data)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def _packed_crc(data: bytes) -> bytes:
    return struct.pack("<I", masked_crc(data))


def write_records(file: BinaryIO, records: Iterable[bytes]) -> np.ndarray:
    """Writes records to a file open for writing; returns their offsets and the end, int64 [n + 1]."""
    offsets = [0]
    for record in records:
        length = struct.pack("<Q", len(record))
        file.write(b"".join((length, _packed_crc(length), record, _packed_crc(record))))
        offsets.append(offsets[-1] + HEADER + len(record) + FOOTER)
    return np.asarray(offsets, np.int64)


def find_records(path: str) -> tuple[np.ndarray, str]:
    """Walks over the lengths in a TFRecord file, without reading the data: the offsets of the records and the end of
    the last one, int64 [n + 1], and why the walk ended before the end of the file, or the empty string."""
    offsets, reason, size = [0], "", size_of(path)
    with _path(path).open("rb") as file:
        while offsets[-1] < size and not reason:
            file.seek(offsets[-1])
            try:
                end = offsets[-1] + HEADER + _length(file.read(HEADER)) + FOOTER
                if end > size:
                    raise ValueError(f"the file ends inside the record, after {size} bytes")
                offsets.append(end)
            except ValueError as error:
                reason = str(error)
    return np.asarray(offsets, np.int64), reason


def open_file(path: str) -> BinaryIO:
    """Opens a file for `read_record`, without a buffer where it is local."""
    return _path(path).open("rb") if "://" in path else open(path, "rb", buffering=0)


def read_record(file: BinaryIO, start: int, end: int) -> bytes:
    """Reads the record that lies between two offsets and checks both CRCs. Local files may be read by several threads.
    Raises ValueError: what is there is not a whole record of that length; OSError: the file cannot be read."""
    if isinstance(file, io.FileIO):
        frame = os.pread(file.fileno(), end - start, start)
    else:
        with _REMOTE:
            file.seek(start)
            frame = file.read(end - start)
    if len(frame) < end - start:
        raise ValueError(f"the file ends inside the record, after {start + len(frame)} bytes")
    length = _length(frame[:HEADER])
    if length != end - start - HEADER - FOOTER:
        raise ValueError(f"it is {length} bytes long and should be {end - start - HEADER - FOOTER}")
    data = frame[HEADER:-FOOTER]
    if _packed_crc(data) != frame[-FOOTER:]:
        raise ValueError("its CRC does not fit its data")
    return data


def _length(header: bytes) -> int:
    if len(header) < HEADER:
        raise ValueError("the file ends inside the record's header")
    if _packed_crc(header[:8]) != header[8:]:
        raise ValueError("the CRC of its length is wrong: damaged, compressed or no TFRecord file")
    return struct.unpack("<Q", header[:8])[0]


def size_of(path: str) -> int:
    """Returns the size of a file in bytes."""
    return _path(path).stat().length


def _path(path: str) -> Any:
    return require("etils.epath", extra="data").Path(path)
