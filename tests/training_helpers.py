"""A model small enough to train in a test, and data it can learn."""

import dataclasses

import keras
import numpy as np
from helpers import tiny_network

from keras_sid2 import AdamRecipe, SiD2Model, SigmoidWeighting
from keras_sid2.diffusion import CosineSchedule
from keras_sid2.training import find_preset, register_preset

DROPOUT_LEVELS = (
    {"kind": "res", "channels": 8, "blocks": 1, "dropout": 0.1},
    {"kind": "transformer", "channels": 16, "blocks": 1, "head_dim": 8, "dropout": 0.1},
)


def tiny_model(
    *, compiled: bool = True, weights_seed: int = 0, network=None, levels=DROPOUT_LEVELS, **settings
) -> SiD2Model:
    """A SiD2Model for 4 x 4 grey images of 3 classes, with dropout; the same weights at every call."""
    keras.utils.set_random_seed(weights_seed)
    model = SiD2Model(
        network or tiny_network(levels=levels),
        **{
            "schedule": CosineSchedule(),
            "weighting": SigmoidWeighting(0.0),
            "recipe": AdamRecipe(learning_rate=3e-3, warmup_steps=2, ema_decay=0.9),
            **settings,
        },
    )
    if compiled:
        model.compile()
    return model


def one_level_model(**settings) -> SiD2Model:
    """`tiny_model` without its other level: half as long to compile, for what no block has a part in."""
    return tiny_model(levels=DROPOUT_LEVELS[1:], **settings)


def register_tiny_digits():
    """The preset tiny_digits: sid2_digits with less of everything."""
    full = find_preset("sid2_digits")
    levels = [{**level, "channels": 8, "blocks": 1, "head_dim": None} for level in full.network["levels"]]
    network = {**full.network, "levels": levels, "embedding_dim": 16}
    recipe = AdamRecipe(learning_rate=1e-3, warmup_steps=2)
    register_preset(dataclasses.replace(full, name="tiny_digits", network=network, num_steps=2, recipe=recipe))


def with_averages(model, steps: int = 4):
    """As if it had been trained: a count of steps, and averages that are not the weights."""
    model.step.assign(steps)
    for average in model.averages():
        average.assign(0.5 * average.value + 0.1)


def stripes(count: int = 64) -> tuple[np.ndarray, np.ndarray]:
    """uint8 [N, 4, 4, 1] images, dark but for the row that the label int32 [N] names, a little noisy."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 512).astype("int32")
    images = rng.integers(0, 40, (512, 4, 4, 1))
    images[np.arange(512), labels] += 200
    return images[:count].astype("uint8"), labels[:count]


def all_weights(model) -> list[np.ndarray]:
    """The weights and everything the optimizer keeps."""
    variables = [*model.trainable_variables, *model.optimizer.variables]
    return [keras.ops.convert_to_numpy(v.value) for v in variables]


def same_weights(first, second) -> bool:
    pairs = zip(all_weights(first), all_weights(second), strict=True)
    return all(np.array_equal(a, b) for a, b in pairs)


class Losses(keras.callbacks.Callback):
    """The loss of each step: fit's own is a running mean, so windows of one step are wanted."""

    def __init__(self):
        super().__init__()
        self.values = []

    def on_epoch_end(self, epoch, logs=None):
        self.values.append(float(logs["loss"]))


class Steps(keras.utils.PyDataset):
    """Batches of `stripes` in a fixed order, each once an epoch."""

    def __init__(self, batch_size: int = 16, start: int = 0, count: int = 64):
        super().__init__()
        self.images, self.labels = stripes(count)
        self.batch_size, self.start = batch_size, start

    def __len__(self):
        return len(self.images) // self.batch_size - self.start

    def __getitem__(self, i):
        part = slice((self.start + i) * self.batch_size, (self.start + i + 1) * self.batch_size)
        return {"image": self.images[part], "label": self.labels[part]}


def fit_steps(model, start: int = 0, count: int = 64, **options):
    """One pass over `Steps` from batch `start`, in order."""
    return model.fit(Steps(start=start, count=count), shuffle=False, verbose=0, **options)


def rows_as_features():
    """For programs that measure: quickly made, and of float64."""
    from keras_sid2.evaluation import Features

    rule = "mean of rows"
    return Features(name="rows", digest="1", rule=rule, extract=lambda images: images.mean(axis=(2, 3)) / 255.0)
