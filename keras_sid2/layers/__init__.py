"""The layers of the Residual U-ViT."""

from keras_sid2.layers.attention import SelfAttention
from keras_sid2.layers.blocks import ResBlock, TransformerBlock
from keras_sid2.layers.convolutions import Convolution, Downsample, GroupNorm, Patchify, Unpatchify, Upsample
from keras_sid2.layers.cross_attention import CrossAttention, TokenWhitening
from keras_sid2.layers.embeddings import ConditionEmbedding, PositionEmbedding

__all__ = [
    "ConditionEmbedding",
    "Convolution",
    "CrossAttention",
    "Downsample",
    "GroupNorm",
    "Patchify",
    "PositionEmbedding",
    "ResBlock",
    "SelfAttention",
    "TokenWhitening",
    "TransformerBlock",
    "Unpatchify",
    "Upsample",
]
