"""Layers whose operations on torch are fewer than Keras's: the same values, by numpy, and how many passes they take."""

import keras
import numpy as np
import pytest
from keras import ops

from keras_sid2 import backend
from keras_sid2.layers.attention import LayerNorm
from keras_sid2.layers.convolutions import Convolution, Dense, MeanPooling

_IMAGES = np.random.RandomState(0).normal(size=(2, 4, 6, 5)).astype("float32")
_ON_TORCH = pytest.mark.skipif(keras.backend.backend() != "torch", reason="counts torch's operations")


def _values(x) -> np.ndarray:
    return ops.convert_to_numpy(ops.stop_gradient(x))


def _built(layer):
    layer.build((None, *_IMAGES.shape[1:]))
    return layer


def _with_bias(layer):
    _built(layer)
    layer.bias.assign(np.arange(3, dtype="float32"))
    return layer


@pytest.mark.parametrize("make", [lambda: Dense(3), lambda: Convolution(3, 1)], ids=["dense", "one pixel"])
def test_products_of_channels(make):
    layer = _with_bias(make())
    kernel = _values(layer.kernel.value).reshape(5, 3)
    np.testing.assert_allclose(_values(layer(_IMAGES)), _IMAGES @ kernel + np.arange(3), atol=1e-5)


@_ON_TORCH
def test_products_of_no_image():
    assert _with_bias(Dense(3))(_IMAGES[:0]).shape == (0, 4, 6, 3)


def test_convolution_adds_its_bias_once():
    layer = _with_bias(Convolution(3, 3, padding="same"))
    with_bias = _values(layer(_IMAGES))
    layer.bias.assign(np.zeros(3))
    np.testing.assert_allclose(
        with_bias - _values(layer(_IMAGES)), np.broadcast_to([0, 1, 2], with_bias.shape), atol=1e-5
    )


def test_means_over_four_pixels():
    expected = _IMAGES.reshape(2, 2, 2, 3, 2, 5).mean((2, 4))
    np.testing.assert_allclose(_values(MeanPooling(2, data_format="channels_last")(_IMAGES)), expected, atol=1e-6)


def test_modulated():
    scale, shift = np.random.RandomState(1).normal(size=(2, 2, 1, 1, 5)).astype("float32")
    found = backend.modulated(*map(ops.convert_to_tensor, (_IMAGES, scale, shift)))
    np.testing.assert_allclose(_values(found), _IMAGES * scale + shift, atol=1e-6)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_layer_norm_is_keras_s(dtype):
    x, (scale, offset) = ops.cast(3.0 * _IMAGES, dtype), np.random.RandomState(1).normal(size=(2, 5)).astype("float32")
    found = backend.layer_norm(x, *map(ops.convert_to_tensor, (scale, offset)), 1e-6)
    expected = ops.layer_normalization(x, scale, offset, -1, 1e-6)
    assert found.dtype == expected.dtype == x.dtype
    np.testing.assert_array_equal(*(_values(ops.cast(each, "float32")) for each in (found, expected)))


@_ON_TORCH
@pytest.mark.parametrize(
    ("make", "wanted"),
    [
        (lambda: _with_bias(Dense(3)), ["addmm"]),
        (lambda: _with_bias(Convolution(3, 3, padding="same")), ["convolution"]),
        (lambda: MeanPooling(2, data_format="channels_last"), ["avg_pool2d"]),
        (lambda: _built(LayerNorm(dtype="mixed_bfloat16")), ["native_layer_norm"]),
    ],
    ids=["dense", "convolution", "means", "norm"],
)
def test_one_pass_on_torch(make, wanted):
    from torch.utils._python_dispatch import TorchDispatchMode

    ran, layer = [], make()
    images = ops.cast(_IMAGES, layer.compute_dtype)
    views = {"permute", "view", "_unsafe_view", "t", "detach", "alias"}

    class Noting(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            ran.append(function.overloadpacket.__name__)
            return function(*args, **(kwargs or {}))

    with Noting():
        layer(images)
    assert [name for name in ran if name not in views] == wanted
