"""The command line is looked at before Keras is imported: what is wrong is said within a fraction of a second."""

import importlib
import json
import os
import pathlib
import subprocess
import sys
import tomllib

import pytest
from absl import flags

from keras_sid2.bin import command_line, flag_table, tables
from keras_sid2.bin.tables import evaluate, sample, shared, train
from keras_sid2.evaluation.i3d import MEASURED
from keras_sid2.training.proposal import SIZES
from keras_sid2.training.snapshots import DTYPES

pytestmark = pytest.mark.backend_free

ROOT = pathlib.Path(__file__).parents[2]
SCRIPTS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
WITH_TABLE = [name for name in SCRIPTS if tables.table_of(name.removeprefix("sid2-")) is not None]

# Starts each command line as its console program does, as far as one process can; prints, for each, the exit code, what
# was said, and which heavy packages were imported.
START = """
import contextlib, importlib, io, json, sys
HEAVY = ("keras", "tensorflow", "torch", "jax", "tensorflow_datasets")
for scripts, *argv in json.loads(sys.argv[1]):
    sys.argv, said = argv, io.StringIO()
    module, _, function = scripts.partition(":")
    for name in [name for name in sys.modules if name.startswith(("keras_sid2", "absl"))]:
        del sys.modules[name]  # absl's flags are of a process
    code = None
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        try:
            getattr(importlib.import_module(module), function)()
        except SystemExit as error:
            code = error.code
    print(json.dumps([code, said.getvalue(), [name for name in HEAVY if name in sys.modules]]))
"""


def start(*lines) -> list:
    asked = [[SCRIPTS[argv[0]], *argv] for argv in lines]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", START, json.dumps(asked)]
    found = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return [json.loads(line) for line in found.stdout.splitlines()]


WRONG = [
    (("sid2-train", "--bogus"), "sid2-train: Unknown command line flag 'bogus'; --help lists the flags."),
    (("sid2-train", "--steps"), "sid2-train: Missing value for flag --steps; --help lists the flags."),
    (("sid2-train", "--steps=many"), "sid2-train: flag --steps=many: invalid literal for int()"),
    (("sid2-train", "--preset=sid2_digits"), "sid2-train: --workdir, --data must be given."),
    (("sid2-train", "--data=d", "--workdir=w", "--steps=0"), "sid2-train: --steps must be at least 1, got 0."),
    (("sid2-distill", "--data=d", "--workdir=w"), "sid2-distill: --teacher must be given."),
    (("sid2-sample", "now"), "sid2-sample: sid2-sample takes flags only, got 'now'."),
    (("sid2-sample", "--eta=1"), "sid2-sample: --eta goes with --sampler=ddim, got --sampler=ddpm."),
    (("sid2-evaluate", "--samples=a.npz"), "sid2-evaluate: --reference must be given."),
    (("sid2-export", "--workdir=w"), "sid2-export: --out must be given."),
    (("sid2-plan", "--precision=half"), "sid2-plan: --precision must be float32 or mixed_bfloat16, got 'half'."),
    (("sid2-demo", "--seed=x"), "sid2-demo: flag --seed=x: invalid literal for int()"),
    (("sid2-data", "--bogus"), "sid2-data: Unknown command line flag 'bogus' (sid2-data --help)"),
    (("sid2", "train", "--bogus"), "sid2-train: Unknown command line flag 'bogus'; --help lists the flags."),
    (("sid2", "--print_completion=tcsh"), "sid2: --print_completion must be bash, zsh or fish, got 'tcsh'."),
    (("sid2", "trian"), "sid2: there is no program 'trian'"),
]


def test_what_is_wrong_is_said_before_anything_heavy_is_imported():
    for (argv, sentence), (code, said, heavy) in zip(WRONG, start(*[argv for argv, _ in WRONG]), strict=True):
        assert (code, heavy) == (2, []), (argv, said)
        assert said.startswith(sentence) and said.count("\n") == 1


def test_so_is_help():
    for name, (code, said, heavy) in zip(SCRIPTS, start(*[(name, "--help") for name in SCRIPTS]), strict=True):
        assert not code and heavy == [], (name, said)
        assert name in said or name == "sid2"
        table = tables.table_of(name.removeprefix("sid2-"))
        for flag in () if table is None else table.__dataclass_fields__:
            assert f"--{flag}" in said or f"--[no]{flag}" in said, (name, flag)


def test_each_program_s_table_is_its_own():
    assert {*WITH_TABLE} == {*SCRIPTS} - {"sid2", "sid2-data"}  # of these pipelines knows the flags
    for name in WITH_TABLE:
        module, _, function = SCRIPTS[name].partition(":")
        run = getattr(importlib.import_module(module), function)
        fields = run.args[2].__dataclass_fields__
        table = tables.table_of(name.removeprefix("sid2-")).__dataclass_fields__
        assert [*fields] == [*table] and run.args[1] == name
        assert all(fields[flag].default == table[flag].default for flag in table)


def test_what_the_tables_repeat_is_what_the_library_has():
    assert shared.SIZES == tuple(SIZES)
    assert evaluate.EvaluateFlags.clip_size == MEASURED
    accepted = train.TrainFlags.__dataclass_fields__["snapshot_dtype"].metadata["accepted"]
    assert accepted.words == " or ".join(DTYPES)
    assert set(sample.ANIMATIONS) < set(sample.FORMATS)


def test_a_line_that_is_read_twice_has_its_values_once(monkeypatch):
    values = flags.FlagValues()
    monkeypatch.setattr(flags, "FLAGS", values)
    flags.DEFINE_multi_string("set", [], "", flag_values=values)
    for _ in range(2):
        assert command_line.read(["sid2-x", "--set=a=1", "--set=b=2"], "sid2-x") == ["sid2-x"]
        assert values.set == ["a=1", "b=2"]


def test_what_is_only_compared_needs_no_reference():
    values = flags.FlagValues()
    flag_table.define(evaluate.EvaluateFlags, values)
    values(["sid2-evaluate", "--compare=a.json,b.json"])
    flag_table.check(evaluate.EvaluateFlags, values)


def test_a_file_of_flags_that_is_a_pipe_is_read_once(monkeypatch):
    values = flags.FlagValues()
    monkeypatch.setattr(flags, "FLAGS", values)
    monkeypatch.setattr(command_line, "define", lambda usage, table, about: flag_table.define(table, values))
    reading, writing = os.pipe()
    os.write(writing, b"--steps=3\n")
    os.close(writing)
    argv = command_line.look("sid2-demo", [f"--flagfile=/dev/fd/{reading}", "--seed=1"])
    os.close(reading)
    assert argv == ["--steps=3", "--seed=1"] and (values.steps, values.seed) == (3, 1)


def test_a_script_of_a_user_may_have_our_name():
    for argv in ([], ["--epochs=3"]):
        assert command_line.look("sid2", argv) == command_line.look("sid2-mine", argv) == argv
