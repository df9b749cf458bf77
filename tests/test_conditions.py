"""Conditions by name: checked on the host and in the step, dropped, guided by, embedded and concatenated."""

import warnings

import keras
import numpy as np
import pytest
from helpers import images, to_numpy
from keras import ops

from keras_sid2 import Guidance, Level, ResidualUViT, SampleRequest, SiD2Model, SigmoidWeighting
from keras_sid2.conditions import (
    RESERVED,
    ClassLabel,
    Condition,
    Image,
    TextEmbedding,
    Vector,
    as_conditions,
    call_network,
    check_all,
)
from keras_sid2.diffusion import CosineSchedule
from keras_sid2.training import CorruptBatch

CONDITIONS = {"wind": Vector(2), "past": Image((4, 4, 2))}
RNG = np.random.default_rng(0)


def network(**options):
    usual = {"conditions": CONDITIONS, "levels": [Level("res", 8, 1), Level("transformer", 16, 1, head_dim=8)]}
    return ResidualUViT((4, 4, 1), 1, 3, 8, **{**usual, **options})


def model_of(net, **options):
    model = SiD2Model(net, CosineSchedule(), SigmoidWeighting(0.0), **{"label_dropout": 0.1, **options})
    model.compile()
    return model


def batch(count=8, **changes):
    found = {
        "image": RNG.integers(0, 256, (count, 4, 4, 1)).astype("uint8"),
        "label": (np.arange(count) % 3).astype("int32"),
        "wind": RNG.normal(size=(count, 2)).astype("float32"),
        "past": RNG.normal(size=(count, 4, 4, 2)).astype("float32"),
    }
    return {**found, **changes}


@pytest.fixture(scope="module")
def model():
    found = model_of(network(), label_dropout={"label": 0.5, "past": 0.25})
    for v in found.trainable_variables:
        v.assign(RNG.normal(0.0, 0.2, v.shape))
    return found


@pytest.mark.parametrize(
    "condition, values, sentence",
    [
        (ClassLabel(3), np.int32([0, 3]), r"x must be in \[0, 2\], got 3"),
        (ClassLabel(3), np.float32([0, 1]), "x must be integers"),
        (Vector(2), np.zeros((2, 3)), r"x must be numbers of shape \['batch', 2\], got float64 of shape \(2, 3\)"),
        (Vector(2), np.array([["a", "b"]]), "x must be numbers"),
        (Image((2, 2, 1)), np.full((1, 2, 2, 1), np.nan), "x must be finite"),
        (TextEmbedding(3, 4), np.zeros((2, 4, 3)), r"x must be numbers of shape \['batch', 3, 4\]"),
    ],
)
def test_values_that_do_not_fit_are_refused(condition, values, sentence):
    with pytest.raises(ValueError, match=sentence):
        condition.check("x", values)


def test_bytes_of_an_image_are_scaled_as_samples_are():
    values = np.uint8([0, 51, 255]).reshape(3, 1, 1, 1)
    in_step, wrong, _ = Image((1, 1, 1)).in_step(ops.convert_to_tensor(values))
    for found in (Image((1, 1, 1)).check("x", values), to_numpy(in_step)):
        np.testing.assert_allclose(found.ravel(), [-1.0, -0.6, 1.0], atol=1e-6)
    assert not to_numpy(wrong).any()


def test_no_condition_takes_a_name_of_a_step_s_inputs():
    dropping = model_of(ResidualUViT((4, 4, 1), 1, 3, 8, [Level("res", 8, 1, dropout=0.1)], conditions=CONDITIONS))
    inputs = dropping.corrupted(batch(), dropping._step_keys(0, 0), dict.fromkeys(dropping.conditions, 0.0))
    assert {"example_seeds", "faults"} < set(inputs) - {"label", *CONDITIONS} <= RESERVED


@pytest.mark.parametrize("conditions", [{"z_t": Vector(2)}, {"label": Vector(2)}, {"a": 3}, ["a"]])
def test_conditions_that_are_none_are_refused(conditions):
    with pytest.raises(ValueError, match="condition"):
        as_conditions(conditions, 3)


