"""generate: which weights, which seeds, which shapes."""

import contextlib
import importlib
import json

import keras
import numpy as np
import pytest
from helpers import tiny_network, to_numpy
from training_helpers import fit_steps, stripes, tiny_model

from keras_sid2 import AdamRecipe, DDIMSampler, Guidance, SampleRequest, ScaleCurve, SiD2Model, SigmoidWeighting
from keras_sid2.diffusion import CosineSchedule, from_x, to_x
from keras_sid2.sampling import SAMPLERS


@pytest.fixture(scope="module")
def model():
    # So short a training does not find the classes from about one in twelve initial weights; from these it does.
    model = tiny_model(recipe=AdamRecipe(learning_rate=1e-2, warmup_steps=20, ema_decay=0.95), weights_seed=4)
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
    kept = model.get_weights()
    model.set_weights([0.5 * to_numpy(v.value) for v in model.network.weights])
    second = draw(model, use_ema=False)
    model.set_weights(kept)
    assert np.abs(first - second).max() > 1
    np.testing.assert_array_equal(draw(model, use_ema=False), first)


def test_progress_counts_network_steps_to_the_end(model):
    calls = []
    model.generate(LABELS, num_steps=8, batch_size=4, progress=lambda done, total: calls.append((done, total)))
    assert calls == [(done, 16) for done in range(1, 17)]


def test_progress_as_a_bar(model, capsys):
    model.generate(LABELS, num_steps=8, progress=True)
    assert "7/7" in capsys.readouterr().out


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


def test_a_request_can_continue_another(model):
    whole = draw(model)
    rest = draw(model, LABELS[4:], first_image=4)
    assert np.abs(rest - whole[4:]).max() <= 1


def test_images_as_floats_are_those_in_bytes(model):
    x = model.generate(LABELS, num_steps=8, dtype="float32")
    assert x.dtype == np.float32 and np.abs(x).max() <= 1.0
    np.testing.assert_array_equal(np.round((x + 1.0) * 127.5).astype(int), draw(model))


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_floats_do_not_depend_on_the_batch(model, sampler):
    labels = np.arange(64) % 3
    options = dict(num_steps=6, sampler=sampler, dtype="float32", guidance=Guidance(1.5, (-3.0, 5.0)))
    whole = model.generate(labels, batch_size=64, **options)
    np.testing.assert_allclose(model.generate(labels, batch_size=7, **options), whole, atol=1e-5)
    alone = model.generate(labels[:3], batch_size=1, **options)
    np.testing.assert_allclose(alone, whole[:3], atol=1e-5)


def test_the_trajectory_ends_in_the_images(model):
    z_t, x_hat = model.trajectory(LABELS, num_steps=8, frames=4, batch_size=4)
    assert z_t.shape == x_hat.shape == (4, 7, 4, 4, 1) and z_t.dtype == np.uint8
    np.testing.assert_array_equal(x_hat[-1].astype(int), draw(model, batch_size=4))
    distance = np.abs(z_t.astype(float) - x_hat[-1]).mean(axis=(1, 2, 3, 4))
    assert (np.diff(distance) < 0).all()


def test_guidance_in_two_batches_or_by_a_level_curve_is_the_same(model):
    expected = draw(model, guidance=Guidance(2.0, (-3.0, 5.0)))
    for scale, one_batch in ((2.0, False), (ScaleCurve(((-1.0, 2.0), (1.0, 2.0))), True)):
        assert np.abs(draw(model, guidance=Guidance(scale, (-3.0, 5.0), one_batch)) - expected).max() <= 1


def test_a_guidance_network_guides(model):
    """Away from itself is no guidance; away from an earlier one is some, with the weights of both in one program."""
    plain = draw(model)
    assert np.abs(draw(model, guidance_network=model, guidance=Guidance(3.0)) - plain).max() <= 1
    guidance_network = tiny_model()
    fit_steps(guidance_network, epochs=3)
    assert np.abs(draw(model, guidance_network=guidance_network, guidance=Guidance(2.0)) - plain).max() > 5
    assert (
        np.abs(draw(model, guidance_network=guidance_network, guidance=Guidance(0.0)) - draw(guidance_network)).max()
        <= 1
    )
    unlabelled = tiny_model(network=tiny_network(num_classes=None), compiled=False)
    assert (
        unlabelled.generate(num_images=2, num_steps=2, guidance_network=unlabelled, guidance=Guidance(2.0)).shape[0]
        == 2
    )


