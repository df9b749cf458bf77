"""sid2-train in two processes on this machine, on every backend: the run of one process, and none left alone."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from helpers import free_ports
from run_helpers import PROGRAM, one_of
from training_helpers import register_tiny_digits

from keras_sid2.bin.train_settings import TrainSettings
from keras_sid2.bin.training_run import TrainingRun
from keras_sid2.checkpoints import checkpoint_step, checkpoints
from keras_sid2.training import preset

TESTS = pathlib.Path(__file__).parent.parent


class Processes:
    """sid2-train in `count` processes that have one work directory."""

    def __init__(self, data, workdir, *flags, count=2):
        every = ("--log_every=1", "--checkpoint_every=4")
        where = ("--preset=tiny_digits", "--batch_size=16", f"--data={data}", f"--workdir={workdir}")
        port = free_ports(count)
        self.started, self.logs = [], [workdir.with_name(f"{workdir.name}_{index}.log") for index in range(count)]
        for index, log in enumerate(self.logs):
            own, environment = ((), {}) if count == 1 else one_of(index, count, port)
            own = own if count == 1 else (f"--mesh=data:{count}", *own)
            environment = {
                **os.environ,
                "PYTHONPATH": os.pathsep.join([str(TESTS.parent), str(TESTS)]),
                "OMP_NUM_THREADS": "1",
                **environment,
            }
            command = [sys.executable, "-c", PROGRAM, *where, *every, *own, *flags]
            with open(log, "w") as stderr:
                self.started.append(subprocess.Popen(command, stderr=stderr, env=environment))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for process in self.started:
            process.kill()
            process.wait()

    def codes(self, timeout: float = 300) -> list[int]:
        return [process.wait(timeout=timeout) for process in self.started]

    def said(self, index: int) -> str:
        return self.logs[index].read_text()


def lines(workdir) -> list[dict]:
    return [json.loads(line) for line in (workdir / "goodput.jsonl").read_text().splitlines()]


def _measurement(workdir) -> dict:
    """The first one."""
    return json.loads((workdir / "measurements.jsonl").read_text().splitlines()[0])


def wait_for_step(run: Processes, workdir, step: int):
    end = time.monotonic() + 300
    while not any(checkpoint_step(path) >= step for path in checkpoints(workdir / "checkpoints")):
        assert time.monotonic() < end and all(process.poll() is None for process in run.started), run.said(0)
        time.sleep(0.2)


@pytest.mark.slow
def test_two_processes_train_as_one_which_goes_on_alone(data, tmp_path):
    """They measure at step 4: the first process one batch of 64, the second one two and a rest."""
    images = ("--measure_images=199", "--measure_features=training_helpers:rows_as_features", "--sample_steps=2")
    measuring = ("--measure_every=4", *images, f"--measure_cache={tmp_path / 'cache'}")
    measuring = (*measuring, "--sample_every=4", "--eval_split=test", "--eval_every=4")
    with Processes(data, tmp_path / "one", "--steps=10", *measuring, count=1) as run:
        assert run.codes() == [0], run.said(0)
    with Processes(data, tmp_path / "moved", "--steps=6", *measuring) as run:
        assert run.codes() == [0, 0], run.said(0) + run.said(1)
        assert "step 4: eval loss" in run.said(0) and "train " not in run.said(1)
    written = {path.name for path in (tmp_path / "moved").iterdir()}
    of_run = {"run.json", "preset.json", "checkpoints", "lock", "samples", "tensorboard", "goodput.jsonl"}
    assert written == of_run | {"measurements.jsonl", "measured"}
    with Processes(data, tmp_path / "moved", "--steps=10", *measuring, count=1) as run:
        assert run.codes() == [0] and "steps 6 to 10" in run.said(0), run.said(0)
    first, both = (_measurement(tmp_path / name) for name in ("one", "moved"))
    assert first["step"] == both["step"] == 4 and first["measured"] == both["measured"]
    assert both["metrics"] == pytest.approx(first["metrics"], rel=0.05)
    one, moved = lines(tmp_path / "one"), lines(tmp_path / "moved")
    assert [line["step"] for line in moved] == list(range(1, 11))
    for name in ("loss", "gradient_norm", "loss_logsnr_0_5"):
        np.testing.assert_allclose([a[name] for a in moved], [b[name] for b in one], rtol=1e-4, err_msg=name)


@pytest.mark.slow
def test_a_signal_to_one_stops_both_and_a_kill_ends_the_other(data, tmp_path):
    steps = ("--steps=100000", "--sample_every=0")
    with Processes(data, tmp_path / "run", *steps) as run:
        wait_for_step(run, tmp_path / "run", 4)
        run.started[1].send_signal(signal.SIGTERM)
        assert run.codes() == [143, 143], run.said(0) + run.said(1)
    stopped = checkpoint_step(checkpoints(tmp_path / "run" / "checkpoints")[-1])
    assert f"Stopped and saved at step {stopped}" in run.said(0)
    with Processes(data, tmp_path / "run", *steps) as run:
        wait_for_step(run, tmp_path / "run", stopped + 1)
        assert f"steps {stopped} to 100000" in run.said(0)
        run.started[1].kill()
        assert run.started[0].wait(timeout=60) != 0
    assert "Process 0 has lost another process of the run, and ends too." in run.said(0)


@pytest.fixture
def of_two(monkeypatch):
    """What asks how many processes there are is told two."""
    register_tiny_digits()
    monkeypatch.setattr("keras_sid2.parallel.processes.count", lambda: 2)
    yield
    del preset._REGISTRY["tiny_digits"]


def test_processes_without_a_mesh_are_refused(data, tmp_path, of_two):
    asked = {"preset": "tiny_digits", "data": data, "workdir": str(tmp_path / "run"), "batch_size": 16}
    with pytest.raises(ValueError, match="2 processes train together on a --mesh, such as data:2; got none"):
        TrainingRun(TrainSettings(**asked))


@pytest.mark.backend_free
@pytest.mark.parametrize(
    "flags, sentence",
    [
        (
            ("--coordinator=127.0.0.1:1",),
            "--coordinator, --process_count and --process_id go together, got coordinator alone.",
        ),
        (("--coordinator=x", "--process_count=2", "--process_id=0"), "coordinator must be host:port, got 'x'."),
        (
            ("--coordinator=x:1", "--process_count=2", "--process_id=2"),
            "process_id must be in [0, process_count), got 2",
        ),
    ],
)
def test_processes_that_are_named_wrongly_are_refused(data, tmp_path, flags, sentence):
    with Processes(data, tmp_path / "run", *flags, count=1) as run:
        assert run.codes() == [2] and f"sid2-train: {sentence}" in run.said(0)
