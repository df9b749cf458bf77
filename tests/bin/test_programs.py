"""The console programs as a user starts them: in a shell, with right and wrong flags, with Ctrl-C."""

import os
import pathlib
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image
from training_helpers import fit_steps, tiny_model

import pipelines
from keras_sid2.training.checkpoints import checkpoint_step, checkpoints, save_checkpoint


def program(name: str, *flags: str, **options) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", f"keras_sid2.bin.{name}", *flags]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, **options)


def last_line(result) -> str:
    return result.stderr.strip().splitlines()[-1]


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    """The work directory of a model that has trained a little."""
    folder = tmp_path_factory.mktemp("trained")
    model = tiny_model()
    fit_steps(model)
    save_checkpoint(model, folder / "checkpoints", keep=1)
    return folder


def test_sample_writes_a_grid_and_the_adm_layout(workdir, tmp_path):
    out = tmp_path / "new" / "drawn"
    flags = ("--labels=0,1,2,2,1", "--num_steps=4", "--guidance_scale=2", "--guidance_interval=-3,5")
    result = program("sample", f"--workdir={workdir}", f"--out={out}", *flags)
    assert result.returncode == 0, result.stderr
    with np.load(f"{out}.npz", allow_pickle=False) as arrays:
        assert set(arrays) == {"arr_0", "arr_1"}
        assert arrays["arr_0"].shape == (5, 4, 4, 1) and arrays["arr_0"].dtype == np.uint8
        assert arrays["arr_1"].tolist() == [0, 1, 2, 2, 1]
    assert Image.open(f"{out}.png").size[0] > 3 * 64


@pytest.mark.parametrize(
    "flags, sentence",
    [
        ((), "Give either --workdir, or --weights"),
        (("--workdir=/nowhere",), "--workdir=/nowhere holds no checkpoints"),
        (("--workdir={workdir}", "--labels=0,x"), "--labels must be numbers with commas between, got '0,x'"),
        (("--workdir={workdir}", "--labels=7"), "Labels must be in [0, 2], got 7"),
        (("--workdir={workdir}", "--guidance_interval=-3,5"), "--guidance_interval does nothing"),
        (("--workdir={workdir}", "--preset=sid2_digits"), "--preset goes with --weights"),
        (("--workdir={workdir}", "digits"), "takes flags only, got 'digits'"),
    ],
)
@pytest.mark.slow
@pytest.mark.backend_free
def test_sample_refuses_in_one_sentence(workdir, tmp_path, flags, sentence):
    flags = [flag.format(workdir=workdir) for flag in flags]
    result = program("sample", *flags, f"--out={tmp_path / 'drawn'}")
    assert result.returncode == 2
    assert last_line(result).startswith("sid2-sample: ") and sentence in last_line(result)
    assert "Traceback" not in result.stderr and not list(tmp_path.iterdir())


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
        assert process.wait(timeout=120) == 0, log.read_text()
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
