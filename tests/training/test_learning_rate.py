"""The learning rate of a recipe against its equations in numpy, its configuration, and the momentum of the averages."""

import copy

import keras
import numpy as np
import pytest
from helpers import to_numpy

from keras_sid2 import AdamRecipe
from keras_sid2.training.averaged_model import step_momentum

schedules = keras.optimizers.schedules
STEPS = np.array([0, 1, 5, 9, 10, 11, 40, 99, 100, 250])
WARM_UP = np.minimum(1.0, 0.1 + 0.9 * np.minimum(STEPS, 10) / 10)
LEFT = 1.0 - np.clip((STEPS - 10) / 90, 0.0, 1.0)

RATES = {
    "constant": ({}, WARM_UP),
    "linear": ({"decay": "linear", "decay_steps": 100}, WARM_UP * LEFT),
    "cosine": ({"decay": "cosine", "decay_steps": 100}, WARM_UP * 0.5 * (1.0 + np.cos(np.pi * (1.0 - LEFT)))),
    "inverse_sqrt": ({"decay": "inverse_sqrt"}, WARM_UP * np.sqrt(10 / np.maximum(STEPS, 10))),
    "Keras's": ({"learning_rate": schedules.ExponentialDecay(0.5, 100, 0.1)}, WARM_UP * 0.1 ** (STEPS / 100)),
}


def recipe(case: str, **options) -> AdamRecipe:
    return AdamRecipe(**{"learning_rate": 0.5, "warmup_steps": 10, **RATES[case][0], **options})


@pytest.mark.parametrize("case", RATES)
def test_the_rate_at_each_step(case):
    optimizer = recipe(case).build()
    for step, expected in zip(STEPS, 0.5 * RATES[case][1], strict=True):
        optimizer._iterations.assign(step)
        assert float(to_numpy(optimizer.learning_rate)) == pytest.approx(expected, rel=1e-5, abs=1e-8)


@pytest.mark.parametrize("case", RATES)
def test_recipe_and_optimizer_come_back_from_their_configurations(case):
    for object_ in (recipe(case), recipe(case).build()):
        config = keras.saving.serialize_keras_object(object_)
        again = keras.saving.deserialize_keras_object(copy.deepcopy(config))  # Keras changes what it reads
        assert keras.saving.serialize_keras_object(again) == config


def test_a_rate_that_never_changes_is_a_variable_that_callbacks_may_set():
    optimizer = recipe("constant", warmup_steps=0).build()
    optimizer.learning_rate = 0.25
    assert float(to_numpy(optimizer.learning_rate)) == 0.25


WRONG = {
    "a rate of 0": ({"learning_rate": 0.0}, "learning_rate must be positive and finite, or a keras.optimizers"),
    "a rate that is a text": ({"learning_rate": "fast"}, "learning_rate must be positive and finite, or .*got 'fast'"),
    "an infinite rate": ({"learning_rate": float("inf")}, "learning_rate must be positive and finite"),
    "a rate of NaN": ({"learning_rate": float("nan")}, "learning_rate must be positive and finite"),
    "an unknown decay": ({"decay": "step"}, "decay must be one of constant, linear, cosine, inverse_sqrt, got 'step'"),
    "no end": ({"decay": "cosine"}, r"decay='cosine' needs decay_steps, an integer above warmup_steps \(10000\)"),
    "an end in the warm-up": ({"decay": "linear", "decay_steps": 10_000}, "above warmup_steps"),
    "an end without a decay": ({"decay_steps": 100}, "decay_steps is for decay='linear' or 'cosine'"),
    "two decays": (
        {"learning_rate": schedules.CosineDecay(0.1, 10), "decay": "inverse_sqrt"},
        "learning_rate is a schedule already",
    ),
    "a warm-up of half a step": ({"warmup_steps": 0.5}, "warmup_steps must be an integer >= 0, got 0.5"),
    "a decay of 1": ({"ema_decay": 1.0}, r"ema_decay must be in \[0, 1\)"),
    "a negative norm": ({"clip_norm": -1.0}, "clip_norm must be a number >= 0"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_settings(case):
    settings, sentence = WRONG[case]
    with pytest.raises(ValueError, match=sentence):
        AdamRecipe(**settings)


@pytest.mark.parametrize("warm_up", [False, True])
def test_the_momentum_of_the_averages(warm_up):
    found = [float(to_numpy(step_momentum(keras.ops.convert_to_tensor(n), 0.9, warm_up))) for n in (0, 1, 8, 80, 500)]
    expected = [0.0, 2 / 11, 9 / 18, 0.9, 0.9] if warm_up else [0.0, 0.9, 0.9, 0.9, 0.9]
    np.testing.assert_allclose(found, expected, rtol=1e-6)
