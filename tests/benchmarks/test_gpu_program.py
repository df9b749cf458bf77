"""The list of a GPU: it is rehearsed, counts what it says, and ends in time."""

import functools
import importlib.util
import json
import os
import pathlib
import signal
import subprocess
import sys
import types

import pytest

pytestmark = [pytest.mark.backend_free, pytest.mark.slow]

ROOT = pathlib.Path(__file__).resolve().parents[2]


def run_gpu(path: pathlib.Path, *flags: str, fails: bool = False) -> tuple[dict, str]:
    command = [sys.executable, str(ROOT / "benchmarks" / "gpu.py"), "--rehearse", "--rounds=1", f"--json={path}"]
    environment = {**os.environ, "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}
    done = subprocess.run([*command, *flags], env=environment, capture_output=True, text=True)
    assert bool(done.returncode) == fails, done.stdout + done.stderr
    return json.loads(path.read_text()) if path.exists() else {}, done.stdout + done.stderr


def test_a_rehearsal(tmp_path):
    pytest.importorskip("torch")
    only = "--only=train torch,plain torch eager,DiT"
    result, told = run_gpu(tmp_path / "result.json", only)
    cases = {case["name"]: case for case in result["cases"]}
    ours, plain, dit = "train torch, batch 2", "train plain torch eager, batch 2", "train diffusers DiT, batch 2"
    bare = "train torch bare, batch 2"
    assert list(cases) == [ours, plain, dit, bare]
    rows = {name: case["row"] for name, case in cases.items() if "row" in case}
    assert all(row["multiply_adds"] == pytest.approx(9_369_600, rel=0.05) for row in rows.values())
    assert {row["dtype"] for row in rows.values()} == {"mixed_bfloat16"}
    assert {name: row["tensorflow_loaded"] for name, row in rows.items()} == dict.fromkeys(rows, [])
    for name, told_as in ((plain, "plain torch eager"), (bare, "torch bare")):
        quotient = rows[ours]["images_per_second"] / rows[name]["images_per_second"]
        assert result["ratios"][f"{ours} / {told_as}"] == pytest.approx(quotient)
    assert all(row["kernels"]["families"] for row in rows.values())
    if importlib.util.find_spec("diffusers") is None:
        assert cases[dit]["why"] == "diffusers is not installed"
        assert "NOT MEASURED train diffusers DiT" in told


def test_a_case_that_takes_too_long_is_ended_and_told(tmp_path):
    result, told = run_gpu(tmp_path / "result.json", "--minutes=0.1", "--only=plain torch eager", fails=True)
    [case] = result["cases"]
    assert case["why"] == "ended after 6 s" and "NOT MEASURED" in told


def test_a_case_ends_with_the_program(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    import gpu

    monkeypatch.setattr(gpu, "FLAGS", types.SimpleNamespace(cache=None))
    before = signal.signal(signal.SIGALRM, signal.default_int_handler)  # as Ctrl-C, after a second
    try:
        signal.setitimer(signal.ITIMER_REAL, 1)
        with pytest.raises(KeyboardInterrupt):
            gpu._bounded(["sh", "-c", f"echo $$ > {tmp_path}/pid; exec sleep 60"], 30.0)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    with pytest.raises(ProcessLookupError):
        os.killpg(int((tmp_path / "pid").read_text()), 0)


def test_words_that_name_no_case(tmp_path):
    _, told = run_gpu(tmp_path / "result.json", "--only=nothing", fails=True)
    assert "--only=nothing is in no case's name: train jax" in told


@pytest.fixture
def plain_torch(monkeypatch):
    pytest.importorskip("torch")
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    import plain_torch

    return plain_torch


@pytest.mark.parametrize("name", ["sid2_digits", "sid2_photo_patches", "sid2_imagenet256_uvit2"])
def test_the_hand_written_network_costs_what_ours_does(plain_torch, name):
    """torch's own counter on one side, ours on the other."""
    from keras_sid2.models import abstract_variables
    from keras_sid2.training import find_preset

    preset = find_preset(name)
    with abstract_variables():
        config = preset.make_network().get_config()
    make = functools.partial(plain_torch.plain_network, config)
    assert plain_torch.multiply_adds(make, config["image_shape"]) == preset.cost.multiply_adds


def test_the_list_of_a_card(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    import gpu

    names = [case.name for case in gpu.plan(rehearse=False)]
    sides = {"imagenet256_uvit2 batch 32", "imagenet512_uvit2 batch 8"}
    assert {f"{what} {b}, {side}" for what in ("train", "sample") for b in ("jax", "torch") for side in sides} <= {
        *names
    }
    assert len({*names}) == len(names) == 16


def test_bars_are_of_what_compares(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    import bars

    def case(name, speed):
        return {"name": name, "row": {"images_per_second": speed, "device": "H100", "dtype": "mixed_bfloat16"}}

    names = ("train jax, small batch 2", "train KerasCV jax, small batch 2", "sample torch, small batch 2")
    cases = [*(case(name, speed) for speed, name in enumerate(names, 1)), {"name": "train torch, small batch 2"}]
    result = {"machine": {"cpu": "any"}, "cases": cases}
    assert bars.panels(result) == {
        "train, small batch 2": [("KerasCV jax", 2, False), ("ours, jax", 1, True)],
        "sample, small batch 2": [("ours, torch", 3, True)],
    }
    of_jax = {"backend": "jax", "unit_ms": 4000.0, "device": "cpu"}  # eight images a step
    rows = [{**of_jax, "case": name, "images_per_second": 2} for name in ("DiT", "ours")]
    spent = {"DiT": (6.0, 8.0, 99.0), "ours": (4.0,)}  # processor time of two steps
    samples = [{**of_jax, "case": c, "cpu_seconds": s, "units": 2} for c, each in spent.items() for s in each]
    expected = {"train": [("ours, jax", 4.0, True), ("DiT, jax", 2.0, False)]}
    assert bars.panels({"speed": rows, "samples": samples}) == expected
    drawn = bars.draw(result, str(tmp_path / "result.json"))
    if importlib.util.find_spec("matplotlib"):
        assert drawn == tmp_path / "result.png" and drawn.read_bytes().startswith(b"\x89PNG")
    assert bars.draw(result, None) is None and bars.draw({"cases": []}, "result.json") is None


def test_what_is_not_installed_is_left_out_of_the_peers(monkeypatch, capsys):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    import peers

    bench, plan = types.SimpleNamespace(skipped=[]), peers._plan(["jax", "torch"])
    monkeypatch.setattr(
        peers.importlib.util, "find_spec", lambda name: None if name in ("diffusers", "keras_cv") else 1
    )
    kept = peers._installed(bench, plan)
    assert kept == [("jax", "ours"), ("torch", "ours"), ("torch", "plain eager"), ("torch", "plain compiled")]
    assert bench.skipped == ["diffusers", "keras_cv"]
    assert "Not installed, left out: diffusers, keras_cv." in capsys.readouterr().out


@pytest.mark.parametrize("shape, target", [((32, 32, 3), 117_600_000), ((64, 64, 3), 130_000_000)])
def test_the_network_of_keras_cv_costs_what_it_says(monkeypatch, shape, target):
    """torch's own counter on one side, the formula on the other."""
    pytest.importorskip("keras_cv")
    torch = pytest.importorskip("torch")
    if os.environ.get("KERAS_BACKEND") != "torch":
        pytest.skip("counts what torch does")
    from torch.utils.flop_counter import FlopCounterMode

    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    import peer_keras_cv

    network = peer_keras_cv.KerasCVUNet(shape, 10, target)
    given = {"z_t": torch.zeros(1, *shape), "logsnr": torch.zeros(1), "label": torch.zeros(1, dtype=torch.int32)}
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        assert network(given).shape == (1, *shape)
    assert counter.get_total_flops() // 2 == network.multiply_adds() == pytest.approx(target, rel=0.05)


def test_families_of_kernels(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    import kernels

    names = {
        "sm90_xmma_dgrad_implicit_gemm_bf16bf16_bf16f32": "convolutions",
        "nvjet_sm90_tst_128x128_64x6_2x1_v_bz_NNT": "products",
        "cudnn_generated_fort_native_sdpa_sm90_flash_bprop_wgmma": "attention",
        "convert_bitcast_fusion.9": "fusions",
        "input_reduce_fusion_318": "reductions and norms",
        "loop_add_fusion_4": "fusions",
    }
    assert {name: kernels.family_of(name) for name in names} == names
