"""The Frechet distance of two sets of features, taken as Gaussians (Heusel et al. 1706.08500).

    d^2 = |m1 - m2|^2 + tr(C1) + tr(C2) - 2 tr((C1^1/2 C2 C1^1/2)^1/2)

in float64. The last trace is the sum of the singular values of C1^1/2 C2^1/2: real where a matrix square root of C1 C2
is not, and exact to rounding where covariances are singular, which roots of small eigenvalues are not.
"""

import numpy as np


def frechet_distance(first: np.ndarray, second: np.ndarray) -> float:
    """d^2 between features [N, D] and [M, D]; ValueError for other shapes, fewer than 2 rows, or values not finite."""
    first, second = (np.asarray(f, "float64") for f in (first, second))
    for features in (first, second):
        if features.ndim != 2 or len(features) < 2 or not np.isfinite(features).all():
            raise ValueError(f"Features must be finite, of shape [at least 2, D], got shape {list(features.shape)}.")
    if first.shape[1] != second.shape[1]:
        raise ValueError(f"Both sets need as many features, got {first.shape[1]} and {second.shape[1]}.")
    mean_difference = first.mean(0) - second.mean(0)
    covariances = [np.atleast_2d(np.cov(f, rowvar=False)) for f in (first, second)]
    roots = [_symmetric_root(c) for c in covariances]
    overlap = np.linalg.svd(roots[0] @ roots[1], compute_uv=False).sum()
    traces = sum(np.trace(c) for c in covariances)
    return float(mean_difference @ mean_difference + traces - 2.0 * overlap)


def _symmetric_root(matrix: np.ndarray) -> np.ndarray:
    values, vectors = np.linalg.eigh(matrix)
    return (vectors * np.sqrt(np.maximum(values, 0.0))) @ vectors.T
