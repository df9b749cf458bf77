"""The inception score: is each image of one class for sure, and are all classes there? (Salimans et al. 1606.03498)

    (1) p_i = softmax(logits_i),   q = mean of p_i
    (2) IS  = exp(mean of KL(p_i | q)) = exp(H(q) - mean of H(p_i)),     H(p) = -sum p ln p

between 1 and the number of classes, in float64. It knows of no real images. As in the paper it is the mean over
splits of the images, each with a q of its own; a split of n images scores at most n. The images are shuffled first, as
torch-fidelity does, because they often come sorted by class, and a split of few classes scores badly.
"""

from typing import NamedTuple

import numpy as np

from keras_sid2.evaluation.statistics import finite_rows


class InceptionScore(NamedTuple):
    """Mean and standard deviation over the splits."""

    mean: float
    std: float


def inception_score(logits: np.ndarray, *, splits: int = 10, seed: int = 2020) -> InceptionScore:
    """Eq. (2) of class logits [N, K], any finite numbers; ValueError for others, or for fewer images than splits."""
    if splits < 1:
        raise ValueError(f"splits must be at least 1, got {splits}.")
    logits = finite_rows(logits, fewest=splits, what="Logits")
    count = len(logits)
    shuffled = logits[np.random.RandomState(seed).permutation(count)]
    borders = [i * count // splits for i in range(splits + 1)]
    scores = [_score(shuffled[a:b]) for a, b in zip(borders[:-1], borders[1:], strict=True)]
    return InceptionScore(float(np.mean(scores)), float(np.std(scores)))


def _score(logits: np.ndarray) -> float:
    """Eq. (2)."""
    shifted = logits - logits.max(axis=1, keepdims=True)
    log_p = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    p = np.exp(log_p)
    q = p.mean(axis=0)
    q = q[q > 0.0]  # 0 ln 0 is 0
    return float(np.exp((p * log_p).sum(axis=1).mean() - (q * np.log(q)).sum()))
