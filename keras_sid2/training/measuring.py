"""Measuring samples while training goes on, within a share of its time."""

import dataclasses
import json
import math
import os
import pathlib
import time
from collections.abc import Callable, Iterator

import keras
import numpy as np

from keras_sid2.files import drop_lines_after
from keras_sid2.image_files import image_grid, write_png
from keras_sid2.training.drawing import Drawing
from keras_sid2.training.optimizer import steps_done

_SHOWN = 64  # images in the grid


class MeasureSamples(keras.callbacks.Callback):
    """Draws the same N images at window ends whose step `every` divides, from the averaged weights, and measures them.

    A measurement is put off, to the next step that `every` divides, while all of them together would take more than
    `max_share` of the time since training began. What the first one will take is told from two batches drawn before.

    Args:
        measure: called with (batches of uint8 images, drawn=Drawing.describe()), gives a
            `keras_sid2.evaluation.Measurement`; `functools.partial(evaluate, features=..., reference=...)`.
        every: steps.
        labels, num_images: of the images, as `Drawing`.
        generate_options: of `Drawing`.
        path: of a file that gets a line of JSON each time: step, seconds, figures, measured, drawn.
        grids: folder that gets a grid of the first images each time, step_NNN.png; None: none.
        log: called with (step, figures); for TensorBoard.
        max_share: in (0, 1].
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
        max_share: float = 0.05,
    ):
        super().__init__()
        self.measure, self.every, self.labels, self.num_images = measure, every, labels, num_images
        self.generate_options, self.path = dict(generate_options or {}), pathlib.Path(path)
        self.grids = None if grids is None else pathlib.Path(grids)
        self.log, self.max_share = log, max_share
        self._begin = self._expected = None
        self._spent = 0.0

    def on_train_begin(self, logs=None):
        if self._begin is None:  # fit may be called several times in one training
            self._begin = time.perf_counter()
        drop_lines_after(self.path, steps_done(self.model))

    def on_epoch_end(self, epoch, logs=None):
        step = steps_done(self.model)
        if step % self.every or not math.isfinite(float((logs or {}).get("loss", 0.0))):
            return
        start = time.perf_counter()
        if self._expected is None:
            self._expected = self._estimate()
            self._spent += time.perf_counter() - start
        if self._spent + self._expected <= self.max_share * (time.perf_counter() - self._begin + self._expected):
            self._measure(step)

    def _drawing(self, count: int | None = None) -> Drawing:
        labels = None if self.labels is None else self.labels[:count]
        number = len(labels) if labels is not None else min(count or self.num_images, self.num_images)
        return Drawing(self.model, labels, num_images=number, **self.generate_options)

    def _estimate(self) -> float:
        """Seconds that drawing takes: those of a batch that nothing is compiled for any more, for each batch."""
        whole = self._drawing()
        batch = self._drawing(whole.images_at_once)
        batch.images()
        start = time.perf_counter()
        batch.images()
        return (time.perf_counter() - start) * math.ceil(whole.num_images / whole.images_at_once)

    def _measure(self, step: int):
        start, drawing, shown = time.perf_counter(), self._drawing(), []
        measurement = self.measure(_passed_on(drawing.batches(), shown), drawn=drawing.describe())
        if self.grids is not None:
            write_png(self.grids / f"step_{step:010d}.png", image_grid(np.concatenate(shown)[:_SHOWN]))
        self._expected = time.perf_counter() - start
        self._spent += self._expected
        self._add({"step": step, "seconds": round(self._expected, 3), **dataclasses.asdict(measurement)})
        if self.log is not None:
            self.log(step, measurement.figures)

    def _add(self, line: dict):
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with open(self.path, "a") as file:
            file.write(json.dumps(line) + "\n")


def _passed_on(batches: Iterator[np.ndarray], shown: list) -> Iterator[np.ndarray]:
    """The same batches; the first ones, as many as a grid shows, stay in `shown`."""
    for batch in batches:
        if sum(map(len, shown)) < _SHOWN:
            shown.append(batch)
        yield batch
