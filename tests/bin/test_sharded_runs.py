"""sid2-train --checkpoints=sharded (jax): a run that loses a checkpoint, and goes on with portable ones."""

import os

import pytest
from helpers import BACKEND, only_on_jax
from rich.console import Console
from training_helpers import register_tiny_digits

import pipelines
from keras_sid2.bin.train_settings import TrainSettings
from keras_sid2.bin.training_run import TrainingRun
from keras_sid2.training import preset
from keras_sid2.training.checkpoints import ARRAYS, MODEL, checkpoints


@pytest.fixture(scope="module", autouse=True)
def tiny_digits():
    register_tiny_digits()
    yield
    del preset._REGISTRY["tiny_digits"]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return str(pipelines.prepare("digits", data_dir=str(tmp_path_factory.mktemp("data"))))


def run_in(data, workdir, **changes):
    every = {"log_every": 1, "checkpoint_every": 1, "eval_every": 100, "sample_every": 0}
    asked = {"preset": "tiny_digits", "data": data, "workdir": str(workdir), "batch_size": 16, "steps": 4}
    console = Console(record=True, width=200, file=open(os.devnull, "w"))
    return TrainingRun(TrainSettings(**{**asked, **every, **changes}), console)


@only_on_jax
@pytest.mark.slow
def test_a_damaged_sharded_checkpoint_is_named_and_the_run_goes_on_from_the_one_before(data, tmp_path):
    first = run_in(data, tmp_path / "run", steps=3, checkpoints="sharded")
    first.train()
    newest = checkpoints(first.checkpoint_dir)[-1]
    file = max((newest / ARRAYS).rglob("*"), key=lambda path: path.stat().st_size)
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    again = run_in(data, tmp_path / "run")
    again.train()
    log = again.console.export_text()
    assert f"step_0000000003 is not sound: {file.relative_to(newest).as_posix()} has another SHA-256" in log
    assert "steps 2 to 4" in log
    assert [(path / MODEL).exists() for path in checkpoints(again.checkpoint_dir)] == [False, True, True]


@pytest.mark.skipif(BACKEND == "jax", reason="what the others say")
def test_other_backends_refuse_it_before_anything_is_written(data, tmp_path):
    with pytest.raises(ValueError, match=f"Sharded checkpoints need the jax backend, got {BACKEND}"):
        run_in(data, tmp_path / "run", checkpoints="sharded")
    assert not list(tmp_path.iterdir())
