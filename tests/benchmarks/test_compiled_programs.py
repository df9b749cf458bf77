"""The programs that compile and run nothing: reading XLA's text, multiply-adds, bytes of collectives, weak scaling."""

import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

pytestmark = pytest.mark.backend_free

BENCHMARKS = pathlib.Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture(autouse=True)
def benchmarks_on_the_path(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)


def text_of(function, *shapes: tuple[int, ...]) -> str:
    jax = pytest.importorskip("jax")
    return jax.jit(function).lower(*(jax.ShapeDtypeStruct(s, "float32") for s in shapes)).compile().as_text()


# -- multiply-adds --------------------------------------------------------------------------------------------------


def test_multiply_adds_of_dots_and_of_loops():
    import hlo

    jax = pytest.importorskip("jax")

    assert hlo.Program(text_of(lambda a, b: a @ b, (8, 16), (16, 4))).multiply_adds() == 8 * 16 * 4

    def repeated(a, b):
        return jax.lax.fori_loop(0, 7, lambda i, a: jax.numpy.tanh(a @ b), a)

    assert hlo.Program(text_of(repeated, (8, 16), (16, 16))).multiply_adds() == 7 * 8 * 16 * 16


@pytest.mark.parametrize(
    "stride, pad, lhs_dilation, rhs_dilation", [(1, 1, 1, 1), (2, 0, 1, 1), (1, 2, 2, 1), (1, 2, 1, 2)]
)
def test_multiply_adds_of_convolutions(stride, pad, lhs_dilation, rhs_dilation):
    import hlo

    jax = pytest.importorskip("jax")

    options = dict(window_strides=(stride,) * 2, padding=[(pad, pad)] * 2, dimension_numbers=("NHWC", "HWIO", "NHWC"))
    options |= dict(lhs_dilation=(lhs_dilation,) * 2, rhs_dilation=(rhs_dilation,) * 2)
    program = hlo.Program(
        text_of(lambda x, w: jax.lax.conv_general_dilated(x, w, **options), (2, 6, 6, 3), (3, 3, 3, 5))
    )

    # Along one dimension: the input with zeros between and around, and the window wherever it fits.
    line = np.zeros(5 * lhs_dilation + 1 + 2 * pad)
    line[pad : len(line) - pad : lhs_dilation] = 1.0
    width = 2 * rhs_dilation + 1
    meetings = sum(line[i : i + width : rhs_dilation].sum() for i in range(0, len(line) - width + 1, stride))
    assert program.multiply_adds() == 2 * 3 * 5 * meetings**2


# -- collectives ----------------------------------------------------------------------------------------------------

PROGRAM = """HloModule jit_step, is_scheduled=true, num_partitions=8

%sum (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  %b = f32[] parameter(1)
  ROOT %add = f32[] add(%a, %b)
}

%wrapped (p: f32[8,4]) -> f32[2,4] {
  %p = f32[8,4]{1,0} parameter(0)
  ROOT %scattered = f32[2,4]{1,0:T(8,128)} reduce-scatter(%p), replica_groups=[2,4]<=[4,2]T(1,0), to_apply=%sum
}

%body (s: (s32[], bf16[4])) -> (s32[], bf16[4]) {
  %s = (s32[], bf16[4]{0}) parameter(0)
  %n = s32[] get-tuple-element(%s), index=0
  %v = bf16[4]{0} get-tuple-element(%s), index=1
  %sent = bf16[4]{0} collective-permute(%v), channel_id=4, source_target_pairs={{0,1},{1,0},{2,3},{3,2}}
  ROOT %t = (s32[], bf16[4]{0}) tuple(%n, %sent)
}

%condition (s.1: (s32[], bf16[4])) -> pred[] {
  %s.1 = (s32[], bf16[4]{0}) parameter(0)
  ROOT %true = pred[] constant(true)
}

%all-reduce-scatter.1 (q: f32[8]) -> f32[1] {
  %q = f32[8]{0} parameter(0)
  %zero = s32[] constant(0)
  %reduced = f32[8]{0} all-reduce(%q), channel_id=6, replica_groups=[1,8]<=[8], to_apply=%sum
  ROOT %part = f32[1]{0} dynamic-slice(%reduced, %zero), dynamic_slice_sizes={1}
}

ENTRY %main (x: f32[8,4], y: f32[3], z: (s32[], bf16[4])) -> f32[8,4] {
  %x = f32[8,4]{1,0} parameter(0)
  %y = f32[3]{0} parameter(1)
  %z = (s32[], bf16[4]{0}) parameter(2)
  %all = (f32[8,4]{1,0}, /*index=1*/f32[3]{0}) all-reduce(%x, %y), replica_groups={}, to_apply=%sum
  %own = f32[3]{0} all-reduce(%y), replica_groups={{0},{1},{2},{3},{4},{5},{6},{7}}, to_apply=%sum
  %start = (f32[8,4]{1,0}, f32[16,4]{1,0}) all-gather-start(%x), replica_groups={{0,4},{1,5},{2,6},{3,7}}
  %done = f32[16,4]{1,0} all-gather-done(%start)
  %begun = ((f32[8,4]{1,0}), f32[2,4]{1,0}, u32[]) async-start(%x), calls=%wrapped
  %ended = f32[2,4]{1,0} async-done(%begun)
  %swapped = f32[8,4]{1,0} all-to-all(%x), replica_groups=mesh['a'=2,'b'=4], device_ids=([4,2]T(1,0)) {'b':(1)2}
  %loop = (s32[], bf16[4]{0}) while(%z), condition=%condition, body=%body, backend_config={"known_trip_count":{"n":"5"}}
  %long = f32[8]{0} constant({0, 1, 2, 3, 4, 5, 6, 7})
  %fused = f32[1]{0} fusion(%long), kind=kCustom, calls=%all-reduce-scatter.1
  ROOT %copy = f32[8,4]{1,0} copy(%x)
}
"""


