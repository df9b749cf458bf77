"""Atomic files, folders that one process uses at a time, and logs of JSON lines."""

import contextlib
import hashlib
import json
import math
import os
import pathlib
import socket
import tempfile
import time
from collections.abc import Iterator


@contextlib.contextmanager
def _aside(path: pathlib.Path) -> Iterator[pathlib.Path]:
    """A path of the same name and on the same file system, where nothing is; gone when the block ends."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".writing-", dir=path.parent, ignore_cleanup_errors=True) as folder:
        yield pathlib.Path(folder) / path.name


@contextlib.contextmanager
def atomic_write(path: str | os.PathLike) -> Iterator[pathlib.Path]:
    """A temporary path, of the same suffix; what is written there becomes `path` when the block ends well."""
    with _aside(pathlib.Path(path)) as temporary:
        yield temporary
        os.replace(temporary, path)


@contextlib.contextmanager
def written_folder(path: str | os.PathLike) -> Iterator[pathlib.Path]:
    """A temporary folder, which becomes `path` when the block ends well; what was there is gone then."""
    path = pathlib.Path(os.path.abspath(path))
    with _aside(path) as temporary:
        temporary.mkdir()
        yield temporary
        before = temporary.with_name(f"{path.name}-old")
        if path.exists():
            os.rename(path, before)
        try:
            os.rename(temporary, path)
        except OSError:
            if before.exists():
                os.rename(before, path)
            raise


def write_json(path: str | os.PathLike, values):
    """Plain values as an atomic file."""
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(values, indent=2) + "\n")


def read_json(path: str | os.PathLike) -> dict | None:
    """The JSON object that a file holds; None where it holds none. OSError if it is not there."""
    try:
        found = json.loads(pathlib.Path(path).read_text())
    except ValueError:  # UnicodeDecodeError is one, too
        return None
    return found if isinstance(found, dict) else None


def file_sha256(path: str | os.PathLike) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def umask() -> int:
    """The process's umask, which folders of mkdtemp do not follow."""
    mask = os.umask(0)
    os.umask(mask)
    return mask


@contextlib.contextmanager
def locked(folder: str | os.PathLike, advice: str = "wait for its end") -> Iterator[None]:
    """Holds folder/lock for as long as the block runs; ValueError if another process does, naming it, with `advice`.
    The operating system gives it back when a process ends in any way. Who holds it may rename or remove the folder. On
    a network file system it holds as far as that passes on flock."""
    import fcntl  # there is none on Windows, where all else here works

    path = pathlib.Path(folder) / "lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(f"{folder} is in use by {_owner(file)}: {advice}.") from None
        if not _still_there(file):
            raise ValueError(f"{folder} was removed by another process just now: start again.")
        file.truncate(0)
        about = {"process": os.getpid(), "host": socket.gethostname(), "since": time.strftime("%Y-%m-%d %H:%M:%S")}
        file.write(json.dumps(about))
        file.flush()
        yield


def _still_there(file) -> bool:
    """Whether an open file has its name still: its folder may have been removed before it was locked."""
    with contextlib.suppress(FileNotFoundError):
        return os.path.samestat(os.stat(file.name), os.fstat(file.fileno()))
    return False


def _owner(file) -> str:
    file.seek(0)
    try:
        return "process {process} on {host}, since {since}".format(**json.loads(file.read()))
    except (ValueError, KeyError, TypeError):
        return "another process"


def drop_lines_after(path: str | os.PathLike, step: int):
    """Leaves out, of a log with "step" in each line, what a run that goes on from `step` will write again. A last line
    that was cut by an end in the midst of it goes too. No file: nothing happens."""
    path = pathlib.Path(path)
    lines = path.read_text().splitlines() if path.exists() else []
    kept = [line for line in lines if _step_of(line) <= step]
    if len(kept) < len(lines):
        with atomic_write(path) as temporary:
            temporary.write_text("".join(f"{line}\n" for line in kept))


def _step_of(line: str) -> float:
    try:
        return json.loads(line)["step"]
    except (ValueError, KeyError, TypeError):
        return math.inf
