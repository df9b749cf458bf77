"""Statistics of features against numpy's own, in one piece and in many."""

import numpy as np
import pytest

from keras_sid2.evaluation import FeatureStatistics

pytestmark = pytest.mark.backend_free


def rows(count=200, width=5, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(count, width)) @ rng.normal(size=(width, width)) + rng.normal(size=width)


def assert_same(one, other, rtol=1e-12):
    assert one.count == other.count
    np.testing.assert_allclose(one.mean, other.mean, rtol=rtol)
    np.testing.assert_allclose(one.scatter, other.scatter, rtol=rtol, atol=rtol * np.abs(other.scatter).max())


def test_mean_and_covariance_are_those_of_numpy():
    features = rows()
    statistics = FeatureStatistics.of(features.astype("float32"))
    assert statistics.count == 200 and statistics.covariance.dtype == statistics.mean.dtype == "float64"
    np.testing.assert_allclose(statistics.mean, features.mean(0), rtol=1e-6)
    np.testing.assert_allclose(FeatureStatistics.of(features).covariance, np.cov(features, rowvar=False), rtol=1e-12)


@pytest.mark.parametrize("cuts", [[1], [50, 51, 120], [0, 200], range(1, 200)])
def test_pieces_merge_to_the_whole_at_once_or_in_turn(cuts):
    features = rows()
    first, *others = (FeatureStatistics.of(piece) for piece in np.split(features, cuts))
    assert_same(first.merged(*others), FeatureStatistics.of(features))
    for other in others:
        first = first.merged(other)
    assert_same(first, FeatureStatistics.of(features))


def test_no_digits_are_lost_far_from_the_origin():
    features = np.random.default_rng(0).integers(-8, 8, size=(64, 3)) / 8.0  # exact after the shift too
    near, far = FeatureStatistics.of(features), FeatureStatistics.of(features[:32] + 2.0**30)
    far = far.merged(FeatureStatistics.of(features[32:] + 2.0**30))
    np.testing.assert_allclose(far.covariance, near.covariance, atol=1e-6)


def test_an_empty_piece_changes_nothing():
    whole, empty = FeatureStatistics.of(rows()), FeatureStatistics.of(np.empty((0, 5)))
    assert empty.count == 0 and not empty.mean.any()
    assert_same(whole.merged(empty), whole, rtol=0)
    assert_same(empty.merged(whole), whole, rtol=0)


@pytest.mark.parametrize("count", [3, 200])
def test_the_root_times_itself_is_the_covariance(count):
    statistics = FeatureStatistics.of(rows(count))
    assert statistics.root.shape == (5, min(count - 1, 5))
    np.testing.assert_allclose(statistics.root @ statistics.root.T, statistics.covariance, atol=1e-13 * count)


def test_the_root_of_a_constant_is_empty():
    assert FeatureStatistics.of(np.ones((4, 3))).root.shape == (3, 0)


@pytest.mark.parametrize("bad", [np.ones(3), np.ones((4, 0)), np.ones((2, 2, 2)), [[1.0, np.inf]]])
def test_what_are_no_features(bad):
    with pytest.raises(ValueError, match=r"Features must be finite, of shape \[N, D\], got shape"):
        FeatureStatistics.of(bad)


def test_what_does_not_fit_together():
    with pytest.raises(ValueError, match="as many features, got 5 and 4"):
        FeatureStatistics.of(rows()).merged(FeatureStatistics.of(rows(width=4)))
    with pytest.raises(ValueError, match="at least 2 images, got 1"):
        _ = FeatureStatistics.of(rows(1)).covariance
    with pytest.raises(ValueError, match=r"got count 3, mean \[2\] and scatter \[3, 3\]"):
        FeatureStatistics(3, np.zeros(2), np.zeros((3, 3)))
    with pytest.raises(ValueError, match="got count -1"):
        FeatureStatistics(-1, np.zeros(2), np.zeros((2, 2)))
