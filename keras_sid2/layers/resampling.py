"""Between resolutions: patches at the network's two ends, 2x2 pooling and nearest doubling between its levels.

Of clips [B, F, H, W, C] each does so with every frame.
"""

import keras

from keras_sid2.config import register
from keras_sid2.layers.fused import CHANNELS_LAST, Convolution, PerImage, per_image


class _Patches(PerImage):
    """Kernel size and strides are one patch size, in the configuration too."""

    def __init__(self, filters: int, patch_size: int, **kwargs):
        super().__init__(filters, patch_size, strides=patch_size, **kwargs)
        self.patch_size = patch_size

    def get_config(self):
        config = {k: v for k, v in super().get_config().items() if k not in ("kernel_size", "strides")}
        return {**config, "patch_size": self.patch_size}


@register
class Patchify(_Patches, Convolution):
    """[B, H, W, C] -> [B, H/p, W/p, filters]: a p x p convolution with stride p."""


@register
class Unpatchify(_Patches, keras.layers.Conv2DTranspose):
    """[B, H/p, W/p, C] -> [B, H, W, filters]: a p x p transposed convolution with stride p, zero when new."""

    def __init__(self, filters: int, patch_size: int, **kwargs):
        super().__init__(filters, patch_size, **{"kernel_initializer": "zeros", **kwargs})


class _Resample(keras.layers.Layer):
    """A 1x1 convolution to `channels`, on the smaller of the two resolutions, and the layer that resizes."""

    def __init__(self, channels: int, resize: keras.layers.Layer, **kwargs):
        super().__init__(**kwargs)
        self.channels, self.resize = channels, resize
        self.conv = Convolution(channels, 1, dtype=self.dtype_policy, name="conv")

    def build(self, input_shape):
        self.conv.build((None, None, None, input_shape[-1]))
        self.resize.build((None, *input_shape[-3:]))  # keras's trainers want layers without weights built, too

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
