"""Callbacks for training by steps: an "epoch" of fit is a window of steps between two lines of the log."""

import math
import os
import pathlib
import time
from collections.abc import Callable

import keras

from keras_sid2.image_files import image_grid, write_png
from keras_sid2.training.checkpoints import checkpoints, save_checkpoint
from keras_sid2.training.optimizer import steps_done


class NonFiniteLoss(FloatingPointError):
    """The loss or the gradient of training step `step`, counted from 1, was NaN or infinite."""

    def __init__(self, message: str, step: int):
        super().__init__(message)
        self.step = step


class StopOnNonFinite(keras.callbacks.Callback):
    """Stops fit at the first step whose loss or gradient norm is NaN or infinite.

    It reads each step's values one step late, so that an accelerator never waits for the host: by then the next step
    is under way. That does no harm, since `EmaAdam` applies no gradient that is not finite.
    """

    def __init__(self):
        super().__init__()
        self.found: NonFiniteLoss | None = None
        self._unread = None
        self._before_epoch = self._step = 0

    def on_train_begin(self, logs=None):
        self._step = steps_done(self.model)
        self.model.non_finite = None

    def on_epoch_begin(self, epoch, logs=None):
        self._before_epoch = self._step

    def on_train_batch_end(self, batch, logs=None):
        self._read()
        self._step = self._before_epoch + batch + 1
        self._unread = (self._step, logs)

    def on_epoch_end(self, epoch, logs=None):
        self._read()

    def _read(self):
        if self._unread is None or self.found:
            return
        (step, logs), self._unread = self._unread, None
        for name in ("loss", "gradient_norm"):
            value = float(logs.get(name, 0.0))
            if not math.isfinite(value):
                bins = [key for key in logs if key.startswith("loss_logsnr") and not math.isfinite(float(logs[key]))]
                self.found = NonFiniteLoss(
                    f"{name} is {value} at training step {step}{' in ' + ', '.join(bins) if bins else ''}: training "
                    "stopped. Usual causes: a learning rate that is too high, float16, images outside [-1, 1], labels "
                    "outside the classes.",
                    step,
                )
                self.model.non_finite = self.found
                self.model.stop_training = True
                return

    def raise_if_stopped(self):
        """NonFiniteLoss, a FloatingPointError, with what happened, if it did."""
        if self.found:
            raise self.found


class SaveCheckpoints(keras.callbacks.Callback):
    """Saves at window ends whose step `every` divides, and at the end of fit, but nothing after a NonFiniteLoss.

    A checkpoint that cannot be written, as on a full disk, is told and training goes on: the one before is whole, and
    the next may fit. At the end of fit the OSError is raised.

    Args:
        directory: of the checkpoints.
        every: steps.
        keep: how many of the newest to keep.
        keep_every: those whose step it divides are kept for good; 0: none.
        about: goes into each manifest, plain values.
        note: called with a sentence when a checkpoint could not be written.
    """

    def __init__(
        self,
        directory: str | os.PathLike,
        *,
        every: int,
        keep: int,
        keep_every: int = 0,
        about: dict | None = None,
        note: Callable[[str], None] = print,
    ):
        super().__init__()
        self.directory, self.every, self.keep, self.keep_every = directory, every, keep, keep_every
        self.about, self.note = about, note
        self._saved = None

    def on_train_begin(self, logs=None):
        self._saved = steps_done(self.model)

    def on_epoch_end(self, epoch, logs=None):
        if steps_done(self.model) % self.every == 0:
            try:
                self._save()
            except OSError as error:
                self.note(f"{self._failed(error)} Training goes on, and the next one will be tried.")

    def on_train_end(self, logs=None):
        try:
            self._save()
        except OSError as error:
            raise OSError(error.errno, self._failed(error)) from error

    def _failed(self, error: OSError) -> str:
        whole = checkpoints(self.directory)
        last = f"the last whole one is {whole[-1]}" if whole else "there is none before it"
        reason = error.strerror or str(error).strip().splitlines()[0]
        return f"The checkpoint of step {steps_done(self.model)} could not be written ({reason}); {last}."

    def _save(self):
        if steps_done(self.model) != self._saved and self.model.non_finite is None:
            kept = {"keep": self.keep, "keep_every": self.keep_every}
            save_checkpoint(self.model, self.directory, about=self.about, **kept)
            self._saved = steps_done(self.model)


class SampleGrids(keras.callbacks.Callback):
    """Draws the same images at window ends whose step `every` divides: step_NNN.png in a folder, and to `log_image`.

    Args:
        directory: of the pictures.
        every: steps.
        labels: of the images, or None for a model without classes; then `num_images` of them.
        generate_options: of `SiD2Model.generate`.
        log_image: called with (name, uint8 [H, W, 3], step); for TensorBoard.
    """

    def __init__(self, directory, *, every: int, labels=None, num_images=None, generate_options=None, log_image=None):
        super().__init__()
        self.directory, self.every, self.labels, self.num_images = pathlib.Path(directory), every, labels, num_images
        self.generate_options, self.log_image = dict(generate_options or {}), log_image

    def on_epoch_end(self, epoch, logs=None):
        step = steps_done(self.model)
        if step % self.every:
            return
        images = self.model.generate(self.labels, num_images=self.num_images, **self.generate_options)
        captions = None if self.labels is None else [str(label) for label in self.labels]
        picture = image_grid(images, captions)
        write_png(self.directory / f"step_{step:010d}.png", picture)
        if self.log_image is not None:
            self.log_image("samples", picture, step)


class LogWindows(keras.callbacks.Callback):
    """Calls `log(step, values)` at each window's end with its metrics, images_per_second, waiting and waited_seconds.

    What happens between windows (evaluation, samples, saving) does not count in them.

    Args:
        log: what to do with them.
        batch_size: images a step.
        waited: gives the seconds spent waiting for data since it was last called; `waiting` is their share.
    """

    def __init__(self, log: Callable[[int, dict], None], *, batch_size: int, waited: Callable[[], float]):
        super().__init__()
        self.log, self.batch_size, self.waited = log, batch_size, waited
        self._images, self._start = 0, 0.0

    def on_epoch_begin(self, epoch, logs=None):
        self._images, self._start = 0, time.perf_counter()
        self.waited()

    def on_train_batch_end(self, batch, logs=None):
        self._images = (batch + 1) * self.batch_size

    def on_epoch_end(self, epoch, logs=None):
        values = {name: float(value) for name, value in (logs or {}).items()}  # waits for the last step
        seconds = time.perf_counter() - self._start
        waited = self.waited()
        values |= {
            "images_per_second": self._images / seconds,
            "waiting": min(1.0, waited / seconds),
            "waited_seconds": waited,
        }
        self.log(steps_done(self.model), values)
