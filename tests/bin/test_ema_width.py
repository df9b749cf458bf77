"""--ema_widths and --snapshot_every of sid2-train, --ema_width of sid2-sample, --sweep_ema_width of sid2-evaluate."""

import json
import pathlib
import shutil

import numpy as np
import pytest
from evaluate_helpers import evaluate
from run_helpers import run_in
from sample_helpers import draw, images_of
from training_helpers import register_tiny_digits, rows_as_features

from keras_sid2.checkpoints import PortableSaver, load_model
from keras_sid2.checkpoints.manifest import checkpoints
from keras_sid2.io.image_files import write_npz
from keras_sid2.training.snapshots import Reconstruction, snapshots

pytestmark = [pytest.mark.backend_free, pytest.mark.usefixtures("tiny_digits")]
WIDTHS = {"ema_widths": ["0.1", "0.05"], "snapshot_every": 2}


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory):
    """(work directory, what was told) of a run of 12 steps with snapshots at every second one."""
    register_tiny_digits()
    workdir = tmp_path_factory.mktemp("widths") / "run"
    run = run_in(data, workdir, **WIDTHS)
    run.train()
    return workdir, run.console.export_text()


def test_a_run_writes_snapshots_and_says_what_they_take(trained):
    workdir, told = trained
    assert [*snapshots(workdir / "snapshots")] == [2, 4, 6, 8, 10, 12]
    weights = sum(np.prod(shape) for shape in Reconstruction(workdir / "snapshots", 0.07).shapes())
    assert "Snapshots every 2 steps: averages of widths 0.05, 0.1 in float32" in told
    assert f"{2 * 4 * weights / 1e6:,.4g} MB each, 6 up to step 12" in told and "GB are free there" in told
    assert json.loads((workdir / "run.json").read_text())["ema_widths"] == [0.05, 0.1]
    model = load_model(checkpoints(workdir / "checkpoints")[-1])
    assert model.recipe.ema_widths == (0.05, 0.1) and {*model.width_averages} == {0.05, 0.1}


def test_a_resumed_run_writes_the_same_to_the_bit(trained, data, tmp_path):
    shutil.copytree(trained[0], tmp_path / "run")
    shutil.rmtree(checkpoints(tmp_path / "run" / "checkpoints")[-1])
    (tmp_path / "run" / "snapshots" / "step_0000000010.npz").write_bytes(b"of another course")
    run_in(data, tmp_path / "run", **WIDTHS).train()
    files = [snapshots(folder / "run" / "snapshots") for folder in (tmp_path, trained[0].parent)]
    assert [*files[0]] == [*files[1]]
    for step in files[0]:
        with np.load(files[0][step]) as ours, np.load(files[1][step]) as theirs:
            assert all(np.array_equal(ours[name], theirs[name]) for name in theirs.files)


def test_a_run_that_is_killed_between_a_snapshot_and_its_checkpoint_loses_none(trained, data, tmp_path, monkeypatch):
    def killed(saver, model):
        if model.step.numpy() == 8:
            raise KeyboardInterrupt
        return save(saver, model)

    save = PortableSaver.save
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(PortableSaver, "save", killed)
        run_in(data, tmp_path / "run", **WIDTHS).train()
    assert max(snapshots(tmp_path / "run" / "snapshots")) == 8  # and it goes on before step 8
    run_in(data, tmp_path / "run", **WIDTHS).train()
    assert [*snapshots(tmp_path / "run" / "snapshots")] == [2, 4, 6, 8, 10, 12]


