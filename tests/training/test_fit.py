"""fit, evaluate and what they promise, on the running backend."""

import keras
import numpy as np
import pytest
from helpers import only_on_jax, tiny_network, to_numpy
from training_helpers import (
    DROPOUT_LEVELS,
    Losses,
    Steps,
    all_weights,
    fit_steps,
    one_level_model,
    same_weights,
    stripes,
    tiny_model,
)

from keras_sid2 import AdamRecipe


@pytest.fixture(scope="module")
def trained():
    model = tiny_model()
    losses = Losses()
    images, labels = stripes(64)
    model.fit(images, labels, batch_size=64, epochs=50, verbose=0, callbacks=[losses])
    return model, losses.values


@pytest.fixture(scope="module")
def passed():
    """(a model after one pass, what fit said)."""
    model = one_level_model()
    return model, fit_steps(model).history


def test_the_loss_curve_of_50_steps_falls(trained):
    _, losses = trained
    assert np.mean(losses[-10:]) < 0.6 * np.mean(losses[:5])


@only_on_jax
def test_the_memory_of_weights_averages_and_moments_is_that_of_the_next_step():
    model = tiny_model()
    metrics = {id(v) for v in model.metrics_variables}  # fit resets them before its first step
    variables = [v for v in (*model.variables, *model.optimizer.variables) if id(v) not in metrics]
    before = [(v.path, v.value) for v in variables if v is not model.optimizer.gradient_norm]  # which no step reads
    fit_steps(model)
    assert len(before) > 200 and not [path for path, value in before if not value.is_deleted()]


def test_a_run_repeats_from_its_seed_and_differs_from_another(passed):
    again, other = (one_level_model(seed=seed) for seed in (0, 7))
    for model in (again, other):
        fit_steps(model)
    assert same_weights(passed[0], again)
    assert not same_weights(passed[0], other)


def test_metrics_are_loss_bins_and_gradient_norm(passed):
    history = passed[1]
    bins = ["loss_logsnr_min_-5", "loss_logsnr_-5_0", "loss_logsnr_0_5", "loss_logsnr_5_max"]
    assert set(history) == {"loss", "gradient_norm", *bins}
    assert history["gradient_norm"][0] > 0
    assert [*one_level_model(compiled=False).get_metrics_result()] == bins  # before compile(), too
    # t covers [0, 1] evenly, so the loss is the mean of the bins weighted by their share of t: between their extremes.
    values = [history[name][0] for name in bins]
    assert min(values) < history["loss"][0] < max(values)


def test_evaluation_repeats_and_takes_the_averaged_weights(trained):
    model, _ = trained
    images, labels = stripes(64)

    def evaluate(**options):
        return model.evaluate(images, labels, batch_size=16, verbose=0, return_dict=True, **options)["loss"]

    before = all_weights(model)
    averaged, raw = evaluate(), evaluate(use_ema=False)
    assert averaged == evaluate() != raw
    assert all(np.array_equal(a, b) for a, b in zip(before, all_weights(model), strict=True))
    other = tiny_model()
    other.set_weights([to_numpy(v.value) for v in model.averages()])
    assert other.evaluate(images, labels, batch_size=16, verbose=0, return_dict=True)["loss"] == averaged


def test_batches_of_an_evaluation_have_noise_of_their_own():
    model = one_level_model()
    images, labels = (a[:16] for a in stripes(64))
    once = model.evaluate(images, labels, batch_size=16, verbose=0)[0]
    twice = model.evaluate(np.tile(images, (2, 1, 1, 1)), np.tile(labels, 2), batch_size=16, verbose=0)[0]
    assert once != pytest.approx(twice, rel=1e-6)


def test_fit_keeps_the_raw_weights_and_a_second_fit_works():
    model = one_level_model()
    fit_steps(model)
    raw, averages = ([to_numpy(v.value) for v in vs] for vs in (model.trainable_variables, model.averages()))
    assert any(not np.allclose(a, b) for a, b in zip(raw, averages, strict=True))
    fit_steps(model)
    assert int(model.optimizer.iterations.value) == 8


def test_validation_data_is_evaluated_within_fit():
    images, labels = stripes(32)
    history = one_level_model().fit(
        images, labels, batch_size=16, epochs=2, verbose=0, validation_data=(images, labels)
    )
    assert len(history.history["val_loss"]) == 2 and np.isfinite(history.history["val_loss"]).all()


def generator():
    for i in range(4):
        yield Steps()[i]["image"], Steps()[i]["label"]


def tf_data():
    import tensorflow as tf

    images, labels = stripes(64)
    return tf.data.Dataset.from_tensor_slices({"image": images, "label": labels}).batch(16)


def tf_data_of_unknown_batch():
    import tensorflow as tf

    images, labels = stripes(64)
    return tf.data.Dataset.from_tensor_slices((images, labels)).batch(16, drop_remainder=False)


