"""Self-attention over the positions of a feature map, or of a clip's."""

import math
from collections.abc import Sequence

import keras
from keras import ops

from keras_sid2 import backend
from keras_sid2.config import register
from keras_sid2.layers.convolutions import AXES, Dense

NORM_EPSILON = 1e-6


class LayerNorm(keras.layers.LayerNormalization):
    """keras's over the last axis, float32 inside; on a torch CPU without copies in float32."""

    def call(self, inputs):
        return ops.cast(backend.layer_norm(inputs, self.gamma, self._offset(), self.epsilon), self.compute_dtype)

    def _offset(self):
        return self.beta


class KeyNorm(LayerNorm):
    """Its beta has a gradient of exactly zero: it adds the same to all logits of a query, which no softmax can see. The
    true gradient is zero but for rounding, and Adam would make steps of the learning rate of that."""

    def _offset(self):
        return backend.held(ops.convert_to_tensor(self.beta))


def _turned(x, height: int, width: int, periodic: Sequence[str]):
    """x [B, (F) H W, heads, D], each number of the first half of D turned against one of the second, as a point of the
    plane: D/4 pairs by 2 pi k y / H, D/4 by 2 pi k x / W, with k = 1, 2 ... H/2 (W/2) and again from 1; by nothing of
    an axis that is not periodic.

    Rotary positions (2104.09864) with wavelengths that divide the axis, our choice: the product of a query and a key
    depends on how far apart they are on the circle, and not on where."""
    angles, pairs = [], x.shape[-1] // 4
    for axis, (name, size) in enumerate(zip(AXES, (height, width), strict=True)):
        cycles = ops.arange(pairs, dtype="int32") % max(size // 2, 1) + 1
        steps = ops.arange(size, dtype="int32")[:, None] * cycles % size
        turned = ops.cast(steps, "float32") * (2.0 * math.pi / size if name in periodic else 0.0)
        angles.append(ops.broadcast_to(ops.expand_dims(turned, 1 - axis), (height, width, pairs)))
    angles = ops.reshape(ops.concatenate(angles, axis=-1), (height * width, 1, 2 * pairs))
    cos, sin = (ops.cast(part, x.dtype) for part in (ops.cos(angles), ops.sin(angles)))
    halves = ops.reshape(x, (-1, height * width, x.shape[2], 2, 2 * pairs))
    a, b = halves[..., 0, :], halves[..., 1, :]
    return ops.reshape(ops.stack([a * cos - b * sin, a * sin + b * cos], axis=-2), (-1, *x.shape[1:]))


@register
class SelfAttention(keras.layers.Layer):
    """[B, (F,) H, W, C] -> the same: queries and keys normalised per head, zero-initialised output, no residual.

    q, k, v have no bias: that of q and k is in their norm, that of v is in the output's.

    Args:
        head_dim: width of a head; it must divide C.
        over: of clips, "all" positions, those in "space" (within a frame), or in "time" (at the same place).
        periodic: of "height" and "width", along which attention knows distances (`_turned`); 4 must divide head_dim.
    """

    def __init__(
        self, head_dim: int, over: str = "all", periodic: Sequence[str] = (), name: str = "attention", **kwargs
    ):
        super().__init__(name=name, **kwargs)
        self.head_dim, self.over, self.periodic = head_dim, over, tuple(periodic)

    def build(self, input_shape):
        channels = input_shape[-1]
        if channels % self.head_dim:
            raise ValueError(f"head_dim must divide the {channels} channels of its level, got {self.head_dim}.")
        if self.periodic and self.head_dim % 4:
            raise ValueError(f"Periodic edges need a head_dim that 4 divides, got {self.head_dim}.")
        options = {"dtype": self.dtype_policy}
        self.query, self.key, self.value = (
            keras.layers.Dense(channels, use_bias=False, name=role, **options) for role in ("query", "key", "value")
        )
        norm = {"epsilon": NORM_EPSILON, **options}
        self.query_norm = LayerNorm(name="query_norm", **norm)
        key_norm = LayerNorm if self.periodic else KeyNorm  # turned, its beta tells distances
        self.key_norm = key_norm(name="key_norm", **norm)
        self.out = Dense(channels, kernel_initializer="zeros", name="out", **options)
        for layer in (self.query, self.key, self.value, self.out):
            layer.build((None, channels))
        for layer in (self.query_norm, self.key_norm):
            layer.build((None, self.head_dim))

    def call(self, h):
        if len(h.shape) == 5 and self.over != "all":
            return self._in_turn(h)
        _, *positions, channels = h.shape
        heads = (-1, math.prod(positions), channels // self.head_dim, self.head_dim)
        q, k, v = (ops.reshape(part, heads) for part in backend.products(h, (self.query, self.key, self.value)))
        q, k = self.query_norm(q), self.key_norm(k)
        if self.periodic and len(positions) > 1:  # not over time
            q, k = (_turned(part, *positions[-2:], self.periodic) for part in (q, k))
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
        periodic = {"periodic": self.periodic} if self.periodic else {}
        return {**super().get_config(), "head_dim": self.head_dim, "over": self.over, **periodic}
