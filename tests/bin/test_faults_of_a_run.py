"""A run that nothing can spoil: locks, damaged checkpoints, losses that are not finite, and its log of time."""

import json
import os
import signal
import subprocess
import sys
import time

import keras
import numpy as np
import pytest
from keras import ops
from run_helpers import run_in
from training_helpers import same_weights

from keras_sid2.bin.goodput import KINDS, Goodput, peak_of
from keras_sid2.bin.training_run import Skipped, TrainingRun
from keras_sid2.checkpoints import MODEL, checkpoint_step, checkpoints, corrupt_checkpoints
from keras_sid2.io.atomic import locked
from keras_sid2.training import find_preset

pytestmark = pytest.mark.usefixtures("tiny_digits")


@pytest.mark.backend_free
def test_a_second_process_in_a_work_directory_is_refused(data, tmp_path):
    run = run_in(data, tmp_path / "run")
    with locked(tmp_path / "run"):
        with pytest.raises(ValueError, match=rf"run is in use by process {os.getpid()} on .*, since"):
            run.train()
    assert not checkpoints(run.checkpoint_dir)
    run.train()  # free again


@pytest.mark.backend_free
def test_a_lock_ends_with_its_process(tmp_path):
    program = (
        "import sys, time\nfrom keras_sid2.io.atomic import locked\n"
        "with locked(sys.argv[1]):\n    print('held', flush=True)\n    time.sleep(60)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", program, tmp_path], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    with pytest.raises(ValueError, match=f"in use by process {process.pid}"), locked(tmp_path):
        pass
    process.kill()
    process.wait()
    with locked(tmp_path):
        pass


@pytest.mark.backend_free
def test_a_damaged_newest_checkpoint_is_named_and_the_run_ends_as_ever(data, tmp_path):
    whole = run_in(data, tmp_path / "whole").train()
    first = run_in(data, tmp_path / "run", steps=8)
    first.train()
    file = checkpoints(first.checkpoint_dir)[-1] / MODEL
    file.write_bytes(file.read_bytes()[:-100])
    again = run_in(data, tmp_path / "run")
    assert same_weights(again.train(), whole)
    log = again.console.export_text()
    assert "step_0000000008 is not sound: model.keras has" in log and "set aside" in log and "steps 4 to 12" in log
    assert [path.name for path in corrupt_checkpoints(again.checkpoint_dir)] == ["corrupt_step_0000000008"]


@pytest.mark.backend_free
def test_a_run_without_any_valid_checkpoint_does_not_begin_anew_by_itself(data, tmp_path):
    run_in(data, tmp_path, steps=4).train()
    for path in checkpoints(tmp_path / "checkpoints"):
        (path / MODEL).unlink()
    for _ in range(2):
        with pytest.raises(ValueError, match="No checkpoint in .* is valid"):
            run_in(data, tmp_path).train()


class Poisoned(TrainingRun):
    """A run in whose data the images of a batch, by its number, or the loss of its examples, are multiplied."""

    number, images, losses = 6, float("nan"), 1.0

    def load_or_make_model(self, newest):
        model = super().load_or_make_model(newest)
        corrupted = model.corrupted

        def grown(data, *arguments, **options):
            inputs = corrupted(data, *arguments, **options)
            return {**inputs, "weight": inputs["weight"] * data["grow"]}

        model.corrupted = grown
        return model

    def dataset(self, split, bad_records, *, start_step=0, **options):
        import tensorflow as tf

        numbers = tf.data.Dataset.range(start_step, 10**6)
        batches = super().dataset(split, bad_records, start_step=start_step, **options)

        def poisoned(number, batch):
            image = tf.cast(batch["image"], "float32") / 127.5 - 1.0
            images, losses = (
                tf.where(number == self.number, np.float32(factor), 1.0) for factor in (self.images, self.losses)
            )
            return {**batch, "image": images * image, "grow": tf.fill(tf.shape(batch["label"]), losses)}

        return tf.data.Dataset.zip(numbers, batches).map(poisoned)


@pytest.fixture
def poisoned(data, tmp_path):
    return lambda name="run", **changes: run_in(data, tmp_path / name, kind=Poisoned, **changes)


def test_a_loss_that_is_nan_stops_with_step_bin_and_last_checkpoint(poisoned):
    run = poisoned()
    with pytest.raises(FloatingPointError, match=r"loss is nan at training step 7, .*NaN.*step_0000000004\."):
        run.train()
    assert checkpoint_step(checkpoints(run.checkpoint_dir)[-1]) == 4


