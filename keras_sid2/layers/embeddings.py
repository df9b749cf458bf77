"""The conditioning vector: Fourier features of logsnr through an MLP, plus a class embedding."""

import math

import keras
import numpy as np
from keras import ops

from keras_sid2.config import register

# Our choice (the scaling of logsnr in the paper is not known): sines and cosines of logsnr itself, at 128 wavelengths
# spaced geometrically from 40, half as much again as the range of SiD2's schedules, down to 0.25.
FREQUENCIES = np.geomspace(2 * math.pi / 40.0, 2 * math.pi / 0.25, 128).astype("float32")


@register
class ConditionEmbedding(keras.layers.Layer):
    """(logsnr [B], label [B] or None) -> silu(MLP(Fourier(logsnr)) + class embedding), float32 [B, dim].

    Always float32: in bfloat16 a logsnr of 9.97 and one of 10.02 are the same number.

    Args:
        dim: width of the vector; 1024 in the paper's lineage.
        num_classes: K, or None for a network without labels. Label K is the null class, of a dropped label.
    """

    def __init__(self, dim: int, num_classes: int | None = None, name: str = "embedding", **kwargs):
        super().__init__(name=name, **{**kwargs, "autocast": False, "dtype": "float32"})
        self.dim, self.num_classes = dim, num_classes
        self.dense1 = keras.layers.Dense(dim, activation="silu", dtype="float32", name="dense1")
        self.dense2 = keras.layers.Dense(dim, dtype="float32", name="dense2")
        self.classes = None
        if num_classes is not None:
            self.classes = keras.layers.Embedding(
                num_classes + 1,
                dim,
                # Our choice: the size of the MLP's own output, so that neither drowns the other at the start.
                embeddings_initializer=keras.initializers.RandomNormal(stddev=0.3),
                dtype="float32",
                name="classes",
            )

    def build(self, *_):
        self.dense1.build((None, 2 * len(FREQUENCIES)))
        self.dense2.build((None, self.dim))
        if self.classes is not None:
            self.classes.build((None,))
        self.built = True

    def call(self, logsnr, label=None):
        angles = ops.cast(logsnr, "float32")[:, None] * ops.convert_to_tensor(FREQUENCIES)
        features = ops.concatenate([ops.sin(angles), ops.cos(angles)], axis=-1)
        embedding = self.dense2(self.dense1(features))
        if self.classes is not None:
            if label is None:
                label = ops.full(ops.shape(logsnr), self.num_classes, dtype="int32")
            embedding = embedding + self.classes(label)
        return ops.silu(embedding)

    def get_config(self):
        return {**_base_config(super().get_config()), "dim": self.dim, "num_classes": self.num_classes}


def _base_config(config: dict) -> dict:
    """The base layer's configuration without the dtype, which is float32 whatever the policy."""
    return {k: v for k, v in config.items() if k != "dtype"}


@register
class PositionEmbedding(keras.layers.Layer):
    """Adds one learned vector per position, N(0, 0.01) at the start, to [B, H, W, C]."""

    def __init__(self, name: str = "position", **kwargs):
        super().__init__(name=name, **kwargs)

    def build(self, input_shape):
        self.embedding = self.add_weight(
            name="embedding",
            shape=tuple(input_shape[1:]),
            initializer=keras.initializers.RandomNormal(stddev=0.01),
        )

    def call(self, h):
        return h + ops.cast(self.embedding, h.dtype)
