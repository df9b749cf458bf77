"""sid2-export: the newest valid checkpoint of a run as one file, which every backend reads, or for other runtimes.

    KERAS_BACKEND=jax sid2-export --workdir=runs/digits --out=digits.keras
    sid2-export --workdir=runs/digits --step=20000 --out=digits.keras
    sid2-export --workdir=runs/digits --format=onnx --out=digits_onnx

The file holds what the checkpoint does: weights, averages, optimizer, step. A sharded checkpoint is read on jax, onto
one device: with JAX_PLATFORMS=cpu that is the machine's memory. A portable one is copied, once its digest is right.

--format=savedmodel, onnx, torch or jax writes a folder instead: one denoising step of the averages, whatever the
backend of the run, with runner.py, which draws samples by it without Keras and this library.
"""

import functools
import pathlib
import shutil

from keras_sid2 import MomentMatchingModel, SiD2Model, checkpoints
from keras_sid2.bin.common import make_folders, newest_checkpoint, print_result, run_program
from keras_sid2.bin.flag_table import check
from keras_sid2.bin.model_files import load_model_file, model_path
from keras_sid2.bin.preset_flags import read_config
from keras_sid2.bin.tables.export import ExportFlags
from keras_sid2.exporting import export_step
from keras_sid2.exporting.folder import check_format, check_target
from keras_sid2.io.atomic import atomic_write


def export(values):
    """Writes the file and prints what it holds. ValueError or FileNotFoundError if that cannot be."""
    check(ExportFlags, values)
    out = pathlib.Path(values.out)
    if values.format == "keras":
        _check_file(out, values)
    else:
        check_format(values.format)
        check_target(out, overwrite=values.overwrite)
    if values.config:
        read_config(values.config)
    if values.step is not None:
        path = _checkpoint(values)
    else:
        path = (newest_checkpoint if values.format == "keras" else model_path)("workdir", values.workdir)
    make_folders("out", out, out.parent)
    if values.format == "keras":
        _write_file(path, out, student=values.student)
    else:
        export_step(_loaded(path, values.student), out, values.format, overwrite=values.overwrite)
    print_result(f"{out} is the checkpoint {path.name} of {values.workdir}.")


def _check_file(out: pathlib.Path, values):
    if out.suffix != ".keras":
        raise ValueError(f"--out must end in .keras, got {values.out!r}.")
    if out.is_dir() or any(parent.is_file() for parent in out.parents):
        raise ValueError(f"--out must be a file in a folder, got {values.out!r}, where there is a folder or no folder.")
    if out.exists() and not values.overwrite:
        raise ValueError(f"--out={out} is there already: give another, or --overwrite.")


def _write_file(path: pathlib.Path, out: pathlib.Path, *, student: bool):
    with atomic_write(out) as temporary:
        if not student and checkpoints.checkpoint_format(path) == checkpoints.PORTABLE:
            shutil.copyfile(path / checkpoints.MODEL, temporary)
        else:
            _loaded(path, student).save(temporary)


def _loaded(path: pathlib.Path, student: bool) -> SiD2Model:
    return _student(path) if student else load_model_file(path)


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