def test_a_dynamic_threshold_saturates_less(model):
    clipped, scaled = (draw(model, guidance=Guidance(6.0), dynamic_threshold=q) for q in (None, 0.8))
    assert (np.isin(scaled, (0, 255))).mean() < (np.isin(clipped, (0, 255))).mean()


def test_an_image_that_is_little_noised_comes_back(model):
    images, labels = stripes(12)
    near, far = (np.abs(draw(model, labels, init=images, t_start=t) - images.astype(int)).mean() for t in (0.05, 1.0))
    assert near < 12 and far > 1.5 * near


def test_what_is_known_stays_and_the_rest_fits_it(model):
    images, labels = stripes(12)
    mask = np.zeros((4, 4, 1), bool)
    mask[:, :2] = True
    drawn = draw(model, labels, known=images, mask=mask, resamplings=2)
    np.testing.assert_array_equal(drawn[:, :, :2], images[:, :, :2])
    rows = drawn[:, :, 2:].astype(float).mean(axis=(2, 3)).argmax(1)
    assert (rows == labels).mean() > 0.7


@pytest.mark.parametrize("kind", ["x", "eps"])
def test_a_network_that_predicts_x_or_eps_trains_and_draws_alike(kind):
    """Its output is only read otherwise: loss and samples agree with the v of the same function."""

    class Translated(keras.Layer):
        """A network whose v_hat is handed out as another kind of prediction."""

        def __init__(self, network):
            super().__init__()
            self.network, self.image_shape, self.num_classes = network, network.image_shape, network.num_classes

        def call(self, inputs, training=None, seed=None):
            z_t, logsnr, _ = inputs
            at = {"z_t": z_t, "logsnr": logsnr}
            return from_x(to_x(self.network(inputs, training=training, seed=seed), "v", **at), kind, **at)

    expected = tiny_model(label_dropout=0.0)
    model = tiny_model(label_dropout=0.0, network=Translated(expected.network), prediction=kind)
    images, labels = stripes(16)
    batch = {"image": images, "label": labels}
    losses = [m.losses(batch) for m in (expected, model)]
    np.testing.assert_allclose(losses[1], losses[0], rtol=2e-3)
    assert np.abs(draw(model) - draw(expected)).max() <= 1
    expected.prediction = kind
    assert SiD2Model.from_config(expected.get_config()).prediction == kind


def test_a_record_of_a_drawing_names_what_decides_the_images(model):
    record = SampleRequest(model, LABELS, num_steps=8, guidance=Guidance(2.0), seed=3).describe()
    assert record["seed"] == 3 and record["guidance"] == "2.0 in all" and record["averaged_weights"] is True
    assert record["training_step"] == 320 and record["weights"] == model.weights_digest()
    assert model.weights_digest() != model.weights_digest(use_ema=False)


def test_records_tell_models_apart_that_have_the_same_weights(model):
    records = []
    for changes in ({}, dict(schedule=CosineSchedule(-5.0, 5.0)), dict(prediction="x")):
        other = SiD2Model.from_config(model.get_config())
        for name, value in changes.items():
            setattr(other, name, value)
        other.set_weights(model.get_weights())
        records.append(SampleRequest(other, LABELS, num_steps=8, use_ema=False).describe())
    assert len({json.dumps(record) for record in records}) == 3 and len({record["weights"] for record in records}) == 1


@keras.saving.register_keras_serializable(package="tests")
class LateNetwork(keras.Model):
    """A user's network, whose weights are made by its first call."""

    image_shape, num_classes = (4, 4, 1), None

    def __init__(self):
        super().__init__()
        self.dense = keras.layers.Dense(1)

    def call(self, inputs, training=None):
        return self.dense(inputs[0])


def test_a_network_of_the_user_s_has_its_weights_from_the_start():
    model = SiD2Model(LateNetwork(), schedule=CosineSchedule(), weighting=SigmoidWeighting(0.0))
    assert len(model.trainable_variables) == 2
    first, second = (model.generate(num_images=2, num_steps=2) for _ in range(2))
    np.testing.assert_array_equal(first, second)


class UnwrittenNetwork(keras.layers.Layer):
    """A user's network that keras cannot write as a configuration."""

    image_shape, num_classes = (4, 4, 1), None

    def __init__(self, dense):
        super().__init__()
        self.dense = dense

    def call(self, inputs, training=None):
        return self.dense(inputs[0])


