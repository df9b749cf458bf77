import re

import numpy as np
import pytest
from helpers import to_numpy

from keras_sid2.diffusion import (
    CosineInterpolatedSchedule,
    CosineSchedule,
    ShiftedCosineSchedule,
    alpha_sigma,
)

SCHEDULES = {
    "cosine": CosineSchedule(),
    "cosine, lopsided": CosineSchedule(logsnr_min=-7.0, logsnr_max=12.0),
    "shifted": ShiftedCosineSchedule(32, 256, logsnr_min=-15.0, logsnr_max=15.0),
    "interpolated": CosineInterpolatedSchedule(512),
    "interpolated, high below the image": CosineInterpolatedSchedule(512, low=64, high=256),
    "literal": CosineInterpolatedSchedule(512, literal_listing=True),
}
every_schedule = pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)


def float64_logsnr(schedule, t):
    """Eq. (1) to (3) in float64, with the shift as so much an octave between noise and image resolution."""
    clean_angle, noisy_angle = np.arctan(np.exp([-0.5 * schedule.logsnr_max, -0.5 * schedule.logsnr_min]))
    cosine = -2.0 * np.log(np.tan((1.0 - t) * clean_angle + t * noisy_angle))
    if isinstance(schedule, CosineSchedule):
        return cosine
    if isinstance(schedule, ShiftedCosineSchedule):
        noise, an_octave = schedule.noise_resolution, np.log(4.0)
    else:
        noise = np.array([[schedule.high or schedule.image_resolution], [schedule.low]])
        an_octave = -np.log(2.0) if schedule.literal_listing else np.log(4.0)
    octaves = np.log2(noise / schedule.image_resolution) * np.ones((2, 1))
    return cosine + an_octave * ((1.0 - t) * octaves[0] + t * octaves[1])


@pytest.mark.parametrize(
    "resolution, noisy, middle", [(128, -12.77, -1.39), (256, -14.16, -2.08), (512, -15.55, -2.77)]
)
def test_end_values_of_the_paper_s_schedule(resolution, noisy, middle):
    schedule = CosineInterpolatedSchedule.for_image_shape((resolution, resolution, 3))
    np.testing.assert_allclose(to_numpy(schedule.logsnr([0.0, 1.0, 0.5])), [10.0, noisy, middle], atol=0.0051)


def test_the_printed_listing_leaves_the_mean_visible_and_is_not_the_default():
    literal = CosineInterpolatedSchedule(512, literal_listing=True)
    np.testing.assert_allclose(to_numpy(literal.logsnr([0.0, 1.0])), [10.0, -7.23], atol=0.0051)
    assert not CosineInterpolatedSchedule(512).literal_listing


@every_schedule
def test_logsnr_is_that_of_float64(schedule):
    t = np.linspace(0.0, 1.0, 101)
    # At t = 1 the tangent of an angle near pi/2 in float32 turns 1e-7 into 1e-7 exp(|logsnr| / 2).
    logsnr = to_numpy(schedule.logsnr(t.astype("float32")))
    np.testing.assert_allclose(logsnr, float64_logsnr(schedule, t), atol=2e-3)


@every_schedule
def test_derivative_is_that_of_float64_differences(schedule):
    t, h = np.linspace(0.01, 0.99, 99), 1e-5
    difference = (float64_logsnr(schedule, t + h) - float64_logsnr(schedule, t - h)) / (2 * h)
    np.testing.assert_allclose(to_numpy(schedule.dlogsnr_dt(t.astype("float32"))), difference, rtol=1e-4)


@every_schedule
def test_logsnr_falls_everywhere(schedule):
    t = np.linspace(0.0, 1.0, 1001, dtype="float32")
    assert (np.diff(to_numpy(schedule.logsnr(t))) < 0).all()
    assert (to_numpy(schedule.dlogsnr_dt(t)) < 0).all()


def test_cosine_turns_by_equal_angles():
    t = np.linspace(0.0, 1.0, 11, dtype="float32")
    alpha, sigma = (to_numpy(c) for c in alpha_sigma(CosineSchedule().logsnr(t)))
    a_tenth = 0.1 * (np.pi / 2 - 2 * np.arctan(np.exp(-5)))
    np.testing.assert_allclose(np.diff(np.arctan2(sigma, alpha)), a_tenth, rtol=1e-4)


def test_cosine_is_symmetric_in_time():
    t = np.linspace(0.0, 1.0, 11, dtype="float32")
    logsnr = to_numpy(CosineSchedule().logsnr(t))
    np.testing.assert_allclose(logsnr[::-1], -logsnr, atol=2e-4)


def test_doubling_the_image_costs_two_ln_two():
    small, large = (to_numpy(ShiftedCosineSchedule(32, r).logsnr(0.3)) for r in (64, 128))
    np.testing.assert_allclose(small - large, 2 * np.log(2.0), rtol=1e-5)


def test_equal_resolutions_shift_nothing():
    t = np.linspace(0.0, 1.0, 11, dtype="float32")
    plain = to_numpy(CosineSchedule().logsnr(t))
    equal = ShiftedCosineSchedule(64, 64), CosineInterpolatedSchedule(64, 64), CosineInterpolatedSchedule(32)
    for schedule in equal:
        np.testing.assert_allclose(to_numpy(schedule.logsnr(t)), plain, atol=1e-6)


@pytest.mark.parametrize("low, high", [(5.0, 5.0), (10.0, -10.0), (float("nan"), 1.0), (-float("inf"), 1.0)])
def test_reversed_or_endless_range_is_refused(low, high):
    with pytest.raises(ValueError, match="logsnr_min must be below logsnr_max, both finite"):
        CosineSchedule(low, high)
    with pytest.raises(ValueError, match="logsnr_min must be below logsnr_max, both finite"):
        CosineInterpolatedSchedule(64, logsnr_min=low, logsnr_max=high)


@pytest.mark.parametrize("noise, image", [(0, 64), (32, 0), (-32, 64)])
def test_resolutions_must_be_positive(noise, image):
    with pytest.raises(ValueError, match="noise_resolution and image_resolution must be positive"):
        ShiftedCosineSchedule(noise, image)


@pytest.mark.parametrize("settings", [dict(low=64, high=32), dict(low=0), dict(low=128)])
def test_low_above_high_is_refused(settings):
    with pytest.raises(ValueError, match="0 < low <= high and image_resolution > 0, got low="):
        CosineInterpolatedSchedule(64, **settings)


@pytest.mark.parametrize("shape", [(8, 8, 1), (64, 32, 3), (16, 32, 3)])
def test_the_paper_s_schedule_is_for_square_images_only(shape):
    with pytest.raises(ValueError, match=f"these are {shape[0]} x {shape[1]}: pass schedule="):
        CosineInterpolatedSchedule.for_image_shape(shape)


NO_IMAGE_SHAPES = [(2, 16, 64, 64, 3), (64, 64), (64.0, 64, 3), None]


@pytest.mark.parametrize("shape", NO_IMAGE_SHAPES)
def test_what_is_no_shape_of_images_has_no_schedule(shape):
    with pytest.raises(ValueError, match=re.escape(f"these are of shape {shape!r}: pass schedule=")):
        CosineInterpolatedSchedule.for_image_shape(shape)


@pytest.mark.parametrize("shape", [[64, 64, 3], np.array([64, 64, 3]), (np.int64(64), np.int64(64), 3)])
def test_a_shape_may_be_a_list_or_numpy_s(shape):
    assert CosineInterpolatedSchedule.for_image_shape(shape) == CosineInterpolatedSchedule(64)
