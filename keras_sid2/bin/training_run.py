"""A training run in a work directory: what it is, how it starts or continues, and what it writes.

workdir/run.json, preset.json, config.py   what it is (run_identity.py); a start with other settings is refused
workdir/checkpoints/           step_NNN/ (keras_sid2.checkpoints)
workdir/snapshots/             step_NNN.npz, power-function averages (--ema_widths); none is ever thrown away
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
import functools
import itertools
import json
import pathlib
import tempfile
from collections.abc import Callable, Iterator

import keras
import numpy as np

import pipelines
from keras_sid2 import checkpoints
from keras_sid2.backend import steps_done
from keras_sid2.bin.common import make_folders
from keras_sid2.bin.compilation_cache import runs_eagerly
from keras_sid2.bin.run_callbacks import RunCallbacks, RunLog
from keras_sid2.bin.run_context import RunContext
from keras_sid2.bin.run_identity import write_run
from keras_sid2.bin.signals import first_one_told
from keras_sid2.io.atomic import locked, write_json
from keras_sid2.parallel import processes
from keras_sid2.parallel.mesh import distributed
from keras_sid2.training import NonFiniteLoss, SiD2Model
from keras_sid2.training.preset import DATA_OPTIONS

_WHITENED_BY = 1024  # examples: ten thousand tokens, for some hundred directions
_MOST_SKIPPED = 10  # more than that is no matter of single batches


class Skipped:
    """Batches that are left out (--on_nan=skip), by their numbers in the data's order, kept in a file of the workdir.

    Each step is trained on the next batch that is not left out; so a run that goes on, or is done again from the start,
    sees the same batches at the same steps. ValueError for a file that is no list of numbers.
    """

    def __init__(self, path: pathlib.Path, written: pathlib.Path | None = None):
        """With `written` it is written there: of several processes one has the file."""
        self.path, self._written, self.batches = path, written or path, []
        if path.exists():
            try:
                self.batches = sorted({int(batch) for batch in json.loads(path.read_text())})
            except (ValueError, TypeError) as error:
                raise ValueError(f"{path} must be a list of batches as this program wrote it.") from error

    def batch(self, step: int) -> int:
        """The number of the batch that `step`, counted from 0, is trained on."""
        for left_out in self.batches:
            step += left_out <= step
        return step

    def intervals(self, start: int, stop: int, length: int) -> list[tuple[int, int, int]]:
        """(first batch, steps of each, count) of equal log intervals whose batches follow one another.

        They end at multiples of `length`, at `stop`, and before a batch that is left out.
        """
        jumps = (batch - number for number, batch in enumerate(self.batches))
        multiples = range(start - start % length + length, stop, length)
        edges = sorted({start, stop, *multiples, *(step for step in jumps if start < step < stop)})
        found = []
        for begin, end in itertools.pairwise(edges):
            batch, steps = self.batch(begin), end - begin
            first, size, count = found[-1] if found else (None, 0, 0)
            if size == steps and batch == first + size * count:
                found[-1] = (first, size, count + 1)
            else:
                found.append((batch, steps, 1))
        return found

    def add(self, batch: int):
        """Leaves a batch out from now on; FloatingPointError if too many were left out already."""
        if len(self.batches) >= _MOST_SKIPPED:
            told = f"{_MOST_SKIPPED} batches were left out already ({self.path})"
            raise FloatingPointError(f"{told}: the data is not the cause.")
        self.batches = sorted({*self.batches, batch})
        write_json(self._written, self.batches)


class TrainingRun(RunContext):
    """Everything is checked when it is made; `train` then does the work.

    `stopped.by` is the number of the signal that ended it before its last step, or None.
    """

    def load_or_make_model(self, newest: pathlib.Path | None) -> SiD2Model:
        """The model of a checkpoint, or a new one, compiled."""
        model = self._new_model() if newest is None else checkpoints.load_model(newest)
        model.network.run_eagerly = runs_eagerly(self.settings.compile)
        return model

    def _new_model(self) -> SiD2Model:
        keras.utils.set_random_seed(self.settings.seed)  # the initial weights
        dtype = None if self.settings.precision == "float32" else self.settings.precision
        model = self.preset.build(SiD2Model, seed=self.settings.seed, dtype=dtype)
        if self.settings.init_from is not None:
            self.note(f"Begun with {self.settings.init_from}.\n{self.settings.initial_weights.give_to(model)}")
        self._whiten_texts(model.network)
        model.compile()
        return model

    def _whiten_texts(self, network):
        """Of a network that whitens a text which it never read: by those of examples, the same in all processes."""
        known = {} if self.settings.init_from is None else self.settings.initial_weights.described.conditions
        wanted = {name for name, kind in self.preset.conditions.items() if getattr(kind, "whitened", False)}
        texts = [*(wanted - {*known})]
        if not texts or getattr(network, "whitening", None) is None:
            return
        self.note("Reading the texts of some examples, to whiten tokens.")
        settings, bad_records = self.settings, pipelines.BadRecords(self.settings.max_bad_records)
        order = {"crop": settings.crop, "seed": settings.seed, "batch_size": settings.batch_size}
        order |= {"process_index": 0, "process_count": 1}
        batches = self.dataset(settings.split, bad_records, **order).take(-(-_WHITENED_BY // settings.batch_size))
        with _bad_records_told(bad_records):
            values = [batch[texts[0]] for batch in batches.as_numpy_iterator()]
        network.adapt_text(np.concatenate(values))

    def train(self) -> SiD2Model:
        """Trains up to settings.steps, from the newest valid checkpoint if there is one; returns the model.

        Raises ValueError if another process trains in the work directory, or there is no such mesh.
        """
        with distributed(self.mesh), self._in_workdir():  # a mesh that cannot be leaves no folder behind
            newest = self._newest()
            if newest is not None and self.settings.smoke:
                told = f"{self.workdir} holds what --smoke trained before, which would not be tried anew"
                raise ValueError(f"{told}: remove it, or give another --workdir.")
            if newest is not None and checkpoints.checkpoint_step(newest) >= self.settings.steps:
                self.note(f"{self.workdir}: {checkpoints.checkpoint_step(newest)} steps are done, nothing to train.")
                return self.load_or_make_model(newest)
            if processes.index() == 0:
                write_run(self)
            model = self._train_from(newest)
            processes.wait_for_all()
            if steps_done(model) == self.settings.steps:
                self.stopped.by = None  # a signal behind the last step stopped nothing
            return model

    @contextlib.contextmanager
    def _in_workdir(self) -> Iterator[None]:
        """The first process has the work directory; others write elsewhere, and it is gone afterwards."""
        if processes.index() > 0:
            with tempfile.TemporaryDirectory(prefix="sid2_train_") as folder:
                self.output = pathlib.Path(folder)
                yield
            return
        make_folders("workdir", self.workdir, self.workdir)
        with locked(self.workdir, "wait for its end, or give another --workdir"):
            old = sorted(self.checkpoint_dir.glob("step_*.keras"))
            if old and not checkpoints.checkpoints(self.checkpoint_dir):  # lest the run begin anew beside them
                use = "sid2-sample --weights takes it, a run needs another --workdir"
                raise ValueError(f"{old[-1]} is a checkpoint of an earlier version: {use}.")
            checkpoints.remove_unfinished(self.checkpoint_dir)
            yield

    def _newest(self) -> pathlib.Path | None:
        """The newest valid checkpoint, as the first process finds it; ValueError if others do not see it, too."""
        found = None
        if processes.index() == 0:
            found = checkpoints.newest_sound(self.checkpoint_dir, self.note, set_aside=True)
            if found is None and checkpoints.corrupt_checkpoints(self.checkpoint_dir):
                advice = "remove what was set aside there, or give another --workdir"
                raise ValueError(f"No checkpoint in {self.checkpoint_dir} is valid: {advice}.")
        step = processes.from_first(-1 if found is None else checkpoints.checkpoint_step(found))
        path = None if step < 0 else checkpoints.checkpoint_path(self.checkpoint_dir, step)
        if path is not None and not path.is_dir():
            raise ValueError(f"Process {processes.index()} has no {path}: --workdir must be on a disk that all share.")
        return path

    def _train_from(self, newest: pathlib.Path | None) -> SiD2Model:
        name = "skipped.json"
        skipped, callbacks = Skipped(self.workdir / name, self.output / name), RunCallbacks(self)
        model = self.load_or_make_model(newest)
        self.note_remarks()
        self.note(
            f"{self.preset.name} on {keras.backend.backend()}: {model.network.count_params():,} parameters, steps "
            f"{steps_done(model)} to {self.settings.steps} of {self.settings.batch_size} images, in {self.workdir}"
        )
        with first_one_told("Stopping after this step; again to end at once without saving.", self.stopped.ask):
            while (lost := self._train(model, skipped, callbacks)) is not None:
                del model
                callbacks.release_model()
                model = self._back_from(lost, skipped)
        if steps_done(model) < self.settings.steps:
            self.note(f"Stopped and saved at step {steps_done(model)}; the same command continues.")
        return model

    def _train(self, model: SiD2Model, skipped: Skipped, callbacks: RunCallbacks) -> tuple[int, str] | None:
        """From the model's step to the last one, or to the first signal; the step and what happened if it was a NaN."""
        step = steps_done(model)
        with RunLog(self, step) as log:
            try:
                for batch, length, count in skipped.intervals(step, self.settings.steps, self.settings.log_every):
                    if self.stopped.by is None:
                        self._fit(model, functools.partial(callbacks.make, log), batch, length, count)
            except NonFiniteLoss as error:
                log.failed = True
                return error.step, str(error)  # and not the error, whose traceback holds the model
        return None

    def _back_from(self, lost: tuple[int, str], skipped: Skipped) -> SiD2Model:
        """The model of the last valid checkpoint, the batch that did it left out; raises unless that is asked for."""
        (step, what), newest = lost, self._newest()
        last = f"The last valid checkpoint is {newest}." if newest else "There is no checkpoint yet."
        if self.settings.on_nan == "stop":
            raise FloatingPointError(f"{what} {last}")
        skipped.add(skipped.batch(step - 1))
        what = what.partition(": training stopped")[0] + "."
        self.note(f"{what} {last} The batch of step {step} is left out, and training goes on from there.")
        return self.load_or_make_model(newest)

    def _fit(self, model: SiD2Model, make_callbacks: Callable, batch: int, length: int, count: int):
        """`count` log intervals of `length` steps, on the batches from number `batch`."""
        settings = self.settings
        order = {"flip": settings.flip, "crop": settings.crop, "seed": settings.seed, "start_step": batch}
        order["min_crop"] = self.preset.data.get("min_crop", DATA_OPTIONS["min_crop"])
        dataset, meter = pipelines.measure_wait(self.dataset(settings.split, self.bad_records, **order))
        options = {"epochs": count, "steps_per_epoch": length, "callbacks": make_callbacks(meter.take)}
        with _bad_records_told(self.bad_records):
            model.fit(dataset, verbose=0, **options)


@contextlib.contextmanager
def _bad_records_told(bad_records: pipelines.BadRecords) -> Iterator[None]:
    """Raises what stopped reading: TensorFlow's error wraps the sentence in the names of its nodes."""
    try:
        yield
    except Exception as error:
        stopped = bad_records.stopped
        if stopped is None or stopped.shard not in str(error):
            raise
        raise stopped from None
