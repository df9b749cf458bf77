"""A training run in a work directory: what it is, how it starts or continues, and what it writes.

workdir/run.json               what defines the run, and a digest of its data; a start with others is refused
workdir/preset.json            the preset of the run, in words, with what --set made of it
workdir/config.py              a copy of the --config file, or what was proposed where there was none
workdir/checkpoints/           step_NNN/ (keras_sid2.checkpoints)
workdir/lock                   held by the process that trains there
workdir/samples/               step_NNN.png
workdir/tensorboard/           scalars and sample grids
workdir/measurements.jsonl     a line each time that samples were measured (--measure_every)
workdir/goodput.jsonl          a line a log interval: losses, speed, and where the time went
workdir/skipped.json           batches that were left out (--on_nan=skip)

Of several processes the first one writes all this, the checkpoints' parts aside; what the others would write goes into
a folder of their own that is thrown away.
"""

import contextlib
import json
import os
import pathlib
import tempfile
from collections.abc import Callable, Iterator

import keras
from rich.console import Console

import pipelines
from keras_sid2.backend import steps_done
from keras_sid2.bin import run_preset
from keras_sid2.bin.common import make_folder
from keras_sid2.bin.run_callbacks import RunCallbacks, RunLog
from keras_sid2.bin.run_context import RunContext
from keras_sid2.bin.signals import first_one_told
from keras_sid2.bin.train_settings import TrainSettings
from keras_sid2.checkpoints import (
    checkpoint_path,
    checkpoint_step,
    checkpoints,
    corrupt_checkpoints,
    load_model,
    newest_sound,
    remove_unfinished,
)
from keras_sid2.io.atomic import locked, write_json
from keras_sid2.parallel import processes
from keras_sid2.parallel.mesh import distributed
from keras_sid2.training import NonFiniteLoss, SiD2Model
from keras_sid2.training.preset import DATA_OPTIONS

_MOST_SKIPPED = 10  # more than that is no matter of single batches


class Skipped:
    """Batches that are left out (--on_nan=skip), by their numbers in the data's order, kept in a file of the workdir.

    Each step is trained on the next batch that is not left out; so a run that goes on, or is done again from the start,
    sees the same batches at the same steps.
    """

    def __init__(self, path: str | os.PathLike, output: str | os.PathLike | None = None):
        """Reads what is there; ValueError for a file that is no list of numbers.

        With `output` it is written there, under the same name: one of several processes has the file.
        """
        self.path = pathlib.Path(path)
        self._written = self.path if output is None else pathlib.Path(output) / self.path.name
        self.batches: list[int] = []
        if self.path.exists():
            try:
                self.batches = sorted({int(batch) for batch in json.loads(self.path.read_text())})
            except (ValueError, TypeError) as error:
                raise ValueError(f"{self.path} must be a list of batches as this program wrote it.") from error

    def batch(self, step: int) -> int:
        """The number of the batch that `step`, counted from 0, is trained on."""
        for left_out in self.batches:
            step += left_out <= step
        return step

    def runs(self, start: int, stop: int) -> list[tuple[int, int]]:
        """start to stop in pieces whose batches follow one another."""
        jumps = (batch - number for number, batch in enumerate(self.batches))
        edges = sorted({start, stop, *(step for step in jumps if start < step < stop)})
        return list(zip(edges, edges[1:], strict=False))

    def add(self, batch: int):
        """Leaves a batch out from now on; FloatingPointError if too many were left out already."""
        if len(self.batches) >= _MOST_SKIPPED:
            raise FloatingPointError(
                f"{_MOST_SKIPPED} batches were left out already ({self.path}): the data is not the cause."
            )
        self.batches = sorted({*self.batches, batch})
        write_json(self._written, self.batches)


