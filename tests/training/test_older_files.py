"""Files that earlier versions wrote: they load, and a run goes on from them.

older/version_0_1.*, whose averages were the optimizer's, and version_0_2.*, whose configuration had a schedule and a
weighting in place of an objective, were written on jax after three steps of training_helpers.Steps; the .npz say what
was in the model then, what it drew, and what two more steps gave.
"""

import pathlib

import keras
import numpy as np
import pytest
from helpers import BACKEND, only_on_jax, tiny_network, to_numpy
from training_helpers import fit_steps, tiny_model

from keras_sid2 import AdamRecipe
from keras_sid2.backend import steps_done
from keras_sid2.checkpoints import load_model

DATA = pathlib.Path(__file__).with_name("older")


def old_file(kind: str) -> str:
    return str(DATA / f"version_0_1.{kind}")


@pytest.fixture(scope="module")
def expected():
    return dict(np.load(old_file("npz"), allow_pickle=False))


def fresh(**options):
    network = tiny_network(levels=({"kind": "res", "channels": 4, "blocks": 1},), embedding_dim=4)
    return tiny_model(
        network=network, recipe=AdamRecipe(3e-3, warmup_steps=4, ema_decay=0.5), weights_seed=1, **options
    )


def with_weights(kind, **options):
    model = fresh(**options)
    model.load_weights(old_file(kind))
    return model


WAYS = {
    "load_model": lambda: load_model(old_file("keras")),
    "load_model, not compiled": lambda: keras.saving.load_model(old_file("keras"), compile=False),
    "weights of .keras": lambda: with_weights("keras"),
    "weights of .keras, not compiled": lambda: with_weights("keras", compiled=False),
    "weights": lambda: with_weights("weights.h5"),
    "weights, not compiled": lambda: with_weights("weights.h5", compiled=False),
}


@pytest.fixture(scope="module")
def expected_of_02():
    return dict(np.load(DATA / "version_0_2.npz", allow_pickle=False))


def check_model(model, expected):
    assert steps_done(model) == 3
    np.testing.assert_array_equal(flat(model.trainable_variables), expected["weights"])
    np.testing.assert_array_equal(flat(model.averages()), expected["averages"])
    images = model.generate([0, 1, 2], num_steps=4, dtype="float32")
    np.testing.assert_allclose(images, expected["images"], atol=1e-5)


def test_a_file_of_version_02_loads_and_goes_on(expected_of_02):
    """Weights to the bit; two more steps nearly, for its network has dropout, whose masks were keras.random's. With
    moments and a warm-up that begin anew they would be off by half."""
    model = load_model(DATA / "version_0_2.keras")
    check_model(model, expected_of_02)
    fit_steps(model, count=32)
    for name, variables in (("weights", model.trainable_variables), ("averages", model.averages())):
        steps = expected_of_02[f"{name}_after"] - expected_of_02[name]
        found = flat(variables) - expected_of_02[name]
        assert np.linalg.norm(found - steps) < 0.25 * np.linalg.norm(steps)


@only_on_jax
def test_a_sharded_checkpoint_of_version_02_loads(expected_of_02):
    check_model(load_model(DATA / "step_0000000003"), expected_of_02)


@only_on_jax
def test_a_sharded_checkpoint_loads(expected):
    model = load_model(DATA / "step_0000000002")
    assert steps_done(model) == 2
    np.testing.assert_array_equal(flat(model.trainable_variables), expected["sharded_weights"])
    np.testing.assert_array_equal(flat(model.averages()), expected["sharded_averages"])


def flat(variables) -> np.ndarray:
    return np.concatenate([to_numpy(v.value).ravel() for v in variables])


@pytest.mark.parametrize("way", WAYS)
def test_weights_averages_and_steps_are_there(way, expected):
    model = WAYS[way]()
    assert steps_done(model) == 3
    np.testing.assert_array_equal(flat(model.trainable_variables), expected["weights"])
    np.testing.assert_array_equal(flat(model.averages()), expected["averages"])


def test_it_draws_the_same_images(expected):
    images = load_model(old_file("keras")).generate([0, 1, 2], num_steps=4, dtype="float32")
    np.testing.assert_allclose(images, expected["images"], atol=1e-5)


@pytest.mark.parametrize("way", ["load_model", "weights"])
def test_a_run_goes_on(way, expected):
    """Adam divides by the root of a small number in its first steps, so other backends round otherwise."""
    model = WAYS[way]()
    fit_steps(model, count=32)
    tolerance = 1e-6 if BACKEND == "jax" else 1e-3
    np.testing.assert_allclose(flat(model.trainable_variables), expected["weights_after"], atol=tolerance)
    np.testing.assert_allclose(flat(model.averages()), expected["averages_after"], atol=tolerance)
