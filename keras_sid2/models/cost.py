"""Parameters and multiply-adds of a ResidualUViT, counted from its configuration without building it.

Of the blocks alone, the figure that papers citing SiD2 call "Gflops" (137 and 653 for the ImageNet models):

    (1) ResBlock          2 * 9 C^2 per position
    (2) TransformerBlock  12 C^2 per position, and 2 N C per position for attention over N positions

The whole forward pass adds the two ends, the 1x1 convolutions between levels, and the conditioning.
"""

import dataclasses
from collections.abc import Sequence

from keras_sid2.layers.embeddings import FREQUENCIES
from keras_sid2.models.level import Level, as_levels, check_image_shape, check_widths


@dataclasses.dataclass(frozen=True)
class NetworkCost:
    """parameters; multiply-adds for one image of the blocks alone and of the whole forward pass."""

    parameters: int
    block_multiply_adds: int
    multiply_adds: int


def network_cost(
    image_shape: tuple[int, int, int],
    patch_size: int,
    num_classes: int | None,
    embedding_dim: int,
    levels: Sequence[Level | dict],
    remat: bool = False,
) -> NetworkCost:
    """The cost of `ResidualUViT(**the same arguments)`. Raises ValueError where its constructor would.

    `remat` changes nothing in a forward pass: what it does twice, it does in the backward one.
    """
    embedding_dim, num_classes = check_widths(embedding_dim, num_classes)
    levels = as_levels(levels)
    height, width, image_channels = check_image_shape(image_shape, patch_size, len(levels))
    patch = patch_size**2 * image_channels * levels[0].channels
    positions = [(height // (patch_size * 2**i)) * (width // (patch_size * 2**i)) for i in range(len(levels))]
    parameters = 2 * patch + levels[0].channels + image_channels
    blocks = 0
    others = 2 * patch * positions[0]
    for i, level in enumerate(levels):
        count = level.blocks * (1 if i == len(levels) - 1 else 2)
        parameters += count * block_parameters(level, embedding_dim)
        blocks += count * _block_multiply_adds(level, positions[i])
        others += count * _modulation_width(level) * embedding_dim
        if level.kind == "transformer":
            parameters += positions[i] * level.channels
        if i + 1 < len(levels):
            lower = levels[i + 1].channels
            parameters += 2 * level.channels * lower + level.channels + lower
            others += 2 * level.channels * lower * positions[i + 1]
    fourier = 2 * len(FREQUENCIES)
    mlp = (fourier + embedding_dim) * embedding_dim
    parameters += mlp + 2 * embedding_dim + ((num_classes + 1) * embedding_dim if num_classes else 0)
    return NetworkCost(parameters, blocks, blocks + others + mlp)


def _modulation_width(level: Level) -> int:
    """Outputs of the dense layer that makes scale and shift."""
    return level.channels * (2 if level.kind == "res" else 8)


def _block_multiply_adds(level: Level, positions: int) -> int:
    if level.kind == "res":
        return 18 * level.channels**2 * positions
    return 12 * level.channels**2 * positions + 2 * positions**2 * level.channels


def block_parameters(level: Level, embedding_dim: int) -> int:
    width = _modulation_width(level)
    modulation = (embedding_dim + 1) * width
    c = level.channels
    if level.kind == "res":
        return 2 * (9 * c * c + c) + 4 * c + modulation
    mlp = 8 * c * c + 5 * c
    attention = 4 * c * c + c + 4 * level.attention_head_dim
    return mlp + attention + 4 * c + modulation
