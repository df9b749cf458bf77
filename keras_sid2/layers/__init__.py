"""The layers of the Residual U-ViT."""

from keras_sid2.layers.attention import SelfAttention
from keras_sid2.layers.blocks import ResBlock, TransformerBlock
from keras_sid2.layers.embeddings import ConditionEmbedding, PositionEmbedding
from keras_sid2.layers.fused import Convolution, GroupNorm
from keras_sid2.layers.resampling import Downsample, Patchify, Unpatchify, Upsample

__all__ = [
    "ConditionEmbedding",
    "Convolution",
    "Downsample",
    "GroupNorm",
    "Patchify",
    "PositionEmbedding",
    "ResBlock",
    "SelfAttention",
    "TransformerBlock",
    "Unpatchify",
    "Upsample",
]