def test_a_network_without_a_configuration_is_told_by_its_class():
    network = UnwrittenNetwork(keras.layers.Dense(1))
    with pytest.raises(NotImplementedError):
        network.get_config()
    model = SiD2Model(network, schedule=CosineSchedule(), weighting=SigmoidWeighting(0.0))
    assert (
        SampleRequest(model, num_images=2, num_steps=2).describe()["network"] == f"custom {__name__}.UnwrittenNetwork"
    )


IMAGES, MASK = np.zeros((7, 4, 4, 1), "uint8"), np.ones((4, 4, 1), bool)


@pytest.mark.parametrize(
    "options, sentence",
    [
        (
            dict(guidance=Guidance(2.0), labels=None, num_images=2),
            "Guidance needs labels to be guided by, or a guidance network",
        ),
        (dict(batch_size=0), "batch_size must be an integer >= 1, got 0"),
        (dict(first_image=-1), "first_image must be an integer >= 0, and with 7 images below 2147483648, got -1"),
        (dict(first_image=2**31 - 7), "first_image must be an integer >= 0, and with 7 images below 2147483648, got"),
        (dict(guidance=2.0), r"guidance must be a Guidance, as Guidance\(1.5, \(-3, 5\)\), or None; got 2.0"),
        (
            dict(noise_levels=lambda schedule, n, t: np.arange(n)),
            "noise_levels must give 9 finite values of logsnr for 8 steps",
        ),
        (dict(noise_levels=lambda schedule, n, t: -np.arange(n + 1)), "none below the one before it; got shape"),
        (
            dict(noise_levels=lambda schedule, n, t: np.full(n + 1, np.nan)),
            "noise_levels must give 9 finite values of logsnr",
        ),
        (dict(sampler=["ddim"]), "sampler must be one of ddpm, ddim, heun, dpmpp_2m"),
        (dict(labels=None, num_images=True), "num_images must be an integer >= 1, got True"),
        (dict(resamplings=0), "resamplings must be an integer >= 1, got 0"),
        (dict(dtype="float64"), "dtype must be 'uint8' or 'float32', got 'float64'"),
        (dict(num_steps=0), "num_steps must be an integer >= 1, got 0"),
        (dict(sampler="euler"), "sampler must be one of ddpm, ddim, heun, dpmpp_2m"),
        (dict(noise_levels="karras"), "noise_levels must be one of uniform_t, uniform_logsnr, edm_rho"),
        (dict(dynamic_threshold=2.0), r"dynamic_threshold must be a quantile in \(0, 1\], got 2.0"),
        (dict(labels=[0, 3]), r"Labels must be in \[0, 2\], got 3"),
        (dict(init=IMAGES), "init and t_start go together"),
        (dict(known=IMAGES), "known and mask go together"),
        (dict(init=IMAGES, t_start=1.5), r"t_start must be in \(0, 1\], got 1.5"),
        (dict(init=IMAGES, t_start="a"), r"t_start must be in \(0, 1\], got 'a'"),
        (dict(init=IMAGES[:3], t_start=0.5), r"init must be images \[7, 4, 4, 1\], uint8 or float in \[-1, 1\]; got"),
        (dict(init=IMAGES + 2.0, t_start=0.5), r"init must be float in \[-1, 1\], and reaches from 2.0 to 2.0"),
        (dict(known=IMAGES, mask=MASK[:2]), r"mask must be bool and broadcast to the images \[7, 4, 4, 1\]"),
        (dict(known=IMAGES, mask=MASK[..., 0]), r"got bool \[4, 4\]"),
        (dict(known=IMAGES, mask=0.3 * MASK), "mask must be bool, 0 and 1, or 0 and 255, and has 1 values from 0.3"),
        (dict(known=IMAGES, mask=np.arange(16).reshape(4, 4, 1)), "has 16 values from 0 to 15: give mask > 7.5"),
        (dict(known=IMAGES, mask=np.nan * MASK), "mask must be bool, 0 and 1, or 0 and 255"),
        (dict(known=IMAGES, mask=[["a"]]), r"mask must be bool and .* got <U1 \[1, 1\]"),
        (dict(known=[[1], [1, 2]], mask=MASK), "known must be an array of numbers, .*inhomogeneous"),
        (
            dict(init=np.full(IMAGES.shape, np.nan), t_start=0.5),
            "init must be float in .* NaN or infinite",
        ),
        (dict(init=IMAGES.astype("int64"), t_start=0.5), "uint8 or float in .* got int64"),
        (dict(init=IMAGES, t_start=0), r"t_start must be in \(0, 1\], got 0"),
        (dict(labels=[0.0, 1.0]), "Labels must be integers of shape .*, got float32"),
        (dict(labels=[0, None]), "Labels must be integers of shape .*, got object"),
        (dict(labels=[True, False]), "Labels must be integers of shape .*, got bool"),
        (dict(labels=np.eye(3, dtype=int)), r"Labels must be integers of shape .*\(3, 3\)"),
        (dict(num_steps=8.0), "num_steps must be an integer >= 1, got 8.0"),
        (dict(guidance=(1.5, (-3, 5))), r"guidance must be a Guidance, as Guidance\(1.5, \(-3, 5\)\), or None; got"),
        (dict(guidance=1.5), r"guidance must be a Guidance, as Guidance\(1.5, \(-3, 5\)\), or None; got 1.5"),
        (dict(dynamic_threshold="a"), r"dynamic_threshold must be a quantile in \(0, 1\], got 'a'"),
        (dict(use_ema="false"), "use_ema must be True or False, got 'false'"),
        (dict(progress="bar"), r"progress must be True or a function \(steps done, steps in all\), got 'bar'"),
        (
            dict(guidance_network="mine.keras", guidance=Guidance(2.0)),
            "guidance_network must be a SiD2Model, got 'mine.keras'",
        ),
        (dict(guidance_network=tiny_model(compiled=False)), "guidance_network= does nothing without guidance"),
    ],
)
def test_wrong_requests_are_refused_in_one_sentence(model, options, sentence):
    with pytest.raises(ValueError, match=sentence):
        SampleRequest(model, **{"labels": LABELS, "num_steps": 8, **options})


