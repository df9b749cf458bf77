"""The conditioning vector: Fourier features of logsnr through an MLP, plus what embeds classes and vectors."""

import math
from collections.abc import Mapping, Sequence

import keras
import numpy as np
from keras import ops

from keras_sid2.conditions import ClassLabel, TextEmbedding
from keras_sid2.config import register
from keras_sid2.layers.convolutions import AXES
from keras_sid2.layers.cross_attention import pooled

_NONE: Mapping = {}

# Our choice (the scaling of logsnr in the paper is not known): sines and cosines of logsnr itself, at 128 wavelengths
# spaced geometrically from 40, half as much again as the range of SiD2's schedules, down to 0.25.
FREQUENCIES = np.geomspace(2 * math.pi / 40.0, 2 * math.pi / 0.25, 128).astype("float32")


@register
class ConditionEmbedding(keras.layers.Layer):
    """(logsnr [B], conditions...) -> silu(MLP(Fourier(logsnr)) + their embeddings), float32 [B, dim].

    Always float32: in bfloat16 logsnr 9.97 and 10.02 are the same number.

    Args:
        dim: width of the vector; 1024 in the paper's lineage.
        num_classes: K, of the condition "label", or None. Label K is the null class, of a dropped label.
        others: `ClassLabel`s, `Vector`s and `TextEmbedding`s by name, each embedded by a layer of its name; of a text
            the mean of its tokens, from zeros.
    """

    def __init__(
        self, dim: int, num_classes: int | None = None, others: Mapping = _NONE, name: str = "embedding", **kwargs
    ):
        super().__init__(name=name, **{**kwargs, "autocast": False, "dtype": "float32"})
        self.dim, self.num_classes = dim, num_classes
        self.dense1 = keras.layers.Dense(dim, activation="silu", dtype="float32", name="dense1")
        self.dense2 = keras.layers.Dense(dim, dtype="float32", name="dense2")
        self.classes = None if num_classes is None else _embedding(ClassLabel(num_classes), dim, "classes")
        self._others = tuple(others.items())  # keras wraps dicts
        for other, condition in self._others:
            setattr(self, f"of_{other}", _embedding(condition, dim, other))

    def build(self, *_):
        self.dense1.build((None, 2 * len(FREQUENCIES)))
        self.dense2.build((None, self.dim))
        if self.classes is not None:
            self.classes.build((None,))
        for other, condition in self._others:
            getattr(self, f"of_{other}").build((None, *condition.shape[-1:]))
        self.built = True

    def call(self, logsnr, label=None, **given):
        angles = ops.cast(logsnr, "float32")[:, None] * ops.convert_to_tensor(FREQUENCIES)
        features = ops.concatenate([ops.sin(angles), ops.cos(angles)], axis=-1)
        embedding = self.dense2(self.dense1(features))
        if self.classes is not None:
            if label is None:
                label = ops.full(ops.shape(logsnr), self.num_classes, dtype="int32")
            embedding = embedding + self.classes(label)
        for other, condition in self._others:
            value = pooled(given[other]) if isinstance(condition, TextEmbedding) else given[other]
            embedding = embedding + getattr(self, f"of_{other}")(value)
        return ops.silu(embedding)

    def get_config(self):
        others = {name: keras.saving.serialize_keras_object(condition) for name, condition in self._others}
        config = {k: v for k, v in super().get_config().items() if k != "dtype"}  # float32 whatever the policy
        return {**config, "dim": self.dim, "num_classes": self.num_classes, **({"others": others} if others else {})}

    @classmethod
    def from_config(cls, config):
        others = {k: keras.saving.deserialize_keras_object(v) for k, v in config.get("others", _NONE).items()}
        return cls(**{**config, "others": others})


def _embedding(condition, dim: int, name: str) -> keras.layers.Layer:
    if isinstance(condition, ClassLabel):
        # Our choice: the size of the MLP's own output, so that neither drowns the other at the start.
        start, classes = keras.initializers.RandomNormal(stddev=0.3), condition.num_classes + 1
        return keras.layers.Embedding(classes, dim, embeddings_initializer=start, dtype="float32", name=name)
    start = "zeros" if isinstance(condition, TextEmbedding) else "glorot_uniform"
    no_bias = {"use_bias": False, "kernel_initializer": start}  # so that zeros say nothing
    return keras.layers.Dense(dim, **no_bias, dtype="float32", name=name)


@register
class PositionEmbedding(keras.layers.Layer):
    """Adds one learned vector per position, N(0, 0.01) at the start, to [B, H, W, C]. To clips [B, F, H, W, C] one per
    place, and one per frame. Along the axes of `periodic`, of "height" and "width", all positions have the same."""

    def __init__(self, name: str = "position", periodic: Sequence[str] = (), **kwargs):
        super().__init__(name=name, **kwargs)
        self.periodic = tuple(periodic)

    def build(self, input_shape):
        *frames, height, width, channels = input_shape[1:]
        height, width = (1 if axis in self.periodic else size for axis, size in zip(AXES, (height, width), strict=True))
        start = keras.initializers.RandomNormal(stddev=0.01)
        self.embedding = self.add_weight(name="embedding", shape=(height, width, channels), initializer=start)
        self.of_frames = None
        if frames:
            self.of_frames = self.add_weight(name="frames", shape=(*frames, 1, 1, channels), initializer=start)

    def call(self, h):
        h = h + ops.cast(self.embedding, h.dtype)
        return h if self.of_frames is None else h + ops.cast(self.of_frames, h.dtype)

    def get_config(self):
        return {**super().get_config(), **({"periodic": self.periodic} if self.periodic else {})}
