"""Keras's layers, with an operation of the backend in place of several where one operation runs after the other."""

from collections.abc import Callable

import keras
from keras import ops

from keras_sid2 import backend
from keras_sid2.config import register

CHANNELS_LAST = {"data_format": "channels_last"}  # whatever keras.config.image_data_format() is


def per_image(function: Callable, h):
    """function of images [B, H, W, C] -> [B, H', W', C'], on images or on clips [B, F, H, W, C], frame by frame."""
    if len(h.shape) == 4:
        return function(h)
    _, frames, *image = h.shape
    found = function(ops.reshape(h, (-1, *image)))
    return ops.reshape(found, (-1, frames, *found.shape[1:]))


class PerImage:
    """What a convolution of keras's needs to go over [B, H, W, C], or over each frame of clips."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **{**kwargs, **CHANNELS_LAST})

    def build(self, input_shape):
        super().build((None, *input_shape[-3:]))

    def call(self, inputs):
        return per_image(super().call, inputs)


@register
class Convolution(PerImage, keras.layers.Conv2D):
    """keras's Conv2D over [B, H, W, C], or over each frame; on torch without the copies to channels-first and back."""

    def convolution_op(self, inputs, kernel):
        return backend.convolution(inputs, kernel, strides=self.strides, padding=self.padding)


@register
class GroupNorm(keras.layers.GroupNormalization):
    """keras's GroupNormalization over [B, H, W, C], or each frame, float32 inside; one operation on torch."""

    def call(self, inputs):
        return per_image(self._normalized, inputs)

    def _normalized(self, images):
        found = backend.fused_group_norm(images, self.gamma, self.beta, groups=self.groups, epsilon=self.epsilon)
        return super().call(images) if found is None else ops.cast(found, self.compute_dtype)
