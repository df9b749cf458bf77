"""What happens at the ends of a training run's log intervals: its callbacks, and the log that they write to."""

import functools
import signal
from collections.abc import Callable

import keras
from tensorboardX import SummaryWriter

import pipelines
from keras_sid2 import backend
from keras_sid2.backend import steps_done
from keras_sid2.bin import measuring
from keras_sid2.bin.common import ProgressLine
from keras_sid2.bin.goodput import KINDS, Goodput, peak_of
from keras_sid2.bin.run_context import RunContext
from keras_sid2.callbacks.measuring import MeasureSamples
from keras_sid2.callbacks.saving import SampleGrids, SaveCheckpoints, training_goes_on
from keras_sid2.evaluation import evaluate
from keras_sid2.io.atomic import drop_lines_after
from keras_sid2.parallel import processes
from keras_sid2.training.guards import StopOnExplosion


class RunLog:
    """The progress line, TensorBoard, and the clock between them."""

    def __init__(self, run: RunContext, step: int):
        self._writer = SummaryWriter(logdir=str(run.output / "tensorboard"), purge_step=step + 1 if step else None)
        self._line = ProgressLine(run.console, "train", run.settings.steps)
        self._line.advance_to(step)
        self._console = run.console
        self._bad_records = run.bad_records
        path, tflops = run.output / "goodput.jsonl", run.settings.peak_tflops
        peak = peak_of(backend.device_kind(), run.mesh.size) if tflops is None else tflops * 1e12
        drop_lines_after(path, step)
        known = {"batch_size": run.settings.batch_size, "multiply_adds": run.preset.cost.multiply_adds, "peak": peak}
        self.goodput = Goodput(path, **known, log=self._interval)

    def _interval(self, step: int, metrics: dict[str, float], spent: dict):
        skipped = self._bad_records.count
        told = {name: spent[name] for name in ("images_per_second", "waiting")} | {"bad_records": skipped}
        self.scalars(step, {f"train/{name}": value for name, value in {**metrics, **told}.items()})
        self.scalars(step, {f"time/{kind}": spent[kind] for kind in ("training", *KINDS)})
        told = [f"loss {metrics['loss']:.4f}", f"{spent['images_per_second']:.0f} images/s"]
        if spent["share_of_peak"] is not None:
            told.append(f"{100 * spent['share_of_peak']:.2g} % of peak")
        told.append(f"waiting for data {100 * spent['waiting']:.1f} %")
        told += [f"{kind} {100 * spent[kind]:.0f} %" for kind in KINDS[1:] if spent[kind] >= 0.005]
        told += [f"{skipped} bad records skipped"] if skipped else []
        self._line.say(step, "  ".join(told))

    def scalars(self, step: int, values: dict[str, float]):
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def measured(self, step: int, metrics: dict[str, float]):
        self.scalars(step, {f"samples/{name}": value for name, value in metrics.items()})
        told = "{frechet:.4g} ({frechet_low:.4g} to {frechet_high:.4g})".format(**metrics)
        self.note(f"step {step}: Frechet distance of samples {told}")

    def image(self, name: str, picture, step: int):
        self._writer.add_image(name, picture, step, dataformats="HWC")

    def note(self, text: str):
        self._console.print(text, highlight=False)

    def __enter__(self):
        self._line.__enter__()
        return self

    def __exit__(self, *error):
        self._line.__exit__(*error)
        self._writer.close()


class RunCallbacks:
    """Makes them for each fit of a run; what measures samples, and what knows usual losses, live as long as the run."""

    def __init__(self, run: RunContext):
        self._run, self._settings = run, run.settings
        self._measure = self._measuring_samples() if run.settings.measure_every else None
        factor = self._settings.explosion_factor
        self._guards = [StopOnExplosion(factor)] if factor else []

    def make(self, log: RunLog, waited: Callable[[], float]) -> list[keras.callbacks.Callback]:
        """In the order in which they run; `waited` gives the seconds that were waited for data since it was asked."""
        log.goodput.waited = waited
        others = {  # saving first: what comes behind it may take long, or fail
            "saving": self._save(),
            "evaluating": Evaluate(self._run, log) if self._settings.eval_split else None,
            "sampling": self._sample_grids(log) if self._run.draws_pictures else None,
            "measuring": self._measure,
        }
        if self._measure is not None:
            self._measure.log = log.measured
        timed = [[callback, log.goodput.mark(kind)] for kind, callback in others.items() if callback is not None]
        return [*self._guards, _StopAsked(self._run), log.goodput, *sum(timed, [])]

    def _save(self) -> SaveCheckpoints:
        settings, run = self._settings, self._run
        return SaveCheckpoints(
            run.checkpoint_dir,
            every=settings.checkpoint_every,
            keep=settings.keep_checkpoints,
            keep_every=settings.keep_every,
            about={"run": settings.defining()},
            note=run.note,
            sharded=settings.checkpoints == "sharded",
        )

    def _sample_grids(self, log: RunLog) -> SampleGrids:
        classes = self._run.num_classes
        return SampleGrids(
            self._run.output / "samples",
            every=self._settings.sample_every,
            labels=[i % min(classes, 10) for i in range(20)] if classes else None,
            num_images=None if classes else 16,
            generate_options=self._sampling(),
            log_image=log.image,
            note=self._run.note,
        )

    def _measuring_samples(self) -> MeasureSamples:
        settings, run = self._settings, self._run
        classes = run.num_classes
        return MeasureSamples(
            self._measuring(),
            every=settings.measure_every,
            labels=[i % classes for i in range(settings.measure_images)] if classes else None,
            num_images=settings.measure_images,
            generate_options=self._sampling(),
            path=run.output / "measurements.jsonl",
            grids=run.output / "measured",
            note=run.note,
        )

    def _measuring(self) -> Callable:
        """The `measure` of MeasureSamples; its features are made, and its real images read."""
        settings, run = self._settings, self._run
        run.note("Reading the real images that samples are measured against.")
        real = measuring.open_images(
            settings.data,
            split=settings.split,
            data_dir=settings.data_dir,
            image_size=run.preset.sample_shape[-3:-1],
            crop="center" if settings.crop else None,
            max_bad_records=settings.max_bad_records,
        )
        features = measuring.make_features(settings.measure_features, real, settings.inception_weights)
        reference = measuring.make_reference(real, features, settings.measure_cache)
        return functools.partial(evaluate, features=features, reference=reference)

    def _sampling(self) -> dict:
        """How samples are drawn while training goes on."""
        preset = self._run.preset
        steps = self._settings.sample_steps or preset.num_steps
        return {"num_steps": steps, "guidance": preset.guidance, "sampler": preset.sampler}


class _StopAsked(keras.callbacks.Callback):
    """Stops fit when a signal came; also one that came before fit began, which forgets what was asked before."""

    def __init__(self, run: RunContext):
        super().__init__()
        self._run = run

    def on_train_begin(self, logs=None):
        self.model.stop_training = self._run.stopped_by is not None

    def on_train_batch_end(self, batch, logs=None):
        if self._run.agreement.stop(self._run.asked_by is not None):
            self._run.stopped_by = self._run.asked_by or signal.SIGTERM  # that came to another process
            self.model.stop_training = True


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
                self._evaluate(step)

    def _evaluate(self, step: int):
        values = self.model.evaluate(self._dataset, steps=self._batches, return_dict=True, verbose=0)
        self._log.scalars(step, {f"eval/{name}": float(value) for name, value in values.items()})
        self._log.note(f"step {step}: eval loss {float(values['loss']):.4f}")