def tensors_of_backends():
    """Each backend's own way to hold an array; those that are installed."""
    found = {"numpy": np.asarray, "list": lambda a: np.asarray(a).tolist(), "keras": keras.ops.convert_to_tensor}
    for name, module, function in (("torch", "torch", "tensor"), ("jax", "jax.numpy", "asarray")):
        with contextlib.suppress(ImportError):
            found[name] = getattr(importlib.import_module(module), function)
    return found


@pytest.mark.parametrize("given", tensors_of_backends().values(), ids=tensors_of_backends())
def test_labels_images_and_masks_of_any_kind_are_the_same_request(model, given):
    images, labels = stripes(4)
    images = images / np.float32(127.5) - np.float32(1.0)
    mask = np.zeros((4, 4, 1), bool)
    mask[:2] = True
    expected = SampleRequest(model, labels, num_steps=np.int64(8), known=images, mask=mask, seed=np.uint32(3))
    for scale in (np.uint8(1), np.uint8(255), np.float32(1), np.int64(1)):
        request = SampleRequest(
            model, given(labels), num_steps=8, known=given(images), mask=given(mask * scale), seed=3
        )
        assert request.mask.dtype == bool
        assert json.dumps(request.describe()) == json.dumps(expected.describe())


def test_a_label_alone_is_one_image_and_records_are_plain(model):
    request = SampleRequest(model, np.int32(2), num_steps=np.int32(8), first_image=np.int64(5), resamplings=np.int8(1))
    assert request.num_images == 1
    half = dict(init=np.zeros((1, 4, 4, 1), "float16"), t_start=np.float32(0.5), dynamic_threshold=np.float32(0.75))
    assert json.loads(json.dumps(SampleRequest(model, 2, num_steps=8, **half).describe()))["dynamic_threshold"] == 0.75


def test_a_guidance_network_of_other_images_is_refused(model):
    other = tiny_model(network=tiny_network(image_shape=(8, 8, 1)), compiled=False)
    with pytest.raises(ValueError, match="The guidance network must have the images and classes"):
        draw(model, guidance_network=other, guidance=Guidance(2.0))


def test_a_trajectory_has_no_more_frames_than_steps(model):
    with pytest.raises(ValueError, match=r"frames must be an integer from 1 to num_steps \(8\), got 9"):
        model.trajectory(LABELS, num_steps=8, frames=9)


def test_old_keyword_arguments_work_with_a_warning(model):
    expected = draw(model, noise_levels="uniform_logsnr", guidance_network=model, guidance=Guidance(2.0))
    with pytest.warns(DeprecationWarning, match="is called (noise_levels|guidance_network)= now") as caught:
        assert (draw(model, grid="uniform_logsnr", weaker=model, guidance=Guidance(2.0)) == expected).all()
    assert {str(w.message).split("=")[0] for w in caught if w.category is DeprecationWarning} >= {"grid", "weaker"}
    with pytest.raises(TypeError, match="grid= is the old name of noise_levels="):
        draw(model, grid="uniform_t", noise_levels="uniform_t")
