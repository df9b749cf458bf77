"""sid2-train on a mesh of virtual devices (jax): the run of one device, also when the mesh changes on the way."""

import os
import subprocess
import sys

import numpy as np
import pytest
from helpers import BACKEND, only_on_jax, to_numpy

import pipelines
from keras_sid2.bin.train_settings import TrainSettings
from keras_sid2.bin.training_run import TrainingRun
from keras_sid2.training.checkpoints import checkpoints, load_model


def train(data, workdir, steps, *flags, devices=1):
    every = ("--log_every=5", "--checkpoint_every=5", "--sample_every=0", "--eval_every=1000")
    command = [sys.executable, "-m", "keras_sid2.bin.train", "--preset=sid2_digits", "--batch_size=16", *every]
    where = (f"--data={data}", f"--workdir={workdir}", f"--steps={steps}")
    options = {**os.environ, "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}"}
    result = subprocess.run([*command, *where, *flags], capture_output=True, text=True, timeout=600, env=options)
    return result.returncode, result.stderr


def weights(workdir):
    model = load_model(checkpoints(workdir / "checkpoints")[-1])
    return {v.path: to_numpy(v.value) for v in (*model.trainable_variables, *model.optimizer.variables)}


@only_on_jax
@pytest.mark.slow
def test_a_run_goes_on_from_eight_devices_to_one(tmp_path):
    data = pipelines.prepare("digits", data_dir=str(tmp_path / "data"))
    assert train(data, tmp_path / "one", 10)[0] == 0
    code, log = train(data, tmp_path / "mesh", 5, "--mesh=data:2,fsdp:4", devices=8)
    assert code == 0, log
    code, log = train(data, tmp_path / "mesh", 10)
    assert code == 0 and "steps 5 to 10" in log, log
    one, moved = weights(tmp_path / "one"), weights(tmp_path / "mesh")
    for path, expected in one.items():
        np.testing.assert_allclose(moved[path], expected, atol=1e-4 * max(1.0, np.abs(expected).max()), err_msg=path)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return str(pipelines.prepare("digits", data_dir=str(tmp_path_factory.mktemp("data"))))


def test_a_mesh_that_cannot_be_is_refused_before_anything_is_written(data, tmp_path):
    settings = TrainSettings(
        preset="sid2_digits", data=data, workdir=str(tmp_path / "run"), mesh="data:3", batch_size=48
    )
    sentence = "is one of 3 devices, and there are 1" if BACKEND == "jax" else "needs the jax backend, got"
    with pytest.raises(ValueError, match=sentence):
        TrainingRun(settings).train()
    assert not (tmp_path / "run" / "run.json").exists()


@pytest.mark.backend_free
@pytest.mark.parametrize(
    "changes, sentence",
    [
        (dict(mesh="data:4", batch_size=18), "A batch of 18 must be divisible by the 4 devices that share it"),
        (dict(accumulation_steps=5, batch_size=16), "times --accumulation_steps=5"),
        (dict(accumulation_steps=0), "times --accumulation_steps=0"),
        (dict(mesh="rows:4"), "A mesh has the axes data, fsdp, model"),
    ],
)
def test_batches_that_cannot_be_shared_out_are_refused(data, tmp_path, changes, sentence):
    with pytest.raises(ValueError, match=sentence):
        TrainingRun(TrainSettings(preset="sid2_digits", data=data, workdir=str(tmp_path / "run"), **changes))
