"""A transformer on patches as a user would write one: keras's own layers, made at the first call."""

import keras
from keras import ops


class PlainTransformer(keras.Model):
    """{"z_t" [B, 8, 8, 3], "logsnr" [B]} -> x_hat of z_t's shape; no word of meshes or costs."""

    def __init__(self, dim: int, depth: int, **kwargs):
        super().__init__(**kwargs)
        self.sample_shape, self.conditions = (8, 8, 3), {}
        self.patches = keras.layers.Dense(dim, name="patches")
        self.level = keras.layers.Dense(dim, name="level")
        self.depth = depth
        for i in range(depth):
            setattr(self, f"attention{i}", keras.layers.MultiHeadAttention(2, dim // 2, name=f"attention{i}"))
            setattr(self, f"hidden{i}", keras.layers.Dense(4 * dim, activation="gelu", name=f"hidden{i}"))
            setattr(self, f"out{i}", keras.layers.Dense(dim, name=f"out{i}"))
        self.pixels = keras.layers.Dense(12, name="pixels")

    def call(self, inputs, training=None):
        h = ops.reshape(inputs["z_t"], (-1, 4, 2, 4, 2, 3))
        h = self.patches(ops.reshape(ops.transpose(h, (0, 1, 3, 2, 4, 5)), (-1, 16, 12)))
        h = h + self.level(inputs["logsnr"][:, None])[:, None]
        for i in range(self.depth):
            h = h + getattr(self, f"attention{i}")(h, h)
            h = h + getattr(self, f"out{i}")(getattr(self, f"hidden{i}")(h))
        patches = ops.reshape(self.pixels(h), (-1, 4, 4, 2, 2, 3))
        return ops.reshape(ops.transpose(patches, (0, 1, 3, 2, 4, 5)), (-1, 8, 8, 3))
