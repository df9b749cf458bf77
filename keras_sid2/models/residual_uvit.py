"""The Residual U-ViT of SiD2 (2410.19324): one skip per level. It knows nothing of noise schedules or losses.

For each level but the last, in order:

    h = blocks(h);  skip = h;  d = down(h);  m = <lower levels>(d);  h = up(m - d) + skip;  h = blocks(h)

and the last level, the middle, is h = blocks(h). New blocks are the identity, so m - d = 0 and a new network is the
identity of its input features; its output layer starts at zero, so it predicts v_hat = 0.
"""

from collections.abc import Sequence

import keras
from keras import ops

from keras_sid2 import random
from keras_sid2.layers import (
    ConditionEmbedding,
    Downsample,
    Patchify,
    PositionEmbedding,
    ResBlock,
    TransformerBlock,
    Unpatchify,
    Upsample,
)
from keras_sid2.models.level import Level, check_image_shape
from keras_sid2.serialization import register


@register
class ResidualUViT(keras.Model):
    """network((z_t, logsnr, label), training=None, seed=None) -> v_hat.

    z_t is float32 [B, H, W, C], logsnr float32 [B], label int32 [B] in [0, num_classes] or None; num_classes itself is
    the null class, and None means it for every image. v_hat is float32 of z_t's shape. Its weights exist as soon as
    it is made.

    Args:
        image_shape: (H, W, C); patch_size * 2^(levels - 1) must divide H and W.
        patch_size: side of the patches at the two ends, in pixels.
        num_classes: K classes, or None for a network without labels.
        embedding_dim: width of the conditioning vector.
        levels: `Level`s or dicts of their fields, highest resolution first; the last is the middle.
        dtype: a dtype policy, such as "mixed_bfloat16": then the inside computes in bfloat16, while logsnr's
            embedding, the weights and the output stay float32.

    `seed`, an int32 tensor [2], determines all dropout of the call; without it, in training, the network draws one
    from a generator of its own.

    Raises ValueError for a shape that cannot be halved, a level that cannot be built, an embedding_dim or num_classes
    below 1.
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        patch_size: int,
        num_classes: int | None,
        embedding_dim: int,
        levels: Sequence[Level | dict],
        name: str = "residual_uvit",
        **kwargs,
    ):
        self._check_positive(embedding_dim=embedding_dim, num_classes=num_classes or 1)
        self._levels = tuple(Level.of(level) for level in levels)
        image_shape = check_image_shape(image_shape, patch_size, len(self._levels))
        super().__init__(name=name, **{**kwargs, "autocast": False})  # logsnr must not pass through bfloat16
        self.image_shape, self.patch_size = image_shape, patch_size
        self.num_classes, self.embedding_dim = num_classes or None, embedding_dim
        self.seeds = keras.random.SeedGenerator(0, name="seeds")
        self._make_ends()
        self._make_levels()
        self.build()

    @staticmethod
    def _check_positive(**values):
        for field, value in values.items():
            if not isinstance(value, int) or value < 1:
                raise ValueError(f"{field} must be an integer >= 1, got {value!r}.")

    @property
    def levels(self) -> tuple[Level, ...]:
        return self._levels

    def _make_ends(self):
        self.embedding = ConditionEmbedding(self.embedding_dim, self.num_classes)
        self.patchify = Patchify(self._levels[0].channels, self.patch_size, dtype=self.dtype_policy, name="patchify")
        self.unpatchify = Unpatchify(self.image_shape[-1], self.patch_size, dtype="float32", name="unpatchify")

    def _make_blocks(self, i: int, role: str) -> list[keras.layers.Layer]:
        level = self._levels[i]
        options = {"dropout": level.dropout, "dtype": self.dtype_policy}
        names = [f"level{i}_{role}_block{j}" for j in range(level.blocks)]
        if level.kind == "res":
            return [ResBlock(name=name, **options) for name in names]
        return [TransformerBlock(level.attention_head_dim, name=name, **options) for name in names]

    def _make_levels(self):
        last = len(self._levels) - 1
        policy = self.dtype_policy
        self.positions = [
            PositionEmbedding(name=f"level{i}_position", dtype=policy) if level.kind == "transformer" else None
            for i, level in enumerate(self._levels)
        ]
        self.down_blocks = [self._make_blocks(i, "down") for i in range(last)]
        self.up_blocks = [self._make_blocks(i, "up") for i in range(last)]
        self.middle_blocks = self._make_blocks(last, "middle")
        self.downs = [
            Downsample(self._levels[i + 1].channels, name=f"level{i}_downsample", dtype=policy) for i in range(last)
        ]
        self.ups = [Upsample(self._levels[i].channels, name=f"level{i}_upsample", dtype=policy) for i in range(last)]

    def feature_shape(self, i: int) -> tuple[None, int, int, int]:
        """[B, H_i, W_i, C_i] of level i."""
        height, width, _ = self.image_shape
        scale = self.patch_size * 2**i
        return (None, height // scale, width // scale, self._levels[i].channels)

    def build(self, *_):
        if self.built:  # keras builds a loaded model again
            return
        last = len(self._levels) - 1
        emb_shape = (None, self.embedding_dim)
        self.embedding.build()
        self.patchify.build((None, *self.image_shape))
        for i, position in enumerate(self.positions):
            shape = self.feature_shape(i)
            if position is not None:
                position.build(shape)
            blocks = self.middle_blocks if i == last else [*self.down_blocks[i], *self.up_blocks[i]]
            for block in blocks:
                block.build(shape, emb_shape)
            if i < last:
                self.downs[i].build(shape)
                self.ups[i].build(self.feature_shape(i + 1))
        self.unpatchify.build(self.feature_shape(0))
        self.built = True

    def call(self, inputs, training=None, seed=None):
        z_t, logsnr, label = inputs
        emb = self.embedding(logsnr, label)
        if training and seed is None and any(level.dropout for level in self._levels):
            seed = ops.cast(self.seeds.next(), "int32")
        run = _BlockRunner(emb, training, seed)
        return self.unpatchify(self._level(0, self.patchify(z_t), run))

    def _level(self, i: int, h, run: "_BlockRunner"):
        if self.positions[i] is not None:
            h = self.positions[i](h)
        if i == len(self._levels) - 1:
            return run(self.middle_blocks, h)
        skip = run(self.down_blocks[i], h)
        d = self.downs[i](skip)
        m = self._level(i + 1, d, run)
        return run(self.up_blocks[i], self.ups[i](m - d) + skip)

    def compute_output_shape(self, *_):
        return (None, *self.image_shape)

    def get_config(self):
        return {
            **super().get_config(),
            "image_shape": self.image_shape,
            "patch_size": self.patch_size,
            "num_classes": self.num_classes,
            "embedding_dim": self.embedding_dim,
            "levels": [level.get_config() for level in self._levels],
        }

    @classmethod
    def from_config(cls, config, custom_objects=None):
        return cls(**{k: v for k, v in config.items() if k != "autocast"})


class _BlockRunner:
    """Runs blocks in order, each with a dropout seed of its own: the call's seed folded with the block's number."""

    def __init__(self, emb, training, seed):
        self.emb, self.training, self.seed, self.count = emb, training, seed, 0

    def __call__(self, blocks, h):
        for block in blocks:
            seed = random.fold_in(self.seed, self.count) if self.training and block.dropout else None
            h = block(h, self.emb, training=self.training, seed=seed)
            self.count += 1
        return h
