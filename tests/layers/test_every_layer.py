"""The harness that every layer goes through."""

import keras
import numpy as np
import pytest
from helpers import randomize, to_numpy
from keras import ops
from layer_cases import CASES

from keras_sid2 import layers

FLOAT32 = (layers.ConditionEmbedding, layers.TokenWhitening)  # under every policy
every_layer = pytest.mark.parametrize("case", CASES.values(), ids=CASES)


def test_the_harness_knows_every_layer():
    assert {case.make.__name__ for case in CASES.values()} == set(layers.__all__)


def call(layer, case):
    return layer(*map(ops.convert_to_tensor, case.inputs()))


@every_layer
def test_config_round_trip_gives_the_same_function(case):
    layer = randomize(case.build(name="here"))
    config = keras.saving.serialize_keras_object(layer)
    copy = keras.saving.deserialize_keras_object(config, safe_mode=True)
    assert type(copy) is type(layer) and copy.name == "here"
    assert copy.built and copy.get_config() == layer.get_config()
    copy.set_weights(layer.get_weights())
    np.testing.assert_array_equal(to_numpy(call(copy, case)), to_numpy(call(layer, case)))


@every_layer
def test_a_layer_has_the_parameters_that_its_equations_need(case):
    assert case.build().count_params() == case.parameters


@every_layer
def test_building_by_a_call_makes_the_same_weights(case):
    layer = case.make(**case.settings)
    call(layer, case)
    assert [w.shape for w in layer.weights] == [w.shape for w in case.build().weights]


@every_layer
@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16"])
def test_weights_are_float32_and_output_is_finite_under_any_policy(case, policy):
    layer = randomize(case.build(dtype=policy))
    output = call(layer, case)
    assert tuple(output.shape) == (2, *case.output_shape)
    assert np.isfinite(to_numpy(ops.cast(output, "float32"))).all()
    assert {w.dtype for w in layer.weights} == {"float32"}
    inside = "float32" if type(layer) in FLOAT32 else layer.compute_dtype
    assert keras.backend.standardize_dtype(output.dtype) == inside


@every_layer
def test_the_global_policy_reaches_the_sublayers(case):
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        layer = case.build()
    finally:
        keras.config.set_dtype_policy(before)
    expected = "float32" if type(layer) in FLOAT32 else "bfloat16"
    assert {part.compute_dtype for part in layer._flatten_layers()} == {expected}


@every_layer
def test_half_precision_is_close_to_float32(case):
    full, half = (randomize(case.build(dtype=policy)) for policy in ("float32", "mixed_bfloat16"))
    exact, rough = (to_numpy(ops.cast(call(layer, case), "float32")) for layer in (full, half))
    assert np.abs(rough - exact).mean() < 0.05 * np.abs(exact).mean()  # bfloat16 has 8 bits, and errors add up


@every_layer
def test_sublayers_are_named_by_their_role(case):
    layer = case.build()
    assert tuple(sorted(part.name for part in layer._layers)) == tuple(sorted(case.sublayers))
    for part in layer._layers:
        assert getattr(layer, part.name, getattr(layer, "resize", None)) is part


@every_layer
def test_every_weight_matters(case):
    """Moving any one weight moves the output, but for a bias common to all keys, which no softmax can see."""
    layer = randomize(case.build(), seed=1)
    inputs = list(map(ops.convert_to_tensor, case.inputs()))
    if "classes" in case.sublayers:
        inputs.append(ops.convert_to_tensor(np.array([0, 2], "int32")))
    before = to_numpy(layer(*inputs))
    for weight in (w for w in layer.weights if not w.path.endswith("key_norm/beta")):
        value = to_numpy(weight.value)
        weight.assign(value + np.random.default_rng(2).normal(size=value.shape))
        assert np.abs(to_numpy(layer(*inputs)) - before).max() > 1e-4, weight.path
        weight.assign(value)
