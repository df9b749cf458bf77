"""Files that are written whole or not at all, and logs of JSON lines."""

import contextlib
import json
import math
import os
import pathlib
import tempfile
from collections.abc import Iterator


@contextlib.contextmanager
def written_whole(path: str | os.PathLike) -> Iterator[pathlib.Path]:
    """A temporary path, of the same suffix, in the folder of `path`; it becomes `path` when the block ends well."""
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=".writing-", suffix=path.suffix, dir=path.parent)
    os.close(handle)
    try:
        yield pathlib.Path(name)
        os.chmod(name, 0o666 & ~umask())
        os.replace(name, path)
    finally:
        pathlib.Path(name).unlink(missing_ok=True)


def umask() -> int:
    """The process's umask, which mkstemp's files do not follow."""
    mask = os.umask(0)
    os.umask(mask)
    return mask


def drop_lines_after(path: str | os.PathLike, step: int):
    """Leaves out, of a log with "step" in each line, what a run that goes on from `step` will write again.

    A last line that was cut by an end in the midst of it goes too. No file: nothing happens.
    """
    path = pathlib.Path(path)
    if not path.exists():
        return
    lines = path.read_text().splitlines()
    kept = [line for line in lines if _step_of(line) <= step]
    if len(kept) < len(lines):
        with written_whole(path) as temporary:
            temporary.write_text("".join(f"{line}\n" for line in kept))


def _step_of(line: str) -> float:
    try:
        return json.loads(line)["step"]
    except (ValueError, KeyError, TypeError):
        return math.inf
