"""`import keras_sid2`, and the programs, where Keras's backend is missing, misspelt or none of ours."""

import json
import os
import subprocess
import sys

import pytest

pytestmark = pytest.mark.backend_free

HIDE = "import sys; sys.modules.update(dict.fromkeys({hidden!r})); "
IMPORT = HIDE + "sys.argv[0] = {program!r}; import keras_sid2"


def start(program: str = "", hidden=(), **environment) -> subprocess.CompletedProcess:
    """`import keras_sid2` as in a program of that name, on a machine without the packages `hidden`."""
    code = IMPORT.format(hidden=hidden, program=program)
    environment = {key: str(value) for key, value in {**os.environ, **environment}.items() if value is not None}
    return subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)


@pytest.mark.parametrize(
    "hidden, backend, sentence",
    [
        (
            (),
            "tenserflow",
            "backend is 'tenserflow' (by KERAS_BACKEND or keras.json), which is none of ours: set KERAS",
        ),
        ((), "numpy", "backend is 'numpy'"),
        (
            ("jax",),
            "jax",
            "backend is jax (by KERAS_BACKEND, keras.json or default), which is not installed: set KERAS",
        ),
        (("torch",), "torch", "to what is installed here, jax or tensorflow."),
        (("jax", "tensorflow", "torch"), "torch", "which is not installed, and none of ours is: pip install"),
    ],
)
def test_one_sentence_says_what_is_wrong_and_what_helps(hidden, backend, sentence):
    found = start(hidden=hidden, KERAS_BACKEND=backend)
    assert found.returncode == 1
    last = found.stderr.strip().splitlines()[-1]
    assert last.startswith("ImportError: ") and sentence in last


@pytest.mark.parametrize(
    "config, sentence",
    [
        ({"backend": "tenserflow"}, "backend is 'tenserflow'"),
        ({"backend": "torch"}, "backend is torch (by KERAS_BACKEND, keras.json or default), which is not installed"),
        ({"backend": "jax", "floatx": "float8"}, "Keras cannot be imported: Invalid `floatx`"),
    ],
)
def test_or_of_keras_json(tmp_path, config, sentence):
    (tmp_path / "keras.json").write_text(json.dumps(config))
    found = start(hidden=("torch",), KERAS_BACKEND=None, KERAS_HOME=tmp_path)
    assert found.returncode == 1 and sentence in found.stderr.strip().splitlines()[-1]


def test_a_program_ends_with_the_sentence_alone():
    found = start(program="/usr/bin/sid2-sample", KERAS_BACKEND="tenserflow")
    assert found.returncode == 2
    (line,) = found.stderr.strip().splitlines()
    assert line.startswith("sid2-sample: Keras's backend is 'tenserflow' (by --backend, KERAS_BACKEND or keras.json)")


def run(*arguments: str, **environment) -> subprocess.CompletedProcess:
    environment = {**os.environ, **environment}
    return subprocess.run([sys.executable, *arguments], env=environment, capture_output=True, text=True)


@pytest.mark.parametrize(
    "how", [("-m", "keras_sid2.bin.plan"), ("-mkeras_sid2.bin.plan",), ("-um", "keras_sid2.bin.plan")]
)
def test_so_does_python_m(how):
    found = run(*how, KERAS_BACKEND="tenserflow")
    assert found.returncode == 2
    (line,) = found.stderr.strip().splitlines()
    assert line.startswith("sid2-plan: Keras's backend is 'tenserflow'")


def test_a_programs_flag_comes_before_the_environment():
    argv = ["bin/sid2-sample", "--seed", "1", "--backend=x", "-backend", "jax"]
    code = f"import sys; sys.argv = {argv!r}; import keras_sid2, keras; print(keras.backend.backend())"
    found = run("-c", code, KERAS_BACKEND="torch")
    assert found.stdout.split() == ["jax"] and not found.stderr


@pytest.mark.parametrize("wrong", [("--backend=numpy",), ("--backend", "tenserflow")])
def test_a_wrong_one_is_refused_by_its_name(wrong):
    found = run("-m", "keras_sid2.bin.sample", *wrong)
    assert found.returncode == 2 and len(found.stderr.strip().splitlines()) == 1
    assert "(by --backend, KERAS_BACKEND or keras.json), which is none of ours: set KERAS_BACKEND to" in found.stderr


def test_the_programs_by_one_name():
    found = run("-m", "pipelines.programs", "sample", "--backend=jax", "--num_images=0", KERAS_BACKEND="torch")
    assert found.returncode == 2 and found.stderr.startswith("sid2-sample: ")
    for told, code in ((("--help",), 0), ((), 0), (("plam",), 2)):  # which need no Keras
        found = run("-m", "pipelines.programs", *told, KERAS_BACKEND="none")
        assert found.returncode == code and "evaluate" in found.stdout + found.stderr


@pytest.mark.parametrize(
    "given, hidden, sentence",
    [
        (["--format=jax", "--backend=torch"], (), "--format=jax is written on jax, got --backend=torch: leave"),
        (
            ["--format", "savedmodel"],
            ("tensorflow",),
            "--format=savedmodel needs tensorflow, which is not installed: pip",
        ),
    ],
)
def test_sid2_export_takes_the_backend_of_its_format(given, hidden, sentence):
    code = IMPORT.format(hidden=(), program="sid2-export")
    hide = f"import importlib.util as u; f = u.find_spec; u.find_spec = lambda n: None if n in {hidden!r} else f(n); "
    command = [sys.executable, "-c", hide + code, "--workdir=run", "--out=step", *given]
    found = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "KERAS_BACKEND": "numpy"})
    assert found.returncode == 2 and sentence in found.stderr
    assert len(found.stderr.strip().splitlines()) == 1