def test_or_goes_back_and_leaves_the_batch_out(poisoned, tmp_path):
    run = poisoned(on_nan="skip")
    model = run.train()
    assert json.loads((tmp_path / "run" / "skipped.json").read_text()) == [6]
    assert "The batch of step 7 is left out" in run.console.export_text()
    (tmp_path / "known").mkdir()
    (tmp_path / "known" / "skipped.json").write_text("[6]")
    known = poisoned("known")  # a run that leaves it out from the first never sees a NaN
    assert same_weights(known.train(), model)


@pytest.fixture
def exploding(poisoned, monkeypatch):
    for name, value in {"number": 26, "images": 1.0, "losses": 1e6}.items():
        monkeypatch.setattr(Poisoned, name, value)
    return lambda **changes: poisoned(log_every=5, checkpoint_every=10, steps=30, **changes)


@pytest.mark.backend_free
def test_a_loss_that_explodes_stops_with_step_bin_and_last_checkpoint(exploding):
    run = exploding()
    what = r"loss is .* at training step 27, .* times the .* in loss_logsnr_.*step_0000000020\."
    with pytest.raises(FloatingPointError, match=what):
        run.train()
    assert checkpoint_step(checkpoints(run.checkpoint_dir)[-1]) == 20


@pytest.mark.backend_free
def test_or_goes_back_from_it_too(exploding, tmp_path):
    run = exploding(on_nan="skip")
    run.train()
    assert json.loads((tmp_path / "run" / "skipped.json").read_text()) == [26]
    assert "The batch of step 27 is left out" in run.console.export_text()
    assert checkpoint_step(checkpoints(run.checkpoint_dir)[-1]) == 30


@pytest.mark.backend_free
def test_or_is_let_pass(exploding):
    run = exploding(explosion_factor=0.0)
    run.train()
    assert checkpoint_step(checkpoints(run.checkpoint_dir)[-1]) == 30


class Exploding(TrainingRun):
    """A run whose gradient is infinite at step 7, with a loss as ever."""

    def load_or_make_model(self, newest):
        model = super().load_or_make_model(newest)
        optimizer, clip = model.optimizer, model.optimizer._clip_gradients

        def exploding(gradients):
            grow = ops.where(ops.equal(optimizer.iterations, 6), np.float32("inf"), np.float32(1.0))
            return clip([g * grow for g in gradients])

        optimizer._clip_gradients = exploding
        return model


def test_nothing_is_saved_after_a_gradient_that_is_infinite(data, tmp_path):
    run = run_in(data, tmp_path, kind=Exploding, log_every=4)
    with pytest.raises(FloatingPointError, match="gradient_norm is (inf|nan) at training step 7"):
        run.train()
    assert [checkpoint_step(path) for path in checkpoints(run.checkpoint_dir)] == [4]


@pytest.mark.backend_free
def test_a_signal_before_the_first_step_stops_the_run(data, tmp_path):
    run = run_in(data, tmp_path, log_every=4)
    original = run.dataset

    def dataset(*arguments, **options):
        os.kill(os.getpid(), signal.SIGTERM)
        return original(*arguments, **options)

    run.dataset = dataset
    run.train()
    assert run.stopped.by == signal.SIGTERM
    assert [checkpoint_step(path) for path in checkpoints(run.checkpoint_dir)] == [1]


class Asked(TrainingRun):
    """A signal comes right behind the second step, before fit has what it made."""

    def load_or_make_model(self, newest):
        model, done = super().load_or_make_model(newest), []
        make = model.make_train_function

        def make_asking(force=False):
            make(force)
            step = model.train_function

            def asking(*given):
                result = step(*given)
                done.append(1)
                if len(done) == 2:
                    self.stopped.ask(signal.SIGINT)
                return result

            model.train_function = asking

        model.make_train_function = make_asking
        return model


def test_a_signal_in_the_midst_of_a_step_saves_that_step(data, tmp_path):
    run = run_in(data, tmp_path, kind=Asked, log_every=4)
    run.train()
    assert run.stopped.by == signal.SIGINT
    assert [checkpoint_step(path) for path in checkpoints(run.checkpoint_dir)] == [2]


