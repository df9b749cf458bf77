"""The two residual blocks of the network, (h [B, H, W, C], emb [B, E]) -> [B, H, W, C]: the identity when new, as the
last layer of each branch starts at zero. Of clips [B, F, H, W, C] the first sees each frame by itself.

    ResBlock:          norm, silu, conv 3x3, norm (1 + scale) + shift, silu, dropout, conv 3x3, add
    TransformerBlock:  norm, dense 4C, silu, (1 + scale) + shift on the 4C, dropout, dense C, add;
                       then norm, self-attention, add; with a text norm, cross-attention, add

scale and shift come from a dense layer on emb. Source: simple diffusion 2301.11093 and its successors (grade L of
SiD2's architecture). GroupNorm in the first and LayerNorm in the second are our choice.
"""

import math
from collections.abc import Sequence

import keras
from keras import ops

from keras_sid2 import backend
from keras_sid2.config import register
from keras_sid2.layers.attention import NORM_EPSILON, LayerNorm, SelfAttention
from keras_sid2.layers.convolutions import Convolution, Dense, GroupNorm
from keras_sid2.layers.cross_attention import CrossAttention
from keras_sid2.layers.dropout import dropout
from keras_sid2.shapes import rate


def norm_groups(channels: int) -> int:
    """Of GroupNorm, our choice: up to 32 groups of at least 4 channels each; one where nothing divides them so."""
    return math.gcd(32, max(1, channels // 4), channels)


def group_norm(channels: int, **options) -> keras.layers.Layer:
    return GroupNorm(groups=norm_groups(channels), epsilon=NORM_EPSILON, **options)


class _Block(keras.layers.Layer):
    """Dropout by an explicit seed, scale and shift, configuration."""

    def __init__(self, dropout: float = 0.0, periodic: Sequence[str] = (), **kwargs):
        super().__init__(**kwargs)
        self.dropout, self.periodic = rate("dropout", dropout), tuple(periodic)

    def _drop(self, h, training, seed):
        if not training or not self.dropout:
            return h
        if seed is None:
            raise ValueError(
                f"{self.name} has dropout {self.dropout}: in training it needs a seed, int32 [2] or [B, 2]."
            )
        return dropout(h, seed, self.dropout)

    def _modulate(self, h, emb):
        """h (1 + scale) + shift, with [B, 2F] from emb broadcast over positions."""
        positions = tuple(range(1, len(h.shape) - 1))
        scale, shift = ops.split(ops.expand_dims(self.modulation(emb), positions), 2, axis=-1)
        return backend.modulated(h, 1.0 + scale, shift)

    def get_config(self):
        periodic = {"periodic": self.periodic} if self.periodic else {}
        return {**super().get_config(), "dropout": self.dropout, **periodic}


@register
class ResBlock(_Block):
    """The convolutional block. Args: dropout, a rate in [0, 1); periodic, as Convolution's."""

    @property
    def recorded_by(self) -> tuple:
        return self.dropout, self.periodic

    def build(self, h_shape, emb_shape):
        channels, options = h_shape[-1], {"dtype": self.dtype_policy}
        conv = {"filters": channels, "kernel_size": 3, "padding": "same", "periodic": self.periodic, **options}
        self.norm1 = group_norm(channels, name="norm1", **options)
        self.conv1 = Convolution(name="conv1", **conv)
        self.modulation = Dense(2 * channels, name="modulation", **options)
        self.norm2 = group_norm(channels, name="norm2", **options)
        self.conv2 = Convolution(name="conv2", kernel_initializer="zeros", **conv)
        for layer in (self.norm1, self.conv1, self.norm2, self.conv2):
            layer.build(h_shape)
        self.modulation.build(emb_shape)

    def call(self, h, emb, training=None, seed=None):
        branch = self.conv1(ops.silu(self.norm1(h)))
        branch = ops.silu(self._modulate(self.norm2(branch), emb))
        return h + self.conv2(self._drop(branch, training, seed))


@register
class TransformerBlock(_Block):
    """The attention block, MLP first; built for the shape of a text, [B, L, D], it is called with one as `text`, and
    may be told which rows of it are `tokens`, bool [B, L].

    Args: head_dim, over and periodic, as SelfAttention's; dropout, in [0, 1)."""

    def __init__(self, head_dim: int, dropout: float = 0.0, over: str = "all", **kwargs):
        super().__init__(dropout=dropout, **kwargs)
        self.head_dim, self.over = head_dim, over

    @property
    def recorded_by(self) -> tuple:
        return self.dropout, self.head_dim, self.over, self.periodic

    def build(self, h_shape, emb_shape, text_shape=None):
        channels, options = h_shape[-1], {"dtype": self.dtype_policy}
        norm = {"epsilon": NORM_EPSILON, **options}
        self.mlp_norm = LayerNorm(name="mlp_norm", **norm)
        self.mlp1 = Dense(4 * channels, activation="silu", name="mlp1", **options)
        self.modulation = Dense(8 * channels, name="modulation", **options)
        self.mlp2 = Dense(channels, kernel_initializer="zeros", name="mlp2", **options)
        self.attention_norm = LayerNorm(name="attention_norm", **norm)
        self.attention = SelfAttention(self.head_dim, self.over, self.periodic, name="attention", **options)
        for layer in (self.mlp_norm, self.mlp1, self.attention_norm, self.attention):
            layer.build(h_shape)
        self.mlp2.build((*h_shape[:-1], 4 * channels))
        self.modulation.build(emb_shape)
        self.cross_norm = self.cross_attention = None
        if text_shape is not None:
            self.cross_norm = LayerNorm(name="cross_norm", **norm)
            self.cross_attention = CrossAttention(self.head_dim, **options)
            self.cross_norm.build(h_shape)
            self.cross_attention.build(h_shape, text_shape)

    def call(self, h, emb, text=None, tokens=None, training=None, seed=None):
        hidden = self._modulate(self.mlp1(self.mlp_norm(h)), emb)
        h = h + self.mlp2(self._drop(hidden, training, seed))
        h = h + self.attention(self.attention_norm(h))
        return h if self.cross_attention is None else h + self.cross_attention(self.cross_norm(h), text, tokens)

    def get_config(self):
        return {**super().get_config(), "head_dim": self.head_dim, "over": self.over}
