"""ADM's centre crop against one written apart, and the windows of crops at reading."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from pipelines import adm_center_crop
from pipelines.reading.order import center_window, random_window

pytestmark = pytest.mark.backend_free


def reference(picture, side):
    """From the description in words: halve by boxes while the short side is at least 2 * side, make the short side
    `side` bicubically, take the middle."""
    width, height = picture.size
    while width >= 2 * side and height >= 2 * side:
        width, height = width // 2, height // 2
        picture = picture.resize((width, height), Image.BOX)
    factor = side / (width if width < height else height)
    picture = picture.resize((round(width * factor), round(height * factor)), Image.BICUBIC)
    pixels = np.asarray(picture)
    down, right = (pixels.shape[0] - side) // 2, (pixels.shape[1] - side) // 2
    return pixels[down:, right:][:side, :side]


SIDES = st.one_of(st.integers(1, 40), st.integers(1, 700))


@given(height=SIDES, width=SIDES, side=st.sampled_from([1, 8, 16, 17, 32, 64]), grey=st.booleans())
def test_adm_crop(height, width, side, grey):
    pixels = np.random.default_rng(height * 1009 + width).integers(0, 256, (height, width, 3), np.uint8)
    picture = Image.fromarray(pixels[..., 0] if grey else pixels)
    cropped = np.asarray(adm_center_crop(picture, side))
    assert cropped.shape == ((side, side) if grey else (side, side, 3))
    np.testing.assert_array_equal(cropped, reference(picture, side))


@pytest.mark.parametrize("height, width", [(3, 2000), (2000, 3), (1, 1), (513, 4096), (2048, 2048)])
@pytest.mark.parametrize("side", [64, 256])
def test_adm_crop_of_extreme_sizes(height, width, side):
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8))
    np.testing.assert_array_equal(np.asarray(adm_center_crop(picture, side)), reference(picture, side))


def test_adm_crop_leaves_an_image_of_the_size_alone():
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    np.testing.assert_array_equal(np.asarray(adm_center_crop(Image.fromarray(pixels), 64)), pixels)


@given(
    height=st.integers(1, 900),
    width=st.integers(1, 900),
    draws=st.tuples(*[st.floats(0, 1, exclude_max=True)] * 3),
    min_crop=st.floats(0.01, 1),
    aspect=st.sampled_from([0.5, 1.0, 16 / 9]),
)
def test_windows_lie_inside(height, width, draws, min_crop, aspect):
    largest = center_window(height, width, aspect)
    for window in (largest, random_window(height, width, draws, min_crop, aspect)):
        top, left, h, w = window
        assert all(isinstance(edge, int) for edge in window)
        assert top >= 0 and left >= 0 and h >= 1 and w >= 1
        assert top + h <= height and left + w <= width
        assert abs(h - w * aspect) <= 1 + aspect
        assert np.floor(min_crop * largest[3]) <= w <= largest[3]


def test_center_window_is_the_largest_in_the_middle():
    windows = [center_window(*size) for size in ((400, 500), (500, 400), (7, 7))]
    assert windows == [(0, 50, 400, 400), (50, 0, 400, 400), (0, 0, 7, 7)]


def test_random_windows_reach_every_place():
    draws = np.random.default_rng(0).uniform(size=(4000, 3)).tolist()
    windows = np.array([random_window(10, 12, draw, 0.5) for draw in draws])
    assert set(windows[:, 2]) == {5, 6, 7, 8, 9, 10}
    for side in range(5, 11):
        tops, lefts = windows[windows[:, 2] == side, :2].T
        assert set(tops) == set(range(10 - side + 1)) and set(lefts) == set(range(12 - side + 1))
