"""What stops fit: a loss that explodes (one that is not finite: test_fit.py), and what does not."""

import keras
import pytest
from training_helpers import stripes, tiny_model

from keras_sid2.training import ExplodedLoss, StopOnExplosion


def batches(*, blown_up: int | None = None):
    """Endless batches of 16; the one of that number, from 0, has images far outside [-1, 1]."""
    images, labels = stripes(64)
    images = (images / 127.5 - 1.0).astype("float32")
    number = 0
    while True:
        part = slice(number % 4 * 16, number % 4 * 16 + 16)
        yield images[part] * (1000.0 if number == blown_up else 1.0), labels[part]
        number += 1


def fit(model, guard, data, windows: int):
    model.fit(data, steps_per_epoch=10, epochs=windows, verbose=0, callbacks=[guard])


def test_a_batch_or_a_learning_rate_blows_the_loss_up_and_ordinary_training_does_not():
    model, guard = tiny_model(compiled=False), StopOnExplosion()
    model.compile(keras.optimizers.Adam(3e-3))
    fit(model, guard, batches(), 3)
    for inside in (0, 7):  # of a window: what is logged are its means
        before = int(model.optimizer.iterations)
        with pytest.raises(ExplodedLoss) as error:
            fit(model, guard, batches(blown_up=10 + inside), 3)
        assert error.value.step == before + 11 + inside
        assert f"training step {error.value.step}, " in str(error.value) and "loss_logsnr_-5_0 (" in str(error.value)
        assert model.optimizer.iterations <= error.value.step + 1
    model.optimizer.iterations.assign(3)  # as in an earlier checkpoint: there the first 20 steps cannot explode again
    fit(model, guard, batches(blown_up=10), 2)
    fit(model, guard, batches(), 3)
    before = int(model.optimizer.iterations)
    model.optimizer.learning_rate = 30.0
    with pytest.raises(ExplodedLoss, match="a learning rate that is too high") as error:
        fit(model, guard, batches(), 3)
    assert error.value.step < before + 20


@pytest.mark.backend_free
@pytest.mark.parametrize("factor", [1.0, 0.0, -3.0, float("nan")])
def test_a_factor_that_everything_would_exceed_is_refused(factor):
    with pytest.raises(ValueError, match="must be above 1, got"):
        StopOnExplosion(factor)
