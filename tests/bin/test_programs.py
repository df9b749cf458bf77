"""The console programs as a user starts them: in a shell, with right and wrong flags, with Ctrl-C."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest

import pipelines
from keras_sid2.bin.common import check_folder, make_folders
from keras_sid2.checkpoints import checkpoint_step, checkpoints


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


IN_THE_WAY = {
    "file": "--workdir must be a folder, and file is a file.",
    "file/run": "--workdir(=file/run cannot be .*: Not a directory| must be a folder, and .*file is a file)",
    "": "--workdir must name a folder, got nothing",
    "/proc/no/such": "--workdir=/proc/no/such cannot be written: ",
    "x" * 300: "--workdir=x+ cannot be written: File name too long",
}


@pytest.mark.backend_free
@pytest.mark.parametrize("workdir", IN_THE_WAY, ids=["a file", "below one", "no name", "no such place", "long"])
def test_a_work_directory_that_cannot_be_is_refused_in_one_sentence(tmp_path, workdir, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises((ValueError, NotADirectoryError), match=IN_THE_WAY[workdir]):
        check_folder("workdir", workdir)
        make_folders("workdir", workdir, workdir)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.backend_free
def test_so_it_is_in_a_program(tmp_path):
    (tmp_path / "file").write_text("")
    result = program("demo", f"--workdir={tmp_path / 'file' / 'run'}")
    assert result.returncode == 2 and "Traceback" not in result.stderr  # TensorFlow has lines of its own before it
    assert last_line(result).startswith("sid2-demo: --workdir")


@pytest.mark.backend_free
def test_a_folder_that_is_not_ours_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(ValueError, match=r"--workdir=.*/new cannot be written: Permission denied\."):
        check_folder("workdir", str(tmp_path / "new"))


@pytest.mark.backend_free
def test_a_tilde_behind_an_equals_sign_is_the_home_folder(tmp_path):
    result = program("export", "--workdir=~/run", "--out=x.keras", env={**os.environ, "HOME": str(tmp_path)})
    assert result.returncode == 2 and f"--workdir={tmp_path}/run holds no checkpoints" in last_line(result)


@pytest.mark.backend_free
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
    again = program("demo", "--steps=10", *flags[1:])  # fewer than are done
    assert again.returncode == 0 and again.stdout == result.stdout
    assert "20 steps are done, nothing to train" in again.stderr
    assert "1797 of 1797 images are there already" in again.stderr
    assert "class accuracy" in result.stdout and "Frechet distance" in result.stdout
    for name in ("digits.png", "digits.npz", "quality.json"):
        assert (pathlib.Path(tmp_path) / name).stat().st_size > 0
    assert json.loads((pathlib.Path(tmp_path) / "quality.json").read_text())["steps"] == 20
