"""The kernel distance against its definition, and against its expectation for Gaussians."""

import itertools

import numpy as np
import pytest

from keras_sid2.evaluation import kernel_distance

pytestmark = pytest.mark.backend_free


def test_it_is_the_mean_over_pairs():
    x, y = np.random.default_rng(0).normal(size=(2, 6, 3))

    def mean(pairs):
        return np.mean([(a @ b / 3 + 1) ** 3 for a, b in pairs])

    expected = mean(itertools.permutations(x, 2)) + mean(itertools.permutations(y, 2))
    expected -= 2 * mean(itertools.product(x, y))
    result = kernel_distance(x, y, subsets=3, subset_size=6)
    assert result.mean == pytest.approx(expected, rel=1e-12) and result.std < 1e-12


def kernel_of_gaussians(a, s, b, t):
    """E (x . y / D + 1)^3 of x ~ N(a, s^2), y ~ N(b, t^2), from the moments of x . y."""
    d, ab, aa, bb = len(a), a @ b, a @ a, b @ b
    second = ab**2 + s**2 * bb + t**2 * aa + d * s**2 * t**2
    third = ab**3 + 3 * ab * t**2 * aa + 3 * s**2 * ab * (bb + d * t**2 + 2 * t**2)
    return third / d**3 + 3 * second / d**2 + 3 * ab / d + 1


def test_its_mean_over_small_sets_is_the_value_of_the_distributions():
    rng = np.random.default_rng(1)
    a, s, b, t = np.array([0.5, -0.3, 0.2]), 1.0, np.array([-0.2, 0.4, 0.6]), 1.3
    expected = kernel_of_gaussians(a, s, a, s) + kernel_of_gaussians(b, t, b, t) - 2 * kernel_of_gaussians(a, s, b, t)
    sets = [(rng.normal(a, s, (20, 3)), rng.normal(b, t, (20, 3))) for _ in range(4000)]
    values = [kernel_distance(x, y, subsets=1, subset_size=20).mean for x, y in sets]
    assert np.mean(values) == pytest.approx(expected, abs=4 * np.std(values) / np.sqrt(len(values)))
    assert np.std(values) / np.sqrt(len(values)) < 0.05 * expected


def test_sets_of_one_distribution_have_about_none():
    x, y = np.random.default_rng(2).normal(size=(2, 400, 8))
    result = kernel_distance(x, y, subset_size=100)
    assert abs(result.mean) < result.std
    assert kernel_distance(x, y + 1.0, subset_size=100).mean > 10 * result.std


def test_a_seed_has_its_subsets():
    x, y = np.random.default_rng(3).normal(size=(2, 60, 4))
    results = [kernel_distance(x, y, subsets=5, subset_size=20, seed=seed) for seed in (1, 1, 2)]
    assert results[0] == results[1] != results[2]


def test_what_it_cannot_take():
    x = np.ones((20, 3))
    with pytest.raises(ValueError, match=r"of shape \[at least 1000, D\], got shape \[20, 3\]"):
        kernel_distance(x, x)
    with pytest.raises(ValueError, match="as many features, got 3 and 2"):
        kernel_distance(x, x[:, :2], subset_size=10)
    with pytest.raises(ValueError, match="at least 2 images, got 100 of 1"):
        kernel_distance(x, x, subset_size=1)
    with pytest.raises(ValueError, match="at least 1 subset, of at least 2 images, got 0 of 10"):
        kernel_distance(x, x, subsets=0, subset_size=10)
