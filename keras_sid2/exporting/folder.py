"""The folder of an exported step:

step.json      what the runner must know: schedule, conditions, channels, inputs, where the weights lie
runner.py      exporting/runner.py
weights.bin    float32, little-endian, of onnx, torch and jax; onnx reads it as external data
plain.* and guided.*, or savedmodel/1 of tensorflow, with its own weights
"""

import importlib.util
import os
import pathlib
import shutil

import keras
import numpy as np

from keras_sid2.backend import steps_done
from keras_sid2.diffusion.schedules import CosineInterpolatedSchedule, CosineSchedule, ShiftedCosineSchedule
from keras_sid2.exporting.formats import WEIGHTS, WRITERS
from keras_sid2.exporting.step import DenoisingStep
from keras_sid2.io.atomic import write_json, written_folder
from keras_sid2.starting import EXPORT_BACKENDS
from keras_sid2.version import __version__

DESCRIPTION = "step.json"
_PAGE = 4096  # so that weights can be mapped into memory where they lie
_PACKAGES = {"onnx": ("onnx", "onnxscript")}  # beside the backend
_USUAL = (512, {"name": "ddpm", "variance": 0.2})  # generate's number of steps and sampler


def export_step(model, folder: str | os.PathLike, format: str | None = None, *, use_ema=True, overwrite=False):
    """Writes one denoising step of a SiD2Model and a runner for it, atomically.

    Args:
        folder: a new one; with `overwrite` an exported step may be there, which is replaced.
        format: "savedmodel" on tensorflow, "torch" or "onnx" on torch, "jax" on jax; None is the backend's own.
        use_ema: the averages of the weights, where there are any.

    Raises ValueError for another format, backend, folder, schedule or condition, ImportError for a missing package.
    """
    format = check_format(format)
    folder = check_target(folder, overwrite=overwrite)
    step = DenoisingStep(model, use_ema=use_ema)
    about = {"format": format, **describe(step)}
    with written_folder(folder) as temporary:
        if format != "savedmodel":
            about["weights"] = _write_weights(temporary / WEIGHTS, step.weights)
        WRITERS[format](step, temporary, about)
        shutil.copyfile(pathlib.Path(__file__).with_name("runner.py"), temporary / "runner.py")
        write_json(temporary / DESCRIPTION, about)


def check_format(format: str | None) -> str:
    """The format; ValueError or ImportError unless it can be written here."""
    here = keras.backend.backend()
    own = next(name for name, needed in reversed(EXPORT_BACKENDS.items()) if needed == here)
    format = own if format is None else format
    if format not in EXPORT_BACKENDS:
        raise ValueError(f"format must be one of {', '.join(EXPORT_BACKENDS)}, got {format!r}.")
    if here != EXPORT_BACKENDS[format]:
        advice = f"set KERAS_BACKEND={EXPORT_BACKENDS[format]} and load the model there, or use sid2-export"
        raise ValueError(f"The format {format} is written on {EXPORT_BACKENDS[format]}, and this is {here}: {advice}.")
    lacking = [name for name in _PACKAGES.get(format, ()) if not importlib.util.find_spec(name)]
    if lacking:
        raise ImportError(f"The format {format} needs {' and '.join(lacking)}: pip install 'keras_sid2[{format}]'.")
    return format


def check_target(folder: str | os.PathLike, *, overwrite: bool) -> pathlib.Path:
    """The folder; ValueError where something is that must stay."""
    folder = pathlib.Path(folder)
    if any(parent.is_file() for parent in folder.parents):
        raise ValueError(f"An exported step is a folder, and {folder} would lie in a file.")
    if folder.is_symlink() or folder.exists():
        ours = folder.is_dir() and (folder / DESCRIPTION).is_file() and (folder / "runner.py").is_file()
        if not (overwrite and ours):
            advice = "give another folder" + (", or overwrite it (overwrite=True, --overwrite)" if ours else "")
            raise ValueError(f"{folder} is there already{'' if ours else ', and is no exported step'}: {advice}.")
    return folder


def _write_weights(path: pathlib.Path, weights: list) -> list[dict]:
    """Where each lies in the file, in bytes."""
    found = []
    with open(path, "wb") as file:
        for name, values in weights:
            file.write(bytes(-file.tell() % _PAGE))
            found.append({"name": name, "shape": list(values.shape), "offset": file.tell()})
            file.write(np.ascontiguousarray(values, "<f4").data)
    return found


def describe(step: DenoisingStep) -> dict:
    """What step.json says of a step, but for its format; ValueError for a schedule that it cannot say."""
    model = step.model
    steps, sampler = _USUAL if model.student_steps is None else (model.student_steps, {"name": "ddpm", "variance": 0.0})
    inputs = {name: step.inputs(name) for name in step.functions}
    kinds = {
        function: {name: {"shape": list(shape), "dtype": dtype} for name, (shape, dtype) in found.items()}
        for function, found in inputs.items()
    }
    return {
        "keras_sid2": __version__,
        "sample_shape": list(model.sample_shape),
        "training_step": steps_done(model),
        "schedule": _schedule(model.schedule),
        "num_steps": steps,
        "sampler": sampler,
        "channels": _channels(model.channels),
        "conditions": {n: _condition(c, n in model.guided_conditions) for n, c in model.conditions.items()},
        "inputs": kinds,
    }


def _schedule(schedule) -> dict:
    """The ends of the cosine, and what is added to its logsnr at t = 0 and 1."""
    shifts = {
        CosineSchedule: lambda: (0.0, 0.0),
        ShiftedCosineSchedule: lambda: (2.0 * np.log(schedule.noise_resolution / schedule.image_resolution),) * 2,
        CosineInterpolatedSchedule: lambda: schedule.shifts(),
    }
    if type(schedule) not in shifts:
        known = ", ".join(kind.__name__ for kind in shifts)
        raise ValueError(f"The runner of an exported step knows {known}, and this model's schedule is {schedule!r}.")
    clean, noisy = map(float, shifts[type(schedule)]())
    ends = {"logsnr_min": schedule.logsnr_min, "logsnr_max": schedule.logsnr_max}
    return {**ends, "shift_at_0": clean, "shift_at_1": noisy}


def _channels(channels) -> dict | None:
    if channels is None:
        return None
    return {"names": list(channels.names), "mean": list(channels.mean), "std": list(channels.std)}


def _condition(condition, guided: bool) -> dict:
    null = np.asarray(condition.null)
    alike = null.size and (null == null.flat[0]).all()
    found = {"kind": type(condition).__name__, "shape": list(condition.shape), "dtype": condition.dtype}
    found |= {"null": null.flat[0].item() if alike else null.tolist(), "guided": guided}
    found["channels"] = _channels(condition.channels)
    if getattr(condition, "encoder", ""):
        found["encoder"] = condition.encoder  # of texts: another's embeddings mean nothing to the network
    if condition.from_samples:
        found["given"] = list(condition.counts)
    return found
