"""A training run in a work directory: what it is, how it starts or continues, and what it writes.

workdir/run.json               what defines the run, and a digest of its data, wherever they lie; a second start with
                               others is refused
workdir/checkpoints/           step_NNN/ (training.checkpoints)
workdir/lock                   held by the process that trains there
workdir/samples/               step_NNN.png
workdir/tensorboard/           scalars and sample grids
workdir/measurements.jsonl     a line each time that samples were measured (--measure_every); beside it
                               measurements.time.json: how much of the time that took
workdir/goodput.jsonl          a line a window: losses, speed, and where the time went
workdir/skipped.json           batches that were left out (--on_nan=skip)

Of several processes the first one writes all this, the checkpoints' parts aside; what the others would write goes into
a folder of their own that is thrown away.
"""

import contextlib
import json
import pathlib
import tempfile
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import keras
from rich.console import Console

import pipelines
from keras_sid2.backend import steps_done
from keras_sid2.bin.common import check_folder, make_folder
from keras_sid2.bin.run_callbacks import RunCallbacks
from keras_sid2.bin.run_data import data_digest, other_data, read_run
from keras_sid2.bin.run_log import RunLog
from keras_sid2.bin.signals import first_one_told
from keras_sid2.bin.skipping import Skipped
from keras_sid2.bin.train_settings import TrainSettings
from keras_sid2.checkpoints import (
    checkpoint_path,
    checkpoint_step,
    checkpoints,
    load_model,
    newest_sound,
    remove_unfinished,
    unsound,
)
from keras_sid2.io.atomic import locked, written_whole
from keras_sid2.parallel import processes
from keras_sid2.parallel.mesh import distributed
from keras_sid2.parallel.rules import Mesh
from keras_sid2.training import NonFiniteLoss, SiD2Model

if TYPE_CHECKING:
    import tensorflow as tf


