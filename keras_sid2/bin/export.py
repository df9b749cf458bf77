"""sid2-export: the newest valid checkpoint of a run as one file, which every backend reads.

    KERAS_BACKEND=jax sid2-export --workdir=runs/digits --out=digits.keras
    sid2-export --workdir=runs/digits --step=20000 --out=digits.keras

The file holds what the checkpoint does: weights, averages, optimizer, step. A sharded checkpoint is read on jax, onto
one device: with JAX_PLATFORMS=cpu that is the machine's memory. A portable one is copied, once its digest is right.
"""

import functools
import pathlib
import shutil

from keras_sid2 import MomentMatchingModel, SiD2Model, checkpoints
from keras_sid2.bin.common import make_folders, newest_checkpoint, print_result, run_program
from keras_sid2.bin.flag_table import check
from keras_sid2.bin.preset_flags import read_config
from keras_sid2.bin.tables.export import ExportFlags
from keras_sid2.io.atomic import atomic_write


def export(values):
    """Writes the file and prints what it holds. ValueError or FileNotFoundError if that cannot be."""
    check(ExportFlags, values)
    out = pathlib.Path(values.out)
    if out.suffix != ".keras":
        raise ValueError(f"--out must end in .keras, got {values.out!r}.")
    if out.is_dir() or any(parent.is_file() for parent in out.parents):
        raise ValueError(f"--out must be a file in a folder, got {values.out!r}, where there is a folder or no folder.")
    if out.exists() and not values.overwrite:
        raise ValueError(f"--out={out} is there already: give another, or --overwrite.")
    if values.config:
        read_config(values.config)
    path = newest_checkpoint("workdir", values.workdir) if values.step is None else _checkpoint(values)
    make_folders("out", out, out.parent)
    with atomic_write(out) as temporary:
        if values.student:
            _student(path).save(temporary)
        elif checkpoints.checkpoint_format(path) == checkpoints.PORTABLE:
            shutil.copyfile(path / checkpoints.MODEL, temporary)
        else:
            checkpoints.load_model(path).save(temporary)
    print_result(f"{out} is the checkpoint {path.name} of {values.workdir}.")


def _student(path: pathlib.Path) -> SiD2Model:
    model = checkpoints.load_model(path)
    if not isinstance(model, MomentMatchingModel):
        raise ValueError(f"--student is of runs of sid2-distill, and {path} holds a {type(model).__name__}.")
    return model.student()


def _checkpoint(values) -> pathlib.Path:
    """That of --step."""
    folder = pathlib.Path(values.workdir) / "checkpoints"
    there = [checkpoints.checkpoint_step(path) for path in checkpoints.checkpoints(folder)]
    if values.step not in there:
        has = ", ".join(map(str, there)) or "none"
        raise ValueError(f"{folder} has no checkpoint of --step={values.step}; it has {has}.")
    path = checkpoints.checkpoint_path(folder, values.step)
    if found := checkpoints.fault(path):
        raise ValueError(f"{path} is not valid: {found}.")
    return path


run = functools.partial(run_program, export, "sid2-export", ExportFlags)

if __name__ == "__main__":
    run()
