"""A weight that the loss cannot see: what is added to all keys alike cancels in the softmax."""

import numpy as np
from helpers import images, randomize, to_numpy
from training_helpers import fit_steps, tiny_model, tiny_network

from keras_sid2 import layers

BETA = "attention/key_norm/beta"


def test_the_bias_of_all_keys_stays_where_it_is_and_all_else_moves():
    network = randomize(tiny_network())
    model = tiny_model(network=network)
    before = {v.path: to_numpy(v.value) for v in model.trainable_variables}
    fit_steps(model, count=320)
    assert int(model.optimizer.iterations.value) == 20
    still = {v.path for v in model.trainable_variables if np.array_equal(to_numpy(v.value), before[v.path])}
    assert still == {path for path in before if path.endswith(BETA)} and len(still) == 1
    averages = dict(zip(before, model.averages(), strict=True))
    for path in still:
        np.testing.assert_allclose(to_numpy(averages[path].value), before[path], rtol=1e-6)


def test_the_order_of_the_variables_is_that_of_files():
    """Optimizers are saved by place."""
    attention = layers.SelfAttention(4)
    attention.build((None, 2, 2, 8))
    norms = [f"{name}_norm/{part}" for name in ("query", "key") for part in ("gamma", "beta")]
    expected = ["query/kernel", "key/kernel", "value/kernel", *norms, "out/kernel", "out/bias"]
    assert [v.path.removeprefix("attention/") for v in attention.trainable_variables] == expected


def test_it_is_used_all_the_same():
    """Attention is keras's normalised keys, beta and all, to the bit."""
    attention = layers.SelfAttention(4)
    attention.build((None, 2, 2, 8))
    randomize(attention)
    keys = images(3, 4, 2, 4)
    norm = attention.key_norm
    shifted = to_numpy(norm(keys))
    assert np.array_equal(shifted, to_numpy(type(norm).__mro__[1].call(norm, keys)))
    assert to_numpy(norm.beta.value).all()
