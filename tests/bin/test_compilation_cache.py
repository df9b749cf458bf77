"""--compilation_cache: a second start compiles nothing again, `none` writes nothing, and what cannot be is refused."""

import os
import pathlib
import subprocess
import sys

import pytest
from absl import flags
from helpers import BACKEND, only_on_jax, only_on_torch

import keras_sid2
from keras_sid2.bin import compilation_cache
from keras_sid2.bin.compilation_cache import default_folder, keep_compiled
from keras_sid2.bin.demo import DemoFlags
from keras_sid2.bin.evaluate import EvaluateFlags
from keras_sid2.bin.flag_table import define
from keras_sid2.bin.sample import SampleFlags
from keras_sid2.bin.train import TrainFlags

TESTS = pathlib.Path(__file__).resolve().parents[1]
CHOSEN = ("JAX_COMPILATION_CACHE_DIR", "JAX_ENABLE_COMPILATION_CACHE", "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS")
COUNTED = """
import collections
import jax
from training_helpers import register_tiny_digits
from keras_sid2.bin.train import run

found = collections.Counter()
jax.monitoring.register_event_listener(lambda event, **_: found.update([event.rpartition("/")[2]]))
register_tiny_digits()
try:
    run()
finally:
    print("COUNTS", found["compile_requests_use_cache"], found["cache_hits"], found["cache_misses"])
"""


def start(data, workdir, home, *given: str) -> tuple[tuple[int, ...], str]:
    """((programs that the cache was asked for, found there, written there), stderr) of a training run in a process of
    its own, at that home folder."""
    environment = {key: value for key, value in os.environ.items() if key not in (*CHOSEN, "XDG_CACHE_HOME")}
    environment |= {"HOME": str(home), "PYTHONPATH": os.pathsep.join([str(TESTS.parent), str(TESTS)])}
    asked = [f"--data={data}", f"--workdir={workdir}", "--preset=tiny_digits", "--batch_size=16", "--steps=2"]
    command = [sys.executable, "-c", COUNTED, *asked, "--sample_every=0", "--log_every=2", *given]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    counts = done.stdout.partition("COUNTS")[2].split()
    return tuple(map(int, counts)), done.stderr


@only_on_jax
@pytest.mark.slow
def test_a_second_start_compiles_nothing_again(data, tmp_path):
    (asked, hits, misses), log = start(data, tmp_path / "first", tmp_path)
    there = set((tmp_path / ".cache" / "keras_sid2" / "compiled" / "jax").glob("*-cache"))
    assert misses == len(there) == asked - hits > 1 and "\nfirst step after " in log
    again, _ = start(data, tmp_path / "second", tmp_path)
    assert again == (asked, asked, 0)
    assert set((tmp_path / ".cache" / "keras_sid2" / "compiled" / "jax").glob("*-cache")) == there


@pytest.mark.backend_free
@pytest.mark.parametrize("table", [TrainFlags, SampleFlags, EvaluateFlags, DemoFlags])
def test_every_program_that_trains_or_draws_has_the_flag(table):
    values = flags.FlagValues()
    define(table, values)
    values(["program", "--compilation_cache=here"])
    assert values.compilation_cache == "here"


@pytest.fixture
def told(monkeypatch, tmp_path):
    """What backends were told; nothing was chosen by variables, and the home folder is `tmp_path`."""
    found = {}
    for variables in compilation_cache._CHOSEN_BY.values():
        for variable in variables:
            monkeypatch.delenv(variable, raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(compilation_cache, "_keep_in", lambda folder, name: found.update(folder=folder))
    monkeypatch.setattr(compilation_cache, "_keep_none", lambda name: found.update(folder=None))
    return found


def test_folders_by_flag_by_convention_and_by_the_user_s_own_variables(told, tmp_path, monkeypatch):
    if BACKEND == "tensorflow":
        keep_compiled(None)
        with pytest.raises(ValueError, match="--compilation_cache=x does nothing on tensorflow: leave it out"):
            keep_compiled("x")
        assert told == {} and not list(tmp_path.iterdir())
        return
    keep_compiled(None)
    assert told["folder"] == tmp_path / ".cache" / "keras_sid2" / "compiled" / BACKEND
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))
    keep_compiled(None)
    assert told["folder"].parent == default_folder() == tmp_path / "caches" / "keras_sid2" / "compiled"
    keep_compiled("~/mine")
    assert told["folder"] == tmp_path / "mine" / BACKEND and told["folder"].is_dir()
    keep_compiled("none")
    assert told.pop("folder") is None
    monkeypatch.setenv(compilation_cache._CHOSEN_BY[BACKEND][0], "/elsewhere")
    keep_compiled(None)
    assert told == {}


