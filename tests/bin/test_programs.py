"""The console programs as a user starts them: in a shell, with right and wrong flags, with Ctrl-C."""

import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest

import pipelines
from keras_sid2.training.checkpoints import checkpoint_step, checkpoints


def program(name: str, *flags: str, **options) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", f"keras_sid2.bin.{name}", *flags]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, **options)


def last_line(result) -> str:
    return result.stderr.strip().splitlines()[-1]


@pytest.mark.backend_free
def test_an_unknown_flag_is_refused():
    result = program("train", "--preset=sid2_digits", "--batchsize=3")
    assert result.returncode != 0 and "batch_size" in result.stderr and "Traceback" not in result.stderr


@pytest.mark.backend_free
def test_missing_flags_are_named():
    result = program("train", "--preset=sid2_digits")
    assert result.returncode == 2 and "--workdir, --data must be given" in last_line(result)


@pytest.mark.slow
def test_ctrl_c_finishes_the_step_saves_and_the_next_start_goes_on(tmp_path):
    data = pipelines.prepare("digits", data_dir=str(tmp_path / "data"))
    flags = ["--preset=sid2_digits", f"--data={data}", f"--workdir={tmp_path / 'run'}", "--batch_size=4"]
    command = [
        sys.executable,
        "-m",
        "keras_sid2.bin.train",
        *flags,
        "--steps=100000",
        "--log_every=1",
        "--sample_every=0",
        "--checkpoint_every=100000",
        "--eval_every=100000",
    ]
    log = tmp_path / "log"
    with open(log, "w") as stderr:
        process = subprocess.Popen(command, stderr=stderr, env={**os.environ})
        wait_for(lambda: "train 2/" in log.read_text(), process)
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=120) == 130, log.read_text()
    saved = checkpoints(tmp_path / "run" / "checkpoints")
    assert len(saved) == 1 and f"Stopped and saved at step {checkpoint_step(saved[0])}" in log.read_text()


def wait_for(condition, process):
    deadline = time.monotonic() + 240
    while not condition():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.1)


@pytest.mark.slow
def test_the_demo_from_nothing_to_pictures_and_figures(tmp_path):
    flags = ("--steps=20", "--num_steps=4", f"--workdir={tmp_path}")
    result = program("demo", *flags)
    assert result.returncode == 0, result.stderr
    assert "class accuracy" in result.stdout and "Frechet distance" in result.stdout
    for name in ("digits.png", "digits.npz", "quality.json"):
        assert (pathlib.Path(tmp_path) / name).stat().st_size > 0
