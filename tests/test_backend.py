"""The places where backends differ: each does the same thing on the one that runs."""

import keras
import numpy as np
import pytest
from helpers import BACKEND, images, only_on_jax, only_on_torch, to_numpy
from keras import ops

from keras_sid2 import backend
from keras_sid2.parallel import replicas


def test_the_name_is_keras_s():
    assert backend.name() == BACKEND in ("jax", "tensorflow", "torch")


def test_compiled_uses_the_values_it_is_given_and_leaves_the_variables_alone():
    variable = keras.Variable(np.float32([1.0, 2.0]), name="v")
    program = backend.compiled(lambda x: x * variable + 1.0, [variable], jit_compile=False)
    x = ops.convert_to_tensor(np.float32([10.0, 100.0]))
    for value in ([1.0, 2.0], [3.0, -1.0]):
        result = program([ops.convert_to_tensor(np.float32(value))], x)
        np.testing.assert_allclose(to_numpy(result), 1.0 + np.float32([10.0, 100.0]) * value)
    np.testing.assert_array_equal(to_numpy(variable.value), [1.0, 2.0])


def test_other_values_do_not_compile_again():
    traced = []
    variable = keras.Variable(np.float32(1.0), name="v")
    program = backend.compiled(lambda x: traced.append(1) or x * variable, [variable], jit_compile=False)
    for value in (1.0, 2.0, 3.0):
        program([ops.convert_to_tensor(np.float32(value))], ops.convert_to_tensor(np.float32(value)))
    assert len(traced) == (3 if BACKEND == "torch" else 1)


def test_compiled_keeps_no_gradients_on_torch():
    variable = keras.Variable(np.float32([1.0, 2.0]), name="v")
    result = backend.compiled(lambda: variable * 2.0, [variable], jit_compile=False)([variable.value])
    assert not getattr(result, "requires_grad", False)


# recorded.


def squares(variable):
    """A function of tensors and a variable, and the list of its calls."""
    calls = []

    def function(x, y):
        calls.append(1)
        return ops.square(x) * variable + ops.cast(y, "float32")

    return function, calls


def test_a_recorded_function_follows_its_variables_and_arguments():
    variable = keras.Variable(np.float32([1.0, 2.0]), name="v")
    function, calls = squares(variable)
    program = backend.compiled(backend.recorded(function, [variable]), [variable], jit_compile=False)
    for shift, value in ((0, [1.0, 2.0]), (5, [3.0, -1.0]), (7, [0.5, 4.0])):
        x, y = images(2, seed=shift), np.int32([shift, -shift])
        result = program([ops.convert_to_tensor(np.float32(value))], ops.convert_to_tensor(x), ops.convert_to_tensor(y))
        np.testing.assert_allclose(to_numpy(result), x**2 * np.float32(value) + y, rtol=1e-6)
    assert len(calls) == 1
    wider = program([variable.value], *(ops.convert_to_tensor(np.ones((3, 2), kind)) for kind in ("float32", "int32")))
    np.testing.assert_allclose(to_numpy(wider), [[2.0, 3.0]] * 3)
    assert len(calls) == 2


@only_on_torch
def test_a_recorded_function_takes_tensors_of_any_layout():
    program = backend.recorded(lambda x: ops.reshape(x, (-1,)) * 2.0, [])
    x = images(3, 4)
    for tensor in (ops.convert_to_tensor(x), ops.transpose(ops.convert_to_tensor(np.ascontiguousarray(x.T)))):
        np.testing.assert_array_equal(to_numpy(program(tensor)), x.ravel() * 2.0)


def by_numpy(x):
    return ops.convert_to_tensor(np.asarray(x.detach()) * 2.0)


def by_a_number(x):
    return x * x[0].item()


def by_a_branch(x):
    return x * 2.0 if x[0] > 0 else x


@only_on_torch
@pytest.mark.parametrize("function", [by_numpy, by_a_number, by_a_branch])
def test_what_looks_at_values_runs_as_it_is(function):
    program = backend.recorded(function, [])
    with pytest.warns(UserWarning, match="cannot be recorded"):
        program(ops.convert_to_tensor(np.float32([1.0, 2.0])))
    for values in ([3.0, 4.0], [-3.0, 4.0]):
        x = ops.convert_to_tensor(np.float32(values))
        np.testing.assert_array_equal(to_numpy(program(x)), to_numpy(function(x)))


# Convolution and group normalisation in one operation.


@pytest.mark.parametrize(
    "size, stride, padding", [(3, 1, "same"), (1, 1, "same"), (2, 2, "valid"), (2, 1, "same"), (3, 2, "same")]
)
def test_convolution_is_keras_s(size, stride, padding):
    x, kernel = ops.convert_to_tensor(images(2, 8, 6, 3)), ops.convert_to_tensor(images(size, size, 3, 4, seed=1))
    ours = backend.convolution(x, kernel, strides=(stride, stride), padding=padding)
    theirs = ops.conv(x, kernel, strides=stride, padding=padding, data_format="channels_last")
    np.testing.assert_allclose(to_numpy(ours), to_numpy(theirs), atol=1e-5)


