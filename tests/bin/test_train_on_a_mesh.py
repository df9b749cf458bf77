"""sid2-train on a mesh of virtual devices (jax): the run of one device, also when the mesh changes on the way."""

import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest
from helpers import only_on_jax, to_numpy
from run_helpers import PROGRAM

from keras_sid2.bin.train_settings import TrainSettings
from keras_sid2.bin.training_run import TrainingRun
from keras_sid2.checkpoints import checkpoints, load_model

TESTS = pathlib.Path(__file__).parent.parent


def train(data, workdir, steps, *flags, devices=1):
    every = ("--log_every=1", "--checkpoint_every=1000", "--sample_every=0", "--eval_every=1000")
    command = [sys.executable, "-c", PROGRAM, "--preset=tiny_digits", "--batch_size=16", *every]
    where = (f"--data={data}", f"--workdir={workdir}", f"--steps={steps}")
    options = {
        **os.environ,
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
        "PYTHONPATH": os.pathsep.join([str(TESTS.parent), str(TESTS)]),
    }
    result = subprocess.run([*command, *where, *flags], capture_output=True, text=True, timeout=600, env=options)
    return result.returncode, result.stderr


def weights(workdir):
    model = load_model(checkpoints(workdir / "checkpoints")[-1])
    return {v.path: to_numpy(v.value) for v in (*model.trainable_variables, *model.optimizer.variables)}


def losses(workdir) -> list[float]:
    """Of each step."""
    lines = [json.loads(line) for line in (workdir / "goodput.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(1, len(lines) + 1))
    return [line["loss"] for line in lines]


@only_on_jax
@pytest.mark.slow
def test_a_run_goes_on_from_eight_devices_to_four_to_one(data, tmp_path):
    assert train(data, tmp_path / "one", 50)[0] == 0
    runs = ((20, 8, "--mesh=data:2,fsdp:4"), (35, 4, "--mesh=data:4"), (50, 1))
    for (steps, devices, *mesh), before in zip(runs, (0, 20, 35), strict=True):
        code, log = train(data, tmp_path / "moved", steps, *mesh, devices=devices)
        assert code == 0 and f"steps {before} to {steps}" in log, log
    assert len(losses(tmp_path / "one")) == 50
    np.testing.assert_allclose(losses(tmp_path / "moved"), losses(tmp_path / "one"), rtol=1e-4)
    one, moved = weights(tmp_path / "one"), weights(tmp_path / "moved")
    for path, expected in one.items():
        if path.endswith("key_norm/beta"):  # its true gradient is zero, and Adam makes steps of its rounding
            continue
        np.testing.assert_allclose(moved[path], expected, atol=1e-4 * max(1.0, np.abs(expected).max()), err_msg=path)


def test_a_mesh_that_cannot_be_is_refused_before_anything_is_written(data, tmp_path):
    settings = TrainSettings(
        preset="sid2_digits", data=data, workdir=str(tmp_path / "run"), mesh="data:3", batch_size=48
    )
    with pytest.raises(ValueError, match="is one of 3 devices, and there are 1"):
        TrainingRun(settings).train()
    assert not (tmp_path / "run" / "run.json").exists()


@pytest.mark.backend_free
@pytest.mark.parametrize(
    "changes, sentence",
    [
        (dict(mesh="data:4", batch_size=18), "A batch of 18 must be divisible by the 4 devices that share it"),
        (dict(accumulation_steps=5, batch_size=16), "times --accumulation_steps=5"),
        (dict(accumulation_steps=0), "--accumulation_steps must be at least 1, got 0"),
        (dict(mesh="rows:4"), "A mesh has the axes data, fsdp, model"),
    ],
)
def test_batches_that_cannot_be_shared_out_are_refused(data, tmp_path, changes, sentence):
    with pytest.raises(ValueError, match=sentence):
        TrainingRun(TrainSettings(preset="sid2_digits", data=data, workdir=str(tmp_path / "run"), **changes))
