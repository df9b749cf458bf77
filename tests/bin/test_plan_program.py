"""sid2-plan as a user starts it."""

import json
import math
import os
import pathlib
import re
import subprocess
import sys

import pytest

from keras_sid2.parallel.rules import Mesh, table
from keras_sid2.training import find_preset
from keras_sid2.training.proposal import SIZES, proposed_preset

pytestmark = pytest.mark.backend_free


def plan(*flags: str, backend: str = "jax") -> subprocess.CompletedProcess:
    pytest.importorskip(backend)
    command = [sys.executable, "-m", "keras_sid2.bin.plan", *flags]
    environment = {**os.environ, "KERAS_BACKEND": backend, "JAX_DISABLE_MOST_OPTIMIZATIONS": "0"}
    return subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment)


def test_a_plan_says_cost_time_memory_the_batch_that_fits_and_what_lies_where():
    flags = ("--mesh=data:4,fsdp:2,model:1", "--precision=mixed_bfloat16", "--memory=80GiB", "--batch_size=64")
    result = plan("--preset=sid2_imagenet256_uvit2", *flags, "--accelerator=h100", "--guidance_interval=-100,100")
    assert result.returncode == 0, result.stderr
    number = {
        name: float(n.replace(",", "")) for name, n in re.findall(r"^ *(\w+) +([\d.,]+) [GM]iB$", result.stdout, re.M)
    }
    assert {*number} == {"parameters", "gradients", "optimizer", "averages", "batch", "activations", "total"}
    macs = 138.46e9
    assert "parameters 398,036,739" in result.stdout and "multiply-adds of an image 138.46 G; of its blocks 137.44 G"
    step = 3 * 64 * macs / 1e12
    assert float(re.search(r"of a training step ([\d.]+) T", result.stdout)[1]) == pytest.approx(step, rel=1e-3)
    evaluations = 2 * 512  # guided everywhere
    samples, training = re.findall(r"on 8 h100 at 0.3 of 989 TFLOP/s: ([\d.,]+) days", result.stdout)[::-1]
    speed = 8 * 0.3 * 989e12 / 2 * 86400
    assert float(samples) == pytest.approx(50_000 * evaluations * macs / speed, rel=1e-2)
    assert float(training) == pytest.approx(1e6 * step * 1e12 / speed, rel=1e-2)
    assert int(re.search(r"Largest batch in 80GiB: (\d+)", result.stdout)[1]) % 8 == 0
    assert re.search(r"16 x level\*_middle_block\*/mlp\*/kernel +1024x4096 +fsdp, - ", result.stdout)
    assert re.search(r"\d+ of 562 variables are replicated: [\d,]+ bytes a device", result.stdout)


def test_the_compiler_says_what_the_plan_counts_on_a_mesh():
    result = plan("--preset=sid2_digits", "--platform=cpu", "--compile", "--mesh=fsdp:2", "--batch_size=8")
    assert result.returncode == 0, result.stderr
    held, temporary = map(float, re.search(r"([\d.]+) MiB held .* ([\d.]+) MiB temporary", result.stdout).groups())
    part = {name: float(n) for name, n in re.findall(r"^ *(\w+) +([\d.]+) MiB$", result.stdout, re.M)}
    weights = part["parameters"] + part["optimizer"] + part["averages"] + part["batch"]
    assert held == pytest.approx(weights, rel=0.01)
    assert temporary == pytest.approx(part["gradients"] + part["activations"], rel=0.25)
    assert "No batch fits" not in result.stdout


def test_the_guide_has_the_table_as_it_is_printed():
    result = plan("--all")
    assert result.returncode == 0, result.stderr
    guide = pathlib.Path(__file__).parents[2] / "docs" / "guides" / "presets.md"
    assert result.stdout.strip() in guide.read_text()
    days = re.search(r"sid2_imagenet256_uvit2.*? 1,000,000 \| ([\d.]+) ", result.stdout)[1]
    assert float(days) == pytest.approx(1e6 * 3 * 2048 * 138.46e9 / (0.3 * 989e12 / 2) / 86400, rel=1e-2)
    macs = {size: float(re.search(rf"--size={size}` .*? M \| ([\d.]+) G", result.stdout)[1]) for size in SIZES}
    assert [*macs] == sorted(macs, key=macs.get)


