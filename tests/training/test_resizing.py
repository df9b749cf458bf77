"""Arrays for other grids and patches: against numpy's own means, repeats and interpolation."""

import numpy as np
import pytest

from keras_sid2.training import resizing

pytestmark = pytest.mark.backend_free
RNG = np.random.default_rng(0)


def repeated(patch, times):
    return patch.repeat(times, 0).repeat(times, 1)


def blocks(patch, size):
    """Means over size x size pixels."""
    side = len(patch) // size
    return patch.reshape(side, size, side, size, *patch.shape[2:]).mean((1, 3))


def test_areas():
    np.testing.assert_allclose(resizing.area_resampling(2, 3), [[1, 0], [0.5, 0.5], [0, 1]], atol=1e-15)
    np.testing.assert_allclose(resizing.area_resampling(1, 2), [[1], [1]])
    np.testing.assert_allclose(resizing.area_resampling(4, 2), [[0.5, 0.5, 0, 0], [0, 0, 0.5, 0.5]])


@pytest.mark.parametrize("old, new", [(1, 2), (2, 4), (2, 6), (2, 3)])
def test_larger_patches_read_a_resampled_patch_as_the_old_one(old, new):
    kernel, patch, up = RNG.normal(size=(old, old, 3, 5)), RNG.normal(size=(old, old, 3)), None
    up = resizing.area_resampling(old, new)
    large = resizing.patches_in(kernel, new)
    wanted = np.einsum("ijcw,ijc->w", kernel, patch)
    for found in (large, resizing.detail_in(large, old, 0)):
        resampled = np.einsum("ai,bj,ijc->abc", up, up, patch)
        np.testing.assert_allclose(np.einsum("ijcw,ijc->w", found, resampled), wanted, atol=1e-12)
    if new % old == 0:  # it reads means, and so the mean of what noise there is
        noise = RNG.normal(size=(new, new, 3))
        of_means = np.einsum("ijcw,ijc->w", kernel, blocks(noise, new // old))
        np.testing.assert_allclose(np.einsum("ijcw,ijc->w", large, noise), of_means, atol=1e-12)
        with_detail = np.einsum("ijcw,ijc->w", resizing.detail_in(large, old, 0), noise)
        assert np.abs(with_detail - of_means).min() > 1e-3


def test_smaller_patches_read_what_they_are_a_mean_of():
    kernel, patch = RNG.normal(size=(4, 4, 2, 5)), RNG.normal(size=(2, 2, 2))
    found = np.einsum("ijcw,ijc->w", resizing.patches_in(kernel, 2), patch)
    np.testing.assert_allclose(found, np.einsum("ijcw,ijc->w", kernel, repeated(patch, 2)), atol=1e-12)
    np.testing.assert_allclose(resizing.detail_in(kernel, 4, 0), kernel, atol=1e-12)


def test_outputs_are_repeated_or_averaged():
    kernel = RNG.normal(size=(2, 2, 3, 5))
    np.testing.assert_allclose(resizing.patches_out(kernel, 4), repeated(kernel, 2), atol=1e-12)
    np.testing.assert_allclose(resizing.patches_out(kernel, 1), blocks(kernel, 2), atol=1e-12)


@pytest.mark.parametrize("old, new", [(4, 8), (8, 4), (3, 7), (1, 3), (5, 5)])
def test_positions_are_interpolated_between_centres(old, new):
    values = RNG.normal(size=(old, 2, 3))
    centres, others = (np.arange(old) + 0.5) / old, (np.arange(new) + 0.5) / new
    wanted = np.stack([np.interp(others, centres, column) for column in values.reshape(old, -1).T], -1)
    np.testing.assert_allclose(resizing.interpolated(values, (new, 2)), wanted.reshape(new, 2, 3), atol=1e-12)
    turned = resizing.interpolated(values.swapaxes(0, 1), (2, new)).swapaxes(0, 1)
    np.testing.assert_allclose(turned, wanted.reshape(new, 2, 3), atol=1e-12)
