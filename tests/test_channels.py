"""Fields: samples and conditions in physical units are standardised on the way in and restored on the way out."""

import dataclasses

import keras
import numpy as np
import pytest
from helpers import RES, images, tiny_network, to_numpy
from keras import ops

from keras_sid2 import Channels, Guidance, ResidualUViT, SampleRequest, SiD2Model, SigmoidWeighting
from keras_sid2.conditions import Frames, Image, Vector
from keras_sid2.diffusion import CosineSchedule
from keras_sid2.training import CorruptBatch, Preset
from keras_sid2.training.overrides import overridden
from keras_sid2.training.proposal import config_text

UV = Channels(("pressure", "humidity"), (1e5, 2e-4), (700.0, 1e-3))
LOW = Channels(("low", "mask", "past"), (-3.0, 0.5, 10.0), (2.0, 0.5, 0.1))
WIND = Channels(("speed", "angle"), (8.0, 0.0), (4.0, 1.5))
PLAIN = {"past": Image((2, 2, 3)), "wind": Vector(2)}
PHYSICAL = {"past": Image((2, 2, 3), LOW), "wind": Vector(2, WIND)}
SHAPE = (4, 4, 2)


def model_of(channels=UV, conditions=PHYSICAL, shape=SHAPE, **options):
    keras.utils.set_random_seed(0)
    net = tiny_network(image_shape=shape, num_classes=None, conditions=conditions, levels=[RES])
    rng = np.random.default_rng(0)
    for v in net.trainable_variables:
        v.assign(rng.normal(0.0, 0.2, v.shape))
    model = SiD2Model(net, CosineSchedule(), SigmoidWeighting(0.0), channels=channels, **options)
    model.compile()
    return model


@pytest.fixture(scope="module")
def fields():
    return model_of()


@pytest.fixture(scope="module")
def plain():
    return model_of(None, PLAIN)


@pytest.fixture(scope="module")
def unit():
    """What sees its data as they are, of any range."""
    return model_of(Channels(("a", "b"), (0, 0), (1, 1)), PLAIN)


def standard(count=8, shape=SHAPE):
    """A batch of order one, also far beyond 1."""
    return {"image": images(count, *shape), "past": images(count, 2, 2, 3, seed=1), "wind": images(count, 2, seed=2)}


def physical(batch):
    """The same in float64, as data would have it."""
    units = {"image": UV, "past": LOW, "wind": WIND}
    return {k: v.astype("float64") * np.array(units[k].std) + np.array(units[k].mean) for k, v in batch.items()}