def torch_loader():
    import torch

    images, labels = (torch.from_numpy(a) for a in stripes(64))
    return torch.utils.data.DataLoader(torch.utils.data.TensorDataset(images, labels), batch_size=16)


@pytest.mark.parametrize("make", [generator, tf_data, tf_data_of_unknown_batch, torch_loader])
def test_every_kind_of_data_gives_the_same_run(passed, make):
    model = one_level_model()
    model.fit(make(), steps_per_epoch=4, verbose=0)
    for a, b in zip(all_weights(passed[0]), all_weights(model), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_arrays_and_a_dict_of_arrays_give_the_same_run():
    images, labels = stripes(64)
    models = [one_level_model(), one_level_model()]
    models[0].fit(images, labels, batch_size=16, shuffle=False, verbose=0)
    models[1].fit({"image": images, "label": labels}, batch_size=16, shuffle=False, verbose=0)
    assert same_weights(*models)


def batches_of(images, labels):
    for start in range(0, len(images), 16):
        yield images[start : start + 16], labels[start : start + 16]


def test_a_nan_stops_training_at_its_step_and_the_weights_stay_sound():
    images, labels = stripes(96)
    images = (images / 127.5 - 1.0).astype("float32")
    images[40] = np.nan  # in the third batch of 16
    model = one_level_model()
    with pytest.raises(FloatingPointError, match="nan at training step 3"):
        model.fit(batches_of(images, labels), steps_per_epoch=6, verbose=0)
    assert all(np.isfinite(w).all() for w in all_weights(model)[: len(model.trainable_variables)])
    assert int(model.optimizer.iterations.value) <= 4


def test_an_error_in_the_first_step_leaves_the_weights():
    model = one_level_model()
    before = [to_numpy(v.value) for v in model.trainable_variables]

    def broken(*_, **__):
        raise RuntimeError("no noise today")

    model.corrupted = broken
    with pytest.raises(RuntimeError, match="no noise today"):
        fit_steps(model)
    assert all(np.array_equal(a, to_numpy(v.value)) for a, v in zip(before, model.trainable_variables, strict=True))


def test_bfloat16_inside_trains_and_keeps_its_weights_in_float32():
    model = tiny_model(network=tiny_network(levels=DROPOUT_LEVELS, dtype="mixed_bfloat16"))
    history = fit_steps(model, epochs=8).history["loss"]
    assert history[-1] < history[0]
    assert {keras.backend.standardize_dtype(v.dtype) for v in model.trainable_variables} == {"float32"}


def test_compile_takes_another_optimizer_and_refuses_a_loss():
    model = one_level_model(compiled=False)
    with pytest.raises(ValueError, match="takes no loss"):
        model.compile(loss="mse")
    model.compile(keras.optimizers.SGD(0.01))
    history = fit_steps(model).history
    assert "gradient_norm" not in history and np.isfinite(history["loss"]).all()
    assert model.averages() is None


def test_the_optimizer_is_adam_with_clipping_in_numpy():
    """Three steps of the recipe's optimizer against its equations in float64."""
    recipe = AdamRecipe(learning_rate=0.1, warmup_steps=4, clip_norm=1.0)
    optimizer, variable = recipe.build(), keras.Variable(np.array([1.0, -2.0], "float32"))
    optimizer.build([variable])
    weight = np.array([1.0, -2.0])
    m = v = np.zeros(2)
    for step, gradient in enumerate(([3.0, 4.0], [0.3, -0.4], [-30.0, 0.1]), start=1):
        optimizer.apply([keras.ops.convert_to_tensor(np.array(gradient, "float32"))], [variable])
        g = np.array(gradient) / max(1.0, np.linalg.norm(gradient))
        m, v = 0.9 * m + 0.1 * g, 0.99 * v + 0.01 * g**2
        rate = 0.1 * (0.25 + 0.75 * (step - 1) / 4)
        weight = weight - rate * (m / (1 - 0.9**step)) / np.sqrt(v / (1 - 0.99**step))
        assert to_numpy(optimizer.gradient_norm.value) == pytest.approx(np.linalg.norm(gradient), rel=1e-5)
    np.testing.assert_allclose(to_numpy(variable.value), weight, rtol=1e-4)


def test_a_gradient_that_is_not_finite_changes_no_weight_to_nan():
    optimizer, variable = AdamRecipe(warmup_steps=0).build(), keras.Variable(np.ones(2, "float32"))
    optimizer.build([variable])
    optimizer.apply([keras.ops.convert_to_tensor(np.array([np.nan, 1.0], "float32"))], [variable])
    np.testing.assert_array_equal(to_numpy(variable.value), 1.0)
    assert np.isnan(to_numpy(optimizer.gradient_norm.value))
