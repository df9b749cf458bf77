"""The plan against a hand calculation, against made networks, and against the memory of compiled train steps."""

import json
import os
import pathlib
import subprocess
import sys

import pytest
from helpers import LEVELS, NETWORKS, tiny_network

from keras_sid2.models import largest_batch, memory_plan, network_cost, network_weights
from keras_sid2.parallel.rules import Mesh, table
from keras_sid2.training import find_preset

pytestmark = pytest.mark.backend_free

HERE = pathlib.Path(__file__).parent
PRESET = find_preset("sid2_imagenet256_uvit2").network
PARTS = ("parameters", "gradients", "optimizer", "averages")


@pytest.mark.parametrize("change", [{}, *NETWORKS.values()])
def test_weights_are_those_of_a_made_network(change):
    made = tiny_network(**change)
    defaults = dict(image_shape=(4, 4, 1), patch_size=1, num_classes=3, embedding_dim=8, levels=LEVELS)
    counted = network_weights(**{**defaults, **change})
    assert counted.levels == made.levels
    assert {w.path: w.shape for w in counted.trainable_variables} == {v.path: v.shape for v in made.trainable_variables}


def test_weights_take_what_float32_and_adam_take():
    plan = memory_plan(PRESET, batch_size=8)
    parameters = network_cost(**PRESET).parameters
    assert [getattr(plan, part) for part in PARTS] == [4 * parameters * n for n in (1, 1, 2, 1)]
    assert plan.batch == 8 * (256 * 256 * 3 + 4)
    assert plan.total == 16 * parameters + plan.batch + plan.temporary
    assert plan.activations < plan.temporary < plan.activations + plan.gradients


def test_a_mesh_divides_the_batch_and_the_weights_as_its_table_says():
    mesh = Mesh(data=4, fsdp=2, model=2)
    one, many = memory_plan(PRESET, batch_size=8), memory_plan(PRESET, batch_size=64, mesh=mesh)
    rows = table(network_weights(**PRESET), mesh)
    assert many.parameters + many.optimizer + many.averages == rows.bytes_per_device
    assert one.batch == many.batch and many.temporary < one.temporary
    assert memory_plan(PRESET, batch_size=32, mesh=Mesh(data=4)).temporary == one.temporary


def test_remat_saves_most_of_the_activations_on_tpu_and_nothing_on_cpu():
    def plan(platform, remat):
        return memory_plan({**PRESET, "remat": remat}, batch_size=64, platform=platform)

    assert plan("tpu", True).activations < 0.5 * plan("tpu", False).activations
    assert plan("cpu", True) == plan("cpu", False)


def test_accumulation_divides_the_activations_and_holds_all_gradients():
    whole, parts = memory_plan(PRESET, batch_size=64), memory_plan(PRESET, batch_size=256, accumulation_steps=4)
    assert parts.activations == whole.activations and parts.batch == 4 * whole.batch
    assert parts.temporary > whole.activations + whole.gradients


@pytest.mark.parametrize(
    "options", [{}, {"mesh": Mesh(data=4, fsdp=2)}, {"precision": "mixed_bfloat16", "accumulation_steps": 2}]
)
def test_the_largest_batch_fits_and_the_next_does_not(options):
    step = options.get("mesh", Mesh()).batch_shards * options.get("accumulation_steps", 1)
    fits, memory = largest_batch(PRESET, 80 * 2**30, **options), 80 * 2**30
    assert fits and fits % step == 0
    assert memory_plan(PRESET, batch_size=fits, **options).total <= memory
    assert memory_plan(PRESET, batch_size=fits + step, **options).total > memory
    assert largest_batch(PRESET, 2**30, **options) == 0


