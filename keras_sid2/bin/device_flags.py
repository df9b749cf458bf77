"""The flags that say on which devices a program works and in which processes, and how several of them begin and end."""

import json
import pathlib
import sys
import zlib
from collections.abc import Callable

from keras_sid2.bin import signals
from keras_sid2.bin.common import tell
from keras_sid2.parallel import processes

_GOES_ON = "the same commands go on from what is saved"


def together(usage: str, values, work: Callable[[], int], again: str = _GOES_ON) -> int:
    """The exit code of `work` in this process, which is one of those that `values` of ProcessFlags, or the environment,
    name. One of several that fails, or is interrupted, ends at once, and the others learn of it where they meet next;
    `again` is what all of them do when they are started again.
    """
    processes.start(coordinator=values.coordinator, count=values.process_count, index=values.process_id)
    try:
        return work()
    except Exception as error:
        if processes.count() > 1:
            processes.leave(_tell_of_one(error, usage, again))
        raise
    except KeyboardInterrupt as error:
        if processes.count() > 1:
            print(f"{usage}: interrupted.", file=sys.stderr)
        processes.leave(signals.exit_code(error))
        raise


def check_same(settings: dict, folder: pathlib.Path | None = None):
    """Every process raises ValueError if one was asked for images of other settings, plain values, than process 0, or
    does not see the first one's `folder`."""
    asked = zlib.crc32(json.dumps(settings, sort_keys=True).encode()) >> 1
    wrong, index = None, processes.index()
    if processes.from_first(asked) != asked:
        wrong = f"Process {index} was asked for other images than process 0: give all the same flags."
    elif folder is not None and not folder.is_dir():
        wrong = f"Process {index} has no {folder}: --out must be on a disk that all share."
    if processes.summed(int(wrong is not None)):
        raise ValueError(wrong or "Another process was refused, which says why.")


def _tell_of_one(error: Exception, usage: str, again: str) -> int:
    """What went wrong in one of several processes; the exit code."""
    if processes.lost(error):
        told = f"Process {processes.index()} has lost another process of the run, and ends too."
        error = ConnectionError(f"{told} Start all of them again: {again}.")
    return tell(error, usage)
