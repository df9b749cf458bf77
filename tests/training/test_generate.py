"""generate: which weights, which seeds, which shapes."""

import numpy as np
import pytest
from helpers import tiny_network, to_numpy
from training_helpers import fit_steps, stripes, tiny_model

from keras_sid2 import AdamRecipe, DDIMSampler, Guidance


@pytest.fixture(scope="module")
def model():
    model = tiny_model(recipe=AdamRecipe(learning_rate=1e-2, warmup_steps=20, ema_decay=0.95))
    fit_steps(model, epochs=80)
    return model


LABELS = [0, 1, 2, 0, 1, 2, 0]


def draw(model, labels=LABELS, **options):
    return model.generate(labels, num_steps=8, **options).astype(int)


def test_images_are_bytes_of_the_model_s_shape_and_repeat_from_their_seed(model):
    images = model.generate(LABELS, num_steps=8)
    assert images.dtype == np.uint8 and images.shape == (7, 4, 4, 1)
    np.testing.assert_array_equal(images, model.generate(LABELS, num_steps=8))
    assert (images != model.generate(LABELS, num_steps=8, seed=1)).mean() > 0.5


@pytest.mark.parametrize("sampler", ["ddpm", DDIMSampler()])
def test_an_image_does_not_depend_on_its_batch(model, sampler):
    whole = draw(model, sampler=sampler)
    for batch_size in (1, 3):
        assert np.abs(draw(model, sampler=sampler, batch_size=batch_size) - whole).max() <= 1
    assert np.abs(draw(model, LABELS[:2], sampler=sampler) - whole[:2]).max() <= 1


def test_guidance_of_scale_1_is_none_and_acts_only_inside_its_interval(model):
    plain = draw(model)
    np.testing.assert_array_equal(draw(model, guidance=Guidance(1.0)), plain)
    assert np.abs(draw(model, guidance=Guidance(3.0, (100.0, 101.0))) - plain).max() <= 1
    assert np.abs(draw(model, guidance=Guidance(3.0)) - plain).max() > 1


def test_guidance_moves_images_towards_their_class(model):
    labels = np.arange(96) % 3

    def brightness_of_the_class_row(images):
        return images[np.arange(96), labels].mean()

    plain, guided = (model.generate(labels, num_steps=16, guidance=g) for g in (None, Guidance(2.0)))
    assert brightness_of_the_class_row(guided) > brightness_of_the_class_row(plain) + 3


def test_the_averaged_weights_are_the_default(model):
    raw = draw(model, use_ema=False)
    other = tiny_model()
    other.set_weights([to_numpy(v.value) for v in model.averages()])
    assert np.abs(draw(other) - draw(model)).max() <= 1
    assert np.abs(raw - draw(model)).max() > 1


def test_new_weights_are_used_without_another_program(model):
    first = draw(model, use_ema=False)
    kept = [to_numpy(v.value) for v in model.trainable_variables]
    model.set_weights([0.5 * w for w in kept])
    second = draw(model, use_ema=False)
    model.set_weights(kept)
    assert np.abs(first - second).max() > 1
    np.testing.assert_array_equal(draw(model, use_ema=False), first)


def test_progress_counts_network_steps_to_the_end(model):
    calls = []
    model.generate(LABELS, num_steps=8, batch_size=4, progress=lambda done, total: calls.append((done, total)))
    assert calls[-1] == (16, 16) and calls == sorted(calls)


def test_progress_as_a_bar(model, capsys):
    model.generate(LABELS, num_steps=8, progress=True)
    assert "8/8" in capsys.readouterr().out


def test_without_classes_and_without_training():
    model = tiny_model(network=tiny_network(num_classes=None), compiled=False)
    assert model.generate(num_images=3, num_steps=2).shape == (3, 4, 4, 1)


def test_images_of_no_class_from_a_model_with_classes(model):
    assert model.generate(num_images=2, num_steps=8).shape == (2, 4, 4, 1)


def test_samples_look_like_the_data(model):
    """After 320 steps the class's row is the brightest one in most images."""
    labels = np.arange(60) % 3
    images = model.generate(labels, num_steps=32)
    rows = images.astype(float).mean(axis=(2, 3))
    assert (rows.argmax(1) == labels).mean() > 0.8
    assert abs(images.mean() - stripes()[0].mean()) < 25
