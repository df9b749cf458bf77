"""Dropout's masks: what a plain numpy program draws, even, independent, the same however the batch is cut."""

import keras
import numpy as np
import pytest
from helpers import to_numpy
from keras import ops

from keras_sid2 import backend, threefry
from keras_sid2.layers.dropout import dropout, dropped, example_keys, quantised

RATES = (0.0, 2.0**-16, 0.1, 0.5, 0.9)


def plain(keys, shape, rate):
    """The mask by the definition, with numpy's unsigned integers."""

    def mix(x):
        for shift, factor in ((16, 0x21F0AAAD), (15, 0xD35A2D97)):
            x = (x ^ (x >> np.uint32(shift))) * np.uint32(factor)
        return x ^ (x >> np.uint32(15))

    half = -(-shape[0] // 2)
    key0, key1 = (np.asarray(keys).view("uint32")[:, i].reshape(-1, *(1 for _ in shape)) for i in range(2))
    counter = np.arange(half * np.prod(shape[1:], dtype=int), dtype="uint32").reshape(1, half, *shape[1:])
    words = mix(mix(counter + key0) ^ key1)
    bits = np.concatenate([words & np.uint32(0xFFFF), words >> np.uint32(16)], axis=1)[:, : shape[0]]
    return bits >= round(rate * 65536)


def keys_of(seed, batch):
    return example_keys(threefry.key(seed), batch)


@pytest.mark.parametrize("shape", [(4, 6, 8), (5, 3), (1, 2, 3), (2, 4, 4, 3), (7,)])
def test_the_mask_is_that_of_the_definition(shape):
    keys = keys_of(3, 5)
    for rate in RATES[2:]:
        np.testing.assert_array_equal(~to_numpy(dropped(keys, shape, rate)), plain(to_numpy(keys), shape, rate))


def test_the_rate_is_to_a_65536th_and_never_none_of_one_nor_all():
    assert [quantised(rate) for rate in RATES] == [0.0, 2.0**-16, 6554 / 65536, 0.5, 58982 / 65536]
    assert quantised(1e-9) == 1.0 - quantised(1.0 - 1e-9) == 2.0**-16


@pytest.mark.parametrize("rate", [0.1, 0.5])
def test_masks_are_even_and_independent(rate):
    """Counts, neighbours along each axis, halves of a word, channels, and examples, within four standard errors."""
    found = to_numpy(dropped(keys_of(1, 16), (32, 32, 32), rate)).astype("float64") - rate
    variance = rate * (1.0 - rate)

    def error(products, variance):
        return abs(products.mean()) / np.sqrt(variance / products.size)

    assert error(found, variance) < 4
    assert error(found[:, :16] * found[:, 16:], variance**2) < 4
    for axis in range(4):
        a, b = (np.take(found, range(i, found.shape[axis] - 1 + i), axis) for i in range(2))
        assert error(a * b, variance**2) < 4
    assert error(found * np.roll(found, 7, axis=0), variance**2) < 4
    other = to_numpy(dropped(keys_of(2, 16), (32, 32, 32), rate)) - rate
    assert error(found * other, variance**2) < 4


def test_an_example_s_mask_knows_nothing_of_its_batch():
    keys, shape = keys_of(9, 6), (4, 4, 2)
    whole = to_numpy(dropped(keys, shape, 0.4))
    np.testing.assert_array_equal(to_numpy(dropped(keys[2:3], shape, 0.4)), whole[2:3])


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_what_is_kept_is_scaled_by_the_rate_that_is_drawn_and_gradients_go_there_alone(dtype):
    seed, x = threefry.key(4), np.full((3, 4, 4, 2), 3.0, "float32")
    mask = plain(to_numpy(keys_of(4, 3)), (4, 4, 2), 0.1)
    expected = np.where(mask, 3.0 / (1.0 - 6554 / 65536), 0.0)
    found = dropout(ops.cast(x, dtype), seed, 0.1)
    np.testing.assert_allclose(
        to_numpy(ops.cast(found, "float32")), expected, rtol=1e-6 if dtype == "float32" else 2**-8
    )
    variable = keras.Variable(x)
    squares = lambda _: ops.square(dropout(ops.convert_to_tensor(variable), seed, 0.1))  # noqa: E731
    _, (slopes,) = backend.accumulated(squares, [variable], [variable], 1)
    np.testing.assert_allclose(to_numpy(slopes), 2 * expected / (1.0 - 6554 / 65536), rtol=1e-5)