def test_a_size_for_data_of_one_s_own_and_averages_of_widths():
    result = plan("--sample_shape=8x8x1", "--size=tiny", "--num_classes=10", "--set=recipe.ema_widths=(0.05, 0.1)")
    assert result.returncode == 0, result.stderr
    part = {name: float(n) for name, n in re.findall(r"^ *(\w+) +([\d.]+) MiB$", result.stdout, re.M)}
    expected = proposed_preset((8, 8, 1), 10, size="tiny").cost
    assert f"parameters {expected.parameters:,}" in result.stdout
    assert part["averages"] == pytest.approx(3 * part["parameters"], rel=1e-2)
    network = find_preset("sid2_digits").make_network()
    bare, beside = (table(network, Mesh(), ema_widths=widths).bytes_whole for widths in ((), (0.05, 0.1)))
    trained = 4 * sum(math.prod(v.shape) for v in network.trainable_variables)
    assert beside - bare == 2 * trained


WRONG = [
    (["--preset=sid2_digits", "--distill", "--compile"], "--compile is of the step of sid2-train: leave it out, or"),
    (["--preset=sid2_digits", "--matching=parameters"], "--matching does nothing without --distill"),
    (
        ["--preset=sid2_digits", "--distill", "--matching=parameters", "--accumulation_steps=2"],
        "--matching=parameters does not go with --accumulation_steps=2: leave it out",
    ),
    (["--preset=sid2_digits_trained"], "--preset=sid2_digits_trained is a trained model: to train it on, give --init"),
    (["--all", "--preset=sid2_digits"], "--all is of all presets and sizes: leave out --preset"),
    (["--size=small"], "--size does nothing without --sample_shape"),
    (["--sample_shape=64x64"], "--sample_shape must be as 64x64x3, or 16x64x64x3 of clips, got '64x64'"),
    (["--sample_shape=8x8x1", "--preset=sid2_digits"], "--sample_shape is of a proposed network: leave it out, or"),
    ([], "Give --preset, the name of one, or --config, a file that defines one"),
    ([], "--all lists what each preset and size costs"),
    (["--preset=sid2_digit"], "There is no preset 'sid2_digit': did you mean sid2_digits"),
    (["--preset=sid2_digits", "--mesh=data:4,rows:2"], "as in data:4,fsdp:2,model:1; got 'data:4,rows:2'"),
    (["--preset=sid2_digits", "--mesh=model:2"], "got model:2 and 3 heads at level 1"),
    (["--preset=sid2_digits", "--memory=0"], "--memory must be a size above 0 such as 80GiB or 80GB, got '0'"),
    (["--preset=sid2_digits", "--platform=gpus"], "got the backend 'jax' on the platform 'gpus'"),
    (["--preset=sid2_digits", "--accelerator=h1000"], "--accelerator must be one of a100, h100, "),
    (["--preset=sid2_digits", "--share_of_peak=30"], "--share_of_peak must be in (0, 1], got 30"),
    (["--preset=sid2_digits", "--precision=half"], "--precision must be float32 or mixed_bfloat16, got 'half'"),
    (["--preset=sid2_digits", "--num_steps=0"], "--num_steps must be at least 1, got 0"),
    (["--preset=sid2_digits", "--sampler=euler"], "sampler must be one of ddpm, ddim, heun,"),
]

ALL = """
import json, sys
from absl import flags
from absl.testing import flagsaver
from keras_sid2.bin import plan
from keras_sid2.bin.flag_table import define
define(plan.PlanFlags)
for arguments in json.loads(sys.argv[1]):
    with flagsaver.flagsaver():
        flags.FLAGS(["plan", *arguments])
        try:
            plan.main(flags.FLAGS)
            print("accepted")
        except ValueError as error:
            print(error)
"""


def test_wrong_flags_end_in_one_sentence():
    command = [sys.executable, "-c", ALL, json.dumps([arguments for arguments, _ in WRONG])]
    environment = {**os.environ, "KERAS_BACKEND": "jax"}
    result = subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment)
    for line, (_, sentence) in zip(result.stdout.splitlines(), WRONG, strict=True):
        assert sentence in line


def test_another_backend_cannot_compile_ahead():
    result = plan("--preset=sid2_digits", "--compile", backend="torch")
    assert result.returncode == 2 and "Traceback" not in result.stderr
    assert (
        "needs the jax backend, got torch: set KERAS_BACKEND=jax, and no other --backend."
        in result.stderr.strip().splitlines()[-1]
    )
