"""Files that are written whole or not at all."""

import contextlib
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
        os.chmod(name, 0o666 & ~_umask())
        os.replace(name, path)
    finally:
        pathlib.Path(name).unlink(missing_ok=True)


def _umask() -> int:
    """The process's umask, which mkstemp's files do not follow."""
    mask = os.umask(0)
    os.umask(mask)
    return mask
