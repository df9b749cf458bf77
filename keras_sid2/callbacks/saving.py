"""Callbacks for training by steps: an "epoch" of fit is a log interval, the steps between two lines of the log."""

import contextlib
import pathlib
from collections.abc import Callable, Iterator, Sequence

import keras
import numpy as np

from keras_sid2.backend import steps_done
from keras_sid2.checkpoints import PortableSaver, ShardedSaver, checkpoints
from keras_sid2.checkpoints.manifest import first_line
from keras_sid2.io.image_files import field_pictures, image_grid, write_png
from keras_sid2.parallel import processes
from keras_sid2.training.snapshots import drop_snapshots_after, save_snapshot


@contextlib.contextmanager
def training_goes_on(doing: str, note: Callable[[str], None]) -> Iterator[None]:
    """An OSError inside, as of a full disk, is told and ends here; not a ConnectionError: another process is gone."""
    try:
        yield
    except (ConnectionError, TimeoutError):
        raise
    except OSError as error:
        note(f"{doing} failed ({error}); training goes on.")


class SaveCheckpoints(keras.callbacks.Callback):
    """Saves at log intervals' ends whose step `every` divides, and at the end of fit; nothing after a NonFiniteLoss.

    A checkpoint that cannot be written, as on a full disk, is told and training goes on, with the one before; at the
    end of fit the OSError is raised. A sharded one is written while training goes on, and what goes wrong with it is
    told when the next one begins; the end of fit waits for it.

    Of several processes each has this callback. Raises ValueError when fit begins if each of them holds a part of the
    model only and checkpoints are to be portable.

    Args:
        directory: as `save_checkpoint`.
        every: steps.
        note: called with a sentence when a checkpoint could not be written.
        sharded: whether they are sharded (jax), and not portable.
        options: keep, keep_every and about, as `save_checkpoint`.
    """

    def __init__(self, directory, *, every: int, note: Callable[[str], None] = print, sharded: bool = False, **options):
        super().__init__()
        self.directory, self.every, self.note = directory, every, note
        self.saver = (ShardedSaver if sharded else PortableSaver)(directory, **options)
        self._saved = self._begun = None  # the steps of the latest one that is written, and that was begun

    def on_train_begin(self, logs=None):
        self.saver.check(self.model)
        self._saved = steps_done(self.model)

    def on_epoch_end(self, epoch, logs=None):
        if steps_done(self.model) % self.every == 0:
            with self._told():
                self._save()

    def on_train_end(self, logs=None):
        with self._told():
            self._wait()
        try:
            self._save()
            self._wait()
        except OSError as error:
            raise OSError(error.errno, self._failed(error)) from error

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self.note(f"{self._failed(error)} Training goes on, and the next one will be tried.")

    def _failed(self, error: OSError) -> str:
        whole = checkpoints(self.directory)
        last = f"the last whole one is {whole[-1]}" if whole else "there is none before it"
        return f"The checkpoint of step {self._begun} could not be written ({first_line(error)}); {last}."

    def _save(self):
        if self.model.non_finite is None and steps_done(self.model) != self._saved:
            with self._told():
                self._wait()
            self._begun = steps_done(self.model)
            self.saver.save(self.model)
            self._saved = self._begun

    def _wait(self):
        """Until the one that is being written is on the disk."""
        try:
            self.saver.wait()
        except OSError:
            self._saved = None
            raise


class SaveSnapshots(keras.callbacks.Callback):
    """Writes snapshots of the power-function averages at log intervals' ends whose step `every` divides, and at step
    `last`. What a run that goes on from an earlier step will write again is removed when fit begins.

    Of several processes each has this callback. One that cannot be written is told, and training goes on.

    Args:
        directory, dtype: as `save_snapshot`.
        every, last: steps.
        note: called with a sentence when a snapshot could not be written.
    """

    def __init__(
        self, directory, *, every: int, last: int | None = None, dtype: str = "float32", note: Callable = print
    ):
        super().__init__()
        self.directory, self.every, self.last, self.dtype, self.note = directory, every, last, dtype, note

    def on_train_begin(self, logs=None):
        if processes.index() == 0:
            drop_snapshots_after(self.directory, steps_done(self.model))

    def on_epoch_end(self, epoch, logs=None):
        step = steps_done(self.model)
        if (step % self.every == 0 or step == self.last) and self.model.non_finite is None:
            with training_goes_on("Writing a snapshot of averages", self.note):
                save_snapshot(self.model, self.directory, dtype=self.dtype)


class SampleGrids(keras.callbacks.Callback):
    """Draws the same images at each log interval's end whose step `every` divides: step_NNN.png, and to `log_image`.

    Args:
        directory: of the pictures.
        every: steps.
        labels: of the images, or None for a model without classes; then `num_images` of them.
        generate_options: of `SiD2Model.generate`.
        captions: what is written below them; None: their labels.
        log_image: called with (name, uint8 [H, W, 3], step); for TensorBoard.
        note: called with a sentence when a picture could not be written; training goes on.
    """

    def __init__(
        self,
        directory,
        *,
        every,
        labels=None,
        num_images=None,
        generate_options=None,
        captions=None,
        log_image=None,
        note=print,
    ):
        super().__init__()
        self.note, self.log_image = note, log_image
        self.directory, self.every, self.labels, self.num_images = pathlib.Path(directory), every, labels, num_images
        self.generate_options, self.captions = dict(generate_options or {}), captions

    def on_epoch_end(self, epoch, logs=None):
        step = steps_done(self.model)
        if step % self.every == 0:
            with training_goes_on("Sampling", self.note):
                images = self.model.generate(self.labels, num_images=self.num_images, **self.generate_options)
                if self.model.channels is not None:
                    images = field_pictures(images, self.model.channels)
                picture = write_grid(self.directory, step, images, self.captions or self.labels)
                if self.log_image is not None:
                    self.log_image("samples", picture, step)


def write_grid(folder: pathlib.Path, step: int, images: np.ndarray, labels: Sequence | None) -> np.ndarray:
    """Writes the images of a step, with their labels or captions below them, as step_NNN.png; gives the picture."""
    picture = image_grid(images, None if labels is None else [str(label) for label in labels[: len(images)]])
    write_png(folder / f"step_{step:010d}.png", picture)
    return picture
