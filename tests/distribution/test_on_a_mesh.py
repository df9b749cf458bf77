"""Eight virtual devices do what one does, each with its share of the memory, and talk no more than they must (jax)."""

import json
import os
import pathlib
import re
import subprocess
import sys

import numpy as np
import pytest
from helpers import only_on_jax

HERE = pathlib.Path(__file__).parent
ONE, DATA, FSDP, ALL = CASES = ("data1", "data8", "fsdp8", "data2,fsdp2,model2")

pytestmark = [only_on_jax, pytest.mark.slow]


@pytest.fixture(scope="module")
def out(tmp_path_factory) -> pathlib.Path:
    """What mesh_program.py writes."""
    out = tmp_path_factory.mktemp("mesh")
    environment = {
        **os.environ,
        "XLA_FLAGS": "--xla_force_host_platform_device_count=8",
        "PYTHONPATH": os.pathsep.join([str(HERE.parent.parent), str(HERE.parent)]),
    }
    subprocess.run([sys.executable, HERE / "mesh_program.py", out], env=environment, check=True, timeout=600)
    return out


@pytest.fixture(scope="module")
def cases(out) -> dict[str, dict]:
    return {case: dict(np.load(out / f"{case}.npz")) for case in CASES}


@pytest.fixture(scope="module")
def collectives(out) -> dict[str, list[tuple[str, tuple[int, ...]]]]:
    """(operation, shape of its first result) of each collective in the compiled train step of each case."""
    return {case: _collectives(out / f"{case}.hlo") for case in CASES}


def _collectives(path: pathlib.Path) -> list[tuple[str, tuple[int, ...]]]:
    found = r"= \(?\w+\[([\d,]*)\].*? (all-gather|all-reduce|reduce-scatter|all-to-all|collective-permute)(?:-start)?\("
    step = re.findall(found, path.read_text())
    return [(name, tuple(int(n) for n in shape.split(",") if n)) for shape, name in step]


@pytest.mark.parametrize("case", CASES[1:])
def test_training_is_that_of_one_device(cases, case):
    assert cases[ONE]["losses"][-1] < 0.8 * cases[ONE]["losses"][0]
    for part in ("losses", "weights", "averages"):
        np.testing.assert_allclose(cases[case][part], cases[ONE][part], atol=1e-5, err_msg=part)


def test_accumulation_on_a_mesh_is_that_of_one_device(out):
    one, mesh = (dict(np.load(out / f"{case}_in_parts.npz")) for case in (ONE, "data4,fsdp2"))
    assert one["losses"][-1] < 0.9 * one["losses"][0]
    for part in ("losses", "weights", "averages"):
        np.testing.assert_allclose(mesh[part], one[part], atol=1e-5, err_msg=part)


def test_a_network_that_reads_a_text_trains_and_draws_as_on_one_device(out):
    one, mesh = (dict(np.load(out / f"{case}_texts.npz")) for case in (ONE, ALL))
    for part in ("losses", "weights"):
        np.testing.assert_allclose(mesh[part], one[part], atol=1e-5, err_msg=part)
    np.testing.assert_allclose(mesh["images"].astype(int), one["images"], atol=1)
    collectives = _collectives(out / f"{ALL}_texts.hlo")
    assert [shape for name, shape in collectives if name == "all-gather" and shape[1:3] in ((4, 4), (2, 2))] == []


def test_images_and_evaluation_are_those_of_one_device(cases):
    np.testing.assert_allclose(cases[ALL]["images"].astype(int), cases[ONE]["images"], atol=1)
    assert np.ptp(cases[ONE]["images"]) > 50
    np.testing.assert_allclose(cases[ALL]["evaluation"], cases[ONE]["evaluation"], atol=1e-5)


def test_each_device_holds_its_share_of_weights_optimizer_and_averages(cases):
    whole = cases[ONE]["bytes"].sum()
    assert len(cases[FSDP]["bytes"]) == 8
    assert cases[FSDP]["bytes"].max() <= whole / 8 * 1.05
    assert (cases[DATA]["bytes"] == whole).all()
    assert cases[ALL]["bytes"].max() <= whole / 4 * 1.05


@pytest.mark.parametrize("case", CASES[1:])
def test_the_table_s_bytes_are_those_on_the_devices(cases, case):
    assert np.abs(cases[case]["bytes"] - cases[case]["table_bytes"]).max() < 64  # counters of the optimizer


def test_a_saved_model_lies_on_the_mesh_as_before(cases):
    for part in ("weights", "averages", "bytes"):
        np.testing.assert_array_equal(cases[FSDP][f"loaded_{part}"], cases[FSDP][part], err_msg=part)


def test_data_parallel_training_gathers_nothing(collectives):
    assert collectives[ONE] == []
    assert {name for name, _ in collectives[DATA]} == {"all-reduce"}


def test_fully_sharded_training_gathers_weights_and_no_feature_maps(collectives):
    names = [name for name, _ in collectives[FSDP]]
    assert names.count("all-gather") >= 10 and {"all-reduce", "reduce-scatter"} & set(names)
    assert gathered_maps(collectives[FSDP]) == []


def test_tensor_parallel_training_reduces_feature_maps_and_gathers_none(collectives):
    maps = [shape for name, shape in collectives[ALL] if name == "all-reduce" and shape in FEATURE_MAPS]
    assert len(maps) >= 4
    assert gathered_maps(collectives[ALL]) == []


# [rows, height, width, channels] of the two levels, for the rows of one device or of several.
FEATURE_MAPS = {(rows, 4, 4, c) for rows in (2, 4, 8, 16) for c in (32, 64)} | {
    (rows, 2, 2, c) for rows in (2, 4, 8, 16) for c in (64, 128, 256, 512)
}


def gathered_maps(step):
    return [(name, shape) for name, shape in step if name == "all-gather" and shape in FEATURE_MAPS]


def test_refusals_on_devices(out):
    refused = json.loads((out / "refused.json").read_text())
    multiple = "On the mesh data:4,fsdp:2,model:1 every batch of a process must be divisible by 8, the last one too"
    for case, rows in {"first batch": 12, "last batch of arrays": 4, "evaluate": 12, "validation": 4}.items():
        assert refused[case] == f"{multiple}, got one of {rows} examples."
    assert refused["made before"].startswith("The model was made before distribute(), so ")
    assert refused["heads"].endswith("got model:8 and 4 heads at level 1.")
    assert refused["renamed"].startswith("No sharding rule matches the variable residual_uvit/level0_down_block0/conv")
    assert refused["distribution after"] == "None"


def test_a_network_of_another_maker_is_split_along_its_largest_dimensions(out):
    found = json.loads((out / "foreign.json").read_text())
    weights = 12 * 128 * 128 + 2 * 12 * 128  # those of 16,384 and more are split in 8
    assert found["table"] < 16 * (weights / 8 + 5000)
    assert all(lying == pytest.approx(found["table"], rel=1e-3) for lying in found["lies"])
    assert np.isfinite(found["loss"])
    assert "hidden0/kernel does not lie on the mesh as the sharding rules of its network say" in found["eager"]
