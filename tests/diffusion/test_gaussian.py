import itertools

import numpy as np
import pytest
from helpers import alpha_sigma_of, to_numpy
from helpers import images as numpy_images
from keras import ops

from keras_sid2.diffusion import alpha_sigma, convert, diffuse, from_x, posterior, to_x, velocity

KINDS = ("x", "eps", "v")
SHAPE = (6, 4, 3, 2)
LOGSNR = np.random.default_rng(5).uniform(-9.0, 9.0, size=SHAPE[0]).astype("float32")


def float32(value):
    return ops.convert_to_tensor(value, "float32")


def images(*shape, seed=0):
    return float32(numpy_images(*shape, seed=seed))


@pytest.fixture(scope="module")
def truth():
    """z_t and what each kind of prediction would be if it were perfect; float64, from the definitions."""
    x, eps = (numpy_images(*SHAPE, seed=seed).astype("float64") for seed in (1, 2))
    alpha, sigma = (c[:, None, None, None] for c in alpha_sigma_of(LOGSNR))
    return {"z_t": alpha * x + sigma * eps, "x": x, "eps": eps, "v": alpha * eps - sigma * x}


def test_alpha_and_sigma_are_variance_preserving_with_the_given_ratio():
    logsnr = np.linspace(-15.0, 10.0, 26, dtype="float32")
    alpha, sigma = (to_numpy(c).astype("float64") for c in alpha_sigma(logsnr))
    np.testing.assert_allclose(alpha**2 + sigma**2, 1.0, atol=1e-6)
    np.testing.assert_allclose(np.log(alpha**2 / sigma**2), logsnr, atol=1e-5)


def test_diffuse_and_velocity_are_their_definitions(truth):
    pair = dict(x=float32(truth["x"]), eps=float32(truth["eps"]), logsnr=LOGSNR)
    np.testing.assert_allclose(to_numpy(diffuse(**pair)), truth["z_t"], atol=1e-5)
    np.testing.assert_allclose(to_numpy(velocity(**pair)), truth["v"], atol=1e-5)


@pytest.mark.parametrize("source, target", itertools.product(KINDS, KINDS))
def test_conversion_of_the_truth_is_the_truth(truth, source, target):
    result = convert(float32(truth[source]), source, target, z_t=float32(truth["z_t"]), logsnr=LOGSNR)
    # Eq. (4) divides by alpha or sigma, which is 0.011 at |logsnr| = 9: 1e-7 / 0.011^2 at the worst.
    np.testing.assert_allclose(to_numpy(result), truth[target], atol=2e-3)


@pytest.mark.parametrize("source, target", itertools.product(KINDS, KINDS))
def test_conversions_round_trip_for_any_prediction(source, target):
    logsnr = np.random.default_rng(6).uniform(-5.0, 5.0, size=SHAPE[0]).astype("float32")
    prediction, z_t = images(*SHAPE, seed=3), images(*SHAPE, seed=4)
    there = convert(prediction, source, target, z_t=z_t, logsnr=logsnr)
    back = convert(there, target, source, z_t=z_t, logsnr=logsnr)
    np.testing.assert_allclose(to_numpy(back), to_numpy(prediction), atol=1e-4)


def test_a_scalar_logsnr_is_that_of_every_example(truth):
    z_t, v = float32(truth["z_t"]), float32(truth["v"])
    one, many = (to_numpy(to_x(v, "v", z_t=z_t, logsnr=float32(logsnr))) for logsnr in (1.5, np.full(6, 1.5)))
    np.testing.assert_array_equal(one, many)


@pytest.mark.parametrize("function", [to_x, from_x])
def test_unknown_prediction_is_refused(function):
    with pytest.raises(ValueError, match=r"one of \('x', 'eps', 'v'\), got 'score'"):
        function(images(*SHAPE), "score", z_t=images(*SHAPE), logsnr=LOGSNR)


def two_levels():
    """Random pairs logsnr_t < logsnr_s and, in float64, the gain and the variance of q(z_t | z_s)."""
    rng = np.random.default_rng(8)
    logsnr_t = rng.uniform(-12.0, 8.0, size=SHAPE[0]).astype("float32")
    logsnr_s = (logsnr_t + rng.uniform(0.05, 6.0, size=SHAPE[0])).astype("float32")
    (alpha_t, sigma_t), (alpha_s, sigma_s) = alpha_sigma_of(logsnr_t), alpha_sigma_of(logsnr_s)
    gain = alpha_t / alpha_s
    return float32(logsnr_t), float32(logsnr_s), alpha_s, sigma_s, gain, sigma_t**2 - gain**2 * sigma_s**2


def test_posterior_is_bayes_rule_on_two_gaussians():
    logsnr_t, logsnr_s, alpha_s, sigma_s, gain, variance_ts = two_levels()
    z_t, x = images(*SHAPE, seed=5), images(*SHAPE, seed=6)
    mean, lower, _ = posterior(z_t=z_t, x_hat=x, logsnr_t=logsnr_t, logsnr_s=logsnr_s)
    prior, likelihood = 1 / sigma_s**2, gain**2 / variance_ts  # precisions of z_s given x, and given z_t
    expand = (slice(None), None, None, None)
    expected = (prior * alpha_s)[expand] * to_numpy(x) + (likelihood / gain)[expand] * to_numpy(z_t)
    np.testing.assert_allclose(to_numpy(mean), expected / (prior + likelihood)[expand], atol=2e-5)
    np.testing.assert_allclose(to_numpy(lower).ravel(), 1 / (prior + likelihood), rtol=2e-4)


def test_upper_variance_is_that_of_an_unknown_unit_gaussian_image():
    """If x ~ N(0, I), z_s and z_t are unit Gaussians of correlation `gain`: var(z_s | z_t) = 1 - gain^2."""
    logsnr_t, logsnr_s, _, _, gain, _ = two_levels()
    z = images(*SHAPE)
    _, lower, upper = posterior(z_t=z, x_hat=z, logsnr_t=logsnr_t, logsnr_s=logsnr_s)
    np.testing.assert_allclose(to_numpy(upper).ravel(), 1 - gain**2, rtol=2e-4)
    assert (to_numpy(lower) <= to_numpy(upper)).all()


def test_a_step_of_no_length_stays_where_it_is():
    z_t, x_hat = images(*SHAPE, seed=5), images(*SHAPE, seed=6)
    mean, lower, upper = posterior(z_t=z_t, x_hat=x_hat, logsnr_t=float32(LOGSNR), logsnr_s=float32(LOGSNR))
    np.testing.assert_allclose(to_numpy(mean), to_numpy(z_t), atol=1e-6)
    assert not to_numpy(lower).any() and not to_numpy(upper).any()


def test_neighbours_of_a_long_run_keep_their_variance():
    """1 - exp(difference) would lose all digits here; expm1 does not."""
    z = images(1, 2, 2, 1)
    _, lower, _ = posterior(z_t=z, x_hat=z, logsnr_t=float32([9.0]), logsnr_s=float32([9.0 + 2**-19]))
    np.testing.assert_allclose(to_numpy(lower).ravel(), alpha_sigma_of(9.0)[1] ** 2 * 2.0**-19, rtol=1e-3)
