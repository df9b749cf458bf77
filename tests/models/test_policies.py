"""What keras lets one set for every layer, in our network: dtype policies, floatx, the order of an image's axes."""

import contextlib

import keras
import numpy as np
import pytest
from helpers import BACKEND, network_inputs, randomize, run, tiny_network, to_numpy
from keras import ops

from keras_sid2 import ResidualUViT, policies
from keras_sid2.policies import network_policy

FLOAT32 = {"float32"}
# What is asked for, the policy that it is, and the type that blocks compute in.
ACCEPTED = {
    "None": (None, "float32", "float32"),
    "float32": ("float32", "float32", "float32"),
    "numpy's": (np.float32, "float32", "float32"),
    "mixed_bfloat16": ("mixed_bfloat16", "mixed_bfloat16", "bfloat16"),
    "bfloat16": ("bfloat16", "mixed_bfloat16", "bfloat16"),
    "a policy": (keras.DTypePolicy("bfloat16"), "mixed_bfloat16", "bfloat16"),
    "mixed_float16": ("mixed_float16", "mixed_float16", "float16"),
    "float16": ("float16", "mixed_float16", "float16"),
}
REFUSED = ["float64", "int8", "int8_from_float32", "float8_from_mixed_bfloat16", "half", 16]


@contextlib.contextmanager
def set_in_keras(setter, value):
    """A setting of keras.config within it."""
    before = getattr(keras.config, setter.removeprefix("set_"))()
    getattr(keras.config, setter)(value)
    try:
        yield
    finally:
        getattr(keras.config, setter)(before)


def types(network):
    return {weight.dtype for weight in network.weights}


@pytest.mark.backend_free
@pytest.mark.parametrize("asked, name, inside", ACCEPTED.values(), ids=ACCEPTED)
def test_a_policy_is_one_with_float32_weights(asked, name, inside):
    policy = network_policy(asked)
    assert (policy.name, policy.variable_dtype, policy.compute_dtype) == (name, "float32", inside)


@pytest.mark.parametrize("asked", ["bfloat16", "mixed_float16"])
def test_weights_and_output_are_float32_whatever_is_inside(asked):
    network = randomize(tiny_network(dtype=asked))
    assert network.get_layer("level0_down_block0").compute_dtype == network_policy(asked).compute_dtype
    assert types(network) == FLOAT32
    if asked == "mixed_float16" and BACKEND == "jax":
        return  # XLA for CPU has no product of float16 matrices with float32 sums
    output = run(lambda *inputs: network(inputs), *network_inputs(network))
    assert output.dtype == "float32" and np.isfinite(output).all()


def test_a_step_in_half_precision_moves_the_float32_weights():
    network = randomize(tiny_network(dtype="bfloat16"))
    before = [to_numpy(weight.value) for weight in network.trainable_variables]
    inputs = network_inputs(network, batch=4)
    network.compile("sgd", "mse")
    network.train_on_batch(inputs, np.ones_like(inputs[0]))
    assert types(network) == FLOAT32
    pairs = zip(network.trainable_variables, before, strict=True)
    still = {v.path.split("/", 1)[1] for v, old in pairs if np.array_equal(to_numpy(v.value), old)}
    assert still == {"level1_middle_block0/attention/key_norm/beta"}


@pytest.mark.backend_free
@pytest.mark.parametrize("asked", REFUSED)
def test_other_policies_are_refused_by_name(asked):
    with pytest.raises(ValueError, match=f"dtype must be one of float32, mixed_bfloat16, .*, got {asked!r}: weights"):
        tiny_network(dtype=asked)


@pytest.mark.backend_free
def test_a_map_of_policies_is_refused():
    with pytest.raises(ValueError, match="dtype must be one of float32"):
        network_policy(keras.dtype_policies.DTypePolicyMap())


@pytest.mark.backend_free
@pytest.mark.parametrize("asked, name", [("mixed_bfloat16", "mixed_bfloat16"), ("bfloat16", "mixed_bfloat16")])
def test_the_global_policy_is_the_network_s_where_none_is_given(asked, name):
    with set_in_keras("set_dtype_policy", asked):
        network = tiny_network()
        explicit = tiny_network(dtype="float32")
    assert network.dtype_policy.name == name and types(network) == FLOAT32
    assert explicit.get_layer("level0_down_block0").compute_dtype == "float32"


@pytest.mark.backend_free
def test_a_global_policy_that_no_network_can_have_is_named():
    with set_in_keras("set_dtype_policy", "float64"), pytest.raises(ValueError, match='got the global .*"float64"'):
        tiny_network()


@pytest.mark.backend_free
@pytest.mark.parametrize(
    "floatx, remedy",
    [
        ("bfloat16", r"set_floatx\('float32'\), and give the network dtype='mixed_bfloat16'"),
        ("float16", r"set_floatx\('float32'\), and give the network dtype='mixed_float16'"),
        ("float64", r"set_floatx\('float32'\)\.$"),
    ],
)
def test_another_floatx_is_refused(floatx, remedy):
    with set_in_keras("set_floatx", floatx), pytest.raises(ValueError, match=remedy):
        tiny_network(dtype="float32")


def test_a_network_of_pure_half_precision_from_an_earlier_version_loads_with_float32_weights():
    network = tiny_network(dtype="mixed_bfloat16")
    config = network.get_config()
    config["dtype"] = {"module": "keras", "class_name": "DTypePolicy", "config": {"name": "bfloat16"}}
    again = ResidualUViT.from_config({**config, "dtype": keras.saving.deserialize_keras_object(config["dtype"])})
    assert again.dtype_policy.name == "mixed_bfloat16" and types(again) == FLOAT32


def test_the_network_is_the_same_where_keras_takes_channels_first():
    network = randomize(tiny_network(image_shape=(8, 8, 3), patch_size=2))
    inputs = tuple(map(ops.convert_to_tensor, network_inputs(network)))
    with set_in_keras("set_image_data_format", "channels_first"):
        again = tiny_network(image_shape=(8, 8, 3), patch_size=2)
        again.set_weights(network.get_weights())
        np.testing.assert_array_equal(to_numpy(again(inputs)), to_numpy(network(inputs)))
        with pytest.raises(ValueError, match="is 'channels_first', and networks get images"):
            policies.check_channels_last()
    policies.check_channels_last()