def test_bytes_of_collectives():
    import hlo

    assert hlo.wire_bytes(hlo.Program(PROGRAM).collectives()) == {
        ("all-reduce", 8, 8): 2 * 7 / 8 * (8 * 4 + 3) * 4,
        ("all-gather", 2, 5): 8 * 4 * 4,
        ("reduce-scatter", 4, 7): 3 / 4 * 8 * 4 * 4,  # devices 0, 2, 4, 6
        ("reduce-scatter", 8, 8): 7 / 8 * 8 * 4,
        ("all-to-all", 2, 5): 1 / 2 * 8 * 4 * 4,  # 'b' is devices 0, 2, 4, 6, and its larger part 0 and 4
        ("collective-permute", 2, 2): 5 * 4 * 2,
    }


def test_replica_groups_of_another_form_are_refused():
    import hlo

    with pytest.raises(ValueError, match="replica groups are in a form that is not known: .*strange"):
        hlo.Program(PROGRAM.replace("replica_groups={}", "replica_groups=strange")).collectives()


# -- weak scaling ---------------------------------------------------------------------------------------------------


def row(strategy: str, *sent: tuple, **sizes: int) -> dict:
    mesh = {"data": 1, "fsdp": 1, "model": 1, **sizes}
    return {
        "strategy": strategy,
        "devices": int(np.prod(list(mesh.values()))),
        "mesh": ",".join(f"{axis}:{size}" for axis, size in mesh.items()),
        "multiply_adds": 1e12,
        "sent": [dict(zip(("kind", "group", "span", "bytes"), one, strict=True)) for one in sent],
    }


def test_meshes_use_all_devices():
    import scaling_rules

    for strategy in scaling_rules.STRATEGIES:
        sizes = [scaling_rules.mesh_sizes(strategy, 2**k) for k in range(11)]
        assert [np.prod(list(axes.values())) for axes in sizes] == [2**k for k in range(11)]
    assert sizes[3] == {"data": 1, "fsdp": 2, "model": 4} and sizes[1] == {"data": 1, "fsdp": 1, "model": 2}


def test_a_shorter_data_axis_keeps_what_is_sent_within_the_others():
    import scaling_rules as rules

    within, among8 = ("all-gather", 8, 8, 700.0), ("all-reduce", 8, 57, 2 * 7 / 8 * 1000)
    large = row("data x fsdp 8", within, among8, ("all-reduce", 64, 64, 2 * 63 / 64 * 1000), data=8, fsdp=8)
    among2, all16 = ("all-reduce", 2, 9, 1000.0), ("all-reduce", 16, 16, 2 * 15 / 16 * 1000)
    small = row("data x fsdp 8", within, among2, all16, data=2, fsdp=8)
    alone = row("", within, ("all-reduce", 8, 8, 2 * 7 / 8 * 1000))
    assert rules.with_data(large, {"data": 2, "fsdp": 8})["sent"] == small["sent"]
    assert rules.with_data(large, {"fsdp": 8})["sent"] == alone["sent"]
    assert rules.with_data(large, {"data": 2, "fsdp": 4}) is None
    assert rules.with_data(small, {"data": 4, "fsdp": 8}) is None
    found = rules.filled([large, small, row("fsdp", within, fsdp=32)])
    names = [(one["strategy"], one["devices"]) for one in found]
    assert names == [("data x fsdp 8", n) for n in (8, 16, 32, 64)] + [("fsdp", 8), ("fsdp", 32)]
    assert found[4]["sent"] == alone["sent"]
    (check,) = rules.checks([large, small])
    assert check["compiled"] == check["followed"] == rules.total(small)


