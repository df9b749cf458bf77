"""Exact counts against hand calculations; the estimate of activations against what was measured and compiled."""

import math

import keras
import pytest
from helpers import LEVELS, tiny_network
from keras import ops
from plain_network import PlainTransformer

from keras_sid2 import MomentMatchingModel, ResidualUViT, SiD2Model, SigmoidWeighting
from keras_sid2.diffusion import CosineSchedule
from keras_sid2.models import abstract_variables, largest_batch, memory_plan, trace
from keras_sid2.parallel.rules import Mesh, table
from keras_sid2.training import find_preset

pytestmark = pytest.mark.backend_free

GIB = 2**30


def abstract(preset="sid2_imagenet256_uvit2", dtype="mixed_bfloat16", **changes):
    with abstract_variables():
        return trace(ResidualUViT(**{**find_preset(preset).network, **changes}, dtype=dtype))


@pytest.fixture(scope="module")
def traced():
    return abstract()


def test_weights_take_what_float32_and_adam_take(traced):
    plan = memory_plan(traced, batch_size=8)
    held = [plan.parameters, plan.gradients, plan.optimizer, plan.averages]
    assert held == [4 * traced.cost.parameters * n for n in (1, 1, 2, 1)]
    assert plan.batch == 8 * (256 * 256 * 3 + 4)
    assert plan.total == sum(held) + plan.batch + plan.activations
    assert memory_plan(traced, batch_size=16).activations == 2 * plan.activations


# GiB: one H200, mixed_bfloat16; and XLA for TPU v5p (libtpu 0.0.52), arguments and temporary memory of a step.
MEASURED = [
    ("sid2_imagenet512_uvit2", 8, {}, {"jax": 22.9, "torch": 32.4}),
    ("sid2_imagenet256_uvit2", 32, {}, {"jax": 23.0, "torch": 32.3, "tpu": 22.9}),
    ("sid2_imagenet256_uvit2", 8, {"dtype": "float32"}, {"tpu": 12.2}),
    ("sid2_imagenet256_uvit2", 32, {"remat": True}, {"tpu": 9.3}),
]


@pytest.mark.parametrize("preset, batch, changes, measured", MEASURED)
def test_the_estimate_is_near_what_was_measured(preset, batch, changes, measured):
    traced = abstract(preset, **changes)
    for where, gib in measured.items():
        kind = {"platform": "tpu"} if where == "tpu" else {"backend": where}
        assert memory_plan(traced, batch_size=batch, **kind).total / GIB == pytest.approx(gib, rel=0.25), where


def test_a_mesh_divides_the_batch_and_the_weights_as_its_table_says(traced):
    mesh = Mesh(data=4, fsdp=2, model=2)
    one, many = memory_plan(traced, batch_size=8), memory_plan(traced, batch_size=64, mesh=mesh)
    *weights, _ = table(traced.network, mesh).rows  # the last is the state of a seed
    assert many.parameters + many.optimizer + many.averages == sum(row.bytes_per_device for row in weights)
    assert one.batch == many.batch and one.activations / 2 < many.activations < one.activations
    assert memory_plan(traced, batch_size=32, mesh=Mesh(data=4)) == one


def test_accumulation_divides_the_activations_and_holds_two_of_all_gradients(traced):
    whole, parts = memory_plan(traced, batch_size=64), memory_plan(traced, batch_size=256, accumulation_steps=4)
    assert parts.activations == whole.activations and parts.batch == 4 * whole.batch
    assert parts.gradients == 2 * whole.gradients


