"""Layers for images [B, H, W, C], or each frame of clips [B, F, H, W, C]: convolution and group norm, on torch each one
operation without copies; patches at the network's ends; 2x2 pooling and nearest doubling between its levels, neither of
which sees beyond an edge."""

from collections.abc import Callable, Sequence

import keras
from keras import ops

from keras_sid2 import backend
from keras_sid2.config import register

AXES = ("height", "width")  # which may be periodic
_CHANNELS_LAST = {"data_format": "channels_last"}  # whatever keras.config.image_data_format() is


def _per_image(function: Callable, h):
    """function of images [B, H, W, C] -> [B, H', W', C'], on images or on clips, frame by frame."""
    if len(h.shape) == 4:
        return function(h)
    _, frames, *image = h.shape
    found = function(ops.reshape(h, (-1, *image)))
    return ops.reshape(found, (-1, frames, *found.shape[1:]))


class _PerImage:
    """What a convolution of keras's needs to go over images or each frame."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **{**kwargs, **_CHANNELS_LAST})

    def build(self, input_shape):
        super().build((None, *input_shape[-3:]))

    def call(self, inputs):
        return _per_image(super().call, inputs)


def _with_borders(images, sizes: Sequence[int], periodic: Sequence[str]):
    """[B, H, W, C] with so many more pixels on both sides of each axis: zeros, or of a periodic one the other end's."""
    for axis, (name, size) in enumerate(zip(AXES, sizes, strict=True), 1):
        if name in periodic and size:
            count, before = images.shape[axis], (slice(None),) * axis
            ends = images[(*before, slice(count - size, None))], images[(*before, slice(size))]
            images = ops.concatenate([ends[0], images, ends[1]], axis=axis)
    zeros = [[0 if name in periodic else size] * 2 for name, size in zip(AXES, sizes, strict=True)]
    return ops.pad(images, [[0, 0], *zeros, [0, 0]]) if any(map(any, zeros)) else images


