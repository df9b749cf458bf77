"""What is wrong in a batch behind the first one: told a step later with its value, and not learnt."""

import keras
import numpy as np
import pytest
from plain_model import SmallNetwork, assert_equal, data, small_model, values

from keras_sid2 import AdamRecipe
from keras_sid2.backend import steps_done
from keras_sid2.training import CorruptBatch

STEPS = 6


def batches(wrong=None, number: int = 2, floats: bool = False):
    """STEPS batches of 16; `wrong(images, labels)` changes that of this number, from 0."""
    images, labels = data(16 * STEPS)
    images = images / np.float32(127.5) - 1.0 if floats else images
    for i in range(STEPS):
        part = images[16 * i : 16 * i + 16].copy(), labels[16 * i : 16 * i + 16].copy()
        if i == number and wrong is not None:
            wrong(*part)
        yield part


def put_label(value: int):
    def wrong(images, labels):
        labels[3] = value

    return wrong


def put_pixel(value: float):
    def wrong(images, labels):
        images[3, 0, 0, 0] = value

    return wrong


def compiled(optimizer=None, **settings):
    model = small_model(recipe=AdamRecipe(0.01, warmup_steps=0, ema_decay=0.5), **settings)
    model.compile(optimizer)
    return model


WRONG = {
    "-1": (put_label(-1), False, r"Labels must be in \[0, 2\], got -1: SiD2Model\(no_label=-1\) takes it"),
    "as many as there are": (put_label(3), False, r"Labels must be in \[0, 2\], got 3\."),
    "[0, 255]": (put_pixel(200.0), True, r"Float images must be in \[-1, 1\], got values of up to 200 in size"),
    "NaN": (put_pixel(np.nan), True, r"Float images must be in \[-1, 1\], got NaN or an infinite value"),
}


@pytest.mark.parametrize("case, optimizer", [*((case, None) for case in WRONG), ("-1", "sgd"), ("NaN", "sgd")])
def test_fit_stops_a_step_later_and_has_not_learnt_it(case, optimizer):
    wrong, floats, sentence = WRONG[case]
    model = compiled(optimizer)
    with pytest.raises(CorruptBatch, match=f"training step 3, .*{sentence}") as error:
        model.fit(batches(wrong, floats=floats), steps_per_epoch=STEPS, verbose=0)
    assert isinstance(error.value, ValueError) and error.value.step == 3 and steps_done(model) <= 4
    assert all(np.isfinite(w).all() for w in values(model.variables))


def test_a_wrong_example_has_no_part_in_the_loss():
    """A step on a batch with one is the step on a batch in which its weight in the loss is 0, whatever is in it."""
    after = []
    for label, pixel in ((7, 0), (-5, 255)):
        model = compiled()
        with pytest.raises(CorruptBatch):

            def wrong(images, labels, label=label, pixel=pixel):
                labels[3], images[3] = label, pixel

            model.fit(batches(wrong, number=1), steps_per_epoch=2, verbose=0)
        after.append(values(model.network.weights))
    assert_equal(*after)


@pytest.mark.parametrize("case", WRONG)
def test_evaluate_says_so(case):
    wrong, floats, sentence = WRONG[case]
    model = compiled()
    with pytest.raises(ValueError, match=f"{sentence}.*in the data of evaluate, behind the first batch"):
        model.evaluate(batches(wrong, floats=floats), steps=STEPS, verbose=0)
    assert np.isfinite(model.evaluate(batches(), steps=STEPS, verbose=0)[0])


def test_no_label_is_an_image_of_no_class_and_other_labels_outside_are_still_wrong():
    """A batch of them gives the step that training on the null class alone gives."""
    unlabeled, null_class = compiled(no_label=-1, label_dropout=0.0), compiled(label_dropout=0.99999)

    def all_of(images, labels):
        labels[:] = -1

    unlabeled.fit(batches(all_of, number=0), steps_per_epoch=1, verbose=0)
    null_class.fit(batches(), steps_per_epoch=1, verbose=0)
    assert_equal(values(unlabeled.network.weights), values(null_class.network.weights))
    with pytest.raises(CorruptBatch, match=r"got 3\."):
        unlabeled.fit(batches(put_label(3)), steps_per_epoch=STEPS, verbose=0)


@pytest.mark.parametrize("value", [0, 2, 1.5, True, "none"])
def test_a_no_label_that_is_a_class(value):
    with pytest.raises(ValueError, match="no_label must be an integer that is no class, such as -1, got"):
        small_model(no_label=value)


def test_it_is_kept_in_files():
    model = small_model(no_label=-1)
    assert keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(model)).no_label == -1


def test_float_images_that_are_never_below_0_are_told_how_to_be_scaled():
    images, labels = data(16)
    model = compiled()
    with pytest.warns(UserWarning, match=r"go from 0.* to .*: if they are in \[0, 1\], pass images \* 2 - 1"):
        model.fit(images / np.float32(255), labels, verbose=0)


def test_the_logs_have_no_other_names_than_before():
    model = compiled()
    history = model.fit(batches(), steps_per_epoch=STEPS, verbose=0).history
    assert set(history) == {"loss", "gradient_norm", *(metric.name for metric in model.bin_losses)}


# -- what evaluation depends on --------------------------------------------------------------------------------------


def test_the_loss_of_evaluation_does_not_depend_on_the_batches():
    model = compiled()
    images, labels = data(45)
    losses = [model.evaluate(images, labels, batch_size=size, verbose=0, return_dict=True) for size in (1, 8, 45)]
    for found in losses[1:]:
        for name, value in losses[0].items():
            np.testing.assert_allclose(found[name], value, rtol=1e-4, err_msg=name)
    other = small_model(seed=0)
    other.seed = 1
    other.compile()
    assert abs(other.evaluate(images, labels, verbose=0)[0] / losses[0]["loss"] - 1.0) > 1e-4


# -- a network with a state of its own -------------------------------------------------------------------------------


@pytest.mark.parametrize("parts", [1, 2])
def test_accumulation_carries_the_state_of_a_network(parts):
    """A running mean moves by each part, and a seed generator of Keras draws once a part."""
    recipe = AdamRecipe(0.01, warmup_steps=0, accumulation_steps=parts)
    model = small_model(SmallNetwork(norm=True, dropout=0.5), recipe=recipe)
    model.compile()
    mean, seed = model.network.norm.moving_mean, model.network.drop.seed_generator.state
    before, first = values([mean, seed])
    images, labels = data(16)
    model.fit(images, labels, batch_size=16, epochs=3, verbose=0)
    after, last = values([mean, seed])
    assert np.abs(after - before).max() > 1e-3
    assert (last - first).max() == 3 * parts
