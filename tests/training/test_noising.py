"""What a training step draws: t, eps, dropped labels; and that x comes back out of z_t and v."""

import numpy as np
import pytest
from helpers import alpha_sigma_of, to_numpy
from keras import ops
from training_helpers import stripes, tiny_model

from keras_sid2 import threefry


@pytest.fixture(scope="module")
def model():
    return tiny_model(seed=5)


def noised(model, count=64, step=0, dropout=0.1, **data):
    images, labels = stripes(count)
    keys = model._step_keys(0, ops.convert_to_tensor(step, "int32"))
    inputs = model.corrupted({"image": images, "label": labels, **data}, keys, {"label": dropout})
    inputs = {k: to_numpy(value) for k, value in inputs.items()}
    return inputs, inputs["target"]


def test_the_scaled_image_comes_back_out_of_z_and_v(model):
    inputs, v = noised(model)
    alpha, sigma = (c[:, None, None, None] for c in alpha_sigma_of(inputs["logsnr"]))
    np.testing.assert_allclose(alpha * inputs["z_t"] - sigma * v, stripes()[0] / 127.5 - 1.0, atol=1e-5)


def test_uint8_and_the_same_floats_are_the_same_data(model):
    from_bytes, _ = noised(model)
    from_floats, _ = noised(model, image=(stripes()[0] / 127.5 - 1.0).astype("float32"))
    np.testing.assert_allclose(from_floats["z_t"], from_bytes["z_t"], atol=1e-6)


def test_t_covers_the_unit_interval_evenly_in_each_batch_and_uniformly_for_each_example(model):
    def times(step):  # t of the cosine schedule from logsnr, in float64
        a0, a1 = np.arctan(np.exp(-5.0)), np.arctan(np.exp(5.0))
        return (np.arctan(np.exp(-0.5 * noised(model, 8, step)[0]["logsnr"].astype("float64"))) - a0) / (a1 - a0)

    t = np.stack([times(step) for step in range(100)])
    gaps = np.diff(np.sort(t, axis=1), axis=1)
    np.testing.assert_allclose(gaps, 1 / 8, atol=1e-4)
    # The mean of 100 uniform draws is within 4 of its standard errors of 1/2, for each place in the batch.
    np.testing.assert_allclose(t.mean(0), 0.5, atol=4 / np.sqrt(12 * 100))
    assert (t.min(0) < 0.1).all() and (t.max(0) > 0.9).all()


def test_noise_is_a_function_of_seed_and_step_and_place(model):
    first, again, later = noised(model, step=3), noised(model, step=3), noised(model, step=4)
    other = noised(tiny_model(seed=6, compiled=False), step=3)
    np.testing.assert_array_equal(first[1], again[1])
    for different in (later, other):
        assert abs(np.corrcoef(first[1].ravel(), different[1].ravel())[0, 1]) < 0.9
    fewer, _ = noised(model, count=16, step=3)
    alpha, sigma = (c[:, None, None, None] for c in alpha_sigma_of(fewer["logsnr"]))
    eps = (fewer["z_t"] - alpha * (stripes(16)[0] / 127.5 - 1)) / sigma
    alpha, sigma = (c[:16, None, None, None] for c in alpha_sigma_of(first[0]["logsnr"]))
    eps_of_many = (first[0]["z_t"][:16] - alpha * (stripes()[0][:16] / 127.5 - 1)) / sigma
    low_noise = (sigma.ravel() > 0.3) & (alpha_sigma_of(fewer["logsnr"])[1] > 0.3)  # elsewhere eps is lost to rounding
    assert low_noise.sum() > 4
    np.testing.assert_allclose(eps[low_noise], eps_of_many[low_noise], atol=1e-4)


def test_label_dropout_puts_the_null_class_in_its_share_of_places(model):
    share = np.mean([noised(model, 512, step, dropout=0.25)[0]["label"] == 3 for step in range(8)])
    assert abs(share - 0.25) < 4 * np.sqrt(0.25 * 0.75 / 4096)
    kept = noised(model, dropout=0.0)[0]["label"]
    np.testing.assert_array_equal(kept, stripes()[1])


def test_loss_per_example_is_equation_4_in_x(model):
    inputs, v = noised(model)
    v_hat = np.random.default_rng(1).normal(size=v.shape).astype("float32")
    tensors = {k: ops.convert_to_tensor(a) for k, a in inputs.items()}
    loss = to_numpy(model.objective.losses(lambda _: ops.convert_to_tensor(v_hat), tensors))
    logsnr = inputs["logsnr"].astype("float64")
    alpha, sigma = (c[:, None, None, None] for c in alpha_sigma_of(logsnr))
    x, x_hat = alpha * inputs["z_t"] - sigma * v, alpha * inputs["z_t"] - sigma * v_hat
    a = np.arctan(np.exp(5.0)) - np.arctan(np.exp(-5.0))
    angle = np.arctan(np.exp(-0.5 * logsnr))
    dlogsnr_dt = -2.0 * a / (np.sin(angle) * np.cos(angle))
    expected = -0.5 * dlogsnr_dt / (1.0 + np.exp(-logsnr)) * ((x - x_hat) ** 2).mean((1, 2, 3))
    np.testing.assert_allclose(loss, expected, rtol=2e-4)


def test_a_batch_may_be_empty(model):
    images, labels = stripes(1)
    assert noised(model, image=images[:0], label=labels[:0])[0]["logsnr"].shape == (0,)


def test_training_and_evaluation_do_not_share_noise(model):
    train, evaluate = (to_numpy(threefry.normal(model._step_keys(stream, 0)[2], (256,))) for stream in (0, 1))
    assert abs(np.corrcoef(train, evaluate)[0, 1]) < 0.3
