"""sid2-train: a run on real TFRecords, its files, its continuation, its refusals."""

import dataclasses
import json
import os
import re
import shutil
import signal

import numpy as np
import pytest
from helpers import BACKEND, to_numpy
from rich.console import Console

import keras_sid2
from keras_sid2.bin.train_settings import TrainSettings
from keras_sid2.bin.training_run import Skipped, TrainingRun
from keras_sid2.checkpoints import checkpoint_step, checkpoints
from keras_sid2.evaluation import Features
from keras_sid2.training import Preset, find_preset, preset, register_preset


@pytest.fixture(scope="module", autouse=True)
def small_digits():
    """sid2_digits with its levels shrunken, as a preset for the tests of this file."""
    full = find_preset("sid2_digits")
    levels = [{**level, "channels": 8, "blocks": 1, "head_dim": None} for level in full.network["levels"]]
    small = dataclasses.replace(
        full, name="small_digits", network={**full.network, "levels": levels, "embedding_dim": 16}, num_steps=4
    )
    register_preset(small)
    yield small
    del preset._REGISTRY["small_digits"]


def settings(data, workdir, **changes) -> TrainSettings:
    small = {"preset": "small_digits", "data": data, "workdir": str(workdir), "batch_size": 32, "steps": 12}
    every = {"log_every": 4, "checkpoint_every": 4, "sample_every": 8, "eval_every": 8}
    return TrainSettings(**{**small, **every, **changes})


def train(*args, **changes):
    console = Console(record=True, width=200, quiet=False, file=open("/dev/null", "w"))
    model = TrainingRun(settings(*args, **changes), console).train()
    return model, console.export_text()


def weights(model):
    return [to_numpy(v.value) for v in [*model.trainable_variables, *model.optimizer.variables]]


