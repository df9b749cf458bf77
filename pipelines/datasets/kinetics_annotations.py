"""Which clip of a folder is what, by the official CSV files of Kinetics."""

import collections
import csv
import functools
import os
import posixpath
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

from pipelines.datasets.local_builder import Item, walked

SUFFIXES = (".mp4", ".webm", ".mkv")
COLUMNS = ("youtube_id", "time_start", "time_end", "split")  # and label, which some test sets lack
SPLIT_NAMES = {"validate": "validation", "val": "validation"}
# An id has 11 characters, so an underscore in it is not taken for one that separates.
CLIP_NAME = re.compile(r"([A-Za-z0-9_-]{11})(?:_(\d+)_(\d+))?")
NAMED = 5  # clips that a note names
_ACCEPTED = (
    "give the official CSV files, with the columns label, youtube_id, time_start, time_end, split, "
    "as annotations=FILE, FILE,FILE or FOLDER, or put them into source"
)


class _Row(NamedTuple):
    youtube_id: str
    times: tuple[int, int]  # start and end in seconds
    label: str  # may be empty
    split: str


def matched(source: str, files: list[str], names: list[str]) -> tuple[dict[str, list[Item]], list[str]]:
    """The clips in a folder by their annotations in CSV files, {split: items}, and notes on what was left out; `names`
    are those of the classes. Raises ValueError: there are no clips, or none with a labelled annotation."""
    paths = [posixpath.join(folder, name) for folder, _, clips in walked(source) for name in clips]
    paths = [path for path in paths if path.lower().endswith(SUFFIXES)]
    if not paths:
        raise ValueError(f"there are no clips ({', '.join(SUFFIXES)}) in {source}")
    rows = dict.fromkeys(row for path in files for row in _read_rows(path))  # each once
    of_video, splits, left_out = (collections.defaultdict(list) for _ in range(3))
    for row in rows:
        of_video[row.youtube_id].append(row)
    numbers, used = {name: number for number, name in enumerate(names)}, set()
    for path in paths:
        name = CLIP_NAME.fullmatch(os.path.splitext(os.path.basename(path))[0])
        found = of_video.get(name[1], []) if name else []
        if name and name[2]:  # another part of the same video may show something else
            found = [row for row in found if row.times == (int(name[2]), int(name[3]))]
        used.update(found)
        if not found:
            left_out["have no annotation"].append(path)
        elif len({(row.label, row.split) for row in found}) > 1:
            left_out["have several annotations that differ"].append(path)
        elif not found[0].label:
            left_out[f"have no label in the annotations of {found[0].split}"].append(path)
        else:
            splits[found[0].split].append(Item(path, numbers[found[0].label], (path,)))
    notes = [
        f"{len(clips)} clips {reason} and are left out: {', '.join(clips[:NAMED])}" + ", ..." * (len(clips) > NAMED)
        for reason, clips in sorted(left_out.items())
    ]
    absent = collections.Counter(row.split for row in rows if row not in used)
    if absent:
        each = ", ".join(f"{number} in {split}" for split, number in sorted(absent.items()))
        notes.append(f"annotations without a clip, as videos vanish from YouTube: {each}")
    unlabelled = collections.Counter(row.split for row in rows if not row.label)
    for split, number in sorted(unlabelled.items()):
        notes.append(f"{number} annotations of {split} have no label: what they describe is left out")
    if not splits:
        raise ValueError(f"no clip in {source} can be used: {'; '.join(notes)}")
    return splits, notes


@functools.lru_cache(maxsize=4)
def class_names(files: tuple[tuple[str, int], ...]) -> list[str]:
    """The sorted labels in CSV files, each given with its time of change. Kept, as every shard asks for them."""
    names = sorted({row.label for path, _ in files for row in _read_rows(path)} - {""})
    if not names:
        raise ValueError(f"no annotation in {', '.join(path for path, _ in files)} has a label: {_ACCEPTED}")
    return names


def _read_rows(path: str) -> Iterator[_Row]:
    """The annotations in a CSV file. Raises ValueError: it is none, or empty, lacks a column, or has a wrong row."""
    row = None
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            missing = [column for column in COLUMNS if column not in (reader.fieldnames or ())]
            if missing:
                found = f"columns are {', '.join(reader.fieldnames)}" if reader.fieldnames else "it is empty"
                raise ValueError(f"{path} has no column {' or '.join(missing)} ({found}): {_ACCEPTED}")
            for fields in reader:
                row = _row(fields, f"line {reader.line_num} of {path}")
                yield row
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path} is no CSV file in UTF-8 ({error}): {_ACCEPTED}") from None
    if row is None:
        raise ValueError(f"{path} holds no annotations: {_ACCEPTED}")


def _row(fields: dict[str, str | None], where: str) -> _Row:
    youtube_id, start, end, split, label = ((fields.get(name) or "").strip() for name in (*COLUMNS, "label"))
    try:
        times = int(float(start)), int(float(end))
    except (ValueError, OverflowError):
        raise ValueError(f"time_start and time_end must be seconds in {where}, got {start!r} and {end!r}") from None
    if not youtube_id or not re.fullmatch(r"[A-Za-z]\w*", split):
        raise ValueError(f"youtube_id and split must be given in {where}, got {youtube_id!r} and {split!r}")
    return _Row(youtube_id, times, label, SPLIT_NAMES.get(split, split))


def absolute_paths(given: Any) -> str:
    """Paths joined by commas, made absolute: the work may go on from another folder."""
    paths = _split(os.path.expanduser(os.fspath(given))) if isinstance(given, (str, os.PathLike)) else []
    paths = [os.path.abspath(os.path.expanduser(path.strip())) for path in paths if path.strip()]
    if not paths:
        raise ValueError(f"annotations must be a path, or several joined by commas, got {given!r}")
    return ",".join(paths)


def _split(given: str) -> list[str]:
    return [given] if os.path.exists(given) else given.split(",")


def csv_files(given: str) -> list[str]:
    """The CSV files that paths joined by commas name, or that are in their folders."""
    files = []
    for path in _split(given):
        if not os.path.exists(path):
            raise FileNotFoundError(f"annotations {path} does not exist: {_ACCEPTED}")
        found = [path]
        if os.path.isdir(path):
            visible = sorted(name for name in os.listdir(path) if not name.startswith("."))
            found = [os.path.join(path, name) for name in visible if name.lower().endswith(".csv")]
        if not found:
            raise FileNotFoundError(f"there are no CSV files in {path}: {_ACCEPTED}")
        files += found
    return files
