"""sid2-distill: a run whose model is made of a teacher, in a work directory as sid2-train's."""

import dataclasses
import json
import os

import keras
import numpy as np
import pytest
from absl import flags
from bin.run_helpers import run_in
from helpers import to_numpy
from rich.console import Console
from training_helpers import same_weights, with_averages

import pipelines
from keras_sid2 import Guidance, MomentMatchingModel, SiD2Model, checkpoints
from keras_sid2.bin import export, flag_table
from keras_sid2.bin.distill import DistillRun, DistillSettings

pytestmark = pytest.mark.usefixtures("tiny_digits")


@pytest.fixture(scope="module")
def teacher(data, tmp_path_factory):
    """The work directory of a run of tiny_digits, as if it had been trained."""
    run = run_in(data, tmp_path_factory.mktemp("teacher"))
    model = run.load_or_make_model(None)
    with_averages(model)
    checkpoints.save_checkpoint(model, run.checkpoint_dir, keep=1)
    return run.workdir


def settings_of(teacher, data, workdir, **changes) -> DistillSettings:
    asked = {"data": data, "workdir": str(workdir), "teacher": str(teacher), "steps_of_student": 2, "steps": 4}
    asked |= {"log_every": 1, "checkpoint_every": 2, "eval_every": 100, "sample_every": 4, "batch_size": 8}
    asked |= {"guidance_scale": "1.5", "guidance_interval": ["-3", "3"], "warmup_steps": 1, "learning_rate": 1e-3}
    return DistillSettings(**{**asked, "lr_decay": "constant", **changes})


def run_of(*args, **changes) -> DistillRun:
    console = Console(record=True, width=200, file=open(os.devnull, "w"))
    return DistillRun(settings_of(*args, **changes), console)


def newest(workdir):
    return checkpoints.load_model(sorted((workdir / "checkpoints").iterdir())[-1])


@pytest.fixture(scope="module")
def trained(teacher, data, tmp_path_factory):
    run = run_of(teacher, data, tmp_path_factory.mktemp("student"))
    run.model = run.train()
    return run


def test_it_trains_a_student_of_the_teachers_averages(trained, teacher):
    model, source = trained.model, newest(teacher)
    assert isinstance(model, MomentMatchingModel) and int(model.step.numpy()) == 4
    assert model.objective.guidance == Guidance(1.5, (-3.0, 3.0)) and model.student_steps == 2
    for ours, (_, theirs) in zip(model.teacher.variables, source.network_values(), strict=True):
        np.testing.assert_array_equal(to_numpy(ours), to_numpy(theirs))
    assert f"The teacher is {teacher} at step 4: its averages." in trained.console.export_text(clear=False)
    assert (trained.workdir / "samples" / "step_4.png").is_file() or [*(trained.workdir / "samples").iterdir()]


@pytest.mark.backend_free
def test_stopped_and_continued_it_is_the_same(trained, teacher, data, tmp_path):
    run_of(teacher, data, tmp_path, steps=3, checkpoint_every=3, sample_every=0).train()
    again = run_of(teacher, data, tmp_path, sample_every=0).train()
    assert same_weights(again, trained.model)
    for ours, theirs in zip(again.averages(), trained.model.averages(), strict=True):
        np.testing.assert_array_equal(to_numpy(ours), to_numpy(theirs))
    with pytest.raises(ValueError, match="holds a run with other settings: --steps_of_student=4 .there: 2"):
        run_of(teacher, data, tmp_path, steps_of_student=4)


@pytest.mark.backend_free
def test_in_parameter_space_it_trains_without_an_auxiliary_network(teacher, data, tmp_path):
    own = {"own_levels": True, "own_chain": True}
    model = run_of(teacher, data, tmp_path, steps=2, sample_every=0, matching="parameters", **own).train()
    assert model.auxiliary is None and model.objective.own_chain and int(model.step.numpy()) == 2


@pytest.mark.backend_free
def test_a_run_of_before_these_flags_goes_on(trained, teacher, data):
    path = trained.workdir / "run.json"
    before = path.read_text()
    said = json.loads(before)
    for name in ("matching", "auxiliary_steps", "own_levels", "own_chain"):
        del said[name]
    path.write_text(json.dumps(said))
    run_of(teacher, data, trained.workdir)
    with pytest.raises(ValueError, match="other settings: --own_levels=True .there: False"):
        run_of(teacher, data, trained.workdir, own_levels=True)
    path.write_text(before)


