"""The kernel distance of two sets of features, KID (Binkowski et al. 1801.01401).

    (1) k(x, y) = (x . y / D + 1)^3
    (2) MMD^2   = mean of k(x, x') + mean of k(y, y') - 2 mean of k(x, y),     x != x', y != y'

Eq. (2) is unbiased: sets of any size have the same expectation, and sets of one distribution give 0 on average, so
values below 0 occur. It is worked out in float64 over random subsets, those that torch-fidelity draws.
"""

from typing import NamedTuple

import numpy as np

from keras_sid2.evaluation.statistics import check_widths, finite_rows


class KernelDistance(NamedTuple):
    """Mean and standard deviation over the subsets; the latter is no error of the mean, as subsets overlap."""

    mean: float
    std: float


def kernel_distance(
    first: np.ndarray, second: np.ndarray, *, subsets: int = 100, subset_size: int = 1000, seed: int = 2020
) -> KernelDistance:
    """Eq. (2) between `subsets` random subsets of `subset_size` images of features [N, D] and [M, D].

    Within a subset no image is drawn twice, so with subset_size = N = M every subset is the whole set.

    Raises:
        ValueError: features that are not finite, of other shapes, or of different widths; fewer images than
            subset_size in either; subset_size below 2 or subsets below 1.
    """
    if subsets < 1 or subset_size < 2:
        raise ValueError(f"There must be at least 1 subset, of at least 2 images, got {subsets} of {subset_size}.")
    first, second = (finite_rows(features, fewest=subset_size) for features in (first, second))
    check_widths(first.shape[1], second.shape[1])
    random = np.random.RandomState(seed)

    def subset(features):
        return features[random.choice(len(features), subset_size, replace=False)]

    # The stream is in this order: a subset of the first, one of the second, the next of the first.
    distances = [_squared_discrepancy(subset(first), subset(second)) for _ in range(subsets)]
    return KernelDistance(float(np.mean(distances)), float(np.std(distances)))


def _kernel(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Eq. (1), [N, D] and [M, D] -> [N, M]."""
    base = x @ y.T / x.shape[1] + 1.0
    return base * base * base


def _squared_discrepancy(x: np.ndarray, y: np.ndarray) -> float:
    """Eq. (2)."""
    return _mean_of_pairs(x) + _mean_of_pairs(y) - 2.0 * _kernel(x, y).mean()


def _mean_of_pairs(x: np.ndarray) -> float:
    """Mean of the kernel between different images."""
    kernel = _kernel(x, x)
    return (kernel.sum() - np.trace(kernel)) / (len(x) * (len(x) - 1))