def test_remat_keeps_the_inputs_of_blocks():
    """9 blocks on 32 x 32 positions of 16 numbers in bfloat16, each of which goes through 7 such arrays."""
    network = dict(image_shape=(32, 32, 1), levels=[{"kind": "res", "channels": 16, "blocks": 9}])
    kept, array = [], 32 * 32 * 16 * 2
    for remat in (False, True):
        traced = trace(tiny_network(**network, remat=remat, dtype="mixed_bfloat16"))
        assert [(part.input, part.tensors // array) for part in traced.parts[2:]] == [(array, 7)] * 8
        kept.append(memory_plan(traced, batch_size=1).activations / array)
    assert kept[0] == pytest.approx(0.85 * 9 * 7, rel=0.1)
    assert kept[1] == pytest.approx(9 + 0.85 * 7, rel=0.2)
    assert memory_plan(traced, batch_size=1, platform="cpu").activations > 2 * kept[0] * array  # XLA keeps all there


BATCHES = [
    ({}, 1),
    ({"mesh": Mesh(data=4, fsdp=2)}, 8),
    ({"accumulation_steps": 2, "backend": "torch"}, 2),
    ({"distillation": True, "matching": "parameters", "mesh": Mesh(data=2)}, 4),  # each part is halved
]


@pytest.mark.parametrize("options, step", BATCHES)
def test_the_largest_batch_fits_and_the_next_does_not(traced, options, step):
    fits, memory = largest_batch(traced, 80 * GIB, **options), 80 * GIB
    assert fits and fits % step == 0
    assert memory_plan(traced, batch_size=fits, **options).total <= memory
    assert memory_plan(traced, batch_size=fits + step, **options).total > memory
    assert largest_batch(traced, GIB // 10, **options) == 0


@pytest.mark.parametrize("matching", ["auxiliary", "parameters"])
def test_distillation_takes_what_a_student_s_model_holds(matching):
    network = tiny_network(levels=LEVELS)
    with abstract_variables():
        traced = trace(tiny_network(levels=LEVELS))
    teacher = SiD2Model(network, CosineSchedule(), SigmoidWeighting(0.0))
    student = MomentMatchingModel.of_teacher(teacher, 2, matching=matching)
    student.compile()
    student.optimizer.build(student.trainable_variables)
    found = memory_plan(traced, batch_size=8, platform="cpu", distillation=True, matching=matching)
    networks = [n for n in (student.network, student.teacher, student.auxiliary) if n is not None]
    sizes = {
        "parameters": [v for n in networks for v in n.variables],
        "gradients": student.trainable_variables * (1 if matching == "auxiliary" else 4),
        "optimizer": student.optimizer.variables,
        "averages": student._averages,
    }
    for part, variables in sizes.items():
        exact = sum(4 * math.prod(v.shape) for v in variables)
        assert getattr(found, part) == pytest.approx(exact, abs=100), part  # counters
    share = 2 if matching == "auxiliary" else 1.5
    assert found.activations == share * memory_plan(traced, batch_size=8, platform="cpu").activations


@pytest.mark.parametrize(
    "change, sentence",
    [
        ({"batch_size": 0}, "batch_size must be an integer >= 1, got 0"),
        ({"accumulation_steps": -1}, "accumulation_steps must be an integer >= 1, got -1"),
        ({"platform": "gpus"}, "estimates for jax on gpu, .* got the backend 'jax' on the platform 'gpus'"),
        ({"platform": "tpu", "backend": "torch"}, "got the backend 'torch' on the platform 'tpu'"),
        ({"mesh": Mesh(data=3)}, "batch_size must be a multiple of data . fsdp . accumulation_steps = 3, got 8"),
        ({"mesh": Mesh(model=3)}, "must divide the attention heads of every level, got model:3 and 4 heads at level 2"),
    ],
)
def test_wrong_sizes_are_refused(traced, change, sentence):
    with pytest.raises(ValueError, match=sentence):
        memory_plan(traced, **{"batch_size": 8, **change})


def test_a_network_of_billions_of_weights_is_planned_without_making_it():
    levels = find_preset("sid2_imagenet256_uvit2").network["levels"]
    wide = abstract(levels=[{**level, "channels": 8 * level["channels"]} for level in levels])
    assert memory_plan(wide, batch_size=8).parameters > 4 * 10e9


def test_abstract_variables_stay_without_values():
    """Also behind the next scope of keras, which gives values to those that it finds."""
    with abstract_variables():
        network = tiny_network(levels=LEVELS)
    with keras.StatelessScope():
        pass
    assert all(v._value is None for v in network.variables)
    assert network.count_params() == tiny_network(levels=LEVELS).count_params()


# -- a network of another maker ------------------------------------------------------------------------------------


def test_a_plain_network_is_counted_by_its_layers():
    """16 patches of 2 x 2 x 3 in 32 numbers, two blocks of 2 heads."""
    with abstract_variables():
        traced = trace(PlainTransformer(dim=32, depth=2))
    blocks = 2 * (16 * 12 * 32 * 32 + 2 * 16 * 16 * 32)
    assert traced.cost.multiply_adds == blocks + 2 * 16 * 12 * 32 + 32
    assert traced.cost.block_multiply_adds == 0  # it does not say which its blocks are
    made = PlainTransformer(dim=32, depth=2)
    made({"z_t": ops.zeros((1, 8, 8, 3)), "logsnr": ops.zeros((1,))})
    assert traced.cost.parameters == made.count_params() == trace(made).cost.parameters
    assert memory_plan(traced, batch_size=2).activations > 0


def test_a_class_may_say_its_own_count():
    class Told(PlainTransformer):
        def multiply_adds(self):
            return 7

    with abstract_variables():
        assert trace(Told(dim=32, depth=1)).cost.multiply_adds == 7
