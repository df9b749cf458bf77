"""Checkpoints of a run: one `.keras` file a step, written whole or not at all, in a folder of its own.

A file holds the configuration, the weights, the optimizer with its averages and its step counter: all that a run is,
since its noise and its data are functions of (seed, step). It loads on any backend, and nothing in it is unpickled.
"""

import os
import pathlib
import re

import h5py
import keras

from keras_sid2.files import written_whole
from keras_sid2.training.optimizer import steps_done

_NAME = re.compile(r"step_(\d{10})\.keras")


def checkpoints(directory: str | os.PathLike) -> list[pathlib.Path]:
    """The checkpoints in a folder, oldest first; none if there is no such folder."""
    directory = pathlib.Path(directory)
    found = directory.iterdir() if directory.is_dir() else ()
    return sorted(path for path in found if _NAME.fullmatch(path.name))


def checkpoint_step(path: str | os.PathLike) -> int:
    """The step that a checkpoint's name says."""
    return int(_NAME.fullmatch(pathlib.Path(path).name).group(1))


def save_checkpoint(model, directory: str | os.PathLike, *, keep: int) -> pathlib.Path:
    """Writes the model as it is, then removes all but the `keep` newest checkpoints."""
    path = pathlib.Path(directory) / f"step_{steps_done(model):010d}.keras"
    with written_whole(path) as temporary:
        model.save(temporary)
    for old in checkpoints(directory)[:-keep]:
        old.unlink()
    return path


def check_weights_file(path: str | os.PathLike, *, expected: int):
    """ValueError unless a .weights.h5 file holds `expected` weights; keras passes over those it finds no place for."""
    if not str(path).endswith(".weights.h5"):
        return
    found = []
    with h5py.File(path) as file:
        file.visititems(lambda name, item: found.append(name) if isinstance(item, h5py.Dataset) else None)
    found = [name for name in found if name.startswith("layers/")]
    if len(found) != expected:
        raise ValueError(
            f"{path} does not hold the weights of this model's network: they are {len(found)}, not {expected}."
        )


def load_model(path: str | os.PathLike):
    """The SiD2Model in a `.keras` file; ValueError, in one sentence, if there is none that can be read."""
    try:
        model = keras.saving.load_model(path)
    except Exception as error:  # keras raises many kinds, from zip's, h5py's and its own
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ValueError(f"{path} is no .keras file of a SiD2Model that can be read: {reason}") from error
    if not hasattr(model, "generate"):
        raise ValueError(f"{path} holds a {type(model).__name__}, not a SiD2Model.")
    return model
