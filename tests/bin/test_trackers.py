"""--log_to: what trackers are told is what the log says, a later start goes on with the same run, faults end no run."""

import json
import math
import struct
import sys

import keras
import numpy as np
import pytest
from run_helpers import run_in
from training_helpers import fit_steps, tiny_model

from keras_sid2.bin import tracking
from keras_sid2.bin.tables import train
from keras_sid2.callbacks import trackers
from keras_sid2.callbacks.trackers import MlflowTracker, TensorBoardTracker, TrackedRun, Tracker
from keras_sid2.training import NonFiniteLoss

pytestmark = pytest.mark.usefixtures("tiny_digits")
SAMPLED = {"sample_every": 4, "sample_steps": 1}


class Recorded(Tracker):
    """Keeps what it is told; `fails_at` is a step whose scalars it cannot log."""

    name, fails_at, told = "recorded", None, []

    def begin(self, run):
        self.told.append(("begin", run))

    def scalars(self, step, values):
        if step == self.fails_at:
            raise ConnectionError("the server is gone\nand more")
        self.told.append(("scalars", step, values))

    def picture(self, name, pixels, step):
        self.told.append(("picture", name, pixels.dtype, pixels.shape[2], step))

    def checkpoint(self, step, path):
        assert (path / "manifest.json").is_file()
        self.told.append(("checkpoint", step, path.name))

    def end(self, failed):
        self.told.append(("end", failed))


class Failing(Recorded):
    fails_at = 4


OWN, FAILING = (f"{__name__}:{kind}" for kind in ("Recorded", "Failing"))


@pytest.fixture(autouse=True)
def nothing_told():
    Recorded.told.clear()


def told(kind: str) -> list:
    return [values for what, *values in Recorded.told if what == kind]


def logged(workdir) -> dict[int, float]:
    """The loss by step, as goodput.jsonl has it."""
    return {
        line["step"]: line["loss"] for line in map(json.loads, (workdir / "goodput.jsonl").read_text().splitlines())
    }


@pytest.mark.backend_free
def test_a_tracker_of_one_s_own_is_told_all_that_the_log_says(data, tmp_path):
    run = run_in(data, tmp_path / "run", steps=8, log_to=[OWN], eval_split="test", eval_every=8, **SAMPLED)
    run.train()
    ((begun,),) = told("begin")
    assert (begun.name, begun.step, begun.project) == ("run", 0, "keras_sid2")
    assert begun.config["flags"]["batch_size"] == 16 and begun.config["preset"]["network"]["embedding_dim"]
    json.dumps(begun.config)
    values = {(step, name): v for step, found in told("scalars") for name, v in found.items()}
    assert {step: values[step, "train/loss"] for step in (2, 4, 6, 8)} == pytest.approx(logged(tmp_path / "run"))
    assert math.isfinite(values[8, "eval/loss"]) and (4, "time/training") in values
    assert told("picture") == [["samples", np.uint8, 3, 4], ["samples", np.uint8, 3, 8]]
    assert told("checkpoint") == [[4, "step_0000000004"], [8, "step_0000000008"]]
    assert told("end") == [[False]] and not (tmp_path / "run" / "tensorboard").exists()


@pytest.mark.backend_free
def test_one_that_fails_in_the_midst_is_told_once_and_left_out(data, tmp_path):
    run = run_in(data, tmp_path / "run", steps=8, log_to=[FAILING, "tensorboard"])
    run.train()
    text = run.console.export_text()
    assert text.count("Logging to recorded failed (the server is gone); training goes on without it.") == 1
    assert {step for step, _ in told("scalars")} == {2} and not told("end")
    assert {*logged(tmp_path / "run")} == {2, 4, 6, 8} and list((tmp_path / "run" / "tensorboard").iterdir())


