"""Where steps lie, against the definitions in float64."""

import math

import numpy as np
import pytest
from helpers import to_numpy

from keras_sid2.diffusion import CosineInterpolatedSchedule, CosineSchedule
from keras_sid2.sampling import NOISE_LEVELS, edm_rho, get_noise_levels, uniform_logsnr, uniform_t

SCHEDULES = [CosineSchedule(), CosineSchedule(-5.0, 7.0), CosineInterpolatedSchedule(128)]


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("noise_levels", NOISE_LEVELS.values(), ids=NOISE_LEVELS)
@pytest.mark.parametrize("t_start", [1.0, 0.3])
def test_every_grid_rises_from_t_start_to_clean(noise_levels, schedule, t_start):
    logsnr = noise_levels(schedule, 5, t_start)
    assert logsnr.dtype == "float32" and logsnr.shape == (6,)
    assert (np.diff(logsnr)[:-1] > 0).all() and (logsnr[-1] > logsnr[-2]) == (noise_levels is not edm_rho)
    ends = to_numpy(schedule.logsnr(np.float32([t_start, 0.0])))
    np.testing.assert_allclose(logsnr[[0, -1]], ends, atol=2e-5)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_steps_are_uniform_in_t(schedule):
    expected = to_numpy(schedule.logsnr(np.float32([1.0, 0.75, 0.5, 0.25, 0.0])))
    np.testing.assert_allclose(uniform_t(schedule, 4), expected, atol=1e-6)
    np.testing.assert_allclose(uniform_t(schedule, 2, 0.5), expected[2:], atol=1e-6)


def test_steps_are_uniform_in_logsnr():
    np.testing.assert_allclose(uniform_logsnr(CosineSchedule(), 4), [-10.0, -5.0, 0.0, 5.0, 10.0], atol=2e-5)


def test_edm_s_grid_is_its_equation_5():
    """sigma_i = (sigma_max^(1/rho) + i / (n - 1) (sigma_min^(1/rho) - sigma_max^(1/rho)))^rho for i < n.

    And for EDM's own ends, 80 and 0.002, and 18 steps, the levels that its code evaluates.
    """
    high, low, n, rho = math.exp(5.0), math.exp(-5.0), 6, 7.0
    sigmas = [(high ** (1 / rho) + i / (n - 1) * (low ** (1 / rho) - high ** (1 / rho))) ** rho for i in range(n)]
    np.testing.assert_allclose(edm_rho(CosineSchedule(), n)[:-1], [-2 * math.log(s) for s in sigmas], atol=5e-5)
    evenly = np.exp(-0.5 * edm_rho(CosineSchedule(), n, rho=1.0))
    np.testing.assert_allclose(np.diff(evenly[:-1]), (low - high) / (n - 1), rtol=1e-4)
    edm = CosineSchedule(-2 * math.log(80.0), -2 * math.log(0.002))
    first_of_18 = np.exp(-0.5 * edm_rho(edm, 18)[[0, 1, 2, 16, 17, 18]])
    np.testing.assert_allclose(first_of_18, [80.0, 57.586, 40.786, 0.0075, 0.002, 0.002], rtol=0.01)
    np.testing.assert_allclose(edm_rho(CosineSchedule(), 1), [-10.0, -10.0], atol=5e-5)


@pytest.mark.parametrize("num_steps", [0, -4, 2.5, None, True])
@pytest.mark.parametrize("noise_levels", NOISE_LEVELS.values(), ids=NOISE_LEVELS)
def test_number_of_steps_is_a_positive_integer(noise_levels, num_steps):
    with pytest.raises(ValueError, match="num_steps must be an integer >= 1, got"):
        noise_levels(CosineSchedule(), num_steps)


@pytest.mark.parametrize("t_start", [0.0, 1.2, -0.5])
def test_t_start_is_a_time(t_start):
    with pytest.raises(ValueError, match=r"t_start must be in \(0, 1\], got"):
        uniform_t(CosineSchedule(), 4, t_start)


def test_rho_is_positive_and_grids_go_by_name():
    with pytest.raises(ValueError, match="rho must be positive, got 0"):
        edm_rho(CosineSchedule(), 4, rho=0)
    with pytest.raises(
        ValueError, match="noise_levels must be one of uniform_t, uniform_logsnr, edm_rho or a function"
    ):
        get_noise_levels("karras")
    assert get_noise_levels("edm_rho") is edm_rho and get_noise_levels(uniform_t) is uniform_t
