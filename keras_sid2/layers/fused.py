"""Keras's layers, with an operation of the backend in place of several where one operation runs after the other."""

import keras
from keras import ops

from keras_sid2 import backend
from keras_sid2.config import register

CHANNELS_LAST = {"data_format": "channels_last"}  # whatever keras.config.image_data_format() is


@register
class Convolution(keras.layers.Conv2D):
    """keras's Conv2D over [B, H, W, C]; on torch without the copies to channels-first and back."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **{**kwargs, **CHANNELS_LAST})

    def convolution_op(self, inputs, kernel):
        return backend.convolution(inputs, kernel, strides=self.strides, padding=self.padding)


@register
class GroupNorm(keras.layers.GroupNormalization):
    """keras's GroupNormalization over [B, H, W, C], float32 inside; on torch in one operation instead of ten."""

    def call(self, inputs):
        normalized = backend.fused_group_norm(inputs, self.gamma, self.beta, groups=self.groups, epsilon=self.epsilon)
        return super().call(inputs) if normalized is None else ops.cast(normalized, self.compute_dtype)
