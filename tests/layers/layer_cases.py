"""Every layer, inputs for it and what hand arithmetic says of its weights: the harness runs over these."""

import dataclasses
from collections.abc import Callable

import keras
import numpy as np
from helpers import images, randomize

from keras_sid2 import layers


@dataclasses.dataclass(frozen=True)
class Case:
    """A layer, the shapes of its inputs (the batch is 2), its parameters by hand and its sublayers' names."""

    make: Callable[..., keras.layers.Layer]
    settings: dict
    input_shapes: tuple[tuple[int, ...], ...]
    parameters: int
    output_shape: tuple[int, ...]
    sublayers: tuple[str, ...] = ()

    def build(self, **options) -> keras.layers.Layer:
        layer = self.make(**self.settings, **options)
        layer.build(*((None, *shape) for shape in self.input_shapes))
        return layer

    def inputs(self) -> list[np.ndarray]:
        return [images(2, *shape, seed=seed) for seed, shape in enumerate(self.input_shapes)]


ATTENTION = ("query", "key", "value", "query_norm", "key_norm", "out")
CROSS = 2 * 64 + 8 + 2 * 7 * 8 + 2 * 8 + 4 * 4  # query and out, key and value of 7 numbers a token, null, norms
MLP = 256 * 8 + 8 + 8 * 8 + 8  # 128 sines and 128 cosines

CASES = {
    "ConditionEmbedding": Case(layers.ConditionEmbedding, dict(dim=8), ((),), MLP, (8,), ("dense1", "dense2")),
    "ConditionEmbedding, classes": Case(
        layers.ConditionEmbedding,
        dict(dim=8, num_classes=3),
        ((),),
        MLP + 4 * 8,
        (8,),
        ("dense1", "dense2", "classes"),
    ),
    "PositionEmbedding": Case(layers.PositionEmbedding, {}, ((4, 6, 8),), 4 * 6 * 8, (4, 6, 8)),
    "ResBlock": Case(
        layers.ResBlock,
        dict(dropout=0.25),
        ((4, 6, 8), (5,)),
        2 * (9 * 8 * 8 + 8) + 2 * 2 * 8 + (5 * 16 + 16),
        (4, 6, 8),
        ("norm1", "conv1", "modulation", "norm2", "conv2"),
    ),
    "TransformerBlock": Case(
        layers.TransformerBlock,
        dict(head_dim=4, dropout=0.25),
        ((4, 6, 8), (5,)),
        (8 * 32 + 32) + (5 * 64 + 64) + (32 * 8 + 8) + 2 * 2 * 8 + (4 * 64 + 8 + 4 * 4),
        (4, 6, 8),
        ("mlp_norm", "mlp1", "modulation", "mlp2", "attention_norm", "attention"),
    ),
    "TransformerBlock, text": Case(
        layers.TransformerBlock,
        dict(head_dim=4, dropout=0.25),
        ((4, 6, 8), (5,), (3, 7)),
        (8 * 32 + 32) + (5 * 64 + 64) + (32 * 8 + 8) + 3 * 2 * 8 + (4 * 64 + 8 + 4 * 4) + CROSS,
        (4, 6, 8),
        ("mlp_norm", "mlp1", "modulation", "mlp2", "attention_norm", "attention", "cross_norm", "cross_attention"),
    ),
    "CrossAttention": Case(layers.CrossAttention, dict(head_dim=4), ((4, 6, 8), (3, 7)), CROSS, (4, 6, 8), ATTENTION),
    "TokenWhitening": Case(layers.TokenWhitening, {}, ((3, 7),), 7 + 7 * 7, (3, 7)),
    "SelfAttention": Case(
        layers.SelfAttention, dict(head_dim=4), ((4, 6, 8),), 4 * 64 + 8 + 4 * 4, (4, 6, 8), ATTENTION
    ),
    "Convolution": Case(
        layers.Convolution, dict(filters=5, kernel_size=3, padding="same"), ((4, 6, 3),), 9 * 3 * 5 + 5, (4, 6, 5)
    ),
    "GroupNorm": Case(layers.GroupNorm, dict(groups=2, epsilon=1e-6), ((4, 6, 8),), 2 * 8, (4, 6, 8)),
    "Patchify": Case(layers.Patchify, dict(filters=8, patch_size=2), ((4, 6, 3),), 4 * 3 * 8 + 8, (2, 3, 8)),
    "Unpatchify": Case(layers.Unpatchify, dict(filters=3, patch_size=2), ((2, 3, 8),), 4 * 8 * 3 + 3, (4, 6, 3)),
    "Downsample": Case(layers.Downsample, dict(channels=8), ((4, 6, 5),), 5 * 8 + 8, (2, 3, 8), ("conv", "pool")),
    "Upsample": Case(layers.Upsample, dict(channels=5), ((2, 3, 8),), 8 * 5 + 5, (4, 6, 5), ("conv", "nearest")),
}


def randomized(name: str, **options) -> keras.layers.Layer:
    return randomize(CASES[name].build(**options))