def test_time_is_that_of_the_slowest_link_that_a_group_needs():
    import scaling_rules

    system = scaling_rules.System.parse("two islands:100:10:8:1")
    near, far, wide = (("all-reduce", *sizes, 1e9) for sizes in ((8, 8), (2, 9), (16, 16)))
    assert system.seconds(row("data", near), 0.5) == pytest.approx((1e12 / (50e12 * 0.5), 0.1))
    assert system.seconds(row("data", far), 0.5)[1] == pytest.approx(1.0)
    assert system.seconds(row("data", near, wide), 0.5)[1] == pytest.approx(0.1 + 1.0 / 8)  # eight rings
    assert scaling_rules.shares(1.0, 3.0) == pytest.approx((3 / 4, 2 / 3))
    assert scaling_rules.shares(4.0, 1.0) == pytest.approx((1 / 5, 0.0))


@pytest.mark.parametrize("text", ["a:1:2:3", "a:1:2:3:x", ":1:2:3:4", "a:1:2:0:4"])
def test_a_system_needs_a_name_and_four_numbers(text):
    import scaling_rules

    with pytest.raises(ValueError, match="A system is name:TFLOP/s:GB/s:devices:GB/s, four positive numbers, got "):
        scaling_rules.System.parse(text)


# -- the programs ---------------------------------------------------------------------------------------------------


def run_program(name: str, path: pathlib.Path, *flags: str, fails: bool = False) -> dict:
    pytest.importorskip("jax")
    command = [
        sys.executable,
        str(BENCHMARKS / name),
        f"--json={path}",
        "--preset=sid2_digits",
        "--platform=cpu",
        *flags,
    ]
    environment = {**os.environ, "PYTHONPATH": str(BENCHMARKS.parent), "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert bool(done.returncode) == fails, done.stdout + done.stderr
    return json.loads(path.read_text())


@pytest.mark.slow
def test_memory(tmp_path):
    from keras_sid2.models import network_cost
    from keras_sid2.training import find_preset

    flags = (
        "--batch_size=2",
        "--case=train",
        "--case=train, remat",
        "--case=forward",
        "--case=forward, skip per block",
    )
    result = run_program("memory.py", tmp_path / "result.json", *flags)
    rows = {one["case"]: one for one in result["rows"]}
    cost = network_cost(**find_preset("sid2_digits").network)
    forward, train, remat, skips = (
        rows[case]["multiply_adds"] for case in ("forward", "train", "train, remat", "forward, skip per block")
    )
    assert 0.9 < forward / (2 * cost.multiply_adds) <= 1.0  # the cost counts the zeros around an image too
    assert 2.9 < train / forward <= 3.0 and 3.5 < remat / forward < 4.0
    assert skips - forward == 2 * 64 * 2 * 48 * 48  # one join
    assert rows["train"]["parameters"] == cost.parameters
    assert rows["train"]["temp_bytes"] > rows["forward"]["temp_bytes"] > 0
    # Weights, two moments, averages, and little else.
    assert rows["train"]["argument_bytes"] == pytest.approx(4 * 4 * cost.parameters, rel=1e-3)
    assert {one["name"] for one in result["ratios"]} == {"remat / none", "skip per block / residual, forward"}
    assert str(tmp_path) not in json.dumps(result) and result["command"].startswith("python benchmarks/memory.py ")
    assert run_program("memory.py", tmp_path / "result.json", "--batch_size=3", fails=True) == result


@pytest.mark.slow
def test_scaling(tmp_path):
    from keras_sid2.training import find_preset

    plot = [f"--plot={tmp_path / 'result.png'}"] if _installed("matplotlib") else []
    flags = ("--devices=4", "--strategy=data", "--strategy=fsdp", "--batch_per_device=1", *plot)
    result = run_program("scaling.py", tmp_path / "result.json", *flags)
    rows = {one["strategy"]: one for one in result["rows"]}
    gradients = 4 * rows["data"]["parameters"]
    (one,) = rows["data"]["sent"]
    assert (one["kind"], one["group"], one["span"]) == ("all-reduce", 4, 4)
    assert one["bytes"] == pytest.approx(2 * 3 / 4 * gradients, rel=1e-3)
    assert "all-gather" in {one["kind"] for one in rows["fsdp"]["sent"]}
    assert rows["fsdp"]["argument_bytes"] < 1.2 / 4 * 4 * gradients < rows["data"]["argument_bytes"]
    assert rows["data"]["multiply_adds"] > 2.5 * find_preset("sid2_digits").cost.multiply_adds  # of one device
    names = {(t["strategy"], t["devices"]) for t in result["times"]}
    assert names == {("data", 1), ("data", 2), ("data", 4), ("fsdp", 1), ("fsdp", 4)}
    assert all(0.0 <= t["share_overlapped"] <= t["share_not_overlapped"] < 1.0 for t in result["times"])
    if plot:
        assert (tmp_path / "result.png").read_bytes().startswith(b"\x89PNG")


def _installed(package: str) -> bool:
    import importlib.util

    return importlib.util.find_spec(package) is not None