def test_a_batch_that_lacks_one_is_refused(model):
    lacking = {k: v for k, v in batch().items() if k != "wind"}
    with pytest.raises(ValueError, match="conditioned on label, wind, past, and got no wind"):
        model.fit(lacking, verbose=0)
    with pytest.raises(ValueError, match="got no past"):
        check_all(CONDITIONS, {"wind": np.zeros((1, 2))})


def test_a_value_in_a_later_batch_that_is_not_finite_is_named_and_not_learnt():
    model, data = model_of(network()), batch(32)
    data["wind"][20, 1] = np.nan
    with pytest.raises(CorruptBatch, match="wind must be finite"):
        batches = (({k: v[i : i + 8] for k, v in data.items()},) for i in range(0, 32, 8))
        model.fit(batches, steps_per_epoch=4, verbose=0)
    assert all(np.isfinite(w).all() for w in model.get_weights())


def test_each_condition_is_dropped_in_its_own_share(model):
    data, found = batch(512), {}
    for step in range(4):
        inputs = model.corrupted(data, model._step_keys(0, step), dict(model._dropout))
        dropped = {"label": to_numpy(inputs["label"]) == 3, "past": (to_numpy(inputs["past"]) == 0).all((1, 2, 3))}
        dropped["wind"] = (to_numpy(inputs["wind"]) == 0).all(1)
        for name, share in dropped.items():
            found.setdefault(name, []).append(share)
    for name, share in (("label", 0.5), ("past", 0.25), ("wind", 0.0)):
        assert abs(np.mean(found[name]) - share) <= 4.5 * np.sqrt(share * (1 - share) / 2048), name


def test_each_condition_moves_the_output_and_no_vector_is_none(model):
    data = {name: ops.convert_to_tensor(values) for name, values in batch(4).items() if name != "image"}
    inputs = {"z_t": ops.convert_to_tensor(images(4, 4, 4, 1)), "logsnr": ops.zeros(4), **data}
    expected = to_numpy(model.network(inputs))
    for name in ("label", "wind", "past"):
        null = ops.broadcast_to(ops.convert_to_tensor(model.conditions[name].null), ops.shape(data[name]))
        assert np.abs(to_numpy(model.network({**inputs, name: null})) - expected).max() > 1e-4, name


def test_losses_of_examples_are_those_that_evaluate_averages(model):
    data = batch(16)
    losses = model.losses(data)
    assert losses.shape == (16,) and losses.mean() == pytest.approx(model.evaluate(data, verbose=0)[0], rel=1e-4)
    assert model.losses == []  # and Keras's list of extra losses it is still


def test_a_negative_condition_takes_the_place_of_the_null_value(model):
    given = {"conditions": {"wind": [0.5, -0.5], "past": batch(2)["past"]}, "num_steps": 4, "dtype": "float32"}
    alone = model.generate([0, 1], **given)
    options = dict(guidance=Guidance(2.0), **given)
    itself = {"label": np.array([0, 1]), "past": given["conditions"]["past"]}
    np.testing.assert_allclose(model.generate([0, 1], negative_conditions=itself, **options), alone, atol=1e-4)
    null = model.generate([0, 1], **options)
    named = {"label": 2, "past": np.zeros((4, 4, 2))}
    assert np.abs(model.generate([0, 1], negative_conditions=named, **options) - null).max() > 1e-4
    assert np.abs(null - alone).max() > 1e-4


@pytest.mark.parametrize(
    "given, sentence",
    [
        (dict(conditions={"rain": [1.0]}), "conditions names rain, and this model's conditions are label, wind, past"),
        (dict(labels=[0, 1], conditions={"wind": np.zeros((3, 2))}), "one an image"),
        (dict(labels=[0], negative_conditions={"label": 1}), "negative_conditions are for guidance"),
        (dict(labels=[0], conditions=[1]), "conditions must be a dict"),
        (
            dict(labels=[0, 1], negative_conditions={"label": [1, 2, 0]}, guidance=Guidance(2.0)),
            "label must be one a sample, 2, or one for all of them, got 3",
        ),
        (dict(), "num_images must be an integer"),
    ],
)
def test_requests_that_do_not_fit_are_refused(model, given, sentence):
    with pytest.raises(ValueError, match=sentence):
        model.generate(**given)


