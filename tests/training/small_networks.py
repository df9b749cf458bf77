"""A network for tests of drawing: two layers of the same shapes, and a term that is as large as its weights say."""

import keras
from keras import ops

from keras_sid2 import SiD2Model, SigmoidWeighting
from keras_sid2.diffusion import CosineSchedule


class SmallNetwork(keras.layers.Layer):
    """v_hat, and for images of class 1 above `level` the term exp(excess[0]) - exp(excess[1]) in it.

    `calls` counts how often it is run in Python: on jax and tensorflow once a tracing, on torch once a recording.
    """

    image_shape, num_classes = (2, 2, 1), 3

    def __init__(self, level: float = 0.0):
        super().__init__()
        self.level, self.calls = level, 0
        self.first, self.second = keras.layers.Dense(1), keras.layers.Dense(1)

    def build(self, _):
        for layer in (self.first, self.second):
            layer.build((None, 2, 2, 1))
        self.excess = self.add_weight(shape=(2,), initializer="zeros", trainable=False, name="excess")

    def call(self, inputs, training=None):
        self.calls += 1
        z_t, logsnr, label = inputs
        large = ops.exp(self.excess[0]) - ops.exp(self.excess[1])
        term = ops.where(ops.logical_and(logsnr > self.level, ops.equal(label, 1)), large, 0.0)
        return self.second(ops.tanh(self.first(z_t))) + ops.reshape(term, (-1, 1, 1, 1))


def small_model(**settings) -> SiD2Model:
    """The same weights at every call; not compiled."""
    keras.utils.set_random_seed(0)
    options = {"schedule": CosineSchedule(), "weighting": SigmoidWeighting(0.0)}
    return SiD2Model(settings.pop("network", None) or SmallNetwork(), **{**options, **settings})
