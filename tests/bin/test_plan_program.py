"""sid2-plan as a user starts it."""

import re
import subprocess
import sys

import pytest

pytestmark = pytest.mark.backend_free


def plan(*flags: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "keras_sid2.bin.plan", *flags]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def test_a_plan_names_its_parts_and_the_batch_that_fits():
    flags = ("--mesh=data:4,fsdp:2,model:1", "--precision=mixed_bfloat16", "--remat", "--memory=80")
    result = plan("--preset=sid2_imagenet256_uvit2", "--batch_size=64", *flags)
    assert result.returncode == 0, result.stderr
    for part in ("parameters", "gradients", "optimizer", "averages", "batch", "activations", "total"):
        assert part in result.stdout
    assert int(re.search(r"Largest batch in 80 GiB: (\d+)", result.stdout)[1]) % 8 == 0


@pytest.mark.parametrize(
    "flags, sentence",
    [
        ([], "--preset must be given"),
        (["--preset=sid2_digit"], "There is no preset 'sid2_digit': did you mean sid2_digits"),
        (["--preset=sid2_digits", "--mesh=data:4,rows:2"], "as in data:4,fsdp:2,model:1; got 'data:4,rows:2'"),
        (["--preset=sid2_digits", "--memory=0"], "--memory must be positive, got 0"),
    ],
)
def test_wrong_flags_end_in_one_sentence(flags, sentence):
    result = plan(*flags)
    assert result.returncode == 2 and sentence in result.stderr.strip().splitlines()[-1]
    assert "Traceback" not in result.stderr
