"""What happens at the ends of a training run's log intervals: its callbacks, and the log that they write to."""

import functools
import time
from collections.abc import Callable

import keras
import numpy as np

import pipelines
from keras_sid2 import backend
from keras_sid2.backend import steps_done
from keras_sid2.bin import measuring
from keras_sid2.bin.common import ProgressLine
from keras_sid2.bin.goodput import KINDS, Goodput, peak_of
from keras_sid2.bin.run_context import RunContext
from keras_sid2.callbacks.measuring import MeasureSamples
from keras_sid2.callbacks.saving import SampleGrids, SaveCheckpoints, SaveSnapshots, training_goes_on
from keras_sid2.conditions import TextEmbedding
from keras_sid2.evaluation import evaluate
from keras_sid2.io.atomic import drop_lines_after
from keras_sid2.parallel import processes
from keras_sid2.training.guards import StopOnExplosion


class RunLog(ProgressLine):
    """The progress line, the trackers (--log_to), and the clock between them."""

    def __init__(self, run: RunContext, step: int):
        super().__init__(run.console, "train", run.settings.steps, step)
        self.trackers, self.failed = run.trackers, False
        self._bad_records, self.note = run.bad_records, run.note
        path, tflops = run.output / "goodput.jsonl", run.settings.peak_tflops
        peak = peak_of(backend.device_kind(), run.mesh.size) if tflops is None else tflops * 1e12
        drop_lines_after(path, step)
        known = {"batch_size": run.settings.batch_size, "multiply_adds": run.preset.cost.multiply_adds, "peak": peak}
        self.goodput = Goodput(path, **known, log=self._interval)
        self.trackers.begin(step)

    def _interval(self, step: int, metrics: dict[str, float], spent: dict):
        skipped = self._bad_records.count
        speed = {name: spent[name] for name in ("images_per_second", "waiting")}
        self.scalars("train", step, {**metrics, **speed, "bad_records": skipped})
        self.scalars("time", step, {kind: spent[kind] for kind in ("training", *KINDS)})
        told = [f"loss {metrics['loss']:.4f}", f"{spent['images_per_second']:.0f} images/s"]
        if spent["share_of_peak"] is not None:
            told.append(f"{100 * spent['share_of_peak']:.2g} % of peak")
        told.append(f"waiting for data {100 * spent['waiting']:.1f} %")
        told += [f"{kind} {100 * spent[kind]:.0f} %" for kind in KINDS[1:] if spent[kind] >= 0.005]
        told += [f"{skipped} bad records skipped"] if skipped else []
        self.say(step, "  ".join(told))

    def scalars(self, group: str, step: int, values: dict[str, float]):
        self.trackers.scalars(step, {f"{group}/{name}": value for name, value in values.items()})

    def measured(self, step: int, metrics: dict[str, float]):
        self.scalars("samples", step, metrics)
        told = "{frechet:.4g} ({frechet_low:.4g} to {frechet_high:.4g})".format(**metrics)
        self.note(f"step {step}: Frechet distance of samples {told}")

    def __exit__(self, *error):
        super().__exit__(*error)
        self.trackers.end(self.failed or error[0] is not None)


class FirstStep(keras.callbacks.Callback):
    """Says, once in a run, that its step is compiled now, and how long it took from its beginning until the first one
    was done."""

    def __init__(self, run: RunContext):
        super().__init__()
        self._run, self._begun, self._told = run, False, False

    def on_train_begin(self, logs=None):
        if not self._begun:
            self._begun = True
            how = "Compiling" if backend.name() != "torch" or backend.device_kind() != "cpu" else "Recording"
            never = self._run.settings.compile == "never"
            self._run.note("Doing the first step ..." if never else f"{how} the training step ...")

    def on_train_batch_end(self, batch, logs=None):
        if not self._told:
            self._told = True
            float((logs or {}).get("loss", 0.0))  # waits for the device
            self._run.note(f"first step after {time.perf_counter() - self._run.began:.1f} s")


