"""Sharded checkpoints (jax): each process writes what its devices hold, through Orbax, while training goes on.

    step_0000000500/model.json       configuration of the model and its optimizer, as keras serialises them
    step_0000000500/arrays/          all variables of both
    step_0000000500/manifest.json    as a portable checkpoint's, with bytes and SHA-256 of every file

Training waits until the values are on the host. A thread then writes them; when all processes have, the first one adds
the manifest and gives the folder its name. The processes of a run call alike, at the same steps, and see the same
folder; what one of them cannot do fails on all. loading.py reads them, on any number of devices and processes.
"""

import asyncio
import collections
import contextlib
import errno
import itertools
import json
import logging
import os
import pathlib
import secrets
import shutil
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from keras_sid2 import backend
from keras_sid2.checkpoints import manifest
from keras_sid2.checkpoints.manifest import ARRAYS, CONFIG, SHARDED
from keras_sid2.checkpoints.portable import raise_together
from keras_sid2.parallel import processes

_WRITING = ".writing-"
_PART = ".part_{}.json"  # what a process says of its files, when all of them are written
_REASON = ".part_{}.error"  # why it could not write them, if it can say so
_DATA = "ocdbt.process_{}/d"  # where Orbax puts what a process writes, in files that stay as they are
_BESIDES = 4096  # bytes, about, that Orbax writes of a variable beside its values
_LONGEST_REASON = 299  # characters
_LONGEST_WAIT = 3600  # seconds that processes may differ in writing their parts
_numbers = itertools.count()  # of the saves of a process, alike in all: nothing late of one may come into the next
_threads: list[threading.Thread] = []


def check_available():
    """ValueError on another backend than jax, ImportError without Orbax; each a sentence that says what to do."""
    if backend.name() != "jax":
        advice = "set KERAS_BACKEND=jax, or save portable ones (--checkpoints=portable)"
        raise ValueError(f"Sharded checkpoints need the jax backend, got {backend.name()}: {advice}.")
    try:
        import orbax.checkpoint  # noqa: F401
    except ImportError as error:
        raise ImportError(f"Sharded checkpoints need Orbax ({error}): pip install 'keras_sid2[orbax]'.") from error


class ShardedSaver:
    """Saves checkpoints of a model behind its training, one at a time; the arguments are those of `save_checkpoint`."""

    def __init__(self, directory: str | os.PathLike, *, keep: int, keep_every: int = 0, about: dict | None = None):
        check_available()
        self._directory, self._about = pathlib.Path(directory).absolute(), about
        self._kept = {"keep": keep, "keep_every": keep_every}
        self._thread = self._error = None
        self._start: int | None = None  # random, alike in all processes, unlike at every start of a run

    def check(self, model):
        """Any model will do."""

    def save(self, model):
        """Begins to save the model as it is, behind the one before, and returns when its values are copied.

        OSError, on every process, if either fails.
        """
        self.wait()
        path = manifest.checkpoint_path(self._directory, backend.steps_done(model))
        if self._start is None:  # not of Python's random numbers, which a run seeds alike at every start
            self._start = processes.from_first(secrets.randbits(30))
        temporary = path.with_name(f"{_WRITING}{path.name}-{self._start}-{next(_numbers)}")
        for logger in ("absl", "asyncio"):
            logging.getLogger(logger).addFilter(_is_of_others)
        try:
            if processes.index() == 0:
                _make(temporary, model)
        except OSError as error:
            shutil.rmtree(temporary, ignore_errors=True)
            self._error = error
        self._raise_together()
        handler, writing, writes = orbax_handler(), [], False
        try:
            values = arrays(model)
            writes = _has_first_replicas(values)
            writing = _begin_writing(handler, temporary / ARRAYS, values)
        except Exception as error:  # tensorstore and asyncio raise many kinds
            self._error = error
        last = (handler, writing, writes, temporary, path)
        self._thread = threading.Thread(target=self._finish, args=last, name=f"save_{path.name}")
        _also_at_exit(self._thread)
        self._thread.start()

    def wait(self):
        """Returns when the one that was begun is on the disk; OSError, on every process, if it is not."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
            self._raise_together()

    def _raise_together(self):
        error, self._error = self._error, None
        raise_together(error and _as_os_error(error), "another process could not write its part")

    def _finish(self, handler, writing: Sequence, writes: bool, temporary: pathlib.Path, path: pathlib.Path):
        """What the thread does: waits until this process's part is written, and on the first one, for all parts."""
        try:
            for part in writing:
                part.result()
            if self._error is None:
                _tell_part(temporary, writes)
        except Exception as error:
            self._error = error
        if self._error is not None:
            _leave_reason(temporary, self._error)
        try:
            _meet(temporary.name)  # also after an error, for others wait here
            if processes.index() == 0:
                self._commit(handler, temporary, path)
        except Exception as error:
            self._error = self._error or error

    def _commit(self, handler, temporary: pathlib.Path, path: pathlib.Path):
        from etils import epath

        try:
            if self._error is None:
                parts = _parts(temporary)
                handler.finalize(epath.Path(temporary / ARRAYS))
                manifest.finish_checkpoint(temporary, path, version=SHARDED, about=self._about, files=parts)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        manifest.prune(self._directory, **self._kept)


