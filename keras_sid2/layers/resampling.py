"""Between resolutions: patches at the network's two ends, 2x2 pooling and nearest doubling between its levels.

Of clips [B, F, H, W, C] each does so with every frame.
"""

import keras
from keras import ops

from keras_sid2.config import register
from keras_sid2.layers.fused import CHANNELS_LAST, Convolution, per_image


@register
class Patchify(Convolution):
    """[B, H, W, C] -> [B, H/p, W/p, filters]: a p x p convolution with stride p, as a product over patches."""

    def __init__(self, filters: int, patch_size: int, **kwargs):
        super().__init__(filters, patch_size, strides=patch_size, **kwargs)
        self.patch_size = patch_size

    def convolution_op(self, inputs, kernel):
        p, (_, height, width, channels) = self.patch_size, inputs.shape
        pixels = ops.reshape(inputs, (-1, height // p, p, width // p, p, channels))
        patches = ops.reshape(
            ops.transpose(pixels, (0, 1, 3, 2, 4, 5)), (-1, height // p, width // p, p * p * channels)
        )
        return ops.matmul(patches, ops.reshape(kernel, (p * p * channels, self.filters)))

    def get_config(self):
        return _patch_config(super().get_config(), self.patch_size)


@register
class Unpatchify(keras.layers.Conv2DTranspose):
    """[B, H/p, W/p, C] -> [B, H, W, filters]: a p x p transposed convolution with stride p, as a product; zero when
    new."""

    def __init__(self, filters: int, patch_size: int, **kwargs):
        options = {"kernel_initializer": "zeros", **kwargs, **CHANNELS_LAST}
        super().__init__(filters, patch_size, strides=patch_size, **options)
        self.patch_size = patch_size

    def build(self, input_shape):
        super().build((None, *input_shape[-3:]))

    def call(self, h):
        return per_image(self._unpatched, h)

    def _unpatched(self, h):
        p, (_, rows, columns, channels) = self.patch_size, h.shape
        kernel = ops.reshape(ops.transpose(self.kernel, (3, 0, 1, 2)), (channels, p * p * self.filters))
        patches = ops.reshape(ops.matmul(h, kernel), (-1, rows, columns, p, p, self.filters))
        pixels = ops.reshape(ops.transpose(patches, (0, 1, 3, 2, 4, 5)), (-1, rows * p, columns * p, self.filters))
        return pixels if self.bias is None else pixels + self.bias

    def get_config(self):
        return _patch_config(super().get_config(), self.patch_size)


def _patch_config(config: dict, patch_size: int) -> dict:
    """The convolution's configuration with one patch size in place of its kernel size and strides."""
    kept = {k: v for k, v in config.items() if k not in ("kernel_size", "strides")}
    return {**kept, "patch_size": patch_size}


class _Resample(keras.layers.Layer):
    """A 1x1 convolution to `channels`, on the smaller of the two resolutions, and the layer that resizes."""

    def __init__(self, channels: int, resize: keras.layers.Layer, **kwargs):
        super().__init__(**kwargs)
        self.channels, self.resize = channels, resize
        self.conv = Convolution(channels, 1, dtype=self.dtype_policy, name="conv")

    def build(self, input_shape):
        self.conv.build((None, None, None, input_shape[-1]))
        self.resize.build(
            (None, *input_shape[-3:])
        )  # keras's trainers want every layer built, also one without weights

    def get_config(self):
        return {**super().get_config(), "channels": self.channels}


@register
class Downsample(_Resample):
    """[B, H, W, C] -> [B, H/2, W/2, channels]: mean over 2x2, then a 1x1 convolution."""

    def __init__(self, channels: int, **kwargs):
        pool = keras.layers.AveragePooling2D(2, dtype=kwargs.get("dtype"), name="pool", **CHANNELS_LAST)
        super().__init__(channels, pool, **kwargs)

    def call(self, h):
        return self.conv(per_image(self.resize, h))


@register
class Upsample(_Resample):
    """[B, H, W, C] -> [B, 2H, 2W, channels]: a 1x1 convolution, then each pixel repeated 2x2."""

    def __init__(self, channels: int, **kwargs):
        nearest = keras.layers.UpSampling2D(2, dtype=kwargs.get("dtype"), name="nearest", **CHANNELS_LAST)
        super().__init__(channels, nearest, **kwargs)

    def call(self, h):
        return per_image(self.resize, self.conv(h))
