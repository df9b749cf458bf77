"""A network of a user's own that compiles in no time, and what training must leave in a model of it."""

import keras
import numpy as np
from helpers import to_numpy
from keras import ops

from keras_sid2 import AdamRecipe, SiD2Model, SigmoidWeighting
from keras_sid2.diffusion import CosineSchedule

DECAY = 0.5


@keras.saving.register_keras_serializable("tests")
class SmallNetwork(keras.Model):
    """2 x 2 grey images of 3 classes; with a running mean and a random state of Keras's, if asked for."""

    image_shape, num_classes = (2, 2, 1), 3

    def __init__(self, norm: bool = False, dropout: float = 0.0, **kwargs):
        super().__init__(**kwargs)
        self.norm_and_dropout = norm, dropout
        inside = {"dtype": self.dtype_policy}
        self.first = keras.layers.Dense(6, activation="relu", name="first", **inside)
        self.norm = keras.layers.BatchNormalization(name="norm", **inside) if norm else None
        self.drop = keras.layers.Dropout(dropout, seed=0, name="drop", **inside) if dropout else None
        self.last = keras.layers.Dense(4, name="last", **inside)

    def call(self, inputs, training=None):
        z_t, logsnr, label = inputs
        h = [ops.reshape(z_t, (-1, 4)), ops.expand_dims(logsnr / 10.0, 1), ops.one_hot(label, 4)]
        h = self.first(ops.concatenate([ops.cast(part, "float32") for part in h], axis=1))
        h = h if self.norm is None else self.norm(h, training=training)
        h = h if self.drop is None else self.drop(h, training=training)
        return ops.cast(ops.reshape(self.last(h), (-1, 2, 2, 1)), "float32")

    def get_config(self):
        norm, dropout = self.norm_and_dropout
        return {**super().get_config(), "norm": norm, "dropout": dropout}


def small_model(network=None, *, seed: int = 0, **settings) -> SiD2Model:
    """Not compiled; the same weights at every call."""
    keras.utils.set_random_seed(seed)
    settings = {"recipe": AdamRecipe(learning_rate=0.01, warmup_steps=0, ema_decay=DECAY), **settings}
    return SiD2Model(network or SmallNetwork(), CosineSchedule(), SigmoidWeighting(0.0), **settings)


def data(count: int = 32):
    """(uint8 [N, 2, 2, 1], int32 [N])."""
    rng = np.random.default_rng(0)
    return rng.integers(0, 255, (count, 2, 2, 1)).astype("uint8"), rng.integers(0, 3, count).astype("int32")


def values(variables) -> list[np.ndarray]:
    return [to_numpy(v.value).astype("float64") for v in variables]


class Plain(keras.callbacks.Callback):
    """What a model must hold, in numpy: weights as they are after each step, their average, the steps."""

    def __init__(self, model: SiD2Model, decay: float | None = DECAY):
        super().__init__()
        self.decay, self.steps, self.average = decay, 0, None
        self.weights = values(model.network.weights)

    def on_train_batch_end(self, batch, logs=None):
        self.weights = values(self.model.network.weights)
        before = self.weights if self.average is None else self.average
        if self.decay is not None:
            pairs = zip(before, self.weights, strict=True)
            self.average = [self.decay * a + (1.0 - self.decay) * w for a, w in pairs]
        self.steps += 1

    @property
    def drawn_from(self) -> list[np.ndarray]:
        return self.weights if self.average is None else self.average

    def check(self, model: SiD2Model):
        """That the model holds this, and that it is what generate, evaluate and predict read."""
        assert int(model.step.numpy()) == self.steps
        weights = model.network.weights
        assert_equal(values(weights), self.weights)
        read = {id(v): to_numpy(value) for v, value in model.network_values()}
        assert_equal([read[id(v)] for v in weights], self.drawn_from)
        tolerance = 1e-4 if model.network.compute_dtype == "float32" else 2e-2
        found, expected = model.predict_on_batch(INPUTS), output_of(model.network, self.drawn_from)
        np.testing.assert_allclose(found, expected, atol=tolerance * np.abs(expected).max())


INPUTS = {
    "z_t": np.linspace(-1, 1, 12, dtype="float32").reshape(3, 2, 2, 1),
    "logsnr": np.linspace(-3, 3, 3, dtype="float32"),
    "label": np.arange(3, dtype="int32"),
}


def output_of(network, weights: list[np.ndarray]) -> np.ndarray:
    """Of INPUTS, with these weights in the network; it has its own again afterwards."""
    kept = values(network.weights)
    for v, value in zip(network.weights, weights, strict=True):
        v.assign(value)
    output = to_numpy(network(tuple(map(ops.convert_to_tensor, INPUTS.values())), training=False))
    for v, value in zip(network.weights, kept, strict=True):
        v.assign(value)
    return output


def assert_equal(found, expected):
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