@pytest.mark.backend_free
def test_checkpoints_of_an_earlier_version_are_not_passed_over(data, tmp_path):
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "step_0000000500.keras").write_bytes(b"old")
    with pytest.raises(ValueError, match="step_0000000500.keras is a checkpoint of an earlier version"):
        run_in(data, tmp_path).train()


@pytest.mark.backend_free
def test_a_list_of_what_is_skipped_keeps_the_batches_of_all_other_steps(tmp_path):
    skipped = Skipped(tmp_path / "skipped.json")
    for batch in (10, 6, 11):
        skipped.add(batch)
    again = Skipped(tmp_path / "skipped.json")
    assert [again.batch(step) for step in range(12)] == [0, 1, 2, 3, 4, 5, 7, 8, 9, 12, 13, 14]
    assert again.intervals(0, 12, 3) == [(0, 3, 2), (7, 3, 1), (12, 3, 1)] and again.intervals(6, 9, 3) == [(7, 3, 1)]
    assert again.intervals(0, 12, 12) == [(0, 6, 1), (7, 3, 1), (12, 3, 1)]
    for batch in range(20, 27):
        skipped.add(batch)
    with pytest.raises(FloatingPointError, match="10 batches were left out already"):
        skipped.add(100)
    (tmp_path / "skipped.json").write_text("{}x")
    with pytest.raises(ValueError, match="must be a list of batches"):
        Skipped(tmp_path / "skipped.json")


@pytest.mark.backend_free
def test_the_log_of_time_adds_up(data, tmp_path):
    start = time.perf_counter()
    run_in(data, tmp_path, eval_split="test", eval_every=4, sample_every=4, peak_tflops=0.001).train()
    elapsed = time.perf_counter() - start
    lines = [json.loads(line) for line in (tmp_path / "goodput.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [2, 4, 6, 8, 10, 12]
    for line in lines:
        shares = [line["training"], *(line[kind] for kind in KINDS)]
        assert sum(shares) == pytest.approx(1.0, abs=0.02) and min(shares) >= 0.0
        speed = 3 * find_preset("tiny_digits").cost.multiply_adds * line["images_per_second"]
        assert line["multiply_adds_per_second"] == pytest.approx(speed, rel=1e-4)
        assert 0 < line["loss"] < 10 and line["gradient_norm"] > 0
        assert line["share_of_peak"] == pytest.approx(2 * speed / 1e9, rel=1e-4)
    assert lines[0]["compiling"] > 0 and not any(line["compiling"] for line in lines[1:])
    assert lines[2]["sampling"] > 0 and lines[2]["saving"] > 0 and lines[2]["evaluating"] > 0
    nothing_saved, one_saved = (line["saving"] * line["seconds"] for line in lines[1:3])
    assert nothing_saved < one_saved and sum(line["seconds"] for line in lines) < elapsed


@pytest.mark.backend_free
def test_what_is_timed_keeps_every_hook(tmp_path):
    called, hooks = [], [name for name in dir(keras.callbacks.Callback) if name.startswith("on_")]
    timed = keras.callbacks.Callback()
    for name in hooks:
        setattr(timed, name, lambda *_, name=name, **__: called.append(name))
    goodput = Goodput(tmp_path / "goodput.jsonl", batch_size=1, multiply_adds=1, peak=None, log=None)
    for name in hooks:
        for callback in (timed, goodput.mark("saving")):
            getattr(callback, name)(0)
    assert called == hooks and goodput._spent["saving"] > 0.0


@pytest.mark.backend_free
def test_the_peak_of_a_device_is_that_of_its_kind():
    assert peak_of("TPU v5 lite", 4) == 4 * 197e12 and peak_of("TPU v5p", 1) == 459e12
    assert peak_of("NVIDIA H100 80GB HBM3", 1) == 989e12 and peak_of("cpu", 1) is None


@pytest.mark.backend_free
def test_wrong_settings_are_refused(data, tmp_path):
    for changes, sentence in (
        ({"on_nan": "ignore"}, "--on_nan must be stop or skip, got 'ignore'"),
        ({"explosion_factor": 1.0}, "--explosion_factor must be above 1, or 0 for never, got 1.0"),
        ({"peak_tflops": 0.0}, "--peak_tflops must be positive, got 0.0"),
    ):
        with pytest.raises(ValueError, match=sentence):
            run_in(data, tmp_path, **changes)
