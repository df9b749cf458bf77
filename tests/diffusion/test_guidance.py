import numpy as np
import pytest
from helpers import to_numpy
from hypothesis import given
from hypothesis import strategies as st

from keras_sid2.diffusion import Guidance, ScaleCurve, guide

pytestmark = pytest.mark.backend_free

FINITE = st.floats(-20.0, 20.0, width=32)


def test_scale_one_is_the_conditional_estimate():
    cond, uncond = np.float64([0.25, -0.5]), np.float64([1.0, 0.75])
    np.testing.assert_array_equal(guide(cond, uncond, 1.0), cond)


def test_scale_zero_is_the_unconditional_estimate_and_more_goes_beyond():
    assert guide(3.0, 1.0, 0.0) == 1.0
    assert guide(3.0, 1.0, 2.5) == 6.0


@given(logsnr=st.lists(FINITE, min_size=1, max_size=40, unique=True), ends=st.tuples(FINITE, FINITE))
def test_the_guided_steps_are_those_inside_the_interval(logsnr, ends):
    low, high = min(ends), max(ends)
    if low == high:
        high = low + 1.0
    grid = np.sort(np.float32(logsnr))
    start, stop = Guidance(2.0, (low, high)).steps(grid)
    assert set(range(start, stop)) == {i for i, value in enumerate(grid) if low <= value <= high}


def test_both_ends_of_the_interval_are_inside():
    assert Guidance(2.0, (-1.0, 1.0)).steps(np.arange(-3.0, 4.0)) == (2, 5)


def test_without_an_interval_every_step_is_guided():
    assert Guidance(2.0).steps(np.arange(-3.0, 4.0)) == (0, 7)


def test_scale_one_guides_no_step():
    assert Guidance().steps(np.arange(-3.0, 4.0)) == (0, 0)
    assert Guidance(1.0, (-1.0, 1.0)).steps(np.arange(-3.0, 4.0)) == (0, 0)


def test_an_interval_outside_the_grid_guides_no_step():
    for interval in ((5.0, 9.0), (-9.0, -5.0), (0.2, 0.8)):
        start, stop = Guidance(2.0, interval).steps(np.arange(-3.0, 4.0))
        assert start == stop


@pytest.mark.parametrize("scale", [-0.1, float("nan"), float("inf"), "2", None])
def test_scale_that_is_no_factor_is_refused(scale):
    with pytest.raises(ValueError, match="guidance scale must be a finite number >= 0"):
        Guidance(scale)


@pytest.mark.parametrize(
    "interval", [(1.0, 1.0), (5.0, -3.0), (1.0,), (1.0, 2.0, 3.0), (float("nan"), 1.0), 5.0, ("a", "b")]
)
def test_interval_that_is_no_range_is_refused(interval):
    with pytest.raises(ValueError, match=r"must be \(low, high\) in logsnr with low < high"):
        Guidance(2.0, interval)


def test_a_curve_is_straight_between_its_points_and_level_beyond():
    curve = ScaleCurve(((-2.0, 1.0), (0.0, 3.0), (4.0, 2.0)))
    logsnr = np.linspace(-6.0, 8.0, 57, dtype="float32")
    expected = np.interp(logsnr, *zip(*curve.points, strict=True))
    np.testing.assert_allclose(to_numpy(curve(logsnr)), expected, atol=1e-6)
    assert Guidance(curve).acts and Guidance(curve).steps(np.arange(-3.0, 4.0)) == (0, 7)
    assert ScaleCurve([[-2.0, 1.0], [0.0, 3.0], [4.0, 2.0]]) == curve  # as it comes back from JSON


@pytest.mark.parametrize("points", [(), ((0.0, 1.0),), ((1.0, 2.0), (0.0, 1.0)), ((0.0, 1.0), (1.0, -1.0)), (1.0, 2.0)])
def test_points_that_are_no_curve_are_refused(points):
    with pytest.raises(ValueError, match="A ScaleCurve needs at least two points"):
        ScaleCurve(points)
