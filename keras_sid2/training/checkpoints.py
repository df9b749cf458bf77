"""Checkpoints of a run: a folder a step, written whole or not at all, that says itself whether it is sound.

    step_0000000500/model.keras      configuration, weights, optimizer with its averages and its step counter
    step_0000000500/manifest.json    step, bytes and SHA-256 of the other file, versions, and what the run adds

Both are written under another name, flushed to the disk, and renamed together. model.keras is all that a run is, since
its noise and its data are functions of (seed, step); it loads on any backend, and nothing in it is unpickled.
"""

import hashlib
import json
import os
import pathlib
import re
import shutil
import tempfile
from collections.abc import Callable

import h5py
import keras

from keras_sid2.files import umask
from keras_sid2.training.optimizer import steps_done
from keras_sid2.version import __version__

MODEL, MANIFEST = "model.keras", "manifest.json"
_NAME = re.compile(r"step_(\d{10})")
_FORMAT = 1


def checkpoints(directory: str | os.PathLike) -> list[pathlib.Path]:
    """The checkpoints' folders in a folder, oldest first; none if there is no such folder."""
    directory = pathlib.Path(directory)
    found = directory.iterdir() if directory.is_dir() else ()
    return sorted(path for path in found if _NAME.fullmatch(path.name) and path.is_dir())


def checkpoint_step(path: str | os.PathLike) -> int:
    """The step that a checkpoint's name says."""
    return int(_NAME.fullmatch(pathlib.Path(path).name).group(1))


def save_checkpoint(
    model, directory: str | os.PathLike, *, keep: int, keep_every: int = 0, about: dict | None = None
) -> pathlib.Path:
    """Writes the model as it is; then removes all but the `keep` newest, and those whose step `keep_every` divides.

    `about` goes into the manifest, plain values. OSError if it cannot be written; what was there before stays.
    """
    directory, step = pathlib.Path(directory), steps_done(model)
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / f"step_{step:010d}"
    temporary = pathlib.Path(tempfile.mkdtemp(prefix=".writing-", dir=directory))
    try:
        model.save(temporary / MODEL)
        _write_manifest(temporary, step, about)
        temporary.chmod(0o777 & ~umask())
        if path.exists():  # the same step, saved once more: a rename is all that lies between the two
            os.rename(path, temporary.with_name(f"{temporary.name}-old"))
        os.rename(temporary, path)
        _flush(directory)
    finally:
        for left in (temporary, temporary.with_name(f"{temporary.name}-old")):
            shutil.rmtree(left, ignore_errors=True)
    for old in checkpoints(directory)[:-keep]:
        if not keep_every or checkpoint_step(old) % keep_every:
            shutil.rmtree(old)
    return path


def _write_manifest(folder: pathlib.Path, step: int, about: dict | None):
    _flush(folder / MODEL)
    file = {"bytes": (folder / MODEL).stat().st_size, "sha256": _sha256(folder / MODEL)}
    versions = {"keras_sid2": __version__, "keras": keras.__version__, "backend": keras.backend.backend()}
    manifest = {"format": _FORMAT, "step": step, "files": {MODEL: file}, "versions": versions, **(about or {})}
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n")
    _flush(folder / MANIFEST)


def _flush(path: pathlib.Path):
    """Waits until a file, or the names in a folder, are on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _sha256(path: pathlib.Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fault(path: str | os.PathLike) -> str | None:
    """What is wrong with a checkpoint, in a few words, after reading all of it; None if it is sound.

    OSError if the disk does not answer, which says nothing of the checkpoint; ValueError for one of a newer version.
    """
    path = pathlib.Path(path)
    try:
        manifest = json.loads((path / MANIFEST).read_text())
        step, version, told = int(manifest["step"]), int(manifest["format"]), manifest["files"][MODEL]
        size, expected, digest = (path / MODEL).stat().st_size, int(told["bytes"]), str(told["sha256"])
    except FileNotFoundError as error:
        return f"{pathlib.Path(error.filename).name} is missing"
    except (ValueError, KeyError, TypeError):
        return "its manifest cannot be read"
    if step != checkpoint_step(path):
        return "its manifest is of another step"
    if size != expected:
        return f"{MODEL} has {size} bytes and not {expected}"
    if _sha256(path / MODEL) != digest:
        return f"{MODEL} has another SHA-256 than when it was written"
    if version > _FORMAT:
        raise ValueError(f"{path} was written by a newer version of keras_sid2, in format {version}: use that one.")
    return None


def newest_sound(directory: str | os.PathLike, note: Callable[[str], None], *, set_aside: bool) -> pathlib.Path | None:
    """The newest checkpoint in which nothing is wrong, or None; `note` is called with a sentence for each before it.

    With `set_aside` the unsound ones are renamed, to unsound_step_NNN, so that nothing takes them for checkpoints.
    """
    for path in reversed(checkpoints(directory)):
        found = fault(path)
        if found is None:
            return path
        note(f"{path} is not sound: {found}. {'It is set aside.' if set_aside else 'An earlier one is used.'}")
        if set_aside:
            _set_aside(path)
    return None


def unsound(directory: str | os.PathLike) -> list[pathlib.Path]:
    """Those that were set aside in a folder."""
    return sorted(pathlib.Path(directory).glob("unsound_step_*"))


def _set_aside(path: pathlib.Path):
    aside = path.with_name(f"unsound_{path.name}")
    number = 1
    while aside.exists():
        number += 1
        aside = path.with_name(f"unsound_{path.name}_{number}")
    path.rename(aside)


def remove_unfinished(directory: str | os.PathLike):
    """Removes what a kill in the midst of saving left. Only for the one process that writes there."""
    for left in pathlib.Path(directory).glob(".writing-*"):
        shutil.rmtree(left, ignore_errors=True)


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
    """The SiD2Model in a checkpoint or a `.keras` file; ValueError, in one sentence, if there is none to be read."""
    path = pathlib.Path(path)
    file = path / MODEL if path.is_dir() else path
    try:
        model = keras.saving.load_model(file)
    except Exception as error:  # keras raises many kinds, from zip's, h5py's and its own
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ValueError(f"{file} is no .keras file of a SiD2Model that can be read: {reason}") from error
    if not hasattr(model, "generate"):
        raise ValueError(f"{file} holds a {type(model).__name__}, not a SiD2Model.")
    return model
