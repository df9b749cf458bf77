"""Portable checkpoints: one file, model.keras, that loads on any backend."""

import errno
import os
import pathlib
import tempfile

from keras_sid2.backend import steps_done
from keras_sid2.checkpoints.manifest import MODEL, PORTABLE, checkpoint_path, finish_checkpoint, prune
from keras_sid2.parallel import processes, replicas


def save_checkpoint(
    model, directory: str | os.PathLike, *, keep: int, keep_every: int = 0, about: dict | None = None
) -> pathlib.Path:
    """Writes the model as it is; then removes all but the `keep` newest, and those whose step `keep_every` divides.

    `about` goes into the manifest, plain values. OSError if it cannot be written; what was there before stays.
    """
    directory = pathlib.Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    path = checkpoint_path(directory, steps_done(model))
    with tempfile.TemporaryDirectory(prefix=".writing-", dir=directory, ignore_cleanup_errors=True) as folder:
        temporary = pathlib.Path(folder) / f".writing-{path.name}"
        temporary.mkdir()  # with the mode that the umask says, which the folder around it has not
        replicas.save(model, temporary / MODEL)
        finish_checkpoint(temporary, path, version=PORTABLE, about=about)
    prune(directory, keep=keep, keep_every=keep_every)
    return path


class PortableSaver:
    """Saves checkpoints with `save_checkpoint`, whose options these are; of several processes the first one writes.

    All of them call alike, at the same steps.
    """

    def __init__(self, directory: str | os.PathLike, *, keep: int, keep_every: int = 0, about: dict | None = None):
        self._directory, self._options = directory, {"keep": keep, "keep_every": keep_every, "about": about}

    def check(self, model):
        """ValueError unless this process has all of the model."""
        split = [v.path for v in model.variables if not getattr(v.value, "is_fully_replicated", True)]
        if split and processes.count() > 1:
            advice = "none can write a portable checkpoint: save sharded ones (--checkpoints=sharded)"
            raise ValueError(f"{split[0]} is split over devices of {processes.count()} processes, and {advice}.")

    def save(self, model):
        """Returns when it is on the disk; OSError, on every process, if it cannot be."""
        error = None
        if processes.index() == 0:
            try:
                save_checkpoint(model, self._directory, **self._options)
            except OSError as caught:
                error = caught
        raise_together(error, "the first process could not write it")

    def wait(self):
        """Nothing is under way."""


def raise_together(error: OSError | None, others: str):
    """Raises this process's `error`, or an OSError that says `others` where another process has one."""
    failed = processes.summed(int(error is not None))
    if error is not None:
        raise error
    if failed:
        raise OSError(errno.EIO, others)
