"""Whatever is done with a model, in any order: weights, averages and steps are those of a plain model in numpy.

`PYTHONPATH=.:tests python tests/training/test_any_order.py 300` tries that many random sequences.
"""

import functools
import pathlib
import sys
import tempfile

import hypothesis
import keras
from helpers import BACKEND
from hypothesis import strategies as st
from plain_model import DECAY, Plain, SmallNetwork, data, small_model, values

from keras_sid2 import EmaAdam


class Session:
    """A model in a user's hands. Each method is something that is done with it."""

    def __init__(self, folder: pathlib.Path):
        self.folder = folder
        self.model = small_model(SmallNetwork())
        self.plain = Plain(self.model)
        self.plain.decay = None

    def compile_ema(self):
        self.model.compile(EmaAdam(0.01, ema_momentum=DECAY))
        if self.plain.steps and self.plain.average is None:
            self.plain.average = self.plain.weights
        self.plain.decay = DECAY

    def compile_sgd(self):
        """Averages that there are go on, with the decay that they had; none are begun."""
        self.model.compile(keras.optimizers.SGD(0.1))

    def fit(self):
        if not self.model.compiled:
            self.compile_ema()
        layers = [self.model.network.first, self.model.network.last]
        self._compile_if_frozen_since()
        frozen = [values(layer.weights) for layer in layers if not layer.trainable]
        images, labels = data(32)
        self.model.fit(images, labels, batch_size=16, shuffle=False, verbose=0, callbacks=[self.plain])
        assert all(
            (a == b).all()
            for before, layer in zip(frozen, [layer for layer in layers if not layer.trainable], strict=True)
            for a, b in zip(before, values(layer.weights), strict=True)
        )

    def _compile_if_frozen_since(self):
        trained = [id(v) for v in self.model.optimizer._trainable_variables]
        if trained != [id(v) for v in self.model.trainable_variables]:
            self.compile_ema()

    def evaluate(self):
        if self.model.compiled:
            self.model.evaluate(*data(16), verbose=0)

    def freeze(self):
        self.model.network.first.trainable = False

    def free(self):
        self.model.network.first.trainable = True

    def save_and_load(self):
        self.model.save(self.folder / "model.keras")
        frozen = not self.model.network.first.trainable
        self.model = keras.saving.load_model(self.folder / "model.keras")
        assert self.model.network.first.trainable != frozen

    def load_without_compile(self):
        self.model.save(self.folder / "model.keras")
        self.model = keras.saving.load_model(self.folder / "model.keras", compile=False)

    def weights_into_another(self):
        self.model.save_weights(self.folder / "some.weights.h5")
        self.model = small_model(SmallNetwork(), seed=1)
        self.model.load_weights(self.folder / "some.weights.h5")

    def get_and_set_weights(self):
        self.model.set_weights(self.model.get_weights())

    def look_at_averaged_weights(self):
        with self.model.averaged_weights():
            pass


OPERATIONS = [name for name, value in vars(Session).items() if not name.startswith("_")]


def check(operations: list[str]):
    with tempfile.TemporaryDirectory() as folder:
        session = Session(pathlib.Path(folder))
        for name in operations:
            getattr(session, name)()
            session.plain.check(session.model)


def given(examples: int):
    sequences = st.lists(st.sampled_from(OPERATIONS), min_size=2, max_size=8).map(lambda rest: ["fit", *rest])
    return hypothesis.settings(max_examples=examples, deadline=None)(hypothesis.given(sequences)(check))


# Each fit of jax and tensorflow compiles.
test_what_a_model_holds_does_not_depend_on_how_it_came_there = given(30 if BACKEND == "torch" else 4)


if __name__ == "__main__":
    functools.partial(given(int(sys.argv[1])))()