def test_half_the_space(data, tmp_path):
    run_in(data, tmp_path / "run", **WIDTHS, steps=4, snapshot_dtype="float16").train()
    with np.load(snapshots(tmp_path / "run" / "snapshots")[4]) as file:
        assert {file[name].dtype.name for name in file.files if name != "about"} == {"float16"}


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"ema_widths": ["0.05"]}, "go together, and there is no --snapshot_every"),
        ({"snapshot_every": 2}, "go together, and there is no --ema_widths"),
        ({"ema_widths": ["0.5"], "snapshot_every": 2}, r"ema_widths must be different numbers in \(0, 0.28\]"),
        ({"ema_widths": ["wide"], "snapshot_every": 2}, "--ema_widths must be numbers, with commas between"),
    ],
)
def test_what_sid2_train_refuses(data, tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        run_in(data, tmp_path / "run", **changes)


def test_a_run_goes_on_with_the_same_widths_only(trained, data):
    with pytest.raises(ValueError, match="holds a run with other settings: --ema_widths="):
        run_in(data, trained[0], ema_widths=["0.05"], snapshot_every=2)


def test_samples_of_a_width(trained, tmp_path):
    workdir, common = trained[0], ("--num_images=4", "--num_steps=2", "--format=npz")
    asked = {"usual": (), "wide": ("--ema_width=0.12",), "early": ("--ema_width=0.12", "--ema_step=8")}
    for name, more in asked.items():
        assert draw(f"--workdir={workdir}", f"--out={tmp_path / name}", *common, *more)[0] == 0
    drawn = {name: json.loads((tmp_path / f"{name}.npz.json").read_text()) for name in asked}
    assert [drawn[name].get("ema_width") for name in drawn] == [None, "0.12 at step 12", "0.12 at step 8"]
    assert len({drawn[name]["weights"] for name in drawn}) == 3
    assert images_of(tmp_path / "usual.npz") != images_of(tmp_path / "wide.npz")
    folder = f"--snapshots={workdir / 'snapshots'}"
    weights = f"--weights={checkpoints(workdir / 'checkpoints')[-1]}"
    assert draw(weights, folder, f"--out={tmp_path / 'file'}", *common, "--ema_width=0.12")[0] == 0
    assert images_of(tmp_path / "file.npz") == images_of(tmp_path / "wide.npz")


@pytest.mark.parametrize(
    "given, message",
    [
        (("--ema_width=0.002",), "width 0.002 is out of reach"),
        (("--ema_width=0.07", "--ema_step=7"), "has no snapshot of step 7, but 6 of steps 2 to 12"),
        (("--ema_width=0.07", "--noema"), "--ema_width is of averaged weights"),
        (("--ema_step=4",), "--ema_step does nothing without --ema_width"),
        (("--ema_width=0.07", "--snapshots=nowhere"), "nowhere has no snapshots of averages"),
    ],
)
def test_what_sid2_sample_refuses(trained, tmp_path, given, message):
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        draw(f"--workdir={trained[0]}", f"--out={tmp_path / 'out'}", "--num_images=4", "--num_steps=2", *given)


def own_rows():
    return rows_as_features()


def test_a_sweep_over_widths(trained, tmp_path, capsys):
    rng = np.random.default_rng(0)
    write_npz(tmp_path / "real.npz", rng.integers(0, 255, (60, 8, 8, 1)).astype("uint8"))
    texts = [f"--workdir={trained[0]}", f"--reference={tmp_path / 'real.npz'}", f"--features={__name__}:own_rows"]
    texts += ["--num_images=40", "--num_steps=2", "--sweep", "--sweep_scales=1", f"--out={tmp_path / 'sweep'}"]
    with pytest.raises(ValueError, match="width 0.002 is out of reach"):
        evaluate(tmp_path, *texts, "--sweep_ema_width=0.002,0.1")
    with pytest.raises(ValueError, match=r"--sweep_ema_width must be in \(0, 0.28\], with commas between"):
        evaluate(tmp_path, *texts, "--sweep_ema_width=0.9")
    assert not pathlib.Path(f"{tmp_path / 'sweep'}.jsonl").exists()
    texts += ["--sweep_ema_width=0.07,0.1,0.12", "--sweep_ema=true,false"]
    assert evaluate(tmp_path, *texts) == 0
    lines = [json.loads(line)["drawn"] for line in (tmp_path / "sweep.jsonl").read_text().splitlines()]
    widths = ["0.07 at step 12", "0.1 at step 12", "0.12 at step 12"]
    assert sorted(line.get("ema_width", "raw") for line in lines[:4]) == sorted([*widths, "raw"])
    assert len({line["weights"] for line in lines[:4]}) == 4
    best = json.loads((tmp_path / "sweep.json").read_text())["drawn"]
    assert best["weights"] in {line["weights"] for line in lines if line.get("ema_width") == best.get("ema_width")}
    assert "averaged 0.07 weights" in (said := capsys.readouterr()).err and "signature" in said.out
    whole = (tmp_path / "sweep.jsonl").read_text()
    assert evaluate(tmp_path, *texts) == 0 and "of 4: " not in capsys.readouterr().err
    assert (tmp_path / "sweep.jsonl").read_text() == whole