class RunCallbacks:
    """Makes them for each fit of a run; what stops it, measures, and knows usual losses lives as long as the run."""

    def __init__(self, run: RunContext):
        self._run, self._settings = run, run.settings
        preset, factor = run.preset, run.settings.explosion_factor
        steps = run.settings.sample_steps or preset.num_steps
        self._sampling = {"num_steps": steps, "guidance": preset.guidance, "sampler": preset.sampler}
        self._measure = self._measuring() if run.settings.measure_every else None
        self._guards = [*([StopOnExplosion(factor)] if factor else []), FirstStep(run), run.stopped]

    def make(self, log: RunLog, waited: Callable[[], float]) -> list[keras.callbacks.Callback]:
        """In the order in which they run; `waited` gives the seconds that were waited for data since it was asked."""
        log.goodput.waited = waited
        settings, run = self._settings, self._run
        # Of others there are no pictures.
        draws = settings.sample_every and (run.preset.sample_shape[-1] in (1, 3) or run.preset.channels is not None)
        others = {  # saving early: what comes behind it may take long, or fail
            "snapshots": self._save_snapshots() if settings.snapshot_every else None,  # a checkpoint's step has its own
            "saving": self._save(log),
            "evaluating": Evaluate(run, log) if settings.eval_split else None,
            "sampling": self._sample_grids(log) if draws else None,
            "measuring": self._measure,
        }
        if self._measure is not None:
            self._measure.log = log.measured
        kinds = {"snapshots": "saving"}
        timed = [[c, log.goodput.mark(kinds.get(name, name))] for name, c in others.items() if c is not None]
        return [*self._guards, log.goodput, *sum(timed, [])]

    def release_model(self):
        """Before another one is made: there may be no room for two."""
        for callback in (*self._guards, *([self._measure] if self._measure else [])):
            callback.set_model(None)

    def _save(self, log: RunLog) -> SaveCheckpoints:
        settings, run = self._settings, self._run
        return SaveCheckpoints(
            run.checkpoint_dir,
            every=settings.checkpoint_every,
            keep=settings.keep_checkpoints,
            keep_every=settings.keep_every,
            about={"run": settings.defining()},
            note=run.note,
            log_checkpoint=log.trackers.checkpoint,
            sharded=settings.checkpoints == "sharded",
        )

    def _save_snapshots(self) -> SaveSnapshots:
        settings = self._settings
        how = {"every": settings.snapshot_every, "last": settings.steps, "dtype": settings.snapshot_dtype}
        return SaveSnapshots(self._run.output / "snapshots", **how, note=self._run.note)

    def _sample_grids(self, log: RunLog) -> SampleGrids:
        classes = min(self._run.num_classes or 0, 10)
        return SampleGrids(
            self._run.output / "samples",
            every=self._settings.sample_every,
            log_image=log.trackers.picture,
            note=self._run.note,
            **self._drawn_for(20 if classes else 16, classes, held_out=True),
        )

    def _drawn_for(self, count: int, classes: int, held_out: bool = False) -> dict:
        """Labels, number and options of samples: of `classes` in turn; of a model with other conditions for what the
        first examples have, labels and captions too, with `held_out` those of --eval_split, if there is one."""
        asked = {"labels": [i % classes for i in range(count)] if classes else None, "num_images": count}
        wanted = {name: c for name, c in self._run.preset.conditions.items() if name != "label"}
        if not wanted:
            return asked | {"generate_options": self._sampling}
        crop = "center" if self._settings.crop else None
        bad_records = pipelines.BadRecords(self._settings.max_bad_records)
        alike = {"process_index": 0, "process_count": 1}  # processes draw one grid, for the same examples
        split = (self._settings.eval_split if held_out else None) or self._settings.split
        batches = self._run.dataset(split, bad_records, training=False, crop=crop, **alike)
        batch = {name: values[:count] for name, values in next(batches.as_numpy_iterator()).items()}
        sample = batch.get("video", batch.get("image"))
        values = {name: c.check(name, sample if c.from_samples else batch[name]) for name, c in wanted.items()}
        conditions = {name: np.resize(v, (count, *v.shape[1:])) for name, v in values.items()}
        asked |= {"labels": np.resize(batch["label"], count).tolist()} if classes else {}
        if any(isinstance(condition, TextEmbedding) for condition in wanted.values()):
            asked |= {"captions": self._captions(split, len(sample), count)}
        return asked | {"generate_options": {**self._sampling, "conditions": conditions}}

    def _captions(self, split: str, there: int, count: int) -> list[str] | None:
        """Those of `count` samples, of the first ones in turn, of which a batch has `there`."""
        found = pipelines.read_captions(self._settings.data, there, split=split, data_dir=self._settings.data_dir)
        return [found[i % len(found)] for i in range(count)] if found else None

    def _measuring(self) -> MeasureSamples:
        """Its features are made, and its real images read."""
        settings, run = self._settings, self._run
        run.note("Reading the real images that samples are measured against.")
        real = measuring.open_images(
            settings.data,
            split=settings.split,
            data_dir=settings.data_dir,
            image_size=run.preset.sample_shape[-3:-1],
            crop="center" if settings.crop else None,
            max_bad_records=settings.max_bad_records,
            features=settings.measure_features,
        )
        how = settings.measure_features, settings.inception_weights, settings.measure_cache
        return MeasureSamples(
            functools.partial(evaluate, **measuring.measured_by(real, *how)),
            every=settings.measure_every,
            **self._drawn_for(settings.measure_images, run.num_classes or 0),
            path=run.output / "measurements.jsonl",
            grids=run.output / "measured",
            note=run.note,
        )


class Evaluate(keras.callbacks.Callback):
    """The loss of the averaged weights on another split, to the log."""

    def __init__(self, run: RunContext, log: RunLog):
        super().__init__()
        self._every, self._log = run.settings.eval_every, log
        crop = "center" if run.settings.crop else None
        bad_records = pipelines.BadRecords(run.settings.max_bad_records)
        # The devices of a mesh must divide every batch, so there the last one is left out if it is not full.
        options = {"crop": crop, "drop_remainder": run.mesh.batch_shards > 1}
        self._dataset = run.dataset(run.settings.eval_split, bad_records, training=False, **options)
        self._batches = None
        if processes.count() > 1:  # as many in each, also where bad records are left out
            self._batches, self._dataset = run.eval_batches, self._dataset.repeat()

    def on_epoch_end(self, epoch, logs=None):
        step = steps_done(self.model)
        if step % self._every == 0:
            with training_goes_on("Evaluating", self._log.note):
                values = self.model.evaluate(self._dataset, steps=self._batches, return_dict=True, verbose=0)
                self._log.scalars("eval", step, {name: float(value) for name, value in values.items()})
                self._log.note(f"step {step}: eval loss {float(values['loss']):.4f}")