@register
class Convolution(_PerImage, keras.layers.Conv2D):
    """keras's Conv2D; on torch without the copies to channels-first and back, and its bias in the same pass.

    Along the axes of `periodic`, of "height" and "width", the pixels beyond one end are those of the other: for odd
    kernels, padding "same" and strides 1.
    """

    def __init__(self, *args, periodic: Sequence[str] = (), **kwargs):
        super().__init__(*args, **kwargs)
        self.periodic = tuple(periodic)

    def call(self, inputs):
        return _per_image(self._convolved, inputs)

    def _convolved(self, images):
        options = {"strides": self.strides, "padding": self.padding}
        if self.periodic:
            images = _with_borders(images, [size // 2 for size in self.kernel_size], self.periodic)
            options["padding"] = "valid"
        found = backend.convolution(images, self.kernel, self.bias, **options)
        return found if self.activation is None else self.activation(found)

    def get_config(self):
        return {**super().get_config(), **({"periodic": self.periodic} if self.periodic else {})}


@register
class Dense(keras.layers.Dense):
    """keras's Dense; on torch its bias in the same pass."""

    def call(self, inputs, training=None):
        found = backend.affine(inputs, self.kernel, self.bias)
        return found if self.activation is None else self.activation(found)


@register
class GroupNorm(keras.layers.GroupNormalization):
    """keras's GroupNormalization, float32 inside; one operation on torch."""

    def call(self, inputs):
        return _per_image(self._normalized, inputs)

    def _normalized(self, images):
        found = backend.fused_group_norm(images, self.gamma, self.beta, groups=self.groups, epsilon=self.epsilon)
        if found is not None:
            return ops.cast(found, self.compute_dtype)
        return super().call(images) if self.compute_dtype == "float32" else self._by_channel(images)

    def _by_channel(self, images):
        """The same for half precision: keras's puts the whole map, in float32, into the shape of groups, which XLA does
        by copies. Sums are over positions, then over the channels of a group; mean(x^2) - mean(x)^2 reads the map once,
        and float32 has room for what bfloat16 can tell apart."""
        x, channels = ops.cast(images, "float32"), images.shape[-1]
        of_groups = (-1, self.groups, channels // self.groups)
        sums = [ops.reshape(ops.mean(part, axis=(1, 2)), of_groups) for part in (x, ops.square(x))]
        mean, square = (ops.mean(part, axis=2, keepdims=True) for part in sums)
        inverse = ops.rsqrt(ops.maximum(square - ops.square(mean), 0.0) + self.epsilon)
        gamma, beta = (ops.reshape(ops.cast(part, "float32"), of_groups[1:]) for part in (self.gamma, self.beta))
        scale, offset = inverse * gamma, beta - mean * inverse * gamma
        scale, offset = (ops.reshape(part, (-1, 1, 1, channels)) for part in (scale, offset))
        return ops.cast(x * scale + offset, self.compute_dtype)


class _Patches(_PerImage):
    """Kernel size and strides are one patch size, in the configuration too."""

    def __init__(self, filters: int, patch_size: int, **kwargs):
        super().__init__(filters, patch_size, strides=patch_size, **kwargs)
        self.patch_size = patch_size

    def get_config(self):
        config = {k: v for k, v in super().get_config().items() if k not in ("kernel_size", "strides")}
        return {**config, "patch_size": self.patch_size}


@register
class Patchify(_Patches, Convolution):
    """[B, H, W, C] -> [B, H/p, W/p, filters]: a p x p convolution with stride p, as a product over patches."""

    def _convolved(self, images):
        p, (_, height, width, channels) = self.patch_size, images.shape
        pixels = ops.reshape(images, (-1, height // p, p, width // p, p, channels))
        patches = ops.reshape(
            ops.transpose(pixels, (0, 1, 3, 2, 4, 5)), (-1, height // p, width // p, p * p * channels)
        )
        return backend.affine(patches, ops.reshape(self.kernel, (p * p * channels, self.filters)), self.bias)


@register
class Unpatchify(_Patches, keras.layers.Conv2DTranspose):
    """[B, H/p, W/p, C] -> [B, H, W, filters]: its transpose, a product too; zero when new."""

    def __init__(self, filters: int, patch_size: int, **kwargs):
        super().__init__(filters, patch_size, **{"kernel_initializer": "zeros", **kwargs})

    def call(self, inputs):
        return _per_image(self._pixels, inputs)

    def _pixels(self, h):
        p, (_, rows, columns, channels) = self.patch_size, h.shape
        kernel = ops.reshape(ops.transpose(self.kernel, (3, 0, 1, 2)), (channels, p * p * self.filters))
        patches = ops.reshape(ops.matmul(h, kernel), (-1, rows, columns, p, p, self.filters))
        pixels = ops.reshape(ops.transpose(patches, (0, 1, 3, 2, 4, 5)), (-1, rows * p, columns * p, self.filters))
        return pixels if self.bias is None else pixels + self.bias


class MeanPooling(keras.layers.AveragePooling2D):
    """keras's, over 2x2; on torch without its copy to channels first."""

    def call(self, inputs):
        return backend.halved(inputs)


class _Resample(keras.layers.Layer):
    """A 1x1 convolution to `channels`, on the smaller of the two resolutions, and the layer that resizes."""

    def __init__(self, channels: int, resize: type, role: str, **kwargs):
        super().__init__(**kwargs)
        self.channels = channels
        self.resize = resize(2, dtype=kwargs.get("dtype"), name=role, **_CHANNELS_LAST)
        self.conv = Convolution(channels, 1, dtype=self.dtype_policy, name="conv")

    def build(self, input_shape):
        self.conv.build((None, None, None, input_shape[-1]))
        self.resize.build((None, *input_shape[-3:]))  # keras's trainers want layers without weights built, too

    def get_config(self):
        return {**super().get_config(), "channels": self.channels}


def repeated(images, times: int):
    """[..., H, W, C] -> [..., times H, times W, C]: each pixel times x times. Images of the size wanted as they are."""
    return images if times == 1 else ops.repeat(ops.repeat(images, times, axis=-3), times, axis=-2)


@register
class Downsample(_Resample):
    """[B, H, W, C] -> [B, H/2, W/2, channels]: mean over 2x2, then a 1x1 convolution."""

    def __init__(self, channels: int, **kwargs):
        super().__init__(channels, MeanPooling, "pool", **kwargs)

    def call(self, h):
        return self.conv(_per_image(self.resize, h))


@register
class Upsample(_Resample):
    """[B, H, W, C] -> [B, 2H, 2W, channels]: a 1x1 convolution, then each pixel repeated 2x2."""

    def __init__(self, channels: int, **kwargs):
        super().__init__(channels, keras.layers.UpSampling2D, "nearest", **kwargs)

    def call(self, h):
        return _per_image(self.resize, self.conv(h))
