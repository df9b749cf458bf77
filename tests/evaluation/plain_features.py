"""Images of noise, features that are plain to see, and references of them."""

import numpy as np

from keras_sid2.evaluation import Features, Reference, collect

IMAGES = np.random.default_rng(0).integers(0, 256, (300, 4, 4, 1), dtype="uint8")


def means(images):
    """Two features: the means of the upper and the lower half."""
    return images.reshape(len(images), 2, -1).mean(2) / 255.0


PLAIN = Features(name="halves", digest="", rule="value / 255", extract=means)


def batches(images=IMAGES, size=64):
    return (images[i : i + size] for i in range(0, len(images), size))


def reference(images=IMAGES, features=PLAIN, **options) -> Reference:
    real, digest = collect(features, batches(images), groups=1, **options)
    return Reference(name="r", digest=digest, features=real)
