"""Values that change when files do, without reading all of them."""

import hashlib
import os
from collections.abc import Iterable
from typing import TYPE_CHECKING

from pipelines.extras import tfds_path
from pipelines.reading.locating import StrPath, locate

if TYPE_CHECKING:
    import pathlib

    from etils import epath

# An .npz ends with the checksums of its arrays, and the picture in a PNG with one of its pixels: the end of either
# tells of the whole. Shards begin and end with records of their own.
_LOOKED_AT = 4096
Stamp = tuple[str, int, float, str]  # whole path, bytes, time of the last change, hash of the first and last 4 KB


def fingerprint(name_or_dir: StrPath, *, split: str = "train", data_dir: StrPath | None = None) -> list[Stamp]:
    """`file_stamps` of the shards of a split: it changes when the data do, or lie elsewhere, and costs little.

    Raises what `pipelines.describe` raises.
    """
    return file_stamps(tfds_path(shard) for shard in locate(name_or_dir, split=split, data_dir=data_dir).shards)


def file_stamps(paths: "Iterable[pathlib.Path | epath.Path]") -> list[Stamp]:
    """(whole path, bytes, time of the last change, hash of the first and last 4 KB) of each file."""
    return [_stamp(path) for path in paths]


def _stamp(path: "pathlib.Path | epath.Path") -> Stamp:
    with path.open("rb") as file:
        digest = hashlib.sha256(file.read(_LOOKED_AT))
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - _LOOKED_AT))
        digest.update(file.read())
    if "://" in os.fspath(path):  # only tfds's paths reach such files, and resolving would spoil their names
        return os.fspath(path), size, float(path.stat().mtime), digest.hexdigest()[:16]
    return os.path.realpath(path), size, os.stat(path).st_mtime, digest.hexdigest()[:16]
