"""Checkpoints of a run: a folder a step, written atomically, whose manifest says whether it is valid.

    step_0000000500/model.keras      configuration, weights, averages, count of steps, optimizer; for any backend
    step_0000000500/manifest.json    step, bytes and SHA-256 of the other files, versions, and what the run adds

A sharded checkpoint (sharded.py, jax) has model.json and arrays/ in place of model.keras.
"""

import hashlib
import itertools
import json
import os
import pathlib
import re
import shutil
from collections.abc import Callable

import keras

from keras_sid2.io.atomic import file_sha256
from keras_sid2.version import __version__

MODEL, MANIFEST = "model.keras", "manifest.json"
CONFIG, ARRAYS = "model.json", "arrays"  # of a sharded one
PORTABLE, SHARDED = 1, 2  # formats
_NAME = re.compile(r"step_(\d{10})")
_OLD = re.compile(r"\.writing-(step_\d{10})-old")


def checkpoints(directory: str | os.PathLike) -> list[pathlib.Path]:
    """The checkpoints' folders in a folder, oldest first; none if there is no such folder. OSError if it cannot be
    listed, where glob() would find none."""
    directory = pathlib.Path(directory)
    found = directory.iterdir() if directory.is_dir() else ()
    return sorted(path for path in found if _NAME.fullmatch(path.name) and path.is_dir())


def checkpoint_step(path: str | os.PathLike) -> int:
    """The step that a checkpoint's name says."""
    return int(_NAME.fullmatch(pathlib.Path(path).name).group(1))


def checkpoint_path(directory: str | os.PathLike, step: int) -> pathlib.Path:
    """Where the checkpoint of a step lies, or would."""
    return pathlib.Path(directory) / f"step_{step:010d}"


def finish_checkpoint(temporary: pathlib.Path, path: pathlib.Path, *, version: int, about=None, files=None):
    """Gives the written folder `temporary` its manifest, and then the name `path` beside it.

    `files` are entries of the manifest that are known already, by names within the folder. OSError if the disk fails.
    """
    _write_manifest(temporary, checkpoint_step(path), version, about, files or {})
    before = path.with_name(f".writing-{path.name}-old")
    if again := path.exists():  # the same step, saved once more: a rename is all that lies between the two
        shutil.rmtree(before, ignore_errors=True)
        os.rename(path, before)
    try:
        os.rename(temporary, path)
    except OSError:
        if again:
            os.rename(before, path)
        raise
    _flush(path.parent)
    shutil.rmtree(before, ignore_errors=True)


def prune(directory: pathlib.Path, *, keep: int, keep_every: int):
    """Removes all checkpoints but the `keep` newest, and those whose step `keep_every` divides."""
    for old in checkpoints(directory)[:-keep]:
        if not keep_every or checkpoint_step(old) % keep_every:
            going = old.with_name(f".writing-{old.name}-removed")  # so that a kill leaves no half of one
            os.rename(old, going)
            shutil.rmtree(going)


def _write_manifest(folder: pathlib.Path, step: int, version: int, about: dict | None, known: dict[str, dict]):
    for path in sorted(folder.rglob("*"), reverse=True):  # files before the folders that name them
        _flush(path)
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    files = {name: known.get(name) or file_entry(folder / name) for name in names}
    versions = {"keras_sid2": __version__, "keras": keras.__version__, "backend": keras.backend.backend()}
    manifest = {"format": version, "step": step, "files": files, "versions": versions, **(about or {})}
    manifest["sha256"] = _manifest_digest(manifest)
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n")
    _flush(folder / MANIFEST)
    _flush(folder)


def file_entry(path: pathlib.Path) -> dict:
    """What a manifest says of a file."""
    return {"bytes": path.stat().st_size, "sha256": file_sha256(path)}


