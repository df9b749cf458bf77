"""The Frechet distance against closed forms, and quality on real digits."""

import numpy as np
import pytest
from scipy import linalg

from keras_sid2.evaluation import frechet_distance, quality

pytestmark = pytest.mark.backend_free


def features(mean, covariance, count=40_000, seed=0):
    """Rows whose sample mean and covariance are exactly those given."""
    rng = np.random.default_rng(seed)
    raw = rng.normal(size=(count, len(mean)))
    raw -= raw.mean(0)
    white = raw @ np.linalg.inv(np.linalg.cholesky(np.cov(raw, rowvar=False))).T
    return white @ linalg.sqrtm(np.asarray(covariance, float)).real.T + mean


def test_commuting_covariances_have_a_closed_form():
    a, b = features([0, 0, 0], np.diag([1.0, 4.0, 9.0])), features([1, 2, 3], np.diag([4.0, 4.0, 1.0]), seed=1)
    assert frechet_distance(a, b) == pytest.approx(14.0 + 1.0 + 0.0 + 4.0, rel=1e-9)


def test_it_is_the_square_root_formula_on_any_covariances():
    rng = np.random.default_rng(2)
    c1, c2 = (m @ m.T + np.eye(5) for m in rng.normal(size=(2, 5, 5)))
    expected = np.trace(c1 + c2 - 2 * linalg.sqrtm(c1 @ c2).real)
    assert frechet_distance(features(np.zeros(5), c1), features(np.zeros(5), c2)) == pytest.approx(expected, rel=1e-7)


def test_a_set_has_no_distance_to_itself_even_when_rank_deficient():
    a = np.random.default_rng(0).normal(size=(10, 30))
    assert abs(frechet_distance(a, a)) < 1e-9
    constant = np.hstack([a[:, :3], np.ones((10, 2))])
    assert abs(frechet_distance(constant, constant)) < 1e-9


@pytest.mark.parametrize("bad", [np.ones((1, 3)), np.ones(3), np.full((4, 3), np.nan)])
def test_what_are_no_features(bad):
    with pytest.raises(ValueError, match="Features must be finite"):
        frechet_distance(np.ones((4, 3)), bad)
    with pytest.raises(ValueError, match="as many features, got 3 and 2"):
        frechet_distance(np.ones((4, 3)), np.ones((4, 2)))


@pytest.fixture(scope="module")
def digits():
    from sklearn.datasets import load_digits

    data = load_digits()
    return np.round(data.images * 255 / 16).astype("uint8")[..., None], data.target.astype("int32")


def test_other_real_digits_of_the_same_classes_score_as_real_ones(digits):
    images, labels = digits
    order = np.argsort(labels, kind="stable")  # each digit stands in for the next one of its class
    shifted = images.copy()
    for digit in range(10):
        rows = order[labels[order] == digit]
        shifted[rows] = images[np.roll(rows, 1)]
    result = quality(shifted, images, labels)
    assert result["accuracy"] > 0.99 and result["accuracy_real"] > 0.95
    # Half of A's stand-ins are in B itself, so they score better than a perfect model's new digits would.
    assert 0.6 < result["frechet"] / result["frechet_halves"] < 1.0


def test_noise_and_wrong_classes_score_badly(digits):
    images, labels = digits
    noisy = np.clip(images + np.random.default_rng(0).normal(0, 60, images.shape), 0, 255).astype("uint8")
    assert quality(noisy, images, labels)["frechet"] > 2 * quality(images, images, labels)["frechet_halves"]
    assert quality(images[::-1], images, labels)["accuracy"] < 0.3
