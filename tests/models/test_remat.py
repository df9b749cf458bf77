"""Recomputing blocks changes memory, and no number, name or file."""

import keras
import numpy as np
import pytest
from helpers import network_inputs, only_on_jax, randomize, tiny_network, to_numpy
from keras import ops
from training_helpers import DROPOUT_LEVELS

from keras_sid2 import ResidualUViT, backend, threefry


def losses_and_gradients(network):
    """Of the mean square of the output in training, with dropout."""
    z_t, logsnr, label = map(ops.convert_to_tensor, network_inputs(network))

    def losses(_):
        return ops.mean(ops.square(network((z_t, logsnr, label), training=True, seed=threefry.key(3))), axis=(1, 2, 3))

    values, gradients = backend.accumulated(losses, network.variables, network.trainable_variables, 1)
    return to_numpy(values), [to_numpy(g) for g in gradients]


@pytest.fixture(scope="module")
def pair():
    """A network, and one with the same weights that recomputes."""
    plain, remat = (randomize(tiny_network(levels=DROPOUT_LEVELS, remat=remat)) for remat in (False, True))
    return plain, remat


def test_losses_and_gradients_are_the_same_with_dropout(pair):
    (values, gradients), (again, recomputed) = map(losses_and_gradients, pair)
    np.testing.assert_allclose(again, values, rtol=1e-5)
    largest = max(np.abs(g).max() for g in gradients)  # some are zero but for rounding: biases before a norm
    for a, b in zip(gradients, recomputed, strict=True):
        np.testing.assert_allclose(b, a, rtol=1e-5, atol=1e-5 * largest)


@pytest.mark.parametrize("order", [1, -1])
def test_a_file_of_one_loads_into_the_other(pair, tmp_path, order):
    written, other = pair[::order]
    assert [w.path for w in written.weights] == [w.path for w in other.weights]
    written.save_weights(tmp_path / "of.weights.h5")
    copy = type(other).from_config(other.get_config())
    copy.load_weights(tmp_path / "of.weights.h5")
    assert all(np.array_equal(a, b) for a, b in zip(written.get_weights(), copy.get_weights(), strict=True))


def test_a_configuration_keeps_it_and_an_old_one_has_none(pair):
    config = keras.saving.serialize_keras_object(pair[1])
    assert all(level.remat for level in keras.saving.deserialize_keras_object(config).levels)
    old = pair[0].get_config()
    for level in old["levels"]:
        del level["remat"]
    assert not any(level.remat for level in ResidualUViT.from_config(old).levels)


def test_one_level_alone_may_recompute():
    levels = [{**DROPOUT_LEVELS[0], "remat": True}, DROPOUT_LEVELS[1]]
    assert [level.remat for level in tiny_network(levels=levels).levels] == [True, False]


@only_on_jax
def test_only_training_recomputes_and_each_block_once(pair):
    import jax

    inputs = tuple(map(ops.convert_to_tensor, network_inputs(pair[1])))

    def recomputed(network, training):
        program = jax.make_jaxpr(lambda: network(inputs, training=training, seed=threefry.key(3)))()
        return sum(equation.primitive.name in ("checkpoint", "remat", "remat2") for equation in program.eqns)

    assert recomputed(pair[1], True) == 3
    assert recomputed(pair[1], False) == recomputed(pair[0], True) == 0
