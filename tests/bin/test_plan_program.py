"""sid2-plan as a user starts it."""

import re
import subprocess
import sys

import pytest

pytestmark = pytest.mark.backend_free


def plan(*flags: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "keras_sid2.bin.plan", *flags]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def test_a_plan_names_its_parts_the_batch_that_fits_and_what_lies_where():
    flags = ("--mesh=data:4,fsdp:2,model:1", "--precision=mixed_bfloat16", "--remat", "--memory=80", "--platform=tpu")
    result = plan("--preset=sid2_imagenet256_uvit2", "--batch_size=64", *flags)
    assert result.returncode == 0, result.stderr
    for part in ("parameters", "gradients", "optimizer", "averages", "batch", "activations", "total"):
        assert part in result.stdout
    assert "batch 64, on data:4,fsdp:2,model:1, compiled by XLA for tpu" in result.stdout
    assert int(re.search(r"Largest batch in 80 GiB: (\d+)", result.stdout)[1]) % 8 == 0
    assert re.search(r"16 x level3 blocks/mlp1/kernel +1024x4096 +fsdp, - ", result.stdout)
    assert re.search(r"\d+ of 561 variables are replicated: [\d,]+ bytes a device", result.stdout)


def test_without_a_mesh_there_is_no_table_and_what_does_nothing_is_said():
    result = plan("--preset=sid2_digits", "--remat", "--platform=cpu", "--memory=0.001")
    assert result.returncode == 0, result.stderr
    assert "XLA for CPU undoes --remat" in result.stdout and "No batch fits 0.001 GiB" in result.stdout
    assert "MiB a device" in result.stdout and "variable" not in result.stdout


@pytest.mark.parametrize(
    "flags, sentence",
    [
        ([], "--preset must be given"),
        (["--preset=sid2_digit"], "There is no preset 'sid2_digit': did you mean sid2_digits"),
        (["--preset=sid2_digits", "--mesh=data:4,rows:2"], "as in data:4,fsdp:2,model:1; got 'data:4,rows:2'"),
        (["--preset=sid2_digits", "--mesh=model:2"], "got model:2 and 3 heads at level 1"),
        (["--preset=sid2_digits", "--memory=0"], "--memory must be positive and finite, got 0"),
        (["--preset=sid2_digits", "--platform=gpu"], "platform must be one of cpu, tpu, got 'gpu'"),
    ],
)
def test_wrong_flags_end_in_one_sentence(flags, sentence):
    result = plan(*flags)
    assert result.returncode == 2 and sentence in result.stderr.strip().splitlines()[-1]
    assert "Traceback" not in result.stderr
