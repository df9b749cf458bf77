"""Self-attention over the positions of a feature map, or of a clip's."""

import math

import keras
from keras import ops

from keras_sid2 import backend
from keras_sid2.config import register

NORM_EPSILON = 1e-6


class _KeyNorm(keras.layers.LayerNormalization):
    """Its beta has a gradient of exactly zero: it adds the same to all logits of a query, which no softmax can see. The
    true gradient is zero but for rounding, and Adam would make steps of the learning rate of that."""

    def call(self, inputs):
        beta = ops.convert_to_tensor(self.beta)
        held = ops.stop_gradient(beta) + 0.0 * beta  # tensorflow and torch want it connected to the loss
        outputs = ops.layer_normalization(inputs, self.gamma, held, self.axis, self.epsilon)
        return ops.cast(outputs, self.compute_dtype)


@register
class SelfAttention(keras.layers.Layer):
    """[B, (F,) H, W, C] -> the same: queries and keys normalised per head, zero-initialised output, no residual.

    q, k, v have no bias: that of q and k is in their norm, that of v is in the output's.

    Args:
        head_dim: width of a head; it must divide C.
        over: of clips, "all" positions, those in "space" (within a frame), or in "time" (at the same place).
    """

    def __init__(self, head_dim: int, over: str = "all", name: str = "attention", **kwargs):
        super().__init__(name=name, **kwargs)
        self.head_dim, self.over = head_dim, over

    def build(self, input_shape):
        channels = input_shape[-1]
        if channels % self.head_dim:
            raise ValueError(f"head_dim must divide the {channels} channels of its level, got {self.head_dim}.")
        options = {"dtype": self.dtype_policy}
        self.query, self.key, self.value = (
            keras.layers.Dense(channels, use_bias=False, name=role, **options) for role in ("query", "key", "value")
        )
        norm = {"epsilon": NORM_EPSILON, **options}
        self.query_norm = keras.layers.LayerNormalization(name="query_norm", **norm)
        self.key_norm = _KeyNorm(name="key_norm", **norm)
        self.out = keras.layers.Dense(channels, kernel_initializer="zeros", name="out", **options)
        for layer in (self.query, self.key, self.value, self.out):
            layer.build((None, channels))
        for layer in (self.query_norm, self.key_norm):
            layer.build((None, self.head_dim))

    def call(self, h):
        if len(h.shape) == 5 and self.over != "all":
            return self._in_turn(h)
        _, *positions, channels = h.shape
        heads = (-1, math.prod(positions), channels // self.head_dim, self.head_dim)
        q = self.query_norm(ops.reshape(self.query(h), heads))
        k = self.key_norm(ops.reshape(self.key(h), heads))
        v = ops.reshape(self.value(h), heads)
        return self.out(ops.reshape(backend.attention(q, k, v), (-1, *positions, channels)))

    def _in_turn(self, h):
        """Over frames [B F, H, W, C], or over time [B H W, F, C]."""
        if self.over == "space":
            return ops.reshape(self.call(ops.reshape(h, (-1, *h.shape[2:]))), (-1, *h.shape[1:]))
        _, frames, height, width, channels = h.shape
        of_places = ops.reshape(ops.transpose(h, (0, 2, 3, 1, 4)), (-1, frames, channels))
        found = ops.reshape(self.call(of_places), (-1, height, width, frames, channels))
        return ops.transpose(found, (0, 3, 1, 2, 4))

    def get_config(self):
        return {**super().get_config(), "head_dim": self.head_dim, "over": self.over}
