"""Each benchmark program runs, shrunken, and writes what it should. No test looks at a time."""

import importlib.util
import json
import math
import os
import pathlib
import subprocess
import sys

import pytest

pytestmark = [pytest.mark.backend_free, pytest.mark.slow]

ROOT = pathlib.Path(__file__).resolve().parents[2]


# What a GPU machine need not have.
ABSENT = ("tensorflow", "tensorflow_datasets", "tensorboardX", "PIL", "keras_cv")


def run_program(name: str, path: pathlib.Path, *flags: str, without: tuple[str, ...] = ()) -> dict:
    """Its JSON file; the modules `without` cannot be imported."""
    command = [sys.executable, str(ROOT / "benchmarks" / name), f"--json={path}", "--size=tiny", "--rounds=2"]
    environment = {**os.environ, "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}
    for module in without:
        blocked = path.parent / "absent" / f"{module}.py"
        blocked.parent.mkdir(exist_ok=True)
        blocked.write_text(f"raise ModuleNotFoundError('{module} is absent', name='{module}')")
        environment["PYTHONPATH"] = os.pathsep.join([str(blocked.parent), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run([*command, *flags], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(path.read_text())


def check(result: dict, cases: set[tuple[str, str]], ratios: set[str]):
    assert result["failures"] == {}
    assert {(row["backend"], row["case"]) for row in result["summary"]} == cases
    assert {row["name"] for row in result["ratios"]} == ratios
    for row in result["ratios"]:
        assert len(row["pairs"]) == 2 and row["min"] <= row["ratio"] <= row["max"]
        assert math.isfinite(row["ratio_of_medians"])
    assert {(s["backend"], s["case"]) for s in result["samples"]} == cases
    assert all(s["seconds"] > 0 and s["units"] > 0 and s["round"] in (0, 1) for s in result["samples"])
    assert set(result["backends"]) == {backend for backend, _ in cases}
    assert all({"keras", "version", "device"} <= set(described) for described in result["backends"].values())
    assert result["machine"]["cores"] >= 1 and result["date"] and result["question"]
    assert result["facts"]["parameters"] > 1000


def check_speed(row: dict, multiply_adds: int, flops_an_image: int):
    """A row of the table of speed.py on a CPU."""
    assert row["multiply_adds"] == multiply_adds and row["tensorflow_loaded"] == []
    assert row["model_flops_per_second"] == pytest.approx(flops_an_image * row["images_per_second"])
    assert row["of_products"] == pytest.approx(row["model_flops_per_second"] / row["products_per_second"])
    assert (row["of_peak"], row["peak_bytes"], row["device"]) == (None, None, "cpu")
    assert row["first_seconds"] > 0


def test_what_is_no_other_commit_is_refused_and_not_measured_as_one(tmp_path):
    folders = [tmp_path / name / "before" for name in "ab"]
    for given, sentence in (([tmp_path], f"{tmp_path} has no keras_sid2"), (folders, "of different names, got")):
        command = [sys.executable, str(ROOT / "benchmarks" / "train_step.py"), "--before=" + ",".join(map(str, given))]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode != 0 and sentence in done.stderr


def test_train_step(tmp_path):
    flags = ("--backends=jax", "--steps=2", "--parts=false", "--profile")
    result = run_program("train_step.py", tmp_path / "result.json", *flags, without=ABSENT)
    row, bare = result["speed"]
    assert [row["case"], bare["case"]] == ["fit", "bare"] and bare["multiply_adds"] == row["multiply_adds"]
    res = 2 * (2 * 64 * 9 * 8 * 8 + 16 * 16)  # two blocks: convolutions, and what modulates
    transformer = 16 * (4 * 16 * 16 + 2 * 16 * 64 + 2 * 16 * 16) + 16 * 128  # products, attention, what modulates
    ends = 2 * 64 * 8 + 2 * 16 * 8 * 16 + 256 * 16 + 16 * 16  # patches, down and up, embedding
    check_speed(row, res + transformer + ends, 6 * (res + transformer + ends))
    assert row["images_per_second"] == pytest.approx(4 * 1e3 / row["unit_ms"])  # four images a step
    kernels = row["kernels"]
    assert kernels["all_ms"] == pytest.approx(sum(kernels["families"].values())) and kernels["longest"][0]["ms"] > 0
    assert result["not_installed"] == []
    check(result, {("jax", "bare"), ("jax", "fit")}, {"jax: fit / bare"})
    assert all(math.isfinite(s["loss"]) for s in result["samples"])


OF_JAX = """
import keras_sid2, numpy as np, parts, subjects
from keras_sid2 import threefry
network = keras_sid2.ResidualUViT(**subjects.SIZES["tiny"])
schedule, weighting = keras_sid2.diffusion.CosineSchedule(), keras_sid2.SigmoidWeighting(0.0)
ours, model = threefry.uniform, keras_sid2.SiD2Model(network, schedule=schedule, weighting=weighting)
model.compile()
data, before = (np.zeros((4, 8, 8, 1), "uint8"), np.arange(4)), None
for changed in (model, parts.CHANGES["with jax.random"](model)):
    found = changed.corrupted(data, model._step_keys(0, 0), model._dropout)
    shapes = {name: np.shape(value) for name, value in found.items() if hasattr(value, "shape")}
    assert before in (None, shapes) and shapes["z_t"] == (4, 8, 8, 1), shapes
    before = shapes
assert threefry.uniform is ours
"""


def test_draws_of_jax_in_place_of_ours():
    paths = os.pathsep.join([str(ROOT), str(ROOT / "benchmarks")])
    environment = {**os.environ, "KERAS_BACKEND": "jax", "PYTHONPATH": paths}
    done = subprocess.run([sys.executable, "-c", OF_JAX], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_sampling(tmp_path):
    flags = ("--backends=jax,torch", "--preset=sid2_digits", "--steps=6", "--images=2")
    result = run_program("sampling.py", tmp_path / "result.json", *flags, without=ABSENT)
    peer = importlib.util.find_spec("diffusers") is not None
    assert result["not_installed"] == ([] if peer else ["diffusers"])
    parts = ("guidance in a sixth", "guidance in a third", "guidance in two thirds")
    guided = {"no guidance", *parts, "guidance in all", "call alone"}
    cases = {(backend, case) for backend in ("jax", "torch") for case in guided} | {("jax", "fori_loop")}
    ratios = {f"{b}: {part} / {whole}" for b in ("jax", "torch") for part in parts for whole in ("none", "in all")}
    ratios |= {"jax: guidance in all / none", "torch: guidance in all / none"}
    ratios |= {"jax: generate / fori_loop", "generate: torch / jax"}
    if peer:
        cases |= {("torch", "diffusers")}
        ratios |= {"torch: generate / diffusers"}
        ours, theirs = (result["facts"][f"{whose}multiply-adds an image"] for whose in ("", "diffusers "))
        assert abs(theirs / ours - 1.0) <= 0.05
    check(result, cases, ratios)
    assert [result["facts"][f"steps with {part}"] for part in parts] == [1, 2, 4]
    assert [row["backend"] for row in result["speed"]] == ["jax", "torch"]
    for row in result["speed"]:
        check_speed(row, 9_369_600, 2 * 6 * 9_369_600)
    # One network, one sampler: the hand-written loop draws the same kind of images.
    assert all(0 < s["mean"] < 255 for s in result["samples"])


def draw_digits(tmp_path: pathlib.Path, *flags: str, fails: bool = False) -> dict:
    """Runs sampler_steps.py with a network that has learnt nothing."""
    import keras_sid2

    checkpoint, path = tmp_path / "step_0000000000.keras", tmp_path / "result.json"
    if not checkpoint.exists():
        keras_sid2.SiD2Model.from_preset("sid2_digits").save(checkpoint)
    command = [sys.executable, str(ROOT / "benchmarks" / "sampler_steps.py"), f"--checkpoint={checkpoint}"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "KERAS_BACKEND": "torch"}
    command += [f"--json={path}", "--images=100", *flags]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert bool(done.returncode) == fails, done.stdout + done.stderr
    return json.loads(path.read_text())


def test_sampler_steps(tmp_path):
    pytest.importorskip("torch")
    first = draw_digits(tmp_path, "--samplers=ddpm,heun", "--steps=2")
    plot = [f"--plot={tmp_path / 'result.png'}"] if importlib.util.find_spec("matplotlib") else []
    result = draw_digits(tmp_path, "--samplers=ddpm,heun", "--steps=2,3", *plot)
    assert result["rows"][:2] == first["rows"]  # not drawn again
    counts = [(row["sampler"], row["steps"], row["evaluations"]) for row in result["rows"]]
    assert counts == [("ddpm", 2, 2), ("heun", 2, 4), ("ddpm", 3, 3), ("heun", 3, 6)]
    # Noise is far from digits, which are near each other.
    assert all(row["frechet"] > result["frechet_halves"] > 0.0 for row in result["rows"])
    assert all(0.0 <= row["accuracy"] <= 1.0 and row["seconds_with_compiling"] > 0.0 for row in result["rows"])
    assert str(tmp_path) not in json.dumps(result)
    if plot:
        assert (tmp_path / "result.png").read_bytes().startswith(b"\x89PNG")
    # Rows of other images do not mix with these.
    assert draw_digits(tmp_path, "--samplers=ddpm", "--steps=4", "--seed=1", fails=True) == result


def ablations(path: pathlib.Path, *flags: str) -> dict:
    command = [sys.executable, str(ROOT / "benchmarks" / "ablations.py"), f"--json={path}", "--steps=2", "--drawn=20"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "KERAS_BACKEND": "torch"}
    done = subprocess.run([*command, "--sampling_steps=1", *flags], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(path.read_text())


def test_ablations(tmp_path):
    pytest.importorskip("torch")
    first = ablations(tmp_path / "result.json", "--cases=base", "--seeds=1")
    plot = [f"--plot={tmp_path / 'result.png'}"] if importlib.util.find_spec("matplotlib") else []
    result = ablations(tmp_path / "result.json", "--cases=base,skip per block,x-prediction", "--seeds=1", *plot)
    assert result["rows"][:1] == first["rows"]  # not trained again
    assert [row["case"] for row in result["rows"]] == ["base", "skip per block", "x-prediction"]
    base, blockwise, _ = result["rows"]
    assert blockwise["parameters"] > base["parameters"] and blockwise["multiply_adds"] < 1.05 * base["multiply_adds"]
    assert all(row["frechet"] > 0.0 and 0.0 <= row["accuracy"] <= 1.0 for row in result["rows"])
    if plot:
        assert (tmp_path / "result.png").read_bytes().startswith(b"\x89PNG")


def test_ablations_change_one_thing_at_equal_cost(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    import ablations

    base = ablations.base()
    for name in ablations.NAMES:
        preset = ablations.case(name)
        parts = ("network", "network_class", "objective")
        changed = [part for part in parts if getattr(preset, part) != getattr(base, part)]
        assert len(changed) == (name != "base") and preset.recipe == base.recipe
    wider = ablations.case("patches of 2 x 2, wider").cost
    assert wider.multiply_adds == pytest.approx(base.cost.multiply_adds, rel=0.05)
    assert wider.parameters > 2 * base.cost.parameters
    assert len(ablations.GROUPS["bias"]) >= 4
    rows = [{"case": "base", "frechet": f, "accuracy": 0.5, "parameters": 1, "multiply_adds": 2} for f in (1.0, 3.0)]
    (told,) = ablations.groups(rows)["bias"]
    assert (told["case"], told["frechet"], told["seeds"]) == ("bias 2", 2.0, 2)
    assert told["frechet_deviation"] == pytest.approx(2**0.5)


def test_reading(tmp_path):
    result = run_program("reading.py", tmp_path / "result.json", "--images=8", "--batches=1", "--batch_size=4")
    assert not result["failures"]
    named = {row["name"] for row in result["ratios"]}
    assert {"png: make_dataset / decode", "jpeg: make_dataset / DataLoader"} <= named


def test_preparing(tmp_path):
    path = tmp_path / "result.json"
    command = [sys.executable, str(ROOT / "benchmarks" / "preparing.py"), f"--json={path}", "--images=20,40"]
    done = subprocess.run([*command, "--workers=1"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "peak of the process" in done.stdout and json.loads(path.read_text())


def test_a_backend_that_fails_is_reported_and_the_rest_goes_on(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    import harness

    program = tmp_path / "program.py"
    program.write_text(
        "import os, harness\n"
        "def case(name):\n"
        "    if os.environ['KERAS_BACKEND'] == 'torch' and name == 'dies':\n"
        "        os._exit(3)\n"
        "    if name == 'raises':\n"
        "        raise ValueError('no such luck')\n"
        "    print('noise on stdout')\n"
        "    return lambda: {'seconds': 1.0, 'cpu_seconds': 1.0, 'units': 2}\n"
        "harness.describe_backend = lambda: {'version': '0'}\n"
        "harness.serve(case)\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(ROOT / "benchmarks"))
    monkeypatch.setattr(harness, "importable", lambda names: (["jax", "torch"], ["tensorflow"]))
    with harness.Bench(str(program), [], ["jax", "torch", "tensorflow"], threads=1) as bench:
        bench.run([("torch", "fine"), ("jax", "raises"), ("torch", "dies"), ("jax", "dies")], rounds=2)
    assert bench.skipped == ["tensorflow"]
    assert "no such luck" in bench.failures["jax: raises"]
    assert "status 3" in bench.failures["torch: dies"]
    assert [s["case"] for s in bench.samples if s["backend"] == "jax"] == ["dies", "dies"]
