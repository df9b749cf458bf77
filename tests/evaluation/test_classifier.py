"""What a classifier's digest is of; what it is worth is in test_frechet.py."""

import numpy as np
import pytest

from keras_sid2.evaluation import ImageClassifier

pytestmark = [pytest.mark.backend_free, pytest.mark.filterwarnings("ignore:Stochastic Optimizer")]

IMAGES = np.random.default_rng(0).integers(0, 256, (40, 4, 4, 1), dtype="uint8")
LABELS = np.arange(40) % 4


def digest(images=IMAGES, labels=LABELS, **options):
    return ImageClassifier(images, labels, **{"features": 3, **options}).as_features().digest


def test_the_digest_is_of_what_it_was_fitted_on_and_how():
    assert digest() == digest(labels=LABELS.astype("int32"))
    others = [
        digest(255 - IMAGES),
        digest(labels=LABELS[::-1]),
        digest(IMAGES.reshape(40, 2, 8, 1)),
        digest(features=4),
        digest(seed=1),
    ]
    assert len({digest(), *others}) == 6


def test_the_digest_is_not_of_rounding():
    """Another processor's fit, as far as it can be had here: the weights are moved by a rounding."""
    classifier = ImageClassifier(IMAGES, LABELS, features=3)
    before = classifier.as_features().digest
    classifier._network.coefs_[0] *= 1.0 + 1e-15
    assert classifier.as_features().digest == before


def test_another_version_of_scikit_learn_fits_otherwise(monkeypatch):
    before = digest()
    monkeypatch.setattr("sklearn.__version__", "0.1")
    assert digest() != before


def test_images_of_another_shape_are_refused():
    features = ImageClassifier(IMAGES, LABELS, features=3).as_features()
    with pytest.raises(ValueError, match=r"fitted on images \[4, 4, 1\], and cannot judge \[4, 4, 3\]"):
        features(np.zeros((2, 4, 4, 3), "uint8"))