def _manifest_digest(manifest: dict) -> str:
    """SHA-256 of all that a manifest says but this."""
    rest = {key: value for key, value in manifest.items() if key != "sha256"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def _flush(path: pathlib.Path):
    """Waits until a file, or the names in a folder, are on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def fault(path: str | os.PathLike) -> str | None:
    """What is wrong with a checkpoint, in a few words, after reading all of it; None if it is valid.

    Files that its manifest does not list are ignored. OSError if the disk does not answer, which says nothing of the
    checkpoint; ValueError for one of a newer version.
    """
    path = pathlib.Path(path)
    try:
        manifest = json.loads((path / MANIFEST).read_text())
        step, version = int(manifest["step"]), int(manifest["format"])
        files = {name: (int(told["bytes"]), str(told["sha256"])) for name, told in manifest["files"].items()}
        digest = manifest.get("sha256")
    except FileNotFoundError:
        return f"{MANIFEST} is missing"
    except (ValueError, KeyError, TypeError, AttributeError):
        return "its manifest cannot be read"
    # Portable ones of earlier versions have no digest of their own.
    if digest != _manifest_digest(manifest) and (digest is not None or version != PORTABLE):
        return "its manifest is damaged"
    if step != checkpoint_step(path):
        return "its manifest is of another step"
    _check_version(path, version)
    sharded = CONFIG in files and any(name.startswith(f"{ARRAYS}/") for name in files)
    if not (MODEL in files if version == PORTABLE else sharded):
        return "its manifest lists no model"
    for name, (size, _) in files.items():  # quick, so all of these before the digests
        if not (path / name).is_file():
            return f"{name} is missing"
        if (path / name).stat().st_size != size:
            return f"{name} has {(path / name).stat().st_size} bytes and not {size}"
    changed = (name for name, (_, digest) in files.items() if file_sha256(path / name) != digest)
    return next((f"{name} has another SHA-256 than when it was written" for name in changed), None)


def checkpoint_format(path: str | os.PathLike) -> int:
    """PORTABLE or SHARDED, as a checkpoint's manifest says, whatever else lies there; ValueError if it says neither."""
    path = pathlib.Path(path)
    try:
        version = int(json.loads((path / MANIFEST).read_text())["format"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is no checkpoint that can be read: it has no sound {MANIFEST}.") from error
    _check_version(path, version)
    return version


def _check_version(path: pathlib.Path, version: int):
    if version not in (PORTABLE, SHARDED):
        raise ValueError(f"{path} was written by a newer version of keras_sid2, in format {version}: use that one.")


def first_line(error: Exception) -> str:
    """What an error says, without its number and in one line."""
    text = (getattr(error, "strerror", None) or str(error)).strip()
    return text.splitlines()[0] if text else type(error).__name__


def newest_sound(directory: str | os.PathLike, note: Callable[[str], None], *, set_aside: bool) -> pathlib.Path | None:
    """The newest valid checkpoint, or None; `note` is called with a sentence for each corrupt one that is newer.

    With `set_aside` these are renamed, to corrupt_step_NNN, so that nothing takes them for checkpoints.
    """
    for path in reversed(checkpoints(directory)):
        found = fault(path)
        if found is None:
            return path
        note(f"{path} is not sound: {found}. {'It is set aside.' if set_aside else 'It is passed over.'}")
        if set_aside:
            _set_aside(path)
    return None


def corrupt_checkpoints(directory: str | os.PathLike) -> list[pathlib.Path]:
    """Those that were set aside in a folder."""
    found = pathlib.Path(directory).glob
    return sorted([*found("corrupt_step_*"), *found("unsound_step_*")])  # the second: of version 0.3 and before


def _set_aside(path: pathlib.Path):
    for number in itertools.count(1):
        aside = path.with_name(f"corrupt_{path.name}" + f"_{number}" * (number > 1))
        if not aside.exists():
            return path.rename(aside)


def remove_unfinished(directory: str | os.PathLike):
    """Removes what a kill while saving left, for the one process that writes there. OSError if it cannot.

    A checkpoint that had given its name up for one of the same step, which did not get it yet, has it back.
    """
    for left in list(pathlib.Path(directory).glob(".writing-*")):
        old = _OLD.fullmatch(left.name)
        if old and not left.with_name(old.group(1)).exists():
            os.rename(left, left.with_name(old.group(1)))
        else:
            shutil.rmtree(left, ignore_errors=True)
