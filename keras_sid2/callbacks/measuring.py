"""Measuring samples while training goes on, within a share of its time."""

import dataclasses
import json
import math
import os
import pathlib
import time
from collections.abc import Callable

import keras
import numpy as np

from keras_sid2.backend import steps_done
from keras_sid2.generation.request import Drawing
from keras_sid2.io.atomic import drop_lines_after
from keras_sid2.io.image_files import image_grid, write_png
from keras_sid2.training.forecast import Attempt, Forecast
from keras_sid2.training.time_share import TimeShare

_SHOWN = 64  # images in the grid


class _BrokenOff(Exception):
    """A measurement is not to go on; with a reason, or for want of time."""


class MeasureSamples(keras.callbacks.Callback):
    """Draws the same N images at window ends whose step `every` divides, from the averaged weights, and measures them.

    A measurement is put off, to the next step that `every` divides, while all of them together would take more than
    `max_share` of the time that fit has taken, over all starts of the training. Everything counts: drawing, features,
    distances, compiling, tries, and getting ready. What the first one takes is learned by trying (`Forecast`): it is
    broken off as soon as what is known of it does not fit, and tried again when it does. So the share is passed by one
    piece of it at most (a twentieth of a batch drawn, the features of a batch, a distance), and that is made up for
    before anything else begins.

    It is also broken off between two pieces when training is asked to stop (`model.stop_training`). An error in it is
    told, and training goes on.

    Args:
        measure: called with (batches of uint8 images, drawn=Drawing.describe(), progress=a function of (distances
            done, distances in all)), gives a `keras_sid2.evaluation.Measurement`; `functools.partial(evaluate,
            features=..., reference=...)`.
        every: steps.
        labels, num_images: of the images, as `Drawing`.
        generate_options: of `Drawing`.
        path: of a file that gets a line of JSON each time: step, seconds, figures, measured, drawn. Beside it, as
            NAME.time.json, lies what was taken of the time.
        grids: folder that gets a grid of the first images each time, step_NNN.png; None: none.
        log: called with (step, figures); for TensorBoard.
        note: called with a sentence when measuring is put off for the first time, broken off, or failed.
        max_share: in (0, 1].
        getting_ready: seconds that were spent on measuring before training: on real images, and features.
        clock: gives seconds.

    Raises ValueError for a share outside (0, 1].
    """

    def __init__(
        self,
        measure: Callable,
        *,
        every: int,
        labels=None,
        num_images: int | None = None,
        generate_options: dict | None = None,
        path: str | os.PathLike,
        grids: str | os.PathLike | None = None,
        log: Callable[[int, dict], None] | None = None,
        note: Callable[[str], None] = print,
        max_share: float = 0.05,
        getting_ready: float = 0.0,
        clock: Callable[[], float] = time.perf_counter,
    ):
        super().__init__()
        self.measure, self.every, self.labels, self.num_images = measure, every, labels, num_images
        self.generate_options, self.path = dict(generate_options or {}), pathlib.Path(path)
        self.grids = None if grids is None else pathlib.Path(grids)
        self.log, self.note, self._clock = log, note, clock
        times = self.path.with_suffix(".time.json")
        self._time = TimeShare(max_share, path=times, taken=getting_ready, clock=clock)
        self._forecast = Forecast(clock, self._time.expected)
        self._told = self._begun = False  # that it is put off; that there was one

    def on_train_begin(self, logs=None):
        self._time.begin()
        drop_lines_after(self.path, steps_done(self.model))

    def on_epoch_begin(self, epoch, logs=None):
        self._forecast.training_begins()

    def on_train_batch_end(self, batch, logs=None):
        self._forecast.training_step_ends()

    def on_epoch_end(self, epoch, logs=None):
        step, loss = steps_done(self.model), float((logs or {}).get("loss", 0.0))  # waits for the last step
        self._forecast.training_ends()
        if step % self.every or not math.isfinite(loss) or self.model.stop_training:
            return
        try:
            self._measure_if_there_is_time(step)
        except Exception as error:  # whatever it was, the training is worth more
            what = f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
            self.note(f"Measuring samples at step {step} failed ({what}); training goes on.")

    def on_train_end(self, logs=None):
        self._time.end()

    def _measure_if_there_is_time(self, step: int):
        attempt = Attempt(self._forecast, self._check, shown=_SHOWN)
        drawing = Drawing(
            self.model, self.labels, num_images=self.num_images, progress=attempt.drawn, **self.generate_options
        )
        self._forecast.whole_is(drawing.num_steps, -(-drawing.num_images // drawing.images_at_once))
        expected = self._forecast.seconds()
        if self._time.left_after(expected) < 0.0:
            self._put_off(expected)
            return
        start = self._clock()
        try:
            with self._time.taking(expected):
                measurement = self._measured(drawing, attempt)
                seconds = self._clock() - start
                self._write(step, seconds, measurement, attempt.images)
        except _BrokenOff as reason:
            self._tell_of_broken(step, self._clock() - start, str(reason))

    def _measured(self, drawing: Drawing, attempt: Attempt):
        """The Measurement; however it ends, more is known of the next one."""
        start = self._clock()
        try:
            drawn = drawing.describe()
            attempt.begin()
            batches = attempt.passed_on(drawing.batches())
            measurement = self.measure(batches, drawn=drawn, progress=attempt.compared)
            self._forecast.took(self._clock() - start)
        finally:
            self._time.expected = self._forecast.seconds()
        return measurement

    def _check(self, seconds: float):
        """Raises _BrokenOff if a measurement that takes so many seconds yet is not to go on."""
        if self.model.stop_training:
            raise _BrokenOff("training is to stop")
        if not self._forecast.certain and self._time.left_after(seconds) < 0.0:
            raise _BrokenOff

    def _put_off(self, seconds: float):
        """Tells once why a measurement that takes so many seconds is not begun."""
        self._time.keep()
        if not self._told:
            self.note(f"Measuring samples is put off: {self._until(seconds)}")
        self._told = True

    def _until(self, seconds: float) -> str:
        return (
            f"it would take {seconds:.3g} s, as far as is known, and in all it may take {self._time.most:.3g} of the "
            f"time; there is time for it after {self._time.waiting_for(seconds):.3g} s more."
        )

    def _tell_of_broken(self, step: int, seconds: float, reason: str):
        self._told = self._told or not reason
        reason = f"{reason}." if reason else self._until(self._forecast.seconds())
        self.note(f"Measuring samples at step {step} was broken off after {seconds:.3g} s: {reason}")

    def _write(self, step: int, seconds: float, measurement, shown: list[np.ndarray]):
        if self._told and not self._begun:
            self.note(f"Measuring samples has begun, at step {step}; it took {seconds:.3g} s.")
        self._told = self._begun = True
        self._add({"step": step, "seconds": round(seconds, 3), **dataclasses.asdict(measurement)})
        if self.grids is not None:
            captions = None if self.labels is None else [str(label) for label in self.labels[:_SHOWN]]
            write_png(self.grids / f"step_{step:010d}.png", image_grid(np.concatenate(shown)[:_SHOWN], captions))
        if self.log is not None:
            self.log(step, measurement.figures)

    def _add(self, line: dict):
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with open(self.path, "a") as file:
            file.write(json.dumps(line) + "\n")