@pytest.fixture(scope="module")
def finished(data, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("run") / "new" / "folder"
    return workdir, *train(data, workdir, eval_split="test")


def test_it_writes_checkpoints_samples_and_tensorboard(finished):
    workdir, model, _ = finished
    assert [checkpoint_step(p) for p in checkpoints(workdir / "checkpoints")] == [4, 8, 12]
    assert [p.name for p in (workdir / "samples").iterdir()] == ["step_0000000008.png"]
    assert json.loads((workdir / "run.json").read_text())["batch_size"] == 32
    assert int(model.optimizer.iterations.value) == 12


def test_tensorboard_holds_the_scalars_of_each_window_and_the_grid(finished):
    tags = scalars(finished[0] / "tensorboard")
    for name in ("loss", "gradient_norm", "images_per_second", "waiting", "loss_logsnr_0_5"):
        assert [step for step, _ in tags[f"train/{name}"]] == [4, 8, 12]
    assert [step for step, _ in tags["eval/loss"]] == [8]
    assert all(0.0 <= share <= 1.0 for _, share in tags["train/waiting"])
    assert tags["samples"]


def scalars(folder) -> dict[str, list]:
    """{tag: [(step, value)]} of the event files, which are TFRecords of protocol buffers."""
    import tensorflow as tf
    from tensorboardX.proto.event_pb2 import Event

    found = {}
    for record in tf.data.TFRecordDataset([str(p) for p in folder.iterdir()]).as_numpy_iterator():
        event = Event.FromString(record)
        for value in event.summary.value:
            found.setdefault(value.tag, []).append((event.step, value.simple_value))
    return found


def test_the_log_says_loss_rate_and_waiting(finished):
    text = finished[2]
    assert "train 12/12" in text and "images/s" in text and "waiting for data" in text and "eval loss" in text
    assert len(re.findall(r"^first step after \d+\.\d s$", text, re.MULTILINE)) == 1


@pytest.mark.backend_free
def test_samples_are_measured_on_the_way(data, tmp_path):
    asked = dict(measure_every=4, measure_images=40, measure_features="classifier", measure_share=0.05)
    _, log = train(data, tmp_path / "run", **asked, measure_cache=str(tmp_path / "cache"))
    assert list((tmp_path / "cache").glob("*.npz"))
    lines = [json.loads(line) for line in (tmp_path / "run" / "measurements.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [4, 8, 12]
    assert all(line["measured"]["images"] == 40 and line["metrics"]["frechet"] > 0 for line in lines)
    assert "step 12: Frechet distance of samples" in log and "--measure_share does nothing" in log
    assert "Measuring samples at step 12 took" in log and "% of the time since the last one." in log
    told = scalars(tmp_path / "run" / "tensorboard")
    assert [step for step, _ in told["samples/frechet"]] == [4, 8, 12]
    assert len(list((tmp_path / "run" / "measured").glob("*.png"))) == 3


_passed_on = []  # how many images each time, while the run could be told to stop


def stopping_features():
    """Features whose first batch of samples sends SIGTERM, and waits for nothing."""

    def extract(images):
        if signal.getsignal(signal.SIGTERM) != signal.SIG_DFL:  # else these are the real images
            _passed_on.append(len(images))
            os.kill(os.getpid(), signal.SIGTERM)
        return images.mean(axis=(2, 3)) / 255.0

    return Features(name="rows", digest="", rule="", extract=extract)


@pytest.mark.backend_free
def test_sigterm_does_not_wait_for_a_measurement(data, tmp_path):
    own = {"measure_features": f"{__name__}:stopping_features", "measure_cache": str(tmp_path / "cache")}
    asked = settings(data, tmp_path / "run", measure_every=4, measure_images=200, **own)
    run = TrainingRun(asked, Console(record=True, width=200, file=open("/dev/null", "w")))
    run.train()
    assert run.stopped.by == signal.SIGTERM and _passed_on == [64]
    assert "Measuring samples at step 4 was broken off" in run.console.export_text()
    assert not (tmp_path / "run" / "measurements.jsonl").exists()
    assert [checkpoint_step(p) for p in checkpoints(tmp_path / "run" / "checkpoints")] == [4]


@pytest.mark.backend_free
def test_a_finished_run_is_left_alone(finished, data):
    model, text = train(data, finished[0], eval_split="test")
    assert "12 steps are done, nothing to train" in text
    assert all(np.array_equal(a, b) for a, b in zip(weights(model), weights(finished[1]), strict=True))


@pytest.mark.backend_free
def test_a_run_goes_on_only_with_the_settings_that_define_it(finished, data):
    with pytest.raises(ValueError, match=r"other settings: --batch_size=16 \(there: 32\), --seed=1 \(there: 0\)"):
        TrainingRun(settings(data, finished[0], batch_size=16, seed=1))
    TrainingRun(settings(data, finished[0], log_every=2, steps=20))


def test_bfloat16_runs_and_its_checkpoint_keeps_the_policy(data, tmp_path):
    model, _ = train(data, tmp_path, steps=4, precision="mixed_bfloat16", sample_every=0)
    again, _ = train(data, tmp_path, steps=4, precision="mixed_bfloat16", sample_every=0)
    assert model.network.dtype_policy.name == again.network.dtype_policy.name == "mixed_bfloat16"


@pytest.mark.backend_free
@pytest.mark.parametrize(
    "changes, error, sentence",
    [
        ({"preset": "small_digit"}, ValueError, "did you mean small_digits"),
        ({"preset": "sid2_photo_patches"}, ValueError, r"is for images \(64, 64, 3\) of no classes"),
        ({"data": "/nowhere"}, FileNotFoundError, "/nowhere"),
        ({"split": "validation"}, ValueError, "validation"),
        ({"steps": 0}, ValueError, "--steps must be at least 1, got 0"),
        ({"batch_size": 0}, ValueError, "--batch_size must be at least 1"),
        ({"learning_rate": -1.0}, ValueError, "learning_rate must be positive"),
        ({"ema_decay": 1.5}, ValueError, r"ema_decay must be in \[0, 1\)"),
        ({"precision": "float8"}, ValueError, "--precision must be float32 or mixed_bfloat16"),
        ({"checkpoints": "both"}, ValueError, "--checkpoints must be portable or sharded, got 'both'"),
        ({"compile": "always"}, ValueError, "--compile must be auto or never, got 'always'"),
        ({"seed": -1}, ValueError, r"--seed must be in \[0, 2\*\*32\), got -1"),
        (
            dict(measure_features="fid"),
            ValueError,
            "Features must be inception, classifier, i3d, clip, or MODULE",
        ),
        (dict(measure_images=5), ValueError, "--measure_images must be at least 20, got 5"),
    ],
)
def test_refused_before_anything_is_written(data, tmp_path, changes, error, sentence):
    with pytest.raises(error, match=sentence):
        TrainingRun(settings(**{"data": data, "workdir": tmp_path / "run", **changes})).train()
    assert not list(tmp_path.iterdir())


def test_compile_never_is_torch_s(data, tmp_path):
    def model(**changes):
        return TrainingRun(settings(data=data, workdir=tmp_path, **changes)).load_or_make_model(None)

    assert not model().network.run_eagerly
    if BACKEND == "torch":
        assert model(compile="never").network.run_eagerly
        return
    with pytest.raises(ValueError, match=f"--compile=never is torch's, and {BACKEND} compiles every step: leave"):
        model(compile="never")


ROUNDED = dict(log_every=4, checkpoint_every=6, eval_every=1, sample_every=0, keep_every=10)


@pytest.mark.backend_free
def test_steps_between_checkpoints_and_others_are_rounded_up_to_lines_of_the_log(data, tmp_path):
    found = TrainingRun(settings(data, tmp_path / "run", **ROUNDED)).settings
    every = {"checkpoint_every": 8, "eval_every": 4, "sample_every": 0, "measure_every": 0, "keep_every": 16}
    assert {name: getattr(found, name) for name in every} == every


def test_a_run_in_two_parts_with_rounded_steps_is_the_run_in_one(finished, data, tmp_path):
    rounded = dict(checkpoint_every=3, eval_every=7, sample_every=5, eval_split="test")
    _, text = train(data, tmp_path, steps=6, **rounded)  # which is not at a log interval's end
    assert "--checkpoint_every=3 is 4 here: a multiple of --log_every=4." in text
    assert "--eval_every=7 is 8 here" in text and "--sample_every=5 is 8 here" in text and "keep_every" not in text
    assert [checkpoint_step(p) for p in checkpoints(tmp_path / "checkpoints")] == [4, 6]
    model, text = train(data, tmp_path, **rounded)
    assert "steps 6 to 12" in text
    assert all(np.array_equal(a, b) for a, b in zip(weights(model), weights(finished[1]), strict=True))


@pytest.fixture(scope="module")
def begun(data, tmp_path_factory):
    """A work directory whose run begins with a path from the root, and the folder of its data beside it."""
    folder = tmp_path_factory.mktemp("begun")
    shutil.copytree(data, folder / "digits")
    (folder / "run").mkdir()
    run = TrainingRun(settings(str(folder / "digits"), folder / "run"))
    about = {**run.settings.defining(), "data_digest": run.data_digest}
    (folder / "run" / "run.json").write_text(json.dumps(about))
    return folder


def go_on(folder, data, **changes):
    return TrainingRun(settings(str(data), folder / "run", **changes))


@pytest.mark.backend_free
def test_the_same_data_by_another_path_go_on(begun, data, monkeypatch, tmp_path):
    monkeypatch.chdir(begun)
    (tmp_path / "link").symlink_to(begun / "digits")
    for path in ("./digits", "./digits/", f"{begun}/digits/", f"{begun}/run/../digits", tmp_path / "link", data):
        go_on(begun, path)  # the last one is a copy
    monkeypatch.setenv("HOME", str(begun))
    go_on(begun, "~/digits")
    go_on(begun, "digits", data_dir=str(begun))  # by name


@pytest.mark.backend_free
def test_a_run_that_an_earlier_version_began_goes_on_by_any_path(begun, data):
    file = begun / "run" / "run.json"
    old = {k: v for k, v in json.loads(file.read_text()).items() if k != "data_digest"}
    file.write_text(json.dumps(old))
    try:
        go_on(begun, begun / "digits")
        go_on(begun, f"{begun}/digits/")
        go_on(begun, data)
    finally:
        file.write_text(json.dumps({**old, "data_digest": go_on(begun, begun / "digits").data_digest}))


@pytest.mark.backend_free
def test_other_data_are_refused_also_by_the_same_path(begun, tmp_path):
    shutil.copytree(begun, tmp_path / "moved")
    shutil.move(tmp_path / "moved" / "digits", tmp_path / "other")
    shard = next((tmp_path / "other").rglob("*train*.tfrecord*"))
    shard.write_bytes(shard.read_bytes()[:-1] + b"x")
    with pytest.raises(ValueError, match=r"--data=.*other \(there: .*digits\)"):
        go_on(begun, tmp_path / "other")
    about = json.loads((begun / "run" / "run.json").read_text())
    (tmp_path / "moved" / "run" / "run.json").write_text(json.dumps({**about, "data": str(tmp_path / "other")}))
    with pytest.raises(ValueError, match=r"--data=.*other, whose records have changed"):
        go_on(tmp_path / "moved", tmp_path / "other")
    go_on(tmp_path / "moved", tmp_path / "other", max_bad_records=1)  # damage that is allowed


@pytest.mark.backend_free
def test_a_damaged_run_json_is_named(data, tmp_path):
    (tmp_path / "run.json").write_text("{")
    with pytest.raises(ValueError, match=r"run.json is damaged.*give another --workdir"):
        TrainingRun(settings(data, tmp_path))


@pytest.mark.backend_free
def test_a_workdir_that_is_a_file(data, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(NotADirectoryError, match="must be a folder"):
        TrainingRun(settings(data, tmp_path / "file"))


@pytest.mark.backend_free
@pytest.mark.parametrize(
    "start, stop, length, expected",
    [
        (0, 12, 4, [(0, 4, 3)]),
        (6, 12, 4, [(6, 2, 1), (8, 4, 1)]),
        (0, 10, 4, [(0, 4, 2), (8, 2, 1)]),
        (5, 7, 4, [(5, 2, 1)]),
        (0, 3, 4, [(0, 3, 1)]),
        (12, 12, 4, []),
    ],
)
def test_intervals_end_at_multiples_and_at_the_end(tmp_path, start, stop, length, expected):
    assert Skipped(tmp_path / "skipped.json").intervals(start, stop, length) == expected


@pytest.mark.backend_free
@pytest.mark.parametrize("name", ["sid2_imagenet512_uvit4", "sid2_photo_patches", "sid2_digits"])
def test_each_kind_of_preset_predicts_nothing_when_new_and_trains_a_step_at_a_shrunken_size(name):
    """The four of the paper differ in nothing else than patch and image size."""
    model = shrunken(find_preset(name)).build(keras_sid2.SiD2Model)
    z_t = np.zeros((2, *model.image_shape), "float32")
    v_hat = to_numpy(model.network((z_t, np.zeros(2, "float32"), None)))
    assert v_hat.shape == z_t.shape and not v_hat.any()
    model.compile(run_eagerly=BACKEND == "tensorflow")  # one step is not worth tracing
    labels = None if model.num_classes is None else np.zeros(2, "int32")
    images = np.zeros((2, *model.image_shape), "uint8")
    assert np.isfinite(model.fit(images, labels, verbose=0).history["loss"]).all()


def shrunken(full: Preset) -> Preset:
    """A preset with the same kinds of levels and the same patch, on images of two patches in the middle."""
    levels = [{**level, "channels": 8, "blocks": 1, "head_dim": 4} for level in full.network["levels"]]
    side = 2 * full.network["patch_size"] * 2 ** (len(levels) - 1)
    network = {**full.network, "levels": levels, "embedding_dim": 8}
    network["image_shape"] = (side, side, full.network["image_shape"][-1])
    return dataclasses.replace(full, network=network)
