"""Random weights for the FID Inception-v3, and files of them."""

import functools

import numpy as np

from keras_sid2.evaluation.inception_tables import weight_shapes


@functools.cache
def random_weights() -> dict[str, np.ndarray]:
    """Weights that keep activations of about 1; none is what a forgotten one would be. Not to be changed."""
    rng = np.random.default_rng(0)
    return {name: _drawn(name, shape, rng).astype("float32") for name, shape in weight_shapes().items()}


def _drawn(name: str, shape: tuple[int, ...], rng) -> np.ndarray:
    if name.endswith("conv.weight") or name == "fc.weight":
        return rng.normal(0.0, np.sqrt(2.0 / np.prod(shape[1:])), shape)
    if name.endswith(("running_var", "bn.weight")):
        return rng.uniform(0.7, 1.3, shape)
    return rng.normal(0.0, 0.1, shape)


def write_pth(path):
    """`random_weights` as torch.save writes a network's, with one of the counts that a network has; returns `path`."""
    import torch

    counts = {"Conv2d_1a_3x3.bn.num_batches_tracked": torch.tensor(7)}
    torch.save({**{name: torch.from_numpy(array) for name, array in random_weights().items()}, **counts}, path)
    return path
