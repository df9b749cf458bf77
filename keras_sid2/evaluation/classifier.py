"""A small classifier fitted on real images judges generated ones: is the class right, are the features alike?"""

import hashlib

import numpy as np

from keras_sid2.evaluation.distances import frechet_distance
from keras_sid2.evaluation.features import Features

_CUTS = 10


class ImageClassifier:
    """A one-layer perceptron of scikit-learn; its hidden activations are the features of the Frechet distance."""

    def __init__(self, images: np.ndarray, labels: np.ndarray, *, features: int = 64, seed: int = 0):
        """Fits on uint8 [N, H, W, C] images and int [N] labels."""
        from sklearn.neural_network import MLPClassifier

        self._network = MLPClassifier((features,), alpha=0.1, learning_rate_init=5e-3, max_iter=500, random_state=seed)
        self._digest = _digest_of(self._network, images, labels)
        self._shape = images.shape[1:]
        self._network.fit(self._flat(images), labels)

    def _flat(self, images: np.ndarray) -> np.ndarray:
        if images.shape[1:] != self._shape:
            shape = list(images.shape[1:])
            raise ValueError(f"The classifier was fitted on images {list(self._shape)}, and cannot judge {shape}.")
        return images.reshape(len(images), -1) / 255.0

    def accuracy(self, images: np.ndarray, labels: np.ndarray) -> float:
        """Share of the images that it takes for their label."""
        return float(self._network.score(self._flat(images), labels))

    def features(self, images: np.ndarray) -> np.ndarray:
        """Hidden activations, float64 [N, features]."""
        return np.maximum(self._flat(images) @ self._network.coefs_[0] + self._network.intercepts_[0], 0.0)

    def as_features(self) -> Features:
        """Hidden activations and log probabilities of the classes, for `evaluate`."""

        def extract(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            return self.features(images), np.log(np.maximum(self._network.predict_proba(self._flat(images)), 1e-30))

        rule = "value / 255; not resized; hidden layer of a perceptron fitted on the real images and their labels"
        name = f"classifier-{self._network.hidden_layer_sizes[0]}"
        return Features(name=name, digest=self._digest, rule=rule, extract=extract)


def _digest_of(network, images: np.ndarray, labels: np.ndarray) -> str:
    """16 hexadecimal digits of what `network` is fitted on and how, not of weights: processors round differently."""
    import sklearn

    settings = [sklearn.__version__, images.shape, sorted(network.get_params().items())]
    digest = hashlib.sha256(repr(settings).encode())
    digest.update(np.ascontiguousarray(images))
    digest.update(np.ascontiguousarray(labels, "<i8"))
    return digest.hexdigest()[:16]


def quality(samples: np.ndarray, images: np.ndarray, labels: np.ndarray, *, seed: int = 0) -> dict[str, float]:
    """The quality of `samples`, drawn for `labels`, beside the real `images` [N, H, W, C] of the same labels.

    The real images are cut at random into halves A and B ten times, as one cut alone moves the distances by a tenth.
    Every distance is between sets of half the size, so that the bias of small sets is the same in all of them:

        frechet           mean of d(samples with A's labels, B) and d(samples with B's labels, A)
        frechet_halves    mean of d(A, B), what a perfect model would score
        accuracy          share of the samples that a classifier fitted on all real images takes for their label
        accuracy_real     the same of the real images, by a classifier that was fitted on the other half

    Copies of training images score well, too: frechet below frechet_halves does not make samples better than real ones.
    """
    rng = np.random.default_rng(seed)
    cuts = [np.array_split(rng.permutation(len(images)), 2) for _ in range(_CUTS)]
    both_ways = [pair for a, b in cuts for pair in ((a, b), (b, a))]
    judge = ImageClassifier(images, labels, seed=seed)
    fake, real = judge.features(samples), judge.features(images)

    def accuracy_of_half(fitted, held_out) -> float:
        return ImageClassifier(images[fitted], labels[fitted], seed=seed).accuracy(images[held_out], labels[held_out])

    return {
        "accuracy": judge.accuracy(samples, labels),
        "accuracy_real": float(np.mean([accuracy_of_half(a, b) for a, b in both_ways[:2]])),
        "frechet": float(np.mean([frechet_distance(fake[a], real[b]) for a, b in both_ways])),
        "frechet_halves": float(np.mean([frechet_distance(real[a], real[b]) for a, b in cuts])),
    }
