"""The plan against a hand calculation and against the memory of compiled programs."""

import os
import subprocess
import sys

import pytest

from keras_sid2.models import largest_batch, memory_plan, network_cost
from keras_sid2.models.memory import XLA_CPU
from keras_sid2.training import find_preset

pytestmark = pytest.mark.backend_free

NETWORK = find_preset("sid2_imagenet256_uvit2").network
PARTS = ("parameters", "gradients", "optimizer", "averages")


def test_weights_take_what_float32_and_adam_take():
    plan = memory_plan(NETWORK, batch_size=8)
    parameters = network_cost(**NETWORK).parameters
    assert [getattr(plan, part) for part in PARTS] == [4 * parameters * n for n in (1, 1, 2, 1)]
    assert plan.batch == 4 * 8 * 256 * 256 * 3 * 4
    assert plan.total == sum(getattr(plan, part) for part in (*PARTS, "batch", "activations"))


def test_a_mesh_divides_weights_by_fsdp_and_model_and_the_batch_by_data_and_fsdp():
    one, many = memory_plan(NETWORK, batch_size=8), memory_plan(NETWORK, batch_size=64, data=4, fsdp=2, model=2)
    assert [getattr(one, part) for part in PARTS] == pytest.approx([4 * getattr(many, part) for part in PARTS])
    assert one.activations == many.activations and one.batch == many.batch


def test_remat_saves_most_of_the_activations_and_accumulation_divides_them():
    plain, remat = (memory_plan({**NETWORK, "remat": remat}, batch_size=64) for remat in (False, True))
    assert remat.activations < 0.5 * plain.activations
    parts = memory_plan(NETWORK, batch_size=256, accumulation_steps=4)
    assert parts.activations == plain.activations and parts.batch == 4 * plain.batch


@pytest.mark.parametrize("options", [{}, {"data": 4, "fsdp": 2}, {"precision": "mixed_bfloat16"}])
def test_the_largest_batch_fits_and_the_next_does_not(options):
    step = options.get("data", 1) * options.get("fsdp", 1)
    fits, memory = largest_batch(NETWORK, 80 * 2**30, **options), 80 * 2**30
    assert fits and fits % step == 0
    assert memory_plan(NETWORK, batch_size=fits, **options).total <= memory
    assert memory_plan(NETWORK, batch_size=fits + step, **options).total > memory
    assert largest_batch(NETWORK, 2**30) == 0


@pytest.mark.parametrize(
    "change, sentence",
    [
        ({"batch_size": 0}, "batch_size must be an integer >= 1, got 0"),
        ({"fsdp": -1}, "fsdp must be an integer >= 1, got -1"),
        ({"precision": "float16"}, "precision must be one of float32, mixed_bfloat16, got 'float16'"),
        ({"data": 3}, "batch_size must be a multiple of data . fsdp . accumulation_steps = 3, got 8"),
    ],
)
def test_wrong_sizes_are_refused(change, sentence):
    with pytest.raises(ValueError, match=sentence):
        memory_plan(NETWORK, **{"batch_size": 8, **change})


def network(height, *levels):
    """Fields of a network for grey images, without classes."""
    return dict(image_shape=(height, height, 1), patch_size=1, num_classes=None, embedding_dim=8, levels=levels)


def res(channels, blocks, **fields):
    return {"kind": "res", "channels": channels, "blocks": blocks, **fields}


def transformer(channels, blocks, **fields):
    return {"kind": "transformer", "channels": channels, "blocks": blocks, **fields}


# Network, batch, and how far off the plan may be: work space that XLA shares between levels is not in the formula.
SHAPES = [
    (network(32, res(16, 2), res(32, 3)), 4, 0.1),
    (network(16, res(32, 1, dropout=0.1), transformer(64, 3, head_dim=32)), 8, 0.2),
    (network(32, res(16, 2), transformer(32, 1, head_dim=16), transformer(64, 2, dropout=0.1)), 4, 0.4),
]
# The suite compiles without optimizations, which is another program: so in a process of its own.
PROGRAM = """
import jax, sys
from jax import numpy as jnp
from keras_sid2 import ResidualUViT
shapes = eval(sys.argv[1])
for settings, batch, _ in shapes:
    network = ResidualUViT(**settings)
    others = [v.value for v in network.non_trainable_variables]
    def loss(weights, z_t, logsnr, v, seed):
        v_hat, _ = network.stateless_call(weights, others, (z_t, logsnr, None), training=True, seed=seed)
        return jnp.mean(jnp.square(v_hat - v))
    like = jax.ShapeDtypeStruct
    images = like((batch, *settings["image_shape"]), "float32")
    weights = [like(v.shape, v.dtype) for v in network.trainable_variables]
    lowered = jax.jit(jax.value_and_grad(loss)).lower(weights, images, like((batch,), "float32"), images,
                                                      like((2,), "int32"))
    print(lowered.compile().memory_analysis().temp_size_in_bytes)
"""


def test_activations_are_xla_s_temporary_memory():
    pytest.importorskip("jax")
    environment = {**os.environ, "KERAS_BACKEND": "jax", "JAX_PLATFORMS": "cpu", "JAX_DISABLE_MOST_OPTIMIZATIONS": "0"}
    command = [sys.executable, "-c", PROGRAM, repr(SHAPES)]
    result = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
    measured = [int(line) for line in result.stdout.split()]
    for (settings, batch, tolerance), temporary in zip(SHAPES, measured, strict=True):
        plan = memory_plan(settings, batch_size=batch, compiler=XLA_CPU)
        assert plan.activations == pytest.approx(temporary, rel=tolerance)
