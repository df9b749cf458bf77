"""Models from checkpoints of either kind, and from `.keras` files."""

import contextlib
import os
import pathlib
import random
import re
import zipfile
from collections.abc import Iterator

import keras

from keras_sid2.checkpoints.manifest import MODEL, SHARDED, checkpoint_format
from keras_sid2.checkpoints.sharded import load_sharded


def first_reason(error: Exception) -> str:
    """What keras says of the first weight that could not be loaded, as a sentence."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if not lines:
        return f"{type(error).__name__}."
    reason = " ".join(lines[:2]) if lines[0].endswith(":") else lines[0]
    return reason if reason.endswith(".") else f"{reason}."


def class_missing(error: Exception, path: pathlib.Path) -> str | None:
    """A sentence about a file of a class of the user's that keras does not know yet; None for another error."""
    found = re.search(r"Could not locate class '(\w+)'", str(error))
    return found and (
        f"{path} holds a {found[1]}, a class that is not imported: import what defines and registers it first, "
        "in a program by --config=FILE."
    )


def load_model(path: str | os.PathLike):
    """The SiD2Model in a checkpoint or a `.keras` file; ValueError, in one sentence, if there is none to be read.

    Which kind of checkpoint it is, its manifest says.
    On jax each process reads the parts of a sharded checkpoint that lie on its devices; the other backends cannot.
    """
    path = pathlib.Path(path)
    sharded = path.is_dir() and checkpoint_format(path) == SHARDED
    file = path / MODEL if path.is_dir() and not sharded else path
    try:
        with _alike():
            model = load_sharded(path) if sharded else keras.saving.load_model(file)
    except Exception as error:  # keras raises many kinds, from zip's, h5py's and its own
        if told := class_missing(error, file):
            raise ValueError(told) from error
        if sharded:
            raise
        reason = first_reason(error)
        if file.is_file() and not zipfile.is_zipfile(file):  # of which keras says that it is not there
            reason = "it is no zip archive, or not all of one."
        raise ValueError(f"{file} is no .keras file of a SiD2Model that can be read: {reason}") from error
    return _checked(model, file)


@contextlib.contextmanager
def _alike() -> Iterator[None]:
    """Weights made in it, before they are loaded, are the same in all processes: jax refuses others on a common mesh.

    keras draws the seeds of its initializers from Python's random numbers, which are as before behind it.
    """
    state = random.getstate()
    random.seed(0)
    try:
        yield
    finally:
        random.setstate(state)


def _checked(model, path: pathlib.Path):
    if not hasattr(model, "generate"):
        raise ValueError(f"{path} holds a {type(model).__name__}, not a SiD2Model.")
    return model
