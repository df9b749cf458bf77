"""Callbacks for training by steps: an "epoch" of fit is a window of steps between two lines of the log."""

import os
import pathlib
import time
from collections.abc import Callable

import keras

from keras_sid2.backend import steps_done
from keras_sid2.checkpoints import PortableSaver, ShardedSaver, checkpoints
from keras_sid2.io.image_files import image_grid, write_png


class SaveCheckpoints(keras.callbacks.Callback):
    """Saves at window ends whose step `every` divides, and at the end of fit, but nothing after a NonFiniteLoss.

    A checkpoint that cannot be written, as on a full disk, is told and training goes on: the one before is whole, and
    the next may fit. At the end of fit the OSError is raised. A sharded one is written while training goes on, and what
    goes wrong with it is told when the next one begins; the end of fit waits for it.

    Of several processes each has this callback. Raises ValueError when fit begins if each of them holds a part of the
    model only and checkpoints are to be portable.

    Args:
        directory: of the checkpoints.
        every: steps.
        keep: how many of the newest to keep.
        keep_every: those whose step it divides are kept for good; 0: none.
        about: goes into each manifest, plain values.
        note: called with a sentence when a checkpoint could not be written.
        sharded: whether they are sharded (jax), and not portable.
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
        sharded: bool = False,
    ):
        super().__init__()
        self.directory, self.every, self.note = directory, every, note
        self.saver = (ShardedSaver if sharded else PortableSaver)(
            directory, keep=keep, keep_every=keep_every, about=about
        )
        self._saved = self._begun = None

    def on_train_begin(self, logs=None):
        self.saver.check(self.model)
        self._saved = steps_done(self.model)

    def on_epoch_end(self, epoch, logs=None):
        if steps_done(self.model) % self.every == 0:
            try:
                self._save()
            except OSError as error:
                self._tell(error)

    def on_train_end(self, logs=None):
        self._settle()
        try:
            self._save()
            self._wait()
        except OSError as error:
            raise OSError(error.errno, self._failed(error)) from error

    def _tell(self, error: OSError):
        self.note(f"{self._failed(error)} Training goes on, and the next one will be tried.")

    def _failed(self, error: OSError) -> str:
        whole = checkpoints(self.directory)
        last = f"the last whole one is {whole[-1]}" if whole else "there is none before it"
        reason = error.strerror or str(error).strip().partition("\n")[0] or type(error).__name__
        return f"The checkpoint of step {self._begun} could not be written ({reason}); {last}."

    def _save(self):
        if self.model.non_finite is None and steps_done(self.model) != self._saved:
            self._settle()
            self._begun = steps_done(self.model)
            self.saver.save(self.model)
            self._saved = self._begun

    def _settle(self):
        """Waits for the one that is being written, and tells if it cannot be."""
        try:
            self._wait()
        except OSError as error:
            self._tell(error)

    def _wait(self):
        try:
            self.saver.wait()
        except OSError:
            self._saved = None
            raise


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
    A window that a guard ended has none.

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
        if self.model.non_finite is not None:
            return  # what is told of it is no training
        values = {name: float(value) for name, value in (logs or {}).items()}  # waits for the last step
        seconds = time.perf_counter() - self._start
        waited = self.waited()
        values |= {
            "images_per_second": self._images / seconds,
            "waiting": min(1.0, waited / seconds),
            "waited_seconds": waited,
        }
        self.log(steps_done(self.model), values)
