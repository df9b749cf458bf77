"""Which clip of a folder is what, by the official CSV files of Kinetics."""

import collections
import csv
import functools
import os
import re
from collections.abc import Iterator
from typing import NamedTuple

from pipelines.datasets.local_builder import Item

SUFFIXES = (".mp4", ".webm", ".mkv")
COLUMNS = ("youtube_id", "time_start", "time_end", "split")  # and label, which some test sets lack
SPLIT_NAMES = {"validate": "validation", "val": "validation"}
# An id has 11 characters, so an underscore in it is not taken for one that separates.
CLIP_NAME = re.compile(r"([A-Za-z0-9_-]{11})(?:_(\d+)_(\d+))?")
NAMED = 5  # clips that a note names


class _Row(NamedTuple):
    """One annotation; `times` are start and end in seconds, `label` may be empty."""

    youtube_id: str
    times: tuple[int, int]
    label: str
    split: str


class Matched:
    """Clips and their annotations: `splits` {name: items}, `notes` on what was left out.

    Raises:
        ValueError: there are no clips, or none with a labelled annotation.
    """

    def __init__(self, source: str, files: list[str], names: list[str]) -> None:
        paths = list(_clips(source))
        if not paths:
            raise ValueError(f"there are no clips ({', '.join(SUFFIXES)}) in {source}")
        self._rows = _table(files)
        self._used: set[_Row] = set()
        numbers = {name: number for number, name in enumerate(names)}
        self.splits: dict[str, list[Item]] = collections.defaultdict(list)
        left_out = collections.defaultdict(list)
        for path in paths:
            row = self._row_of(path)
            if isinstance(row, str):
                left_out[row].append(path)
            elif not row.label:
                left_out[f"have no label in the annotations of {row.split}"].append(path)
            else:
                self.splits[row.split].append(Item(path, numbers[row.label], (path,)))
        self.notes = [_note(reason, clips) for reason, clips in sorted(left_out.items())] + self._notes_on_rows()
        if not self.splits:
            raise ValueError(f"no clip in {source} can be used: {'; '.join(self.notes)}")
        del self._rows, self._used  # a hundred megabytes

    def _row_of(self, path: str) -> _Row | str:
        """The annotation of a clip, or why there is none."""
        name = CLIP_NAME.fullmatch(os.path.splitext(os.path.basename(path))[0])
        rows = self._rows.get(name[1], ()) if name else ()
        if name and name[2]:  # another part of the same video may show something else
            rows = [row for row in rows if row.times == (int(name[2]), int(name[3]))]
        self._used.update(rows)
        if not rows:
            return "have no annotation"
        if len({(row.label, row.split) for row in rows}) > 1:
            return "have several annotations that differ"
        return rows[0]

    def _notes_on_rows(self) -> list[str]:
        absent, unlabelled = collections.Counter(), collections.Counter()
        for row in (row for rows in self._rows.values() for row in rows):
            absent[row.split] += row not in self._used
            unlabelled[row.split] += not row.label
        notes = []
        if absent.total():
            each = ", ".join(f"{number} in {split}" for split, number in sorted(absent.items()) if number)
            notes.append(f"annotations without a clip, as videos vanish from YouTube: {each}")
        notes += [
            f"{number} annotations of {split} have no label: what they describe is left out"
            for split, number in sorted(unlabelled.items())
            if number
        ]
        return notes


def _note(reason: str, clips: list[str]) -> str:
    return f"{len(clips)} clips {reason} and are left out: {', '.join(clips[:NAMED])}" + ", ..." * (len(clips) > NAMED)


def _clips(source: str) -> Iterator[str]:
    """Paths of the clips, relative and with "/", in a settled order."""
    for folder, folders, files in os.walk(source):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        relative = os.path.relpath(folder, source).replace(os.sep, "/")
        for name in sorted(files):
            if name.lower().endswith(SUFFIXES) and not name.startswith("."):
                yield name if relative == "." else f"{relative}/{name}"


@functools.lru_cache(maxsize=4)
def class_names(files: tuple[tuple[str, int], ...]) -> list[str]:
    """The sorted labels in CSV files, each given with its time of change. Kept, as every shard asks for them."""
    names = sorted({row.label for path, _ in files for row in _read_rows(path)} - {""})
    if not names:
        raise ValueError(f"no annotation in {', '.join(path for path, _ in files)} has a label: {_ACCEPTED}")
    return names


def _table(files: list[str]) -> dict[str, list[_Row]]:
    """All annotations by their youtube_id, each once."""
    rows = dict.fromkeys(row for path in files for row in _read_rows(path))
    table = collections.defaultdict(list)
    for row in rows:
        table[row.youtube_id].append(row)
    return table


def _read_rows(path: str) -> Iterator[_Row]:
    """The annotations in one CSV file. Raises ValueError: it is no CSV file, is empty, lacks a column, or has a row
    that makes no sense."""
    empty = True
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            missing = [column for column in COLUMNS if column not in (reader.fieldnames or ())]
            if missing:
                found = f"columns are {', '.join(reader.fieldnames)}" if reader.fieldnames else "it is empty"
                raise ValueError(f"{path} has no column {' or '.join(missing)} ({found}): {_ACCEPTED}")
            for fields in reader:
                empty = False
                yield _row(fields, f"line {reader.line_num} of {path}")
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path} is no CSV file in UTF-8 ({error}): {_ACCEPTED}") from None
    if empty:
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


def csv_files(path: str) -> list[str]:
    """A path of a CSV file, or those of the CSV files in a folder."""
    if not os.path.exists(path):
        raise FileNotFoundError(f"annotations {path} does not exist: {_ACCEPTED}")
    if not os.path.isdir(path):
        return [path]
    found = sorted(name for name in os.listdir(path) if name.lower().endswith(".csv") and not name.startswith("."))
    if not found:
        raise FileNotFoundError(f"there are no CSV files in {path}: {_ACCEPTED}")
    return [os.path.join(path, name) for name in found]


def absolute_paths(given: str) -> str:
    """Paths joined by commas, made absolute: the work may go on from another folder."""
    if not isinstance(given, (str, os.PathLike)):
        raise ValueError(f"annotations must be a path, or several joined by commas, got {given!r}")
    paths = [path.strip() for path in split_paths(os.path.expanduser(os.fspath(given))) if path.strip()]
    if not paths:
        raise ValueError(f"annotations must be a path, or several joined by commas, got {given!r}")
    return ",".join(os.path.abspath(os.path.expanduser(path)) for path in paths)


def split_paths(given: str) -> list[str]:
    return [given] if os.path.exists(given) else given.split(",")


_ACCEPTED = (
    "give the official CSV files, with the columns label, youtube_id, time_start, time_end, split, "
    "as annotations=FILE, FILE,FILE or FOLDER, or put them into source"
)
