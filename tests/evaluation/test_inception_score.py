"""The inception score where its value is known."""

import numpy as np
import pytest

from keras_sid2.evaluation import inception_score
from keras_sid2.evaluation.inception_score import StreamedScore

pytestmark = pytest.mark.backend_free


@pytest.mark.parametrize("certainty", [50.0, 1e6])
def test_sure_images_of_all_classes_score_their_number(certainty):
    logits = certainty * np.tile(np.eye(7), (40, 1))
    assert inception_score(logits, splits=1) == pytest.approx((7.0, 0.0), rel=1e-9)


def test_images_that_are_all_alike_score_one():
    logits = np.tile(np.random.default_rng(0).normal(size=5), (30, 1))
    assert inception_score(logits) == pytest.approx((1.0, 0.0), abs=1e-12)


def test_two_images_by_hand():
    p = np.array([[0.9, 0.1], [0.3, 0.7]])
    divergences = (p * np.log(p / p.mean(0))).sum(1)
    assert inception_score(np.log(p) + 17.0, splits=1).mean == pytest.approx(np.exp(divergences.mean()), rel=1e-12)


def test_sorted_images_are_shuffled_before_they_are_split():
    logits = 50.0 * np.repeat(np.eye(4), 200, axis=0)
    score = inception_score(logits)
    assert 3.8 < score.mean < 4.0 and 0.0 < score.std < 0.1
    assert inception_score(logits, seed=1) != score == inception_score(logits)


def test_as_many_splits_as_images_score_one_each():
    assert inception_score(np.random.default_rng(0).normal(size=(10, 3))) == pytest.approx((1.0, 0.0), abs=1e-12)


def test_what_it_cannot_take():
    with pytest.raises(ValueError, match=r"Logits must be finite, of shape \[at least 10, D\], got shape \[9, 4\]"):
        inception_score(np.ones((9, 4)))
    with pytest.raises(ValueError, match="with values that are not"):
        inception_score(np.full((10, 4), -np.inf))
    with pytest.raises(ValueError, match="splits must be at least 1, got 0"):
        inception_score(np.ones((9, 4)), splits=0)
    few = StreamedScore(4)
    few.add(np.ones((9, 4)))
    with pytest.raises(ValueError, match="over 10 splits needs as many images, got 9"):
        few.score()