def test_standardizing_is_what_float64_says():
    x = np.random.default_rng(0).normal(UV.mean, UV.std, (100, 2)).astype("float32")
    expected = (x.astype("float64") - UV.mean) / UV.std
    for found in (UV.standardize(x), to_numpy(UV.standardize(ops.convert_to_tensor(x)))):
        assert found.dtype == "float32"
        np.testing.assert_allclose(found, expected, atol=1e-5)
        np.testing.assert_allclose(UV.restore(found), x, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize(
    "arguments, sentence",
    [
        (dict(names=("u", "u"), mean=(0, 0), std=(1, 1)), "names, all different"),
        (dict(names=(), mean=(), std=()), "names, all different"),
        (dict(names=("u", "v"), mean=(0,), std=(1, 1)), "channel without statistics"),
        (dict(names=("u", "v"), mean=None, std=(1, 1)), "channel without statistics"),
        (dict(names=("u",), mean=(0,), std=(0,)), "u is constant"),
        (dict(names=("u",), mean=(np.nan,), std=(1,)), "must be finite numbers"),
        (dict(names=("u",), mean=(0,), std=(1e39,)), "must be finite numbers of float32"),
        (dict(names=5, mean=0, std=1), "need names"),
        (dict(names=("u",), mean=(1e5,), std=(1e-3,)), "less than float32 resolves"),
    ],
)
def test_channels_that_are_none_are_refused(arguments, sentence):
    with pytest.raises(ValueError, match=sentence):
        Channels(**arguments)


def test_the_loss_is_that_of_standardised_data(fields, unit):
    batch = standard()
    np.testing.assert_allclose(fields.losses(physical(batch)), unit.losses(batch), rtol=1e-4)


def test_the_loss_of_values_within_1_is_that_of_a_plain_model(fields, plain):
    batch = standard()
    batch["image"] = np.tanh(batch["image"])
    np.testing.assert_allclose(fields.losses(physical(batch)), plain.losses(batch), rtol=1e-4)


def test_generate_gives_what_a_standard_model_gives_in_units(fields, unit):
    batch = standard(3)
    given = {k: batch[k] for k in ("past", "wind")}
    options = {"num_steps": 2, "guidance": Guidance(1.5)}
    expected = unit.generate(conditions=given, **options)
    units = {k: physical(batch)[k] for k in given}
    found = fields.generate(conditions=units, **options)
    assert found.dtype == "float32" and np.abs(expected).max() > 1.5  # nothing is clipped
    np.testing.assert_allclose(UV.standardize(found), expected, atol=2e-3)
    z_t, x_hat = fields.trajectory(conditions=units, frames=2, **options)
    np.testing.assert_allclose(x_hat[-1], found, rtol=1e-5)
    assert np.abs(z_t[..., 0].mean() - 1e5) < 2000
    half = {"known": physical(batch)["image"], "mask": np.arange(4)[None, :, None, None] < 2}
    kept = fields.generate(conditions=units, num_steps=2, **half)
    np.testing.assert_allclose(kept[:, :2], half["known"][:, :2], rtol=1e-6, atol=1e-8)
    near = fields.generate(conditions=units, num_steps=2, init=half["known"], t_start=1e-3)
    np.testing.assert_allclose(UV.standardize(near), batch["image"], atol=0.1)


def test_limits_are_those_of_each_channel(fields):
    options = {"num_images": 4, "num_steps": 2}
    free = fields.generate(**options)
    cut = fields.generate(clip=((None, 0.0), None), **options)
    assert free[..., 1].min() < 0.0 <= cut[..., 1].min()
    assert cut[..., 0].min() < 1e5
    assert fields.generate(clip=(None, 1e5), **options)[..., 0].max() <= 1e5
    for wrong in ((1, 0), (0,), 3, ((0, 0, 0), None), ("a", None)):
        with pytest.raises(ValueError, match="clip must be"):
            fields.generate(clip=wrong, **options)


def test_members_are_functions_of_seed_example_and_number(fields):
    given = {"wind": physical(standard(3))["wind"]}
    many = fields.generate(conditions=given, ensemble_size=4, num_steps=2, batch_size=5)
    assert many.shape == (3, 4, *SHAPE) and np.unique(many[..., 0, 0, 0]).size == 12
    few = fields.generate(conditions=given, ensemble_size=2, num_steps=2)
    np.testing.assert_allclose(few, many[:, :2], rtol=1e-4, atol=1e-5)
    one = {"wind": given["wind"][1:2]}
    alone = fields.generate(conditions=one, ensemble_size=4, num_steps=2, first_image=1)
    np.testing.assert_allclose(alone[0], many[1], rtol=1e-4, atol=1e-5)
    z_t, _ = fields.trajectory(conditions=given, ensemble_size=2, num_steps=2, frames=1)
    assert z_t.shape == (1, 3, 2, *SHAPE)


@pytest.mark.parametrize(
    "options, sentence",
    [
        (dict(dtype="uint8"), "dtype must be 'float32' for fields"),
        (dict(dynamic_threshold=0.9), r"there is clip=\(lowest"),
        (dict(ensemble_size=0), "ensemble_size must be"),
        (dict(conditions={"past": np.zeros((4, 2, 2, 3), "uint8")}), "past must be float, in the units"),
        (dict(conditions={"past": np.full((4, 2, 2, 3), np.inf)}), "past must be finite"),
        (dict(init=np.zeros((4, *SHAPE), "uint8"), t_start=0.5), "init must be float, in the units"),
    ],
)
def test_requests_that_do_not_fit_are_refused(fields, options, sentence):
    with pytest.raises(ValueError, match=sentence):
        SampleRequest(fields, **{"num_images": 4, "num_steps": 2, **options})


def test_pictures_take_no_limits(plain):
    with pytest.raises(ValueError, match="clip= is for models with channels"):
        plain.generate(num_images=1, num_steps=1, clip=(0, 1))
    assert plain.generate(num_images=1, num_steps=1).dtype == "uint8"


def test_data_that_do_not_fit_are_refused(fields):
    batch = physical(standard())
    with pytest.raises(ValueError, match="Images must be float, in the units of the channels pressure, humidity"):
        fields.fit({**batch, "image": np.zeros((8, *SHAPE), "uint8")}, verbose=0)
    wrong = batch["image"].copy()
    wrong[3, 0, 0, 1] = np.nan
    with pytest.raises(ValueError, match="Samples must be finite"):
        fields.fit({**batch, "image": wrong}, verbose=0)
    with pytest.raises(ValueError, match="has 2 channels, and 3 are named: low, mask, past"):
        model_of(LOW)
    with pytest.raises(ValueError, match="A Vector has 3 channels, and 2 are named"):
        Vector(3, WIND)
    with pytest.raises(ValueError, match="or 1/2, 1/3, ... of their height and width"):
        tiny_network(conditions={"low": Image((3, 3, 1))})


def test_a_later_batch_that_is_not_finite_is_named():
    model, batch = model_of(), physical(standard(16))
    batch["image"][12] = np.inf
    with pytest.raises(CorruptBatch, match="Samples must be finite"):
        parts = (({k: v[i : i + 8].astype("float32") for k, v in batch.items()},) for i in (0, 8))
        model.fit(parts, steps_per_epoch=2, verbose=0)
    assert all(np.isfinite(w).all() for w in model.get_weights())


def test_a_coarse_condition_is_that_of_repeated_pixels():
    coarse, fine = (
        ResidualUViT((4, 4, 2), 1, None, 8, [RES], conditions={"low": Image((side, side, 3))}) for side in (2, 4)
    )
    fine.set_weights([w + 0.1 for w in coarse.get_weights()])
    coarse.set_weights(fine.get_weights())
    low, given = images(2, 2, 2, 3), {"z_t": images(2, 4, 4, 2), "logsnr": np.float32([0, 1])}
    large = low.repeat(2, axis=1).repeat(2, axis=2)
    np.testing.assert_allclose(
        to_numpy(coarse({**given, "low": low})), to_numpy(fine({**given, "low": large})), atol=1e-6
    )


def test_given_frames_are_in_units():
    clip = (3, *SHAPE)
    model = model_of(UV, {"given": Frames(clip, 1, UV)}, clip)
    x = physical({"image": images(4, *clip)})["image"]
    model.fit({"video": x}, epochs=1, verbose=0)
    longer = model.generate(conditions={"given": x[:, :1]}, num_steps=2, num_frames=5)
    assert longer.shape == (4, 5, *SHAPE)
    np.testing.assert_allclose(longer[:, 0], x[:, 0], rtol=1e-6, atol=1e-8)
    np.testing.assert_array_less(np.abs(UV.standardize(longer)), 100)  # the window that goes on is in units, too
    with pytest.raises(ValueError, match="the channels of their model"):
        model_of(UV, {"given": Frames(clip, 1)}, clip)


def test_files_keep_channels(fields, tmp_path):
    fields.save(tmp_path / "a.keras")
    fields.save_preset(tmp_path / "folder")
    for found in (keras.saving.load_model(tmp_path / "a.keras"), SiD2Model.from_preset(tmp_path / "folder")):
        assert found.channels == UV and found.conditions == fields.conditions
        np.testing.assert_array_equal(found.get_weights()[-1], fields.get_weights()[-1])


def test_what_has_no_channels_is_written_as_before(plain):
    assert "channels" not in plain.get_config()
    assert PLAIN["past"].get_config() == {"shape": (2, 2, 3)} and PLAIN["wind"].get_config() == {"size": 2}


def test_adapted_models_keep_channels_and_the_ratio_of_a_coarse_condition(fields):
    larger = fields.adapt((8, 8, 2), verbose=False)
    assert larger.channels == UV and larger.conditions["past"] == Image((4, 4, 3), LOW)


def test_presets_have_channels():
    network = {"image_shape": SHAPE, "patch_size": 1, "num_classes": None, "embedding_dim": 8, "levels": [RES]}
    schedule = {"schedule": CosineSchedule(), "weighting": SigmoidWeighting(0.0)}
    preset = Preset(name="fields", network={**network, "conditions": PHYSICAL}, channels=UV, **schedule)
    assert preset.build(SiD2Model).channels == UV
    assert overridden(preset, ["channels.mean=(0, 1)"]).channels == dataclasses.replace(UV, mean=(0, 1))
    plain = dataclasses.replace(preset, channels=None)
    texts = ["channels.names=('a', 'b')", "channels.mean=0,1", "channels.std=1,2"]
    assert overridden(plain, texts).channels == Channels(("a", "b"), (0, 1), (1, 2))
    assert "channels" in preset.described() and "channels" not in plain.described()
    with pytest.raises(ValueError, match="channel without statistics"):
        overridden(plain, texts[:1])
    values = {}
    exec(config_text(preset), values)
    assert values["preset"].channels == UV and values["preset"].conditions == preset.conditions
