"""A batch cut into parts gives the step of the whole batch."""

import numpy as np
import pytest
from helpers import randomize, tiny_network, to_numpy
from training_helpers import DROPOUT_LEVELS, stripes, tiny_model

from keras_sid2 import AdamRecipe

STEPS = 3


def trained(parts: int, levels=None, **options):
    """A model after STEPS steps of 64 images, and the logs of each step. Adam's epsilon keeps rounding small."""
    levels = levels or [{k: v for k, v in level.items() if k != "dropout"} for level in DROPOUT_LEVELS]
    recipe = AdamRecipe(1e-3, warmup_steps=2, ema_decay=0.5, epsilon=1e-3, accumulation_steps=parts)
    model = tiny_model(network=randomize(tiny_network(levels=levels, **options)), recipe=recipe)
    history = model.fit(*stripes(64), batch_size=64, epochs=STEPS, shuffle=False, verbose=0).history
    return model, history


@pytest.fixture(scope="module")
def whole():
    return trained(1)


@pytest.fixture(scope="module")
def in_parts():
    return trained(4)


def test_every_metric_of_every_step_is_that_of_the_whole_batch(whole, in_parts):
    assert set(whole[1]) == set(in_parts[1])
    for name, values in whole[1].items():
        np.testing.assert_allclose(in_parts[1][name], values, rtol=1e-5, err_msg=name)


def test_weights_and_their_averages_are_those_of_the_whole_batch(whole, in_parts):
    for variables in (lambda m: m.trainable_variables, lambda m: m.averages()):
        for a, b in zip(variables(whole[0]), variables(in_parts[0]), strict=True):
            np.testing.assert_allclose(to_numpy(b.value), to_numpy(a.value), rtol=1e-5, atol=1e-5)


def test_a_step_is_counted_once(in_parts):
    assert int(in_parts[0].optimizer.iterations.value) == STEPS


def test_parts_drop_the_units_that_the_whole_batch_drops_also_with_remat():
    expected, *found = (trained(n, DROPOUT_LEVELS, remat=remat)[1] for n, remat in ((1, False), (4, False), (4, True)))
    for logs in found:
        np.testing.assert_allclose(logs["loss"], expected["loss"], rtol=1e-5)
        np.testing.assert_allclose(logs["gradient_norm"], expected["gradient_norm"], rtol=1e-4)


def test_a_batch_that_cannot_be_cut_is_refused():
    model = tiny_model(recipe=AdamRecipe(accumulation_steps=3))
    with pytest.raises(ValueError, match="accumulation_steps must divide the batch, got accumulation_steps=3, a batch"):
        model.fit(*stripes(16), batch_size=16, verbose=0)


@pytest.mark.parametrize("value", [0, -1, 2.0, None])
def test_what_is_no_number_of_parts_is_refused(value):
    with pytest.raises(ValueError, match=f"accumulation_steps must be an integer >= 1, got {value}"):
        AdamRecipe(accumulation_steps=value)
