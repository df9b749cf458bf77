"""The short forms of the long fault programs."""

import pathlib
import subprocess
import sys

import pytest


@pytest.mark.slow
@pytest.mark.backend_free
def test_a_run_that_is_killed_twice_ends_as_if_it_had_not_been():
    program = pathlib.Path(__file__).with_name("kill_runs.py")
    result = subprocess.run(
        [sys.executable, program, "--kills=2", "--steps=150"], capture_output=True, text=True, timeout=900
    )
    assert result.returncode == 0, result.stdout + result.stderr[-3000:]
    assert "1: killed after" in result.stdout and "equal to the bit: all variables after 150 steps" in result.stdout


@pytest.mark.slow
@pytest.mark.backend_free
def test_verify_resume_says_that_it_is_exact(tmp_path):
    import pipelines

    data = pipelines.prepare("digits", data_dir=str(tmp_path))
    flags = (f"--data={data}", "--preset=sid2_digits", "--batch_size=8", f"--workdir={tmp_path / 'run'}")
    command = [sys.executable, "-m", "keras_sid2.bin.train", "--verify_resume=4", *flags]
    result = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith("Resuming is exact: ") and "8 steps at a go and 4 + 4 steps" in result.stdout
    assert not (tmp_path / "run").exists()