@pytest.mark.backend_free
def test_the_student_is_exported_alone(trained, teacher, tmp_path):
    values = flags.FlagValues()
    flag_table.define(export.ExportFlags, values)
    out = tmp_path / "student.keras"
    values(["sid2-export", f"--workdir={trained.workdir}", f"--out={out}", "--student"])
    export.export(values)
    alone = keras.saving.load_model(out)
    assert type(alone) is SiD2Model
    options = {"labels": [3, 1], "dtype": "float32"}
    np.testing.assert_array_equal(alone.generate(**options), trained.model.generate(**options))
    values(["sid2-export", f"--workdir={teacher}", f"--out={tmp_path / 'a.keras'}", "--student"])
    with pytest.raises(ValueError, match="--student is of runs of sid2-distill"):
        export.export(values)


@pytest.mark.backend_free
def test_a_teacher_without_averages_is_taken_as_it_is(teacher, data, tmp_path):
    source = newest(teacher)
    model = SiD2Model(source.network, objective=source.objective)
    model.compile(keras.optimizers.Adam())
    model.step.assign(4)
    model.save(tmp_path / "teacher.keras")
    run = run_of(tmp_path / "teacher.keras", data, tmp_path / "run")
    made = run.load_or_make_model(None)
    assert "its weights, as it has no averages" in run.console.export_text(clear=False)
    for ours, theirs in zip(made.teacher.weights, model.network.weights, strict=True):
        np.testing.assert_array_equal(to_numpy(ours), to_numpy(theirs))


@pytest.mark.backend_free
def test_wrong_input(trained, teacher, data, tmp_path):
    rng = np.random.default_rng(0)
    other = {"images": rng.integers(0, 255, (16, 8, 8, 1)).astype("uint8"), "labels": np.arange(16) % 4}
    np.savez(tmp_path / "four.npz", **other)
    four = str(pipelines.prepare("npz", source=str(tmp_path / "four.npz"), channels=1, data_dir=str(tmp_path)))
    bad = tmp_path / "none.keras"
    bad.write_text("no model")
    cases = [
        ({"matching": "parameters", "precision": "mixed_bfloat16"}, "does not go with --precision=mixed_bfloat16"),
        ({"matching": "parameters", "batch_size": 7}, "does not go with --batch_size=7, which is odd"),
        ({"matching": "parameters", "auxiliary_steps": 2}, "does not go with --auxiliary_steps=2: leave it out"),
        ({"own_chain": True}, "own_chain needs own_levels: "),
        ({"matching": "both"}, "--matching must be auxiliary or parameters, got 'both'"),
        ({"steps_of_student": 0}, "--steps_of_student must be at least 1, got 0"),
        ({"guidance_scale": "high"}, "--guidance_scale must be a number, or logsnr:scale pairs"),
        ({"lr_decay": "linear", "warmup_steps": None}, "above the 1000 steps of warm-up: give a lower --warmup_steps"),
        ({"guidance_scale": "1"}, "--guidance_interval does nothing at --guidance_scale=1"),
        ({"teacher": str(trained.workdir)}, "is a student of 2 steps itself"),
        ({"teacher": str(bad)}, "holds no configuration of a SiD2Model"),
        ({"teacher": str(tmp_path / "nothing")}, "--teacher=.*nothing is no file"),
        ({"teacher": "sid2_digits"}, "--teacher=sid2_digits is a preset, without trained weights"),
        ({"preset": "sid2_digits"}, "--preset is sid2-train's, and the network is that of --teacher"),
        ({"data": four}, "--teacher=.* is for images .8, 8, 1. of 10 classes, and --data=.* has .* of 4 classes"),
    ]
    for changes, sentence in cases:
        with pytest.raises((ValueError, FileNotFoundError), match=sentence):
            run_of(**{"teacher": teacher, "data": data, "workdir": tmp_path / "run", **changes})
    assert not (tmp_path / "run").exists()


@pytest.mark.backend_free
def test_a_run_is_not_begun_with_a_student_and_its_teacher(trained, data, tmp_path):
    with pytest.raises(
        ValueError, match="holds a student with its teacher: write its student as a file by sid2-export"
    ):
        run_in(data, tmp_path / "run", preset=None, init_from=str(trained.workdir))
    assert not (tmp_path / "run").exists()


@pytest.mark.backend_free
def test_all_settings_are_flags(teacher, data, tmp_path):
    values = flags.FlagValues()
    flag_table.define(DistillSettings, values)
    asked = settings_of(teacher, data, tmp_path)
    given = ["teacher", "data", "workdir", "steps_of_student", "guidance_scale"]
    values(["sid2-distill", *(f"--{name}={getattr(asked, name)}" for name in given), "--guidance_interval=-3,3"])
    flag_table.check(DistillSettings, values)
    made = DistillSettings(**{field.name: getattr(values, field.name) for field in dataclasses.fields(DistillSettings)})
    assert made.guidance == asked.guidance and made.lr_decay == "linear"
