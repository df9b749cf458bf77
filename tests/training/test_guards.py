"""What stops fit: a loss that explodes (one that is not finite: test_fit.py), and what does not."""

import keras
import pytest
from helpers import to_numpy
from training_helpers import stripes, tiny_model

from keras_sid2.backend import steps_done
from keras_sid2.training import ExplodedLoss, StopOnExplosion


class BlowUp(keras.callbacks.Callback):
    """In the batch of that number, from 0, the output layer is a thousand times what it is before and after it."""

    def __init__(self, number: int):
        super().__init__()
        self.left = number

    def on_train_batch_begin(self, batch, logs=None):
        if self.left == 0:
            self.weight = self.model.network.unpatchify.weights[0]
            self.kept = to_numpy(self.weight.value)
            self.weight.assign(1000.0 * (self.kept + 1.0))

    def on_train_batch_end(self, batch, logs=None):
        if self.left == 0:
            assert self.model is not None  # keras's jax takes up what is assigned to a model that was asked for
            self.weight.assign(self.kept)
        self.left -= 1


def fit(model, guard, windows: int, blown_up: int = -1):
    images, labels = stripes(160)
    data = {"x": images, "y": labels, "batch_size": 16, "shuffle": False}
    model.fit(**data, epochs=windows, verbose=0, callbacks=[guard, BlowUp(blown_up)])


def test_a_batch_or_a_learning_rate_blows_the_loss_up_and_ordinary_training_does_not():
    model, guard = tiny_model(compiled=False), StopOnExplosion()
    model.compile(keras.optimizers.Adam(3e-3))
    fit(model, guard, 3)
    for inside in (0, 7):  # of a window: what is logged are its means
        before = steps_done(model)
        with pytest.raises(ExplodedLoss) as error:
            fit(model, guard, 3, blown_up=10 + inside)
        assert error.value.step == before + 11 + inside
        assert f"training step {error.value.step}, " in str(error.value) and "loss_logsnr_-5_0 (" in str(error.value)
        assert steps_done(model) <= error.value.step + 1
    model.step.assign(3)  # as in an earlier checkpoint: there the first 20 steps cannot explode again
    fit(model, guard, 2, blown_up=10)
    fit(model, guard, 3)
    before = steps_done(model)
    model.optimizer.learning_rate = 30.0
    with pytest.raises(ExplodedLoss, match="a learning rate that is too high") as error:
        fit(model, guard, 3)
    assert error.value.step < before + 20


@pytest.mark.backend_free
@pytest.mark.parametrize("factor", [1.0, 0.0, -3.0, float("nan")])
def test_a_factor_that_everything_would_exceed_is_refused(factor):
    with pytest.raises(ValueError, match="must be above 1, got"):
        StopOnExplosion(factor)
