"""One process at a time in a work directory."""

import contextlib
import fcntl
import json
import os
import pathlib
import socket
import time
from collections.abc import Iterator


@contextlib.contextmanager
def locked(workdir: str | os.PathLike) -> Iterator[None]:
    """Holds workdir/lock for as long as the block runs; ValueError if another process does, naming it.

    The operating system gives the lock back when a process ends in any way, so a kill leaves nothing to clean up. On a
    network file system it holds as far as that passes on flock.
    """
    path = pathlib.Path(workdir) / "lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(
                f"{workdir} is in use by {_owner(file)}: wait for its end, or give another --workdir."
            ) from None
        file.truncate(0)
        about = {"process": os.getpid(), "host": socket.gethostname(), "since": time.strftime("%Y-%m-%d %H:%M:%S")}
        file.write(json.dumps(about))
        file.flush()
        yield


def _owner(file) -> str:
    file.seek(0)
    try:
        return "process {process} on {host}, since {since}".format(**json.loads(file.read()))
    except (ValueError, KeyError, TypeError):
        return "another process"