class TrainingRun(RunContext):
    """Everything is checked when it is made; `train` then does the work."""

    def __init__(self, settings: TrainSettings, console: Console | None = None):
        super().__init__(settings, console)
        self._model: SiD2Model | None = None

    def load_or_make_model(self, newest: pathlib.Path | None) -> SiD2Model:
        """The model of a checkpoint, or a new one, compiled."""
        if newest is not None:
            return load_model(newest)
        keras.utils.set_random_seed(self.settings.seed)  # the initial weights
        dtype = None if self.settings.precision == "float32" else self.settings.precision
        model = self.preset.build(SiD2Model, seed=self.settings.seed, dtype=dtype)
        model.compile()
        return model

    def train(self) -> SiD2Model:
        """Trains up to settings.steps, from the newest sound checkpoint if there is one; returns the model.

        `stopped_by` is the number of the signal that ended it before that, or None. Raises ValueError if another
        process trains in the work directory, or there is no such mesh. The model is on the mesh of the settings.
        """
        with self._in_workdir(), distributed(self.mesh):
            newest = self._newest()
            if newest is not None and checkpoint_step(newest) >= self.settings.steps:
                self.note(f"{self.workdir}: {checkpoint_step(newest)} steps are done, nothing to train.")
                return self.load_or_make_model(newest)
            if processes.index() == 0:
                write_json(self.workdir / "run.json", {**self.settings.defining(), "data_digest": self.data_digest})
                run_preset.write(self.workdir, self.experiment, self.asked)
            model = self._train_from(newest)
            processes.wait_for_all()
            if steps_done(model) == self.settings.steps:
                self.stopped_by = None  # a signal behind the last step stopped nothing
            return model

    @contextlib.contextmanager
    def _in_workdir(self) -> Iterator[None]:
        """The first process has the work directory; others write elsewhere, and it is gone afterwards."""
        if processes.index() > 0:
            with tempfile.TemporaryDirectory(prefix="sid2_train_") as folder:
                self.output = pathlib.Path(folder)
                yield
            return
        make_folder("workdir", self.workdir)
        with locked(self.workdir, "wait for its end, or give another --workdir"):
            self._refuse_old_checkpoints()
            remove_unfinished(self.checkpoint_dir)
            yield

    def _newest(self) -> pathlib.Path | None:
        """The newest sound checkpoint, as the first process finds it; ValueError if others do not see it, too."""
        found = None
        if processes.index() == 0:
            found = newest_sound(self.checkpoint_dir, self.note, set_aside=True)
            if found is None and corrupt_checkpoints(self.checkpoint_dir):
                raise ValueError(
                    f"No checkpoint in {self.checkpoint_dir} is sound. To begin anew remove what was set aside there, "
                    "or give another --workdir."
                )
        step = processes.from_first(-1 if found is None else checkpoint_step(found))
        path = None if step < 0 else checkpoint_path(self.checkpoint_dir, step)
        if path is not None and not path.is_dir():
            raise ValueError(f"Process {processes.index()} has no {path}: --workdir must be on a disk that all share.")
        return path

    def _refuse_old_checkpoints(self):
        """ValueError for those of an earlier version, single files, lest the run begin anew beside them."""
        old = sorted(self.checkpoint_dir.glob("step_*.keras"))
        if old and not checkpoints(self.checkpoint_dir):
            raise ValueError(
                f"{old[-1]} is a checkpoint of an earlier version, which this one does not continue: give another "
                "--workdir. sid2-sample --weights takes the file."
            )

    def _train_from(self, newest: pathlib.Path | None) -> SiD2Model:
        skipped, callbacks = Skipped(self.workdir / "skipped.json", self.output), RunCallbacks(self)
        model = self.load_or_make_model(newest)
        step = steps_done(model)
        for sentence in self.remarks:
            self.note(sentence)
        self.note(
            f"{self.preset.name} on {keras.backend.backend()}: {model.network.count_params():,} parameters, "
            f"steps {step} to {self.settings.steps} of {self.settings.batch_size} images, in {self.workdir}"
        )
        with self._interruptible():
            while (lost := self._train(model, skipped, callbacks)) is not None:
                del model  # before another one is made: there may be no room for two
                self._model = None
                model = self._back_from(*lost, skipped)
        if steps_done(model) < self.settings.steps:
            self.note(f"Stopped and saved at step {steps_done(model)}; the same command continues.")
        return model

    def _train(self, model: SiD2Model, skipped: Skipped, callbacks: RunCallbacks) -> tuple[int, str] | None:
        """From the model's step to the last one, or to the first signal; the step and what happened if it was a NaN."""
        self._model, step = model, steps_done(model)
        with RunLog(self, step) as log:
            try:
                for first, last in skipped.runs(step, self.settings.steps):
                    for start, length, count in windows(first, last, self.settings.log_every):
                        if self.stopped_by is None:
                            options = {"batch": skipped.batch(start), "length": length, "count": count}
                            self._fit(model, lambda waited: callbacks.make(log, waited), **options)
            except NonFiniteLoss as error:
                return error.step, str(error)
        return None

    def _back_from(self, step: int, what: str, skipped: Skipped) -> SiD2Model:
        """The model of the last sound checkpoint, the batch that did it left out; raises unless that is asked for."""
        newest = self._newest()
        last = f"The last sound checkpoint is {newest}." if newest else "There is no checkpoint yet."
        if self.settings.on_nan == "stop":
            raise FloatingPointError(f"{what} {last}")
        skipped.add(skipped.batch(step - 1))
        what = what.partition(": training stopped")[0] + "."
        self.note(f"{what} {last} The batch of step {step} is left out, and training goes on from there.")
        return self.load_or_make_model(newest)

    def _fit(self, model: SiD2Model, make_callbacks: Callable, *, batch: int, length: int, count: int):
        """`count` windows of `length` steps, on the batches from number `batch`."""
        settings = self.settings
        order = {"flip": settings.flip, "crop": settings.crop, "seed": settings.seed, "start_step": batch}
        order["min_crop"] = self.preset.data.get("min_crop", DATA_OPTIONS["min_crop"])
        dataset, meter = pipelines.measure_wait(self.dataset(settings.split, self.bad_records, **order))
        callbacks = make_callbacks(meter.take)
        try:
            model.fit(dataset, epochs=count, steps_per_epoch=length, verbose=0, callbacks=callbacks)
        except Exception as error:
            stopped = self.bad_records.stopped
            if stopped is None or stopped.shard not in str(error):
                raise
            raise stopped from None  # TensorFlow's error wraps the sentence in the names of its nodes

    def _interruptible(self) -> contextlib.AbstractContextManager:
        """The first Ctrl-C or SIGTERM finishes the step and saves, the second one ends at once."""
        return first_one_told("Stopping after this step; again to end at once without saving.", self._stop)

    def _stop(self, number: int):
        self.asked_by = number
        if processes.count() == 1:  # several agree on a step first
            self.stopped_by = number
            if self._model is not None:
                self._model.stop_training = True


def windows(start: int, stop: int, length: int) -> list[tuple[int, int, int]]:
    """(start, length, count) of runs of equal windows that end at multiples of `length`, and at `stop`."""
    runs = []
    if start % length and start < stop:
        first = min(length - start % length, stop - start)
        runs.append((start, first, 1))
        start += first
    if (stop - start) // length:
        runs.append((start, length, (stop - start) // length))
    if (stop - start) % length:
        runs.append((stop - (stop - start) % length, (stop - start) % length, 1))
    return runs