def _is_of_others(record: logging.LogRecord) -> bool:
    """Keeps Orbax from telling of each array that does not fit on a disk, in pages: it is told once, in a sentence."""
    return f"{_WRITING}step_" not in record.getMessage()


def _also_at_exit(thread: threading.Thread):
    """A program that ends waits for `thread` before Python forbids new work to the executors that Orbax works with."""
    if not _threads:
        threading._register_atexit(lambda: _threads[0].join())
    _threads[:] = [thread]


def arrays(model) -> dict[str, dict]:
    """The values of all variables of a compiled model and of its optimizer, by their paths; jax arrays."""
    backend.sync_variables(model)
    return {part: {key: v.value for key, v in found.items()} for part, found in variables_by_path(model).items()}


def variables_by_path(model) -> dict[str, dict]:
    """{"model": {path: variable}, "optimizer": the same}."""
    return {"model": _by_path(model.variables), "optimizer": _by_path(model.optimizer.variables)}


def _by_path(variables: Sequence) -> dict:
    """The second variable of one path is path#2, and so on."""
    found, times = {}, collections.Counter()
    for variable in variables:
        times[variable.path] += 1
        number = times[variable.path]
        found[variable.path if number == 1 else f"{variable.path}#{number}"] = variable
    return found


def _make(temporary: pathlib.Path, model):
    """The folder, with all but the arrays; OSError if these will not fit on the disk."""
    manifest.remove_unfinished(temporary.parent)
    (temporary / ARRAYS).mkdir(parents=True)
    (temporary / CONFIG).write_text(model.to_json())
    needed = sum(v.value.nbytes + _BESIDES for v in (*model.variables, *model.optimizer.variables))
    if shutil.disk_usage(temporary).free < needed:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def orbax_handler():
    import orbax.checkpoint as ocp

    return ocp.PyTreeCheckpointHandler()


def _begin_writing(handler, folder: pathlib.Path, values: dict) -> Sequence:
    """Futures of the writing of this process's part of `values`, which are copied when this returns."""
    import orbax.checkpoint as ocp
    from etils import epath

    saving = handler.async_save(epath.Path(folder), args=ocp.args.PyTreeSave(values))
    with ThreadPoolExecutor(1) as thread:  # in this one a loop may run already, as in a notebook
        return thread.submit(asyncio.run, saving).result()


def _has_first_replicas(values: dict) -> bool:
    """Whether this process holds the first replica of any part of `values`: if so, Orbax has it write files."""
    import jax

    shards = (shard for value in jax.tree.leaves(values) for shard in value.addressable_shards)
    return any(shard.replica_id == 0 and shard.data.size for shard in shards)


def _tell_part(temporary: pathlib.Path, writes: bool):
    """Says, with the digests of its arrays, that this process's part is whole; OSError if it `writes` and has none."""
    index = processes.index()
    data = temporary / ARRAYS / _DATA.format(index)
    written = [path for path in data.glob("*") if path.is_file()]
    files = {path.relative_to(temporary).as_posix(): manifest.file_entry(path) for path in written}
    if writes and not files:
        raise OSError(errno.EIO, f"this version of Orbax puts no files into {ARRAYS}/{_DATA.format(index)}")
    (temporary / _PART.format(index)).write_text(json.dumps(files))


def _leave_reason(temporary: pathlib.Path, error: Exception):
    """Leaves a line for the first process, which is the one that is heard; on a full disk it may not be able to."""
    with contextlib.suppress(OSError):
        reason = manifest.first_line(_as_os_error(error))[:_LONGEST_REASON]
        (temporary / _REASON.format(processes.index())).write_text(reason)


def _parts(temporary: pathlib.Path) -> dict[str, dict]:
    """What all processes said; OSError, with the reason if one is left, unless all did."""
    files = {}
    for index in range(processes.count()):
        told, reason = (temporary / name.format(index) for name in (_PART, _REASON))
        if reason.exists() or not told.exists():
            why = f": {reason.read_text()}" if reason.exists() else ""
            raise OSError(errno.EIO, f"process {index} could not write its part{why}")
        files |= json.loads(told.read_text())
        told.unlink()
    return files


def _meet(name: str):
    """Waits in a thread until all processes are here; what devices do meanwhile does not matter."""
    import orbax.checkpoint as ocp

    if processes.count() > 1:
        ocp.multihost.get_barrier_sync_fn()(key=name, timeout_ms=_LONGEST_WAIT * 1000)


def _as_os_error(error: Exception) -> OSError:
    """`error`, or what it says as one; tensorstore tells a full disk in a ValueError."""
    if isinstance(error, OSError):
        return error
    text = str(error).strip()
    full = "RESOURCE_EXHAUSTED" in text or "No space left" in text
    reason = (errno.ENOSPC, os.strerror(errno.ENOSPC)) if full else (errno.EIO, manifest.first_line(error))
    found = OSError(*reason)
    found.__cause__ = error
    return found