class TrainingRun:
    """Everything is checked when it is made; `train` then does the work."""

    def __init__(self, settings: TrainSettings, console: Console | None = None):
        self.console = console or Console(stderr=True, quiet=processes.index() > 0)
        self.settings, self.preset = settings.resolved()
        self._rounded = self.settings.rounded_from(settings)
        check_folder("workdir", settings.workdir)
        self.workdir = pathlib.Path(settings.workdir)
        self.data_digest = None
        self.mesh = Mesh() if settings.mesh is None else Mesh.parse(settings.mesh)
        self._check_data(settings.split)
        if settings.eval_split:
            self.eval_batches = self._full_batches(self._check_data(settings.eval_split))
        self.bad_records = pipelines.BadRecords(self.settings.max_bad_records)
        self._check_same_run()
        self._check_processes()
        self.output = self.workdir
        self.agreement = processes.Agreement()
        self.asked_by: int | None = None
        self.stopped_by: int | None = None
        self._model: SiD2Model | None = None

    @property
    def checkpoint_dir(self) -> pathlib.Path:
        return self.workdir / "checkpoints"

    def _check_same_run(self):
        """ValueError if the work directory belongs to a run that other settings, or other data, define."""
        self.data_digest = data_digest(self.settings)
        path = self.workdir / "run.json"
        if not path.exists():
            if checkpoints(self.checkpoint_dir):
                raise ValueError(f"{self.workdir} has checkpoints but no run.json: give another --workdir.")
            return
        now = self.settings.defining()
        # What a run of before did not say, as it had no such flag, it did as the preset says.
        unsaid = {name: now[name] if name in TrainSettings.OF_RECIPE else TrainSettings.default(name) for name in now}
        before = unsaid | read_run(path)
        changed = [f"--{k}={now[k]} (there: {before[k]})" for k in now if k != "data" and before[k] != now[k]]
        if other := other_data(self.settings, self.data_digest, before):
            changed.append(other)
        self.data_digest = self.data_digest or before.get("data_digest")
        if changed:
            raise ValueError(
                f"{self.workdir} holds a run with other settings: {', '.join(changed)}. "
                "Give the same flags to continue it, or another --workdir."
            )

    def _full_batches(self, data: pipelines.DatasetDescription) -> int | None:
        """How many `data` has on a mesh, which takes no others; ValueError if that is none, or not known."""
        if self.mesh.batch_shards == 1:
            return None
        wanted, there = self.settings.batch_size, data.num_examples
        if there is None or there < wanted:
            has = "does not say how many images it has" if there is None else f"has {there}"
            raise ValueError(f"On a mesh --eval_split needs a full batch of {wanted} images, and {data.split} {has}.")
        return there // wanted

    def _check_data(self, split: str) -> pipelines.DatasetDescription:
        """What the data is; ValueError if it does not fit the preset."""
        missing = self.settings.max_bad_records > 0
        data = pipelines.describe(
            self.settings.data, split=split, data_dir=self.settings.data_dir, missing_shards=missing
        )
        shape, classes = tuple(self.preset.network["image_shape"]), self.preset.network["num_classes"]
        cropped = self.settings.crop is not None or None in data.image_shape
        fits = tuple(data.image_shape) == shape or (cropped and data.image_shape[2] == shape[2])
        if not fits or data.num_frames or (classes and data.num_classes != classes):
            kind = f"clips of {data.num_frames} frames" if data.num_frames else "images"
            what = f"{kind} {tuple(data.image_shape)} of {data.num_classes or 'no'} classes"
            raise ValueError(
                f"--preset={self.preset.name} is for images {shape} of {classes or 'no'} classes, and "
                f"--data={self.settings.data} has {what}."
            )
        return data

    def _check_processes(self):
        """ValueError for what several processes cannot do, or one would do alone."""
        count = processes.count()
        if count == 1:
            return
        if self.settings.mesh is None:
            raise ValueError(f"{count} processes train together on a --mesh, such as data:{count}; got none.")
        if self.settings.measure_every:
            raise ValueError(f"--measure_every is for one process, got {count}: use sid2-evaluate on the checkpoints.")
        if self.settings.batch_size % count:
            raise ValueError(
                f"--batch_size must be divisible by the {count} processes, got {self.settings.batch_size}."
            )

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
                with written_whole(self.workdir / "run.json") as temporary:
                    about = {**self.settings.defining(), "data_digest": self.data_digest}
                    temporary.write_text(json.dumps(about, indent=2) + "\n")
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
            if found is None and unsound(self.checkpoint_dir):
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
        for sentence in self._rounded:
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

    def note(self, text: str):
        self.console.print(text, highlight=False, soft_wrap=True)

    def _fit(self, model: SiD2Model, make_callbacks: Callable, *, batch: int, length: int, count: int):
        """`count` windows of `length` steps, on the batches from number `batch`."""
        settings = self.settings
        order = {"flip": settings.flip, "crop": settings.crop, "seed": settings.seed, "start_step": batch}
        dataset, meter = pipelines.measure_wait(self.dataset(settings.split, self.bad_records, **order))
        callbacks = make_callbacks(meter.take)
        try:
            model.fit(dataset, epochs=count, steps_per_epoch=length, verbose=0, callbacks=callbacks)
        except Exception as error:
            stopped = self.bad_records.stopped
            if stopped is None or stopped.shard not in str(error):
                raise
            raise stopped from None  # TensorFlow's error wraps the sentence in the names of its nodes

    def dataset(self, split: str, bad_records: pipelines.BadRecords, **options) -> "tf.data.Dataset":
        """Batches of one split for this preset; `options` as `pipelines.make_dataset`."""
        return pipelines.make_dataset(
            self.settings.data,
            split=split,
            data_dir=self.settings.data_dir,
            batch_size=self.settings.batch_size // processes.count(),
            process_index=processes.index(),
            process_count=processes.count(),
            image_size=tuple(self.preset.network["image_shape"][:2]),
            max_bad_records=bad_records,
            **options,
        )

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
