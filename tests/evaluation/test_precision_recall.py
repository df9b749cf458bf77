"""Precision and recall against their definition, and where their values are plain."""

import numpy as np
import pytest

from keras_sid2.evaluation import precision_recall
from keras_sid2.evaluation.distances import _BLOCK

pytestmark = pytest.mark.backend_free


def covered(points, balls):
    """Share of points within reach of a ball, one pair at a time."""
    radii = [np.sort([np.linalg.norm(a - b) for b in balls])[3] for a in balls]
    return np.mean([any(np.linalg.norm(p - b) <= r for b, r in zip(balls, radii, strict=True)) for p in points])


def test_they_are_the_shares_of_the_definition():
    rng = np.random.default_rng(0)
    samples, reference = rng.normal(size=(30, 3)), 1.5 * rng.normal(size=(40, 3)) + 1.5
    result = precision_recall(samples, reference)
    assert result == (covered(samples, reference), covered(reference, samples))
    assert 0.0 < result.recall < result.precision < 1.0


def test_equal_sets_and_sets_apart():
    samples = np.random.default_rng(0).normal(size=(50, 4))
    assert precision_recall(samples, samples) == (1.0, 1.0)
    assert precision_recall(samples, samples + 100.0) == (0.0, 0.0)


def test_one_of_two_kinds_is_precise_and_recalls_half():
    rng = np.random.default_rng(1)
    one, again, other = rng.uniform(size=(3, 200, 1))
    precision, recall = precision_recall(one, np.concatenate([again, other + 50.0]))
    assert precision > 0.95 and 0.45 < recall <= 0.5


def test_one_image_over_and_over_recalls_only_itself():
    """float32 copies of one image have distance 0, not the rounding of large norms, far from the origin too."""
    reference = np.random.default_rng(2).normal(size=(40, 300)).astype("float32") + 1000.0
    assert precision_recall(np.tile(reference[:1], (20, 1)), reference) == (1.0, 1 / 40)


def test_more_images_than_a_block():
    rng = np.random.default_rng(3)
    samples, reference = rng.normal(size=(_BLOCK + 7, 2)), rng.normal(size=(2 * _BLOCK + 1, 2))
    samples[-3:] += 100.0  # in the last block
    precision, recall = precision_recall(samples, reference)
    assert 0.97 < precision < 1 - 3 / len(samples) + 1e-12 and 0.97 < recall <= 1.0


def test_what_it_cannot_take():
    with pytest.raises(ValueError, match=r"of shape \[at least 4, D\], got shape \[3, 2\]"):
        precision_recall(np.ones((3, 2)), np.ones((9, 2)))
    with pytest.raises(ValueError, match="as many features, got 3 and 2"):
        precision_recall(np.ones((9, 3)), np.ones((9, 2)))
