"""Every preset in little trains, is saved, loaded, and draws; the whole ones are what they say they are."""

import dataclasses

import keras
import numpy as np
import pytest
from helpers import BACKEND

import keras_sid2
from keras_sid2.checkpoints import load_model
from keras_sid2.models.level import as_levels
from keras_sid2.training import find_preset

NAMES = keras_sid2.list_presets()
# One of each family is enough where every program is compiled: others differ from it in sizes.
ONE_OF_EACH = ["sid2_imagenet64_uvit1", "sid2_kinetics600_64", "sid2_t2i_small", "sid2_digits", "sid2_photo_patches"]
IN_LITTLE = NAMES if BACKEND == "torch" else ONE_OF_EACH


def batch_of(preset, count=2):
    rng = np.random.default_rng(0)
    kind = "video" if len(preset.sample_shape) == 4 else "image"
    batch = {kind: rng.integers(0, 256, (count, *preset.sample_shape)).astype("uint8")}
    if "text" in preset.conditions:
        batch["text"] = rng.normal(size=(count, *preset.conditions["text"].shape)).astype("float32")
    return batch | ({"label": np.arange(count)} if "label" in preset.conditions else {})


@pytest.mark.parametrize("name", IN_LITTLE)
def test_a_preset_in_little_trains_is_saved_and_draws(name, tmp_path):
    whole, preset = find_preset(name), find_preset(name).shrunk()
    assert preset.sample_shape == whole.sample_shape and preset.conditions == whole.conditions
    assert preset.objective == whole.objective and preset.cost.parameters < whole.cost.parameters / 20
    keras.utils.set_random_seed(0)
    model = preset.build(keras_sid2.SiD2Model)
    model.compile()
    batch = batch_of(preset)
    history = model.fit(batch, batch_size=2, epochs=2, verbose=0).history
    assert np.isfinite(history["loss"]).all()
    model.save(tmp_path / "model.keras")
    loaded = load_model(tmp_path / "model.keras")
    options = {"num_steps": preset.num_steps, "sampler": preset.sampler, "num_images": 2}
    if "given" in preset.conditions:
        options["conditions"] = {"given": batch["video"]}
    if "text" in preset.conditions:
        options["conditions"] = {"text": batch["text"]}
    labels = batch.get("label")
    drawn = loaded.generate(labels, **options)
    np.testing.assert_array_equal(drawn, model.generate(labels, **options))
    assert drawn.shape == (2, *preset.sample_shape)
    if "given" in preset.conditions:
        np.testing.assert_array_equal(drawn[:, :5], batch["video"][:, :5])


@pytest.mark.backend_free
def test_the_family_costs_what_its_descriptions_say():
    for name in NAMES:
        preset = find_preset(name)
        if "multiply-adds" in preset.description:
            told = float(preset.description.partition(" G multiply-adds")[0].split()[-1])
            assert abs(told * 1e9 - preset.cost.block_multiply_adds) <= 0.5e9, name


@pytest.mark.backend_free
def test_kinetics_is_the_protocol_of_magvit():
    for side in (64, 128):
        preset = find_preset(f"sid2_kinetics600_{side}")
        assert preset.sample_shape == (16, side, side, 3) and preset.conditions["given"].counts == (5, 5)
        assert as_levels(preset.network["levels"])[2].attention == "alternate"


@keras.saving.register_keras_serializable(package="tests")
class Plain(keras.Model):
    pass


@pytest.mark.backend_free
def test_a_network_without_levels_is_refused():
    preset = dataclasses.replace(find_preset("sid2_digits"), network={}, network_class=Plain)
    with pytest.raises(ValueError, match="A preset needs a network with levels to be shrunk, got Plain"):
        preset.shrunk()