@pytest.mark.parametrize(
    "change, sentence",
    [
        ({"batch_size": 0}, "batch_size must be an integer >= 1, got 0"),
        ({"accumulation_steps": -1}, "accumulation_steps must be an integer >= 1, got -1"),
        ({"precision": "float16"}, "precision must be one of float32, mixed_bfloat16, got 'float16'"),
        ({"platform": "gpu"}, "platform must be one of cpu, tpu, got 'gpu'"),
        ({"mesh": Mesh(data=3)}, "batch_size must be a multiple of data . fsdp . accumulation_steps = 3, got 8"),
        ({"mesh": Mesh(model=3)}, "must divide the attention heads of every level, got model:3 and 4 heads at level 2"),
    ],
)
def test_wrong_sizes_are_refused(change, sentence):
    with pytest.raises(ValueError, match=sentence):
        memory_plan(PRESET, **{"batch_size": 8, **change})


def case(height, *levels, batch, precision="float32", parts=1, mesh="data:1", **network) -> dict:
    settings = dict(image_shape=(height, height, 3), patch_size=1, num_classes=10, embedding_dim=64, levels=levels)
    return dict(network={**settings, **network}, batch=batch, precision=precision, parts=parts, mesh=mesh)


def res(channels, blocks, **fields):
    return {"kind": "res", "channels": channels, "blocks": blocks, **fields}


def transformer(channels, blocks, **fields):
    return {"kind": "transformer", "channels": channels, "blocks": blocks, **fields}


# None of them was looked at while the arrays were counted.
CASES = {
    "convolutions, dropout": case(32, res(48, 1, dropout=0.1), res(96, 1), batch=6),
    "attention over many positions": case(16, transformer(96, 1, head_dim=24), batch=18),
    "weights outweigh activations": case(8, transformer(384, 1), batch=2, embedding_dim=256),
    "bfloat16": case(16, res(64, 1), transformer(128, 1, head_dim=32), batch=20, precision="mixed_bfloat16"),
    "accumulation": case(16, transformer(128, 1, dropout=0.1, head_dim=64), batch=24, parts=3),
    "a mesh": case(16, res(64, 1), transformer(128, 1, head_dim=32), batch=32, mesh="data:2,fsdp:2,model:2"),
}


@pytest.fixture(scope="module")
def measured() -> dict[str, dict[str, int]]:
    """By the name of the case, from a process of its own: the suite compiles without optimizations, another program."""
    pytest.importorskip("jax")
    environment = {
        **os.environ,
        "KERAS_BACKEND": "jax",
        "JAX_PLATFORMS": "cpu",
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "0",
        "XLA_FLAGS": "--xla_force_host_platform_device_count=8",
        "PYTHONPATH": str(HERE.parent.parent),
    }
    command = [sys.executable, HERE / "compiled_memory.py", json.dumps([*CASES.values()])]
    result = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=600)
    assert result.returncode == 0, result.stderr
    return dict(zip(CASES, map(json.loads, result.stdout.splitlines()), strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_the_plan_is_within_a_tenth_of_xla_s_figure(measured, name):
    fields, found = CASES[name], measured[name]
    plan = memory_plan(
        fields["network"],
        batch_size=fields["batch"],
        precision=fields["precision"],
        mesh=Mesh.parse(fields["mesh"]),
        accumulation_steps=fields["parts"],
    )
    assert plan.total - plan.temporary == pytest.approx(found["arguments"], rel=0.02)
    assert plan.temporary == pytest.approx(found["temporary"], rel=0.1)


@pytest.mark.slow
def test_the_largest_batch_compiles_to_the_memory_it_was_asked_for(measured):
    name = "attention over many positions"
    memory = sum(measured[name].values())
    fits = largest_batch(CASES[name]["network"], memory)
    assert fits == pytest.approx(CASES[name]["batch"], abs=1)


def test_a_preset_of_billions_of_weights_is_planned_without_making_it():
    giant = {**PRESET, "levels": [{**level, "channels": 8 * level["channels"]} for level in PRESET["levels"]]}
    assert memory_plan(giant, batch_size=8).parameters > 4 * 10e9
    with pytest.raises(ValueError, match="head_dim must divide"):
        network_weights(**{**PRESET, "levels": [transformer(100, 1, head_dim=64)]})
