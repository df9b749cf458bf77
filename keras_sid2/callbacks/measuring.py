"""Measuring samples while training goes on: every N steps, M images, and a line that says what it cost."""

import dataclasses
import json
import math
import os
import pathlib
import time
import warnings
from collections.abc import Callable, Iterable, Iterator

import keras
import numpy as np

from keras_sid2 import backend
from keras_sid2.backend import steps_done
from keras_sid2.callbacks.saving import write_grid
from keras_sid2.generation.request import SampleRequest
from keras_sid2.io.atomic import drop_lines_after
from keras_sid2.parallel import processes

_SHOWN = 64  # images in the grid


class _BrokenOff(Exception):
    """Training is to stop."""


class MeasureSamples(keras.callbacks.Callback):
    """Draws the same images from the averaged weights at each log interval's end whose step `every` divides, and
    measures them.

    It is broken off between two pieces (a twentieth of a batch drawn, the features of a batch, a distance) when
    training is asked to stop (`model.stop_training`). An error in it is told, and training goes on. Of several
    processes each draws a part, or all draw together on a mesh of jax, and takes the features of its part; the first
    one gets them all, measures and writes.

    Args:
        measure: called with (batches of uint8 images, drawn=SampleRequest.describe(), progress=a function of (distances
            done, distances in all)), gives a `keras_sid2.evaluation.Measurement`; `functools.partial(evaluate,
            features=..., reference=...)`. In several processes also with shared=True and agree=True, as `evaluate`.
        every: steps.
        labels, num_images, generate_options: of the images, as `SampleRequest`.
        captions: what is written below them in grids; None: their labels.
        path: of a file that gets a line of JSON each time: step, seconds, metrics, measured, drawn.
        grids: folder that gets a grid of the first images each time, step_NNN.png; None: none.
        log: called with (step, metrics); for TensorBoard.
        note: called with a sentence that says what measuring cost, that it was broken off, or that it failed.
        max_share, getting_ready, clock: deprecated, without effect.
    """

    def __init__(
        self,
        measure: Callable,
        *,
        every: int,
        labels=None,
        num_images: int | None = None,
        generate_options: dict | None = None,
        captions: list[str] | None = None,
        path: str | os.PathLike,
        grids: str | os.PathLike | None = None,
        log: Callable[[int, dict], None] | None = None,
        note: Callable[[str], None] = print,
        max_share: float | None = None,
        getting_ready: float | None = None,
        clock: Callable[[], float] | None = None,
    ):
        super().__init__()
        if (max_share, getting_ready, clock) != (None, None, None):
            text = "max_share, getting_ready and clock do nothing: every and num_images say how much is measured."
            warnings.warn(text, DeprecationWarning, stacklevel=2)
        self.measure, self.every, self.labels, self.num_images = measure, every, labels, num_images
        self.generate_options, self.path = dict(generate_options or {}), pathlib.Path(path)
        self.grids, self.log, self.note = None if grids is None else pathlib.Path(grids), log, note
        self.captions = captions
        self._since, self._before = None, "training began"  # or the end of "the last one"

    def on_train_begin(self, logs=None):
        self._since = self._since or time.perf_counter()
        drop_lines_after(self.path, steps_done(self.model))

    def on_epoch_end(self, epoch, logs=None):
        step, loss = steps_done(self.model), float((logs or {}).get("loss", 0.0))
        if step % self.every or not math.isfinite(loss) or self.model.stop_training:
            return
        start, measuring = time.perf_counter(), f"Measuring samples at step {step}"
        try:
            measurement, shown = self._measured()
            if measurement is None:  # another process has it
                return
            seconds = time.perf_counter() - start
            self._write(step, seconds, measurement, shown)
            share = f"{100 * seconds / (start + seconds - self._since):.2g} % of the time since {self._before}"
            self.note(f"{measuring} took {seconds:.3g} s, {share}.")
        except _BrokenOff:
            seconds = time.perf_counter() - start
            self.note(f"{measuring} was broken off after {seconds:.3g} s: training is to stop.")
        except Exception as error:  # whatever it was, the training is worth more
            what = f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
            self.note(f"{measuring} failed ({what}); training goes on.")
        self._since, self._before = time.perf_counter(), "the last one"

    def _measured(self):
        """(the Measurement, the first images); None for the former but in the first process."""
        whole, shown = self._request(self.labels, self.num_images), []
        first, last = processes.share(whole.num_images, whole.batch_size)
        if backend.batch_shards() > 1:  # a batch is drawn by the devices of all processes
            batches = _within(whole.batches(), first, last)
        else:
            labels, number = None if self.labels is None else self.labels[first:last], whole.first_image + first
            given = self.generate_options.get("conditions") or {}
            own = {name: whole.conditions[name][first:last] for name in given}
            batches = self._request(labels, last - first, first_image=number, conditions=own).batches()
        together = {"shared": True, "agree": True} if processes.count() > 1 else {}
        passed = self._passed_on(batches, shown)
        measurement = self.measure(passed, drawn=whole.describe(), progress=self._look, **together)
        return measurement, np.concatenate(shown)[:_SHOWN]

    def _request(self, labels, count: int | None, **options) -> SampleRequest:
        options = {**self.generate_options, "progress": self._look, **options}
        return SampleRequest(self.model, labels, num_images=count, **options)

    def _passed_on(self, batches: Iterator[np.ndarray], shown: list[np.ndarray]) -> Iterator[np.ndarray]:
        """The same batches, the first of which are `shown`."""
        for batch in batches:
            if sum(map(len, shown)) < _SHOWN:
                shown.append(batch)
            yield batch
            self._look()

    def _look(self, *_):
        """Behind each piece."""
        if self.model.stop_training:
            raise _BrokenOff

    def _write(self, step: int, seconds: float, measurement, shown: np.ndarray):
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with open(self.path, "a") as file:
            file.write(json.dumps({"step": step, "seconds": round(seconds, 3), **dataclasses.asdict(measurement)}))
            file.write("\n")
        if self.grids is not None:
            write_grid(self.grids, step, shown, self.captions or self.labels)
        if self.log is not None:
            self.log(step, measurement.metrics)


def _within(batches: Iterable[np.ndarray], first: int, last: int) -> Iterator[np.ndarray]:
    """Of images in batches those with numbers first <= i < last; all batches are drawn."""
    begin = 0
    for images in batches:
        own = images[max(first - begin, 0) : max(last - begin, 0)]
        begin += len(images)
        if len(own):
            yield own
