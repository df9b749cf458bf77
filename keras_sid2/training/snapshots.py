"""Snapshots of power-function averages along a run, and averages of other widths made of them afterwards.

    snapshots/step_0000000500.npz    the averages of all stored widths, float32 or float16; no pickle

A file is a zip of arrays: "about" (JSON as bytes: step, widths, names and shapes of the weights) and "WIDTH/WEIGHT",
both counted from 0. Whatever is written or read is one weight of one snapshot at a time.
"""

import contextlib
import json
import os
import pathlib
import re
import zipfile
from collections.abc import Iterator, Sequence

import numpy as np

from keras_sid2 import backend
from keras_sid2.io.atomic import atomic_write
from keras_sid2.parallel import processes
from keras_sid2.training.power_averages import REACH, WIDEST, fitted, reach

DTYPES = ("float32", "float16")
_NAME = re.compile(r"step_(\d{10})\.npz")
_ABOUT = "about"


def snapshots(folder: str | os.PathLike) -> dict[int, pathlib.Path]:
    """The files in a folder by their steps, which ascend."""
    folder = pathlib.Path(folder)
    found = {_NAME.fullmatch(path.name): path for path in (folder.iterdir() if folder.is_dir() else ())}
    return dict(sorted((int(name[1]), path) for name, path in found.items() if name))


def save_snapshot(model, folder: str | os.PathLike, *, dtype: str = "float32") -> pathlib.Path:
    """Writes the power-function averages of a model, atomically; of several processes all call, the first one writes.

    ValueError for a model without any, OSError if the disk fails.
    """
    if not model.width_averages:
        raise ValueError("Snapshots are of power-function averages: give AdamRecipe(ema_widths=(0.05, 0.1)).")
    step, (weights, *_) = backend.steps_done(model), model.width_averages.values()
    shapes = [list(v.shape) for v in weights]
    about = {"step": step, "widths": [*model.width_averages], "names": [v.path for v in weights], "shapes": shapes}
    path = pathlib.Path(folder) / f"step_{step:010d}.npz"
    arrays = (
        (f"{i}/{j}", backend.gathered(average.value).astype(dtype, copy=False))
        for i, averages in enumerate(model.width_averages.values())
        for j, average in enumerate(averages)
    )
    try:
        if processes.index() == 0:
            with atomic_write(path) as temporary, zipfile.ZipFile(temporary, "w") as file:
                _add(file, _ABOUT, np.frombuffer(json.dumps(about).encode(), "uint8"))
                for name, array in arrays:
                    _add(file, name, array)
    finally:
        for _ in arrays:  # of which others may wait for the parts that lie here
            pass
    return path


def _add(file: zipfile.ZipFile, name: str, array: np.ndarray):
    with file.open(f"{name}.npy", "w", force_zip64=True) as part:
        np.lib.format.write_array(part, np.ascontiguousarray(array), allow_pickle=False)


def drop_snapshots_after(folder: str | os.PathLike, step: int):
    """Removes those that a run that goes on from `step` will write again."""
    for other, path in snapshots(folder).items():
        if other > step:
            path.unlink()


def snapshot_bytes(weights: int, widths: Sequence[float], dtype: str) -> int:
    """Of one file, but for names."""
    return weights * len(widths) * np.dtype(dtype).itemsize


class Reconstruction:
    """The average of `width` at a snapshot's `step` (None: the newest), of all snapshots up to it.

    Iterating gives each weight, float32, in the order of the files. `missed` is the share of the profile's norm that
    the fit leaves out. Raises FileNotFoundError for a folder without snapshots, and ValueError for a step that has
    none, a width that is none or out of their reach, and files that are damaged or differ in widths or weights.
    """

    def __init__(self, folder: str | os.PathLike, width: float, *, step: int | None = None):
        found = snapshots(folder)
        if not found:
            advice = "sid2-train writes them with --ema_widths=0.05,0.1 --snapshot_every=N"
            raise FileNotFoundError(f"{folder} has no snapshots of averages: {advice}.")
        if not 0.0 < width <= WIDEST:
            raise ValueError(f"The width of an average must be in (0, {WIDEST}], got {width:g}.")
        self.width, self.step = float(width), max(found) if step is None else step
        if self.step not in found:
            there = f"{len(found)} of steps {min(found)} to {max(found)}"
            near = min(found, key=lambda other: abs(other - self.step))
            raise ValueError(f"{folder} has no snapshot of step {self.step}, but {there}: the nearest is {near}.")
        self.paths = [path for other, path in found.items() if other <= self.step]
        abouts = [_about(path) for path in self.paths]
        for path, about in zip(self.paths, abouts, strict=True):
            if any(about[key] != abouts[0][key] for key in ("widths", "shapes")):
                wrong = f"{path} and {self.paths[0]} are of different widths or weights"
                raise ValueError(f"{wrong}: keep those of one run.")
        self._shapes, widths = abouts[0]["shapes"], abouts[0]["widths"]
        steps = [about["step"] for about in abouts]
        self.coefficients, self.missed = fitted(self.width, self.step, steps, widths)
        if self.missed > REACH:
            low, high = reach(self.step, steps, widths)
            told = f"the {len(steps)} snapshots in {folder} up to step {self.step} reach {low:.3g} to {high:.3g}"
            advice = "choose one of these, or train with a smaller --snapshot_every"
            raise ValueError(f"An average of width {width:g} is out of reach, {told}: {advice}.")

    def shapes(self) -> list[tuple[int, ...]]:
        """Of the weights."""
        return [tuple(shape) for shape in self._shapes]

    def __iter__(self) -> Iterator[np.ndarray]:
        with contextlib.ExitStack() as stack:
            files = [stack.enter_context(np.load(path, allow_pickle=False)) for path in self.paths]
            for j in range(len(self._shapes)):
                total = 0.0
                for path, file, row in zip(self.paths, files, self.coefficients, strict=True):
                    for i, coefficient in enumerate(row):
                        total = total + coefficient * _array(path, file, f"{i}/{j}").astype("float64")
                yield np.asarray(total, "float32")


def _about(path: pathlib.Path) -> dict:
    with _one_sentence(path), np.load(path, allow_pickle=False) as file:
        about = json.loads(file[_ABOUT].tobytes())
        if about["step"] != int(_NAME.fullmatch(path.name)[1]):
            raise ValueError("its name is of another step")
        return {key: about[key] for key in ("step", "widths", "shapes")}


def _array(path: pathlib.Path, file, name: str) -> np.ndarray:
    with _one_sentence(path):
        return file[name]


@contextlib.contextmanager
def _one_sentence(path: pathlib.Path) -> Iterator[None]:
    try:
        yield
    except (ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} is no snapshot that can be read ({error}): remove it.") from error