def test_one_value_serves_all_samples(model):
    past, options = batch(1)["past"][0], {"num_steps": 3, "dtype": "float32"}
    one = model.generate([0, 1], conditions={"wind": [0.5, -0.5], "past": past}, **options)
    many = {"wind": np.float32([[0.5, -0.5]] * 2), "past": np.stack([past] * 2)}
    np.testing.assert_array_equal(one, model.generate([0, 1], conditions=many, **options))


@pytest.mark.parametrize(
    "given, sentence",
    [
        (dict(labels=[0], conditions={"wind": [0.5, -0.5]}), "drawn for the null value of past, which training always"),
        (
            dict(num_images=1),
            "drawn for the null value of wind, past, which training always gave",
        ),  # labels are dropped
        (dict(labels=[0], conditions={"wind": [0.5, -0.5], "past": np.zeros((4, 4, 2))}), None),
    ],
)
def test_a_null_value_that_was_never_trained_is_said(given, sentence):
    model = model_of(network(), label_dropout={"label": 0.1})
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        SampleRequest(model, num_steps=2, **given)
    said = [str(w.message) for w in told if "null value" in str(w.message)]
    assert len(said) == bool(sentence) and all(sentence in each for each in said)


def test_guidance_away_from_what_was_never_trained_is_said():
    model = model_of(network(), label_dropout=0.0)
    given = {"labels": [0], "conditions": {"wind": [0.5, -0.5], "past": np.zeros((4, 4, 2))}, "guidance": Guidance(2.0)}
    with pytest.warns(UserWarning, match="Guidance leads away from the null value of label, wind, past"):
        SampleRequest(model, num_steps=2, **given)


def test_dropout_of_an_unknown_condition_is_refused():
    with pytest.raises(ValueError, match="label_dropout names rain, and the network's conditions are label, wind"):
        model_of(network(), label_dropout={"rain": 0.1})


def test_a_network_has_no_place_for_every_condition():
    class Sound(Condition):
        shape = (3,)

    with pytest.raises(ValueError, match="sound is a Sound: that needs a network of yours"):
        network(conditions={"sound": Sound()})
    with pytest.raises(ValueError, match="text and title are TextEmbeddings: join them"):
        network(conditions={name: TextEmbedding(3, 4) for name in ("text", "title")})
    with pytest.raises(ValueError, match="text needs one, and there is none"):
        network(conditions={"text": TextEmbedding(3, 4)}, levels=[Level("res", 8, 1)])
    with pytest.raises(
        ValueError, match=r"must be \[4, 4, 'channels'\], as its samples are, or 1/2, .* past is \[2, 4, 1\]"
    ):
        network(conditions={"past": Image((2, 4, 1))})


def test_a_file_keeps_conditions_and_shares(model, tmp_path):
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    assert again.conditions == model.conditions and again._dropout == model._dropout
    data = batch(4)
    np.testing.assert_allclose(again.losses(data), model.losses(data), rtol=1e-5)


def test_a_network_of_version_01_is_called_by_its_own_contract():
    class Old(keras.layers.Layer):
        image_shape, num_classes, built = (4, 4, 1), 3, True

        def call(self, inputs, training=None):
            z_t, logsnr, label = inputs
            return z_t + ops.reshape(ops.cast(label, "float32") + logsnr, (-1, 1, 1, 1))

    given = {"z_t": ops.zeros((2, 4, 4, 1)), "logsnr": ops.ones(2), "label": ops.convert_to_tensor([1, 2]), "seed": 0}
    np.testing.assert_allclose(to_numpy(call_network(Old(), given, seed=ops.zeros(2)))[:, 0, 0, 0], [2.0, 3.0])