@pytest.mark.skipif(BACKEND == "tensorflow", reason="keeps nothing")
def test_a_folder_that_cannot_be_is_refused_if_it_was_asked_for(told, tmp_path, monkeypatch, capsys):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match=r"--compilation_cache=.*/file cannot be written: Not a directory\."):
        keep_compiled(str(tmp_path / "file"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    keep_compiled(None)
    assert told == {} and "Nothing compiled is kept: " in capsys.readouterr().err


def in_python(program: str, **environment: str) -> str:
    """What a program of a line or two prints, where no variable has chosen a folder."""
    root = pathlib.Path(keras_sid2.__file__).parents[1]
    kept = {key: value for key, value in os.environ.items() if key not in CHOSEN}
    given = {"env": {**kept, **environment}, "cwd": root}
    done = subprocess.run([sys.executable, "-c", program], **given, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@only_on_jax
def test_none_writes_nothing_wherever_a_variable_points(tmp_path):
    program = """
import os
import jax
from jax.experimental.compilation_cache.compilation_cache import reset_cache
from keras_sid2.bin.compilation_cache import keep_compiled

for asked in ("none", None):
    jax.config.update("jax_enable_compilation_cache", True)
    reset_cache()
    keep_compiled(asked)
    jax.jit(lambda x: x + 1)(2.0)
    print(len(os.listdir(os.environ["JAX_COMPILATION_CACHE_DIR"])))
"""
    home, folder = tmp_path / "home", tmp_path / "chosen"
    folder.mkdir()
    variables = {"JAX_COMPILATION_CACHE_DIR": str(folder), "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
    without, beside = in_python(program, HOME=str(home), **variables).split()
    assert without == "0" and int(beside) > 0 and not (home / ".cache" / "keras_sid2").exists()


@only_on_jax
def test_a_folder_that_is_asked_for_is_used_though_a_variable_says_none(tmp_path):
    program = f"""
import os
import jax
from keras_sid2.bin.compilation_cache import keep_compiled

keep_compiled({str(tmp_path)!r})
jax.jit(lambda x: x + 1)(2.0)
print(len(os.listdir({str(tmp_path / "jax")!r})))
"""
    assert int(in_python(program, JAX_ENABLE_COMPILATION_CACHE="0")) > 0


@pytest.mark.skipif(BACKEND != "torch", reason="torch's")
def test_none_is_told_to_a_torch_that_is_imported_already():
    program = """
import torch._inductor.config
from keras_sid2.bin.compilation_cache import keep_compiled

before = torch._inductor.config.force_disable_caches
keep_compiled("none")
print(before, torch._inductor.config.force_disable_caches)
"""
    assert in_python(program).split()[-2:] == ["False", "True"]


@only_on_jax
def test_importing_the_library_sets_nothing():
    assert in_python("import keras_sid2, jax; print(jax.config.jax_compilation_cache_dir)") == "None"


@only_on_torch
def test_never_is_of_one_program_and_not_of_the_next_in_the_process(monkeypatch):
    import torch

    monkeypatch.setenv(compilation_cache._CHOSEN_BY["torch"][0], "/elsewhere")
    compiled = []
    run = torch.compile(lambda x: x + 1, backend=lambda graph, _: compiled.append(1) or graph.forward)
    for asked, count in (("never", 0), ("auto", 1)):
        keep_compiled(None, asked)
        run(torch.zeros(1))
        assert len(compiled) == count
