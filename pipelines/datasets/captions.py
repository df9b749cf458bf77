"""Captions of a folder of images: from a .csv or .jsonl file, a .txt beside each image, or the names of files.

A file has a column, or key, "file" (or file_name, image) with a path relative to the folder of the images, and
"caption" (or text). What is wrong with one caption is told of its image; what is wrong with the file stops all.
"""

import collections
import csv
import json
import os
import posixpath
import re
from collections.abc import Callable, Container, Iterator
from typing import Any

from pipelines.text_encoders.base import is_unicode

TXT, NAMES = "txt", "names"
SUFFIXES = (".csv", ".jsonl")
_FILE, _CAPTION = ("file", "file_name", "image"), ("caption", "text")

# (caption, "") of an image by its path in the folder, or ("", what is wrong, in words that follow on the image's name)
Captions = Callable[[str], tuple[str, str]]


def check_captions(captions: Any, source: str) -> str | None:
    """The setting: None, "txt", "names", or the whole path of a file, which may lie in `source`. Raises ValueError: it
    is something else; FileNotFoundError: there is no such file."""
    if captions in (None, TXT, NAMES):
        return captions
    if not isinstance(captions, (str, os.PathLike)) or not os.fspath(captions).endswith(SUFFIXES):
        raise ValueError(f"captions must be a {' or '.join(SUFFIXES)} file, {TXT} or {NAMES}, got {captions!r}")
    given = os.path.expanduser(os.fspath(captions))
    for path in (given, os.path.join(source, given)):
        if os.path.isfile(path):
            return os.path.abspath(path)
    raise FileNotFoundError(f"there is no file of captions {captions}, nor one in {source}")


def open_captions(captions: str, source: str) -> tuple[Captions, Container[str]]:
    """The captions of that setting, and the paths of those that a file has, for the notes. Raises ValueError: the file
    is not as the head of this module says."""
    if captions == NAMES:
        return _of_name, ()
    if captions == TXT:
        return lambda path: _beside(source, path), ()
    found, name = _read(captions), os.path.basename(captions)

    def of_file(path: str) -> tuple[str, str]:
        caption = found.get(path)
        if caption is not None and not is_unicode(caption):
            return "", f"has a caption in {name} that is no Unicode: {caption!r}"
        return (caption, "") if caption else ("", f"has {'no' if caption is None else 'an empty'} caption in {name}")

    return of_file, found


def _plain(text: str) -> str:
    return " ".join(text.split())


def _of_name(path: str) -> tuple[str, str]:
    """ "red heart" of "love/red_heart.png"."""
    caption = _plain(re.sub(r"[_-]+", " ", posixpath.splitext(posixpath.basename(path))[0]))
    if not is_unicode(caption):
        return "", "has a name that is not UTF-8"
    return caption, "" if caption else "has no words in its name"


def _beside(source: str, path: str) -> tuple[str, str]:
    name = posixpath.splitext(path)[0] + ".txt"
    try:
        with open(os.path.join(source, name), encoding="utf-8-sig") as file:
            caption = _plain(file.read())
    except FileNotFoundError:
        return "", f"has no {posixpath.basename(name)} with its caption beside it"
    except UnicodeDecodeError as error:
        return "", f"has a caption that is not UTF-8 ({name}, byte {error.start})"
    return caption, "" if caption else f"has an empty caption ({name})"


def _read(path: str) -> dict[str, str]:
    """{path of an image: caption} of a file."""
    found, lines = {}, collections.defaultdict(list)
    rows = _rows_of_csv if path.endswith(".csv") else _rows_of_jsonl
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            for number, row in rows(path, file):
                name = _inside(_one_of(row, _FILE, path, number), path, number)
                found[name] = _plain(_one_of(row, _CAPTION, path, number))
                lines[name].append(number)
                if len(lines[name]) > 1:
                    first, second = lines[name]
                    raise ValueError(
                        f"{path} has {name} twice, in lines {first} and {second}: keep one caption an image"
                    )
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 (byte {error.start} of a part of it): save it as such") from None
    if not found:
        raise ValueError(f"{path} has no captions")
    return found


def _rows_of_csv(path: str, file: Any) -> Iterator[tuple[int, dict[str, Any]]]:
    reader = csv.DictReader(file, strict=True)
    try:
        for row in reader:
            if None in row:
                raise ValueError(
                    f"{path} has more than {len(row) - 1} columns in line {reader.line_num}: put captions with commas "
                    'into "quotes"'
                )
            yield reader.line_num, row
    except csv.Error as error:
        raise ValueError(f"{path} is no CSV, line {reader.line_num}: {error}") from None


def _rows_of_jsonl(path: str, file: Any) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, line in enumerate(file, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise ValueError(f"{path} is no JSON in line {number}: {error}") from None
        if not isinstance(row, dict):
            raise ValueError(f'{path} must have a line {{"file": ..., "caption": ...}} an image, got line {number}')
        yield number, row


def _one_of(row: dict[str, Any], names: tuple[str, ...], path: str, number: int) -> str:
    for name in names:
        if name in row:
            if isinstance(row[name], str):
                return row[name]
            raise ValueError(f"{name} in line {number} of {path} must be text, got {row[name]!r}")
    have = ", ".join(str(name) for name in row if name is not None)
    raise ValueError(f"{path} has no column {names[0]!r} (or {', '.join(names[1:])}) in line {number}, but {have}")


def _inside(name: str, path: str, number: int) -> str:
    found = posixpath.normpath(name.strip() or ".")
    if found.startswith(("/", "..")) or found == ".":
        raise ValueError(
            f"line {number} of {path} names {name!r}: files must be named relative to the folder of the images, and "
            "lie in it"
        )
    return found
