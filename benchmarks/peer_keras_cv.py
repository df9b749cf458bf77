"""KerasCV's U-Net of Stable Diffusion, with random weights and about as many multiply-adds as the network measured.

Its layers are put together as its `DiffusionModel` (keras_cv.src.models.stable_diffusion, 0.9) does it, whose widths
and four channels are constants. What goes in and comes out are patches of pixels, 8 x 8 for images of 256 pixels and
more, as its latents are 8 times smaller than the image; the class, embedded, is a text of one token. Only workers
import this: it needs keras_cv, which imports TensorFlow on every backend.
"""

import itertools
import math

import keras
import tensorflow as tf
from keras import layers, ops

if keras.backend.backend() != "tensorflow":
    tf.config.set_visible_devices([], "GPU")  # whose memory it would take

from keras_cv.src.models.stable_diffusion.diffusion_model import (  # noqa: E402
    PaddedConv2D,
    ResBlock,
    SpatialTransformer,
    Upsample,
)

from keras_sid2.conditions import ClassLabel  # noqa: E402

_UNIT = 32  # its group norms have so many groups, so widths are multiples of it
_HEADS = 8
_NEAR = 0.04  # by which multiply-adds may differ


def unet(side: int, channels: int, widths: tuple[int, int, int]) -> keras.Model:
    """([B, side, side, channels], [B, widths[0]], [B, 1, 4 widths[0]]) -> [B, side, side, channels]; 320, 640 and 1280
    wide it is Stable Diffusion's."""
    narrow, _, wide = widths
    latent, steps = layers.Input((side, side, channels)), layers.Input((narrow,))
    context = layers.Input((1, 4 * narrow))
    emb = layers.Dense(4 * narrow)(layers.Activation("swish")(layers.Dense(4 * narrow)(steps)))

    def block(x, width, attends):
        x = ResBlock(width)([x, emb])
        return SpatialTransformer(_HEADS, width // _HEADS)([x, context]) if attends else x

    x = PaddedConv2D(narrow, 3, padding=1)(latent)
    kept = [x]
    levels = [(width, True) for width in widths] + [(wide, False)]
    for width, attends in levels:
        for _ in range(2):
            kept.append(x := block(x, width, attends))
        if attends:
            kept.append(x := PaddedConv2D(width, 3, strides=2, padding=1)(x))
    x = ResBlock(wide)([block(x, wide, True), emb])
    for width, attends in levels[::-1]:
        for _ in range(3):
            x = block(layers.Concatenate()([x, kept.pop()]), width, attends)
        x = Upsample(width)(x) if kept else x
    x = layers.Activation("swish")(layers.GroupNormalization(epsilon=1e-5)(x))
    return keras.Model([latent, steps, context], PaddedConv2D(channels, 3, padding=1)(x))


def multiply_adds(side: int, channels: int, widths: tuple[int, int, int]) -> int:
    """Of one example's forward pass."""
    narrow, _, wide = widths
    emb = 4 * narrow

    def block(side, of, width, attends):
        positions = side**2
        found = positions * 9 * width * (of + width) + emb * width + (positions * of * width if of != width else 0)
        attention = 2 * positions**2 * width + 2 * positions * width + 2 * emb * width  # of itself, of one token
        return found + (positions * 20 * width**2 + attention if attends else 0)

    total, kept, of = narrow * emb + emb**2 + side**2 * 9 * channels * narrow, [narrow], narrow
    levels = [(side >> i, width, True) for i, width in enumerate(widths)] + [(side >> 3, wide, False)]
    for here, width, attends in levels:
        total += block(here, of, width, attends) + block(here, width, width, attends)
        kept += [width, width]
        if attends:
            total += (here // 2) ** 2 * 9 * width**2
            kept.append(width)
        of = width
    total += block(side >> 3, wide, wide, True) + block(side >> 3, wide, wide, False)
    for here, width, attends in levels[::-1]:
        for _ in range(3):
            total += block(here, of + kept.pop(), width, attends)
            of = width
        total += (2 * here) ** 2 * 9 * width**2 if kept else 0
    return total + side**2 * 9 * narrow * channels


def widths_of(side: int, channels: int, target: int) -> tuple[int, int, int]:
    """Of those within 4 % of `target` multiply-adds the ones nearest to 1 : 2 : 4, else those nearest to the target."""

    def order(widths):
        off = abs(multiply_adds(side, channels, widths) / target - 1.0)
        shape = sum(abs(math.log2(b / a) - 1.0) for a, b in itertools.pairwise(widths))
        return (0.0, shape) if off <= _NEAR else (off, shape)

    most = max(2, 2 * math.isqrt(target // (20 * side**2)) // _UNIT)  # a block alone would be as much
    multiples = range(_UNIT, _UNIT * (most + 1), _UNIT)
    return min(itertools.combinations_with_replacement(multiples, 3), key=order)


def sizes(image_shape: tuple[int, int, int], target: int) -> tuple[int, tuple[int, int, int]]:
    """(patch size, widths): the smallest patches that can cost `target`; positions are at most 32 a side, or an eighth
    of the pixels, for their attention is not fused. ValueError for images that it does not take."""
    height, width, colours = image_shape
    if height != width or height % 8:
        raise ValueError(f"KerasCV's U-Net takes square images of 8, 16, 24 ... pixels, not {height} x {width}.")
    patches = [p for p in (1, 2, 4, 8) if height % (8 * p) == 0 and height // p <= max(32, height // 8)]
    for patch in patches:
        side, channels = height // patch, patch**2 * colours
        widths = widths_of(side, channels, target)
        if abs(multiply_adds(side, channels, widths) / target - 1.0) <= _NEAR:
            break
    return patch, widths


class KerasCVUNet(keras.Model):
    """A network of SiD2Model, of about `target` multiply-adds; ValueError as `sizes`."""

    def __init__(self, image_shape: tuple[int, int, int], num_classes: int | None, target: int):
        super().__init__(autocast=False)
        height, _, colours = self.sample_shape = tuple(image_shape)
        self.conditions = {} if num_classes is None else {"label": ClassLabel(num_classes)}
        self.patch, self.widths = sizes(self.sample_shape, target)
        self.size = (height // self.patch, self.patch**2 * colours)
        self.unet = unet(*self.size, self.widths)
        self.label = layers.Embedding((num_classes or 0) + 1, 4 * self.widths[0])

    def build(self, shapes=None):
        self.label.build()

    def multiply_adds(self) -> int:
        return multiply_adds(*self.size, self.widths)

    def call(self, inputs, training=None):
        z_t, logsnr = inputs["z_t"], inputs["logsnr"]
        (side, channels), patch, colours = self.size, self.patch, self.sample_shape[-1]
        cut, numbers = (-1, side, patch, side, patch, colours), self.widths[0] // 2
        frequencies = 10_000.0 ** (-ops.arange(numbers, dtype="float32") / numbers)
        waves = ops.expand_dims(logsnr * 20.0 + 500.0, -1) * frequencies
        steps = ops.concatenate([ops.cos(waves), ops.sin(waves)], axis=-1)
        labels = inputs.get("label", ops.zeros_like(logsnr, dtype="int32"))
        x = ops.reshape(ops.transpose(ops.reshape(z_t, cut), (0, 1, 3, 2, 4, 5)), (-1, side, side, channels))
        x = self.unet([x, steps, ops.expand_dims(self.label(labels), 1)], training=training)
        x = ops.reshape(ops.cast(x, "float32"), (-1, side, side, patch, patch, colours))
        return ops.reshape(ops.transpose(x, (0, 1, 3, 2, 4, 5)), (-1, *self.sample_shape))
