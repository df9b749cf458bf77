"""What becomes of a network's arrays for another grid of pixels, other patches or other conditions: numpy, float64.

With U, the resampling of a p x p patch to p' x p' by areas (each pixel repeated where p divides p'), and U+ its
pseudo-inverse (the mean over them there):

    (1) patches in    k' = (U+)^T k        k'(U z) = k(z) where p <= p'; FlexiViT's resizing, 2212.08013
    (2) patches out   k' = U k             each old pixel's output goes to the new ones that cover it
    (3) positions     straight between the centres of the old ones, and beyond them the nearest
"""

import numpy as np


def area_resampling(old: int, new: int) -> np.ndarray:
    """U along one axis, [new, old]: rows are means over the new pixels' areas and sum to 1."""
    edges, others = np.arange(new + 1) / new, np.arange(old + 1) / old
    first, last = np.maximum.outer(edges[:-1], others[:-1]), np.minimum.outer(edges[1:], others[1:])
    return new * np.maximum(last - first, 0.0)


def patches_in(kernel: np.ndarray, patch: int) -> np.ndarray:
    """Eq. (1): [p, p, C, width] -> [patch, patch, C, width]."""
    axis = np.linalg.pinv(area_resampling(kernel.shape[0], patch)).T
    return np.einsum("ai,bj,ij...->ab...", axis, axis, kernel)


def patches_out(kernel: np.ndarray, patch: int) -> np.ndarray:
    """Eq. (2): [p, p, C, width] -> [patch, patch, C, width]."""
    axis = area_resampling(kernel.shape[0], patch)
    return np.einsum("ai,bj,ij...->ab...", axis, axis, kernel)


def detail_in(kernel: np.ndarray, old: int, seed: int) -> np.ndarray:
    """What (1) does not read, read by random numbers: `kernel` [p', p', C, width], which is of patches of p, with
    directions added that see nothing of U z, so large that a pixel's noise weighs as much as in a new kernel.

    Without it neither end of the network would know the pixels within an old one, and neither would learn of them from
    the other.
    """
    patch, _, channels, width = kernel.shape
    up = area_resampling(old, patch)
    seen = np.kron(up @ np.linalg.pinv(up), up @ np.linalg.pinv(up))
    unseen = np.eye(patch**2) - seen
    limit = np.sqrt(6.0 / (patch**2 * (channels + width)))  # keras's for a new kernel
    drawn = np.random.default_rng(seed).uniform(-limit, limit, (patch**2, channels * width))
    return kernel + (unseen @ drawn).reshape(kernel.shape)


def interpolated(values: np.ndarray, sizes: tuple[int, ...]) -> np.ndarray:
    """Eq. (3) along the leading axes, one for each of `sizes`."""
    for axis, size in enumerate(sizes):
        old = values.shape[axis]
        if size == old:
            continue
        at = np.clip((np.arange(size) + 0.5) * old / size - 0.5, 0.0, old - 1.0)
        low = np.minimum(at.astype(int), max(old - 2, 0))
        share = (at - low).reshape(-1, *[1] * (values.ndim - axis - 1))
        below, above = (np.take(values, np.minimum(low + i, old - 1), axis) for i in (0, 1))
        values = below * (1.0 - share) + above * share
    return values