@pytest.mark.parametrize("dtype, tolerance", [("float32", 1e-5), ("bfloat16", 0.02)])
def test_group_norm_in_one_operation(dtype, tolerance):
    x, scale, offset = images(2, 4, 3, 6) + 5.0, images(6, seed=1), images(6, seed=2)
    inputs = ops.cast(ops.convert_to_tensor(x), dtype)
    x = to_numpy(ops.cast(inputs, "float32")).astype("float64")
    result = backend.fused_group_norm(inputs, *map(ops.convert_to_tensor, (scale, offset)), groups=2, epsilon=1e-6)
    if BACKEND != "torch":
        assert result is None
        return
    assert keras.backend.standardize_dtype(result.dtype) == dtype
    grouped = x.reshape(2, 12, 2, 3)
    mean, variance = (f(grouped, axis=(1, 3), keepdims=True) for f in (np.mean, np.var))
    expected = ((grouped - mean) / np.sqrt(variance + 1e-6)).reshape(x.shape) * scale + offset
    np.testing.assert_allclose(to_numpy(ops.cast(result, "float32")), expected, atol=tolerance)


# loop.


@pytest.mark.parametrize("start, stop", [(0, 5), (2, 4), (3, 3)])
def test_loop_runs_from_start_to_before_stop(start, stop):
    def body(i, carry):
        total, steps = carry
        return total + ops.cast(i, "float32"), steps + 1.0

    zero = ops.convert_to_tensor(np.float32(0.0))
    total, steps = backend.loop(start, stop, body, (zero, zero))
    assert (float(total), float(steps)) == (sum(range(start, stop)), stop - start)


# Averages, norm, state.


def test_averages_move_by_their_momentum():
    averages = [keras.Variable(images(3, 2, seed=i), name=f"average{i}") for i in range(2)]
    variables = [keras.Variable(images(3, 2, seed=i + 2), name=f"variable{i}") for i in range(2)]
    backend.update_averages(averages, variables, 0.9, assign=replicas.update)
    for i, (average, variable) in enumerate(zip(averages, variables, strict=True)):
        expected = 0.9 * images(3, 2, seed=i) + 0.1 * images(3, 2, seed=i + 2)
        np.testing.assert_allclose(to_numpy(average.value), expected, rtol=1e-5)
        np.testing.assert_array_equal(to_numpy(variable.value), images(3, 2, seed=i + 2))


def test_global_norm_is_that_of_all_numbers_together():
    tensors = [images(3, 2), images(5, seed=1), images(seed=2)]
    expected = np.sqrt(sum((t.astype("float64") ** 2).sum() for t in tensors))
    norm = backend.global_norm([ops.convert_to_tensor(t) for t in tensors])
    assert float(norm) == pytest.approx(expected, rel=1e-6) and len(norm.shape) == 0
    assert np.isnan(float(backend.global_norm([ops.convert_to_tensor(np.float32([1.0, np.nan]))])))


@pytest.mark.parametrize("bound", [None, 2.5, 1e3])
@pytest.mark.parametrize("value", [3.0, np.nan, np.inf])
def test_tensors_are_clipped_together_and_zero_where_one_of_them_is_not_finite(value, bound):
    tensors = [np.float32([[value, 4.0], [0.0, 0.0]]), np.zeros(3, "float32")]  # a norm of 5
    given = [ops.convert_to_tensor(t) for t in tensors]
    found = backend.clipped(given, backend.global_norm(given), bound)
    for a, b, before in zip(found, tensors, given, strict=True):
        expected = b * (0.5 if bound == 2.5 else 1.0) if np.isfinite(value) else np.zeros_like(b)
        np.testing.assert_array_equal(to_numpy(a), expected)
        np.testing.assert_array_equal(to_numpy(before), b)


def test_step_value_is_that_of_the_step_s_state():
    variables = [keras.Variable(0.0, name=f"v{i}") for i in range(3)]  # equal values: only identity tells them apart
    assert to_numpy(backend.step_value(variables[1], variables, None)) == 0.0
    assert backend.step_value(variables[1], variables, ["a", "b", "c"]) == "b"


# variables_survive.


class Unlucky(keras.Model):
    """A model whose first training step dies while it is traced."""

    def __init__(self):
        super().__init__()
        self.dense = keras.layers.Dense(1, name="dense")

    def call(self, x):
        return self.dense(x)

    def compute_loss(self, *args, **kwargs):
        raise RuntimeError("no luck")


@pytest.fixture
def unlucky():
    model = Unlucky()
    model(ops.convert_to_tensor(images(2, 3)))
    model.compile(keras.optimizers.Adam(), run_eagerly=False)
    model.optimizer.build(model.trainable_variables)
    return model


def fit(model):
    model.fit(images(4, 3), images(4, 1), batch_size=4, verbose=0)


def test_weights_survive_a_first_step_that_dies(unlucky):
    before = unlucky.get_weights()
    with pytest.raises(RuntimeError, match="no luck"), backend.variables_survive(unlucky):
        fit(unlucky)
    for weight, value in zip(unlucky.weights, before, strict=True):
        np.testing.assert_array_equal(to_numpy(weight.value), value)
    assert int(unlucky.optimizer.iterations.value) == 0


@only_on_jax
def test_without_help_they_would_not(unlucky):
    with pytest.raises(RuntimeError, match="no luck"):
        fit(unlucky)
    if all(v._value is not None for v in unlucky.variables):
        pytest.skip("this keras keeps them by itself: backend.variables_survive may go")


def test_variables_survive_changes_nothing_when_all_is_well(unlucky):
    before = unlucky.get_weights()
    with backend.variables_survive(unlucky):
        unlucky.dense.bias.assign([7.0])
    np.testing.assert_array_equal(unlucky.get_weights()[1], [7.0])
    np.testing.assert_array_equal(unlucky.get_weights()[0], before[0])
    backend.sync_variables(unlucky)
    np.testing.assert_array_equal(unlucky.get_weights()[1], [7.0])
