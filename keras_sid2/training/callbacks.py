"""Callbacks that every training needs."""

import math

import keras


class StopOnNonFinite(keras.callbacks.Callback):
    """Stops fit at the first step whose loss or gradient norm is NaN or infinite.

    It reads each step's values one step late, so that an accelerator never waits for the host: by then the next step
    is under way. That does no harm, since `EmaAdam` applies no gradient that is not finite.
    """

    def __init__(self):
        super().__init__()
        self.message = None
        self._previous = None
        self._first_step = 0

    def on_train_begin(self, logs=None):
        self._first_step = int(self.model.optimizer._iterations.value)
        self._done = 0

    def on_train_batch_end(self, batch, logs=None):
        self._check()
        self._done += 1
        self._previous = (self._first_step + self._done, logs)

    def on_epoch_end(self, epoch, logs=None):
        self._check()

    def _check(self):
        if self._previous is None or self.message:
            return
        (step, logs), self._previous = self._previous, None
        for name in ("loss", "gradient_norm"):
            value = float(logs.get(name, 0.0))
            if not math.isfinite(value):
                self.message = (
                    f"{name} is {value} at training step {step}: training stopped. Usual causes: a learning rate that "
                    "is too high, float16, images outside [-1, 1], labels outside the classes."
                )
                self.model.stop_training = True
                return

    def raise_if_stopped(self):
        """FloatingPointError with what happened, if it did."""
        if self.message:
            raise FloatingPointError(self.message)
