"""Keras's image preprocessing layers as functions of (seed, step)."""

from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

import numpy as np

from pipelines.extras import require, require_tensorflow
from pipelines.values import ValueSpec

# images uint8 [B,H,W,C], step int64 [] -> images uint8 [B,H,W,C]
Augment = Callable[[Any, Any], Any]


def augmentation(layers: Sequence[Any], *, seed: int, outputs: dict[str, ValueSpec]) -> Augment:
    """Chains layers, as keras.layers.RandomRotation(0.05), that change images alone, built for pixels in 0..255; what
    they draw is a function of (seed, step) and not of the layers' own random state. `outputs`: the values that come
    out.

    Raises ValueError: no such layer, or one that draws from its own state (RandAugment, RandomColorJitter: they are
    chains of others, which can be given one by one), or that changes the shape; no 8-bit images, or values that lie
    over them, which the layers would leave as they are.
    """
    tf, keras = require_tensorflow(), require("keras", extra="data")
    for layer in layers:
        if not (hasattr(layer, "get_random_transformation") and hasattr(layer, "transform_images")):
            kind = "Keras's image preprocessing layers, as keras.layers.RandomRotation"
            raise ValueError(f"augment takes {kind}, got {layer!r}")
    (name, sample), *others = outputs.items()
    if name != "image" or sample.dtype != "uint8":
        raise ValueError(f"augment is for images of uint8, and here is {name!r} {sample}")
    over = [other for other, spec in others if spec.lies_over]
    if over:
        raise ValueError(f"augment changes images alone, and {', '.join(over)} could not follow: name the other values")

    def apply(images: Any, step: Any) -> Any:
        for number, layer in enumerate(layers):
            key = tf.stack([tf.constant((seed * 1009 + number) % 2**63, tf.int64), step])
            images = _applied(tf, layer, images, _seeds(keras, tf, key))
        return images

    # The same step must give the same images: of noise, twice.
    noise = np.random.default_rng(0).integers(0, 256, (4, *sample.shape), np.uint8)
    first, second = (apply(tf.constant(noise), tf.constant(0, tf.int64)) for _ in range(2))
    names = ", ".join(type(layer).__name__ for layer in layers)
    if tuple(first.shape) != noise.shape:
        raise ValueError(f"augment must keep the shape of images: {names} make {first.shape[1:]} of {sample.shape}")
    if not np.array_equal(first.numpy(), second.numpy()):
        raise ValueError(
            f"augment must be a function of (seed, step), and one of {names} draws from its own random state"
        )
    return apply


def _applied(tf: ModuleType, layer: Any, images: Any, seeds: Any) -> Any:
    # What the layer's own __call__ does inside tf.data, whatever the backend is.
    layer.backend.set_backend("tensorflow")
    try:
        drawn = layer.get_random_transformation(tf.cast(images, tf.float32), training=True, seed=seeds)
        changed = layer.transform_images(tf.cast(images, tf.float32), drawn, training=True)
    finally:
        layer.backend.reset()
    return tf.saturate_cast(tf.round(changed), tf.uint8)


def _seeds(keras: ModuleType, tf: ModuleType, key: Any) -> Any:
    """A SeedGenerator without state: its n-th draw is a function of `key`, int64 [2], and n."""

    class Seeds(keras.random.SeedGenerator):
        def __init__(self) -> None:  # without a variable, which a graph of tf.data could not hold
            self._initial_seed, self._draws = 0, 0

        def next(self, ordered: bool = True) -> Any:
            self._draws += 1
            return tf.random.fold_in(key, self._draws)

    return Seeds()