@pytest.mark.backend_free
def test_mlflow_goes_on_with_its_run_in_a_store_in_the_work_directory(data, tmp_path, monkeypatch):
    mlflow = pytest.importorskip("mlflow", reason="needs mlflow, which the tests' extra does not bring")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    workdir, asked = tmp_path / "run", {"log_to": ["mlflow"], "project": "digits", **SAMPLED}
    run_in(data, workdir, steps=4, **asked).train()
    run_in(data, workdir, steps=8, **asked).train()
    client = mlflow.MlflowClient(f"sqlite:///{workdir / 'mlflow.db'}")
    (found,) = client.search_runs([client.get_experiment_by_name("digits").experiment_id])
    assert found.info.status == "FINISHED" and found.info.run_name == "run"
    losses = client.get_metric_history(found.info.run_id, "train/loss")
    assert {metric.step: metric.value for metric in losses} == pytest.approx(logged(workdir))
    assert found.data.params["flags.batch_size"] == "16" and "preset.objective.class" in found.data.params
    tag = found.data.tags["checkpoint.step_0000000008"]
    assert tag == str(workdir / "checkpoints" / "step_0000000008")
    files = [path.name for path in (workdir / "mlflow").rglob("*") if path.is_file()]
    assert "config.json" in files and sum(name.endswith(".png") for name in files) == 2
    assert not any(name.endswith(".keras") for name in files)


@pytest.mark.backend_free
def test_wandb_goes_on_with_its_run_offline(data, tmp_path, monkeypatch):
    pytest.importorskip("wandb", reason="needs wandb, which the tests' extra does not bring")
    monkeypatch.setenv("WANDB_MODE", "offline")
    workdir, asked = tmp_path / "run", {"log_to": ["wandb"], **SAMPLED}
    run_in(data, workdir, steps=4, **asked).train()
    run_in(data, workdir, steps=8, **asked).train()
    files = sorted((workdir / "wandb").glob("offline-run-*/*.wandb"))
    assert len({path.name for path in files}) == 1 and len(files) == 2  # an id, in two starts
    records = [record for path in files for record in wandb_records(path)]
    losses, pictures, names = {}, 0, set()
    for record in records:
        row = {item.nested_key[0] if item.nested_key else item.key: item.value_json for item in record.history.item}
        losses |= {int(row["step"]): float(row["train/loss"])} if "train/loss" in row else {}
        pictures += "samples" in row
        names.add(record.request.log_artifact.artifact.name or record.artifact.name)
    assert losses == pytest.approx(logged(workdir)) and pictures == 2
    (own,) = json.loads((workdir / "trackers.json").read_text()).values()
    assert f"run-{own}.wandb" == files[0].name and f"{own}-checkpoint" in names


def wandb_records(path):
    """Of a file as LevelDB writes logs: blocks of 32 KiB with parts, each behind its checksum, length and kind."""
    from wandb.proto.wandb_internal_pb2 import Record

    content, place, parts = path.read_bytes(), 7, b""
    assert content[:4] == b":W&B"
    while place + 7 <= len(content):
        if (left := -place % 2**15) and left < 7:
            place += left
        _, length, kind = struct.unpack_from("<IHB", content, place)
        parts += content[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # whole, or the last part
            yield Record.FromString(parts)
            parts = b""


@pytest.mark.backend_free
@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_a_package_that_is_not_there_is_named_before_work_starts(data, tmp_path, monkeypatch, name):
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ImportError, match=rf'{name} is needed .*: pip install "keras_sid2\[{name}\]"'):
        run_in(data, tmp_path / "run", log_to=[name])
    assert not (tmp_path / "run").exists()


@pytest.mark.backend_free
@pytest.mark.parametrize(
    "asked, sentence",
    [
        ({"log_to": ["tensorbord"]}, r"--log_to must be among tensorboard, wandb, mlflow, .* got \['tensorbord'\]"),
        ({"log_to": ["wandb", "wandb"]}, "each once"),
        ({"log_to": ["nowhere:Tracker"]}, "The tracker 'nowhere:Tracker' of --log_to cannot be imported"),
        ({"log_to": ["json:JSONDecoder"]}, "must name a subclass of keras_sid2.callbacks.trackers.Tracker"),
        ({"project": "x"}, "--project does nothing without --log_to=wandb or mlflow"),
        ({"upload_checkpoints": True, "log_to": []}, "--upload_checkpoints does nothing without"),
    ],
)
def test_wrong_ones_are_refused(data, tmp_path, asked, sentence):
    with pytest.raises(ValueError, match=sentence):
        run_in(data, tmp_path / "run", **asked)


