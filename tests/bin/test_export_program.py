"""sid2-export: one file of a run's checkpoint, and what it refuses."""

import contextlib
import io
import os
import pathlib
import shutil
import subprocess
import sys

import pytest
from absl import flags
from helpers import BACKEND, only_on_jax
from training_helpers import all_weights, fit_steps, same_weights, tiny_model

from keras_sid2.bin import export
from keras_sid2.bin.flag_table import define
from keras_sid2.checkpoints import MODEL, checkpoints, load_model, save_checkpoint
from keras_sid2.checkpoints.sharded import ShardedSaver
from keras_sid2.starting import EXPORT_BACKENDS

OWN = next(name for name, backend in reversed(EXPORT_BACKENDS.items()) if backend == BACKEND)
OTHER = next(name for name, backend in EXPORT_BACKENDS.items() if backend != BACKEND)
ROOT = pathlib.Path(export.__file__).parent.parent.parent
TESTS = pathlib.Path(__file__).parent.parent
# Without the state of random generators, whose type is another on each backend.
PROGRAM = """
import hashlib, sys
from helpers import to_numpy
from keras_sid2.checkpoints import load_model
def digest(model):
    parts = (*model.trainable_variables, *model.averages(), model.optimizer.iterations)
    return hashlib.sha256(b"".join(to_numpy(v.value).astype("float32").tobytes() for v in parts)).hexdigest()
"""


def run(*given: str) -> str:
    values = flags.FlagValues()
    define(export.ExportFlags, values)
    values(["sid2-export", *given])
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        export.export(values)
    return printed.getvalue()


@pytest.fixture(scope="module")
def portable(tmp_path_factory):
    """A work directory with the checkpoints of steps 0 and 1 of a model."""
    folder, model = tmp_path_factory.mktemp("portable"), tiny_model()
    save_checkpoint(model, folder / "checkpoints", keep=2)
    fit_steps(model, count=16)
    save_checkpoint(model, folder / "checkpoints", keep=2)
    return folder


@pytest.mark.backend_free
def test_a_portable_checkpoint_is_copied(portable, tmp_path):
    out = tmp_path / "new" / "out.keras"
    assert "step_0000000001" in run(f"--workdir={portable}", f"--out={out}")
    assert out.read_bytes() == (checkpoints(portable / "checkpoints")[1] / MODEL).read_bytes()
    assert "step_0000000000" in run(f"--workdir={portable}", f"--out={out}", "--step=0", "--overwrite")
    assert out.read_bytes() == (checkpoints(portable / "checkpoints")[0] / MODEL).read_bytes()
    assert [path.name for path in out.parent.iterdir()] == ["out.keras"]


@pytest.mark.backend_free
@pytest.mark.parametrize(
    "given, error, sentence",
    [
        ([], ValueError, "--workdir, --out must be given"),
        (["--workdir={run}", "--out=model.h5"], ValueError, "--out must end in .keras, got 'model.h5'"),
        (["--workdir={run}", "--out={there}"], ValueError, "is there already: give another, or --overwrite"),
        (["--workdir=/nowhere", "--out=new.keras"], FileNotFoundError, "holds no checkpoints"),
        (
            ["--workdir={run}", "--out=new", "--format=tflite"],
            ValueError,
            "--format must be keras or savedmodel or onnx",
        ),
        (["--workdir={run}", "--out={there}", f"--format={OWN}"], ValueError, "is there already, and is no exported"),
        (["--workdir={run}", "--out=new", f"--format={OTHER}"], ValueError, f"{OTHER} is written on"),
        (["--workdir=/nowhere", "--out=new", f"--format={OWN}"], FileNotFoundError, "--workdir=/nowhere is no file"),
        (["--workdir={run}", "--out=new.keras", "--step=7"], ValueError, "no checkpoint of --step=7; it has 0, 1"),
    ],
)
def test_refusals(portable, tmp_path, given, error, sentence):
    there = tmp_path / "there.keras"
    there.write_text("mine")
    with pytest.raises(error, match=sentence):
        run(*(text.format(run=portable, there=there) for text in given))
    assert there.read_text() == "mine" and len(list(tmp_path.iterdir())) == 1


@pytest.mark.backend_free
def test_a_format_is_written_of_the_checkpoint_s_averages(portable, tmp_path, monkeypatch):
    taken = []
    monkeypatch.setattr(export, "export_step", lambda model, *given, **others: taken.append((model, given, others)))
    run(f"--workdir={portable}", f"--out={tmp_path / 'out'}", f"--format={OWN}", "--step=1")
    ((model, given, others),) = taken
    expected = load_model(checkpoints(portable / "checkpoints")[1])
    assert model.weights_digest() == expected.weights_digest()
    assert given == (tmp_path / "out", OWN) and others == {"overwrite": False}


@pytest.mark.backend_free
def test_a_damaged_one_is_not_exported(portable, tmp_path, capsys):
    shutil.copytree(portable, tmp_path / "run")
    file = checkpoints(tmp_path / "run" / "checkpoints")[1] / MODEL
    file.write_bytes(file.read_bytes()[:-1])
    given = (f"--workdir={tmp_path / 'run'}", f"--out={tmp_path / 'out.keras'}")
    with pytest.raises(ValueError, match="step_0000000001 is not valid: model.keras has"):
        run(*given, "--step=1")
    assert "step_0000000000" in run(*given)
    assert "step_0000000001 is not sound" in capsys.readouterr().err


@pytest.fixture(scope="module")
def sharded(tmp_path_factory):
    """(the file that was made of a sharded checkpoint, its model)."""
    folder, model = tmp_path_factory.mktemp("sharded"), tiny_model()
    fit_steps(model, count=16)
    saver = ShardedSaver(folder / "checkpoints", keep=1)
    saver.save(model)
    saver.wait()
    (checkpoints(folder / "checkpoints")[0] / MODEL).write_text("a stray file, which the manifest does not list")
    run(f"--workdir={folder}", f"--out={folder / 'out.keras'}")
    return folder / "out.keras", model


@only_on_jax
def test_a_sharded_checkpoint_becomes_one_file_with_all_that_it_held(sharded):
    file, model = sharded
    loaded = load_model(file)
    assert same_weights(loaded, model)
    assert [a.dtype for a in all_weights(loaded)] == [a.dtype for a in all_weights(model)]


@only_on_jax
@pytest.mark.slow
@pytest.mark.parametrize("backend", ["tensorflow", "torch"])
def test_which_the_other_backends_read(sharded, backend):
    file, model = sharded
    environment = {**os.environ, "KERAS_BACKEND": backend, "PYTHONPATH": os.pathsep.join([str(ROOT), str(TESTS)])}
    command = [sys.executable, "-c", f"{PROGRAM}print('FOUND', digest(load_model(sys.argv[1])))", file]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    here = {}
    exec(PROGRAM, here)
    assert f"FOUND {here['digest'](model)}" in result.stdout, result.stderr
