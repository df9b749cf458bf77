"""Each wrong input gets one sentence that names what was given and what is accepted, before work starts."""

import numpy as np
import pytest
from helpers import LEVELS, tiny_network, to_numpy
from training_helpers import DROPOUT_LEVELS, stripes, tiny_model

from keras_sid2 import Guidance, SiD2Model, SigmoidWeighting
from keras_sid2.diffusion import CosineSchedule


@pytest.fixture(scope="module")
def model():
    return tiny_model()


def bad_batches():
    images, labels = stripes(8)
    floats = (images / 127.5 - 1).astype("float32")
    return {
        "another size": ((images[:, :2], labels), r"Images must be \[batch, 4, 4, 1\].*got \[8, 2, 4, 1\]"),
        "another number of channels": ((np.repeat(images, 3, -1), labels), r"got \[8, 4, 4, 3\]"),
        "integers that are not bytes": ((images.astype("int32"), labels), "uint8 in .* or float in .*got int32"),
        "floats in [0, 255]": ((images.astype("float32"), labels), r"Float images must be in \[-1, 1\], got values"),
        "NaN in the first batch": ((np.full_like(floats, np.nan), labels), r"in \[-1, 1\], got values from nan"),
        "a label too high": ((images, labels + 1), r"Labels must be in \[0, 2\], got 3"),
        "a negative label": ((images, labels - 1), r"Labels must be in \[0, 2\], got -1"),
        "labels one-hot": ((images, np.eye(3)[labels]), r"Labels must be integers of shape \[batch\]"),
        "no labels": ((images, None), "This model has 3 classes and needs labels"),
        "a dict without image": (({"img": images},), 'needs the key "image"'),
    }


@pytest.mark.parametrize("case", bad_batches())
def test_data_that_does_not_fit(model, case):
    data, sentence = bad_batches()[case]
    for method in (model.fit, model.evaluate):
        with pytest.raises(ValueError, match=sentence):
            method(*data, verbose=0)
    assert int(model.optimizer.iterations.value) == 0


def test_validation_data_is_looked_at_before_training(model):
    images, labels = stripes(8)
    with pytest.raises(ValueError, match="Labels must be in"):
        model.fit(images, labels, validation_data=(images, labels + 3), verbose=0)
    assert int(model.optimizer.iterations.value) == 0


def test_sample_weights_are_refused(model):
    images, labels = stripes(8)
    with pytest.raises(ValueError, match="takes no sample_weight"):
        model.fit(images, labels, sample_weight=np.ones(8), verbose=0)


def test_schedule_or_bias_missing_where_the_paper_has_none():
    with pytest.raises(ValueError, match="schedule is for square images of at least 32 pixels, and these are 4 x 4"):
        SiD2Model(tiny_network(), weighting=SigmoidWeighting(0.0))
    with pytest.raises(
        ValueError, match="bias for square images of 128, 256, 512, 1024 pixels only, .* 4 x 4: pass weighting="
    ):
        SiD2Model(tiny_network(), schedule=CosineSchedule())


@pytest.mark.parametrize("seed", [-1, 1.5, True, "0"])
def test_a_seed_that_is_none(seed):
    with pytest.raises(ValueError, match="seed must be an integer"):
        tiny_model(seed=seed)


@pytest.mark.parametrize("label_dropout", [-0.1, 1.0])
def test_label_dropout_outside_its_range(label_dropout):
    with pytest.raises(ValueError, match=r"label_dropout must be in \[0, 1\)"):
        tiny_model(label_dropout=label_dropout)


@pytest.mark.parametrize(
    "settings, sentence",
    [
        ({"labels": [3]}, r"Labels must be in \[0, 2\], got 3"),
        ({"labels": [0, 1], "num_images": 3}, "labels must be one an image"),
        ({}, "num_images must be an integer >= 1"),
        ({"num_images": 0}, "num_images must be an integer >= 1"),
        ({"labels": [0], "num_steps": 0}, "num_steps must be an integer >= 1"),
        ({"labels": [0], "sampler": "euler"}, "sampler must be one of ddpm, ddim"),
        ({"labels": [0], "batch_size": 0}, "batch_size must be an integer >= 1"),
        ({"num_images": 2, "guidance": Guidance(2.0)}, "Guidance needs labels"),
    ],
)
def test_generate_refuses(model, settings, sentence):
    with pytest.raises(ValueError, match=sentence):
        model.generate(**settings)


def test_labels_for_a_model_without_classes():
    with pytest.raises(ValueError, match="no classes: pass num_images"):
        tiny_model(network=tiny_network(num_classes=None)).generate([0])


def test_an_unknown_preset_names_its_neighbours():
    with pytest.raises(ValueError, match="'sid2_digit': did you mean sid2_digits"):
        SiD2Model.from_preset("sid2_digit")
    with pytest.raises(ValueError, match="there are sid2_imagenet64_uvit1"):
        SiD2Model.from_preset("zzz")


OTHER_NETWORKS = {
    "other widths": {"levels": LEVELS},
    "fewer blocks": {"levels": DROPOUT_LEVELS[:1]},
    "more blocks": {"levels": (DROPOUT_LEVELS[0], {**DROPOUT_LEVELS[1], "blocks": 2})},
    "more blocks on the way": {"levels": ({**DROPOUT_LEVELS[0], "blocks": 2}, DROPOUT_LEVELS[1])},
    "other classes": {"levels": DROPOUT_LEVELS, "num_classes": 5},
    "other channels": {"levels": DROPOUT_LEVELS, "image_shape": (4, 4, 3)},
}


@pytest.mark.backend_free
@pytest.mark.parametrize("direction", ["into", "from"])
@pytest.mark.parametrize("other", OTHER_NETWORKS)
def test_weights_of_another_network(model, tmp_path, other, direction):
    models = [model, tiny_model(network=tiny_network(**OTHER_NETWORKS[other]))]
    source, target = models if direction == "into" else models[::-1]
    source.save_weights(tmp_path / "some.weights.h5")
    before = [w.copy() for w in target.get_weights()]
    source.save(tmp_path / "some.keras")
    sentence = (
        "does not hold the weights of this model's network: of .* it has .*, and the network .*skip_mismatch=True"
    )
    for name in ("some.weights.h5", "some.keras"):
        with pytest.raises(ValueError, match=f"{name} {sentence}"):
            target.load_weights(tmp_path / name)
    assert all(np.array_equal(a, b) for a, b in zip(before, target.get_weights(), strict=True))


def test_what_fits_is_loaded_if_it_is_asked_for(model, tmp_path):
    """Averages too; those of what did not fit follow the weights that are there."""
    source = tiny_model(network=tiny_network(levels=DROPOUT_LEVELS, num_classes=5), weights_seed=1)
    source.fit(*stripes(16), verbose=0)
    source.save_weights(tmp_path / "five.weights.h5")
    with pytest.raises(ValueError, match=r"embedding/classes/vars/0 it has \[6, 8\], and the network \[4, 8\]"):
        model.load_weights(tmp_path / "five.weights.h5")
    kept = model.get_weights()
    with pytest.warns(UserWarning, match="could not be loaded"):
        model.load_weights(tmp_path / "five.weights.h5", skip_mismatch=True)
    averages = zip(model.trainable_variables, model.averages(), source.averages(), strict=True)
    for weight, average, other in averages:
        fits = weight.shape == other.shape
        np.testing.assert_array_equal(to_numpy(average.value), to_numpy(other.value if fits else weight.value))
    model.set_weights(kept)