class Refused(Recorded):
    """Cannot begin behind step 0, or at all."""

    always = True

    def begin(self, run):
        if self.always or run.step:
            raise RuntimeError("no server\nat all")
        super().begin(run)


@pytest.mark.backend_free
def test_one_that_cannot_begin_ends_the_run_before_its_first_step_and_the_others(data, tmp_path, monkeypatch):
    monkeypatch.setitem(trackers.TRACKERS, "mlflow", Refused)
    run = run_in(data, tmp_path / "run", log_to=[OWN, "mlflow"])
    with pytest.raises(ValueError, match=r"--log_to=mlflow cannot begin: no server\.$"):
        run.train()
    assert [what for what, *_ in Recorded.told] == ["begin", "end"] and told("end") == [[True]]
    assert train._OWN_TRACKERS == tuple(trackers.TRACKERS)


@pytest.mark.backend_free
def test_behind_a_nan_the_log_has_failed_and_one_that_cannot_begin_anew_is_left_out(data, tmp_path, monkeypatch):
    monkeypatch.setattr(Refused, "always", False)
    run = run_in(data, tmp_path / "run", steps=8, on_nan="skip", log_to=[OWN, f"{__name__}:Refused"])
    fit, fits = run._fit, []

    def fit_with_a_nan(*arguments):
        fits.append(arguments)
        fit(*arguments)
        if len(fits) == 1:
            raise NonFiniteLoss("The loss is not finite: training stopped.", 8)

    monkeypatch.setattr(run, "_fit", fit_with_a_nan)
    run.train()
    assert told("end") == [[True], [True], [False]]
    assert "--log_to=test_trackers:Refused cannot begin: no server. Training goes on without it." in (
        run.console.export_text()
    )


@pytest.mark.backend_free
def test_a_module_of_the_current_folder_is_found(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path])
    (tmp_path / "mine_alone.py").write_text("from keras_sid2.callbacks.trackers import Tracker as Lines\n")
    assert tracking.tracker_class("mine_alone:Lines") is Tracker


def test_trackers_are_callbacks_of_fit(tmp_path):
    model = tiny_model()
    run = TrackedRun(tmp_path / "new" / "run")
    mine = [Recorded(run), TensorBoardTracker(run)]
    history = fit_steps(model, count=32, epochs=2, callbacks=mine)
    losses = [values["train/loss"] for _, values in told("scalars")]
    assert losses == pytest.approx(history.history["loss"]) and [step for step, _ in told("scalars")] == [2, 4]
    assert told("end") == [[False]] and list((run.folder / "tensorboard").iterdir())


def test_keras_s_own_tensorboard_callback(tmp_path):
    tf = pytest.importorskip("tensorflow", reason="keras.callbacks.TensorBoard writes by TensorFlow, on any backend")
    event_pb2 = pytest.importorskip("tensorboard.compat.proto.event_pb2", reason="needs the extra tensorboard")
    callback = keras.callbacks.TensorBoard(str(tmp_path), histogram_freq=1, update_freq=1)
    history = fit_steps(tiny_model(), count=32, epochs=2, callbacks=[callback])
    records = tf.data.TFRecordDataset([str(path) for path in (tmp_path / "train").glob("events*")])
    events = [event_pb2.Event.FromString(record) for record in records.as_numpy_iterator()]
    values = {(value.tag, event.step): value for event in events for value in event.summary.value}
    losses = [float(tf.make_ndarray(values["epoch_loss", epoch].tensor)) for epoch in (0, 1)]
    assert losses == pytest.approx(history.history["loss"])
    assert any("kernel" in tag for tag, _ in values)  # histograms of the weights


@pytest.mark.backend_free
def test_uploading_takes_the_files(tmp_path, monkeypatch):
    pytest.importorskip("mlflow", reason="needs mlflow, which the tests' extra does not bring")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    checkpoint = tmp_path / "step_1"
    checkpoint.mkdir()
    (checkpoint / "model.keras").write_bytes(b"weights")
    tracker = MlflowTracker()
    tracker.begin(TrackedRun(tmp_path / "run", config={"a": {"b": [1]}}, upload=True))
    tracker.checkpoint(1, checkpoint)
    tracker.end(failed=True)
    (copied,) = (tmp_path / "run" / "mlflow").rglob("model.keras")
    assert copied.read_bytes() == b"weights"
