"""sid2-train --verify_resume: does a run that was stopped and continued end in the same bits, on this machine?

Three processes with the run's own settings, in a temporary folder: one does 2 n steps; one n, and another the other n.
"""

import dataclasses
import pathlib
import subprocess
import sys
import tempfile

import keras

from keras_sid2.bin.train_settings import TrainSettings
from keras_sid2.checkpoints import checkpoints, load_model


def verify_resume(settings: TrainSettings, *, steps: int) -> str:
    """A sentence with what was compared, after `steps` and as many again.

    Raises ValueError if a process fails, and FloatingPointError, naming the first variable that differs, if the runs
    do not end alike.
    """
    with tempfile.TemporaryDirectory(prefix="verify_resume_") as folder:
        whole, parts = (pathlib.Path(folder) / name for name in ("whole", "parts"))
        _train(settings, whole, 2 * steps)
        _train(settings, parts, steps)
        _train(settings, parts, 2 * steps)
        return _compared(_variables(whole), _variables(parts), steps)


def _train(settings: TrainSettings, workdir: pathlib.Path, steps: int):
    every = dict.fromkeys(("log_every", "eval_every", "checkpoint_every"), steps)
    never = dict.fromkeys(("sample_every", "measure_every", "keep_every"), 0)
    changed = {"workdir": str(workdir), "steps": steps, "eval_split": None, "log_to": [], **every, **never}
    texts = [f"--set={change}" for change in settings.set]
    for field in dataclasses.fields(settings):
        value = changed.get(field.name, getattr(settings, field.name))
        if value != field.default and field.name != "set" and "needs" not in field.metadata:  # of what is never done
            texts.append(f"--{field.name}={','.join(value) if isinstance(value, list) else value}")
    result = subprocess.run([sys.executable, "-m", "keras_sid2.bin.train", *texts], capture_output=True, text=True)
    if result.returncode:
        raise ValueError(f"sid2-train ended with {result.returncode}: {result.stderr.strip().splitlines()[-1]}")


def _variables(workdir: pathlib.Path) -> dict:
    """Weights and all that the optimizer keeps, by name, from the newest checkpoint."""
    model = load_model(checkpoints(workdir / "checkpoints")[-1])
    return {v.path: keras.ops.convert_to_numpy(v.value) for v in (*model.variables, *model.optimizer.variables)}


def _compared(whole: dict, parts: dict, steps: int) -> str:
    ways = f"{2 * steps} steps at a go and {steps} + {steps} steps in two processes"
    for name, values in whole.items():
        if values.tobytes() != parts[name].tobytes():
            far = abs(values.astype("float64") - parts[name].astype("float64")).max()
            raise FloatingPointError(f"Resuming is not exact here: {name} differs by up to {far:.3g} after {ways}.")
    numbers = sum(values.size for values in whole.values())
    return f"Resuming is exact: {len(whole)} variables with {numbers:,} numbers are equal to the bit after {ways}."
