"""sid2-evaluate as a user starts it."""

import json
import os
import signal
import subprocess
import sys

import numpy as np
import pytest
from absl import flags
from PIL import Image
from training_helpers import fit_steps, stripes, tiny_model

import pipelines
from keras_sid2.bin import evaluate as program
from keras_sid2.bin import signals, sweep
from keras_sid2.image_files import write_npz
from keras_sid2.training.checkpoints import save_checkpoint

pytestmark = pytest.mark.backend_free

OWN_FEATURES = """
from keras_sid2.evaluation import Features
def rows():
    return Features(name="rows", digest="1", rule="mean of rows", extract=lambda x: x.mean(axis=(2, 3)) / 255.0)
def other():
    return Features(name="other", digest="1", rule="mean of rows", extract=lambda x: x.mean(axis=(2, 3)) / 255.0)
"""


def evaluate(folder, *texts) -> int:
    """The program without a process of its own; its exit status."""
    values = flags.FlagValues()
    program.define(values)
    values(["sid2-evaluate", f"--cache={folder / 'cache'}", *texts])
    return program.main(values)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A trained model's work directory, real and drawn images, features of one's own; Python looks there too."""
    folder = tmp_path_factory.mktemp("evaluate")
    sys.path.insert(0, str(folder))
    model = tiny_model()
    fit_steps(model, epochs=3)
    save_checkpoint(model, folder / "run" / "checkpoints", keep=1)
    images, labels = stripes(256)
    write_npz(folder / "real.npz", images[:200], labels[:200])
    write_npz(folder / "drawn.npz", images[100:250])
    write_npz(folder / "few.npz", images[:3])
    np.savez(folder / "wrong.npz", images=images)
    (folder / "own_features.py").write_text(OWN_FEATURES)
    yield folder
    sys.path.remove(str(folder))


def test_a_model_is_measured_and_two_measurements_are_compared(folder, capsys):
    common = (f"--workdir={folder / 'run'}", f"--reference={folder / 'real.npz'}", "--features=own_features:rows")
    files = []
    for sampler in ("ddim", "heun"):
        out = folder / "out" / sampler
        files.append(f"{out}.json")
        assert (
            evaluate(folder, *common, "--num_steps=4", f"--sampler={sampler}", f"--out={out}", "--num_images=60") == 0
        )
        printed = capsys.readouterr().out
        assert "frechet" in printed and "features=rows" in printed
        written = json.loads((folder / "out" / f"{sampler}.json").read_text())
        assert written["measured"]["images"] == 60 and written["drawn"]["training_step"] == 12
        assert written["drawn"]["sampler"].lower().startswith(sampler)
    assert evaluate(folder, f"--compare={','.join(files)}") == 0
    printed = capsys.readouterr().out
    assert "DDIMSampler" in printed and "HeunSampler" in printed
    other = json.loads((folder / "out" / "heun.json").read_text())
    other["measured"]["rule"] = "rounded"
    (folder / "out" / "other.json").write_text(json.dumps(other))
    with pytest.raises(ValueError, match="do not compare: rule is 'mean of rows' in the one"):
        evaluate(folder, f"--compare={files[0]},{folder / 'out' / 'other.json'}")


def test_images_in_a_file_are_measured(folder):
    texts = (f"--samples={folder / 'drawn.npz'}", f"--reference={folder / 'real.npz'}", f"--out={folder / 'file'}")
    assert evaluate(folder, *texts, "--features=own_features:rows") == 0
    written = json.loads((folder / "file.json").read_text())
    assert written["measured"]["images"] == 150 and written["drawn"]["samples"] == "drawn.npz"
    assert abs(written["figures"]["frechet"]) < 0.01 and written["figures"]["precision"] > 0.8


def test_a_prepared_data_set_is_a_reference_and_fits_a_classifier(folder):
    data = pipelines.prepare("digits", data_dir=str(folder / "data"))
    texts = (f"--samples={data}", f"--reference={data}", "--split=train,test", "--features=classifier")
    assert evaluate(folder, *texts, f"--out={folder / 'digits'}") == 0
    written = json.loads((folder / "digits.json").read_text())
    assert written["measured"]["features"] == "classifier-64" and written["measured"]["reference_images"] == 1797
    assert written["figures"]["inception_score"] > 8 and written["figures"]["precision"] > 0.9


def test_a_sweep_finds_a_setting_and_is_not_done_twice(folder, capsys):
    texts = (
        f"--workdir={folder / 'run'}",
        f"--reference={folder / 'real.npz'}",
        "--features=own_features:rows",
        "--num_images=60",
        "--sweep",
        "--sweep_scales=1,2",
        "--sweep_intervals=all,-3:5",
        "--sweep_steps=2,4",
        "--sweep_ema=true,false",
        f"--out={folder / 'sweep'}",
    )
    assert evaluate(folder, *texts) == 0
    first = capsys.readouterr()
    lines = [json.loads(line) for line in (folder / "sweep.jsonl").read_text().splitlines()]
    assert len(lines) == 2 * 2 * 3  # steps x weights x (none, everywhere, in the interval)
    best = min(lines, key=lambda line: line["figures"]["frechet"])
    assert json.loads((folder / "sweep.json").read_text()) == best
    assert "best " in first.out and "95 % interval" in first.out and "of 12: " in first.err
    assert Image.open(folder / "sweep.png").size[0] > 500
    cut = (folder / "sweep.jsonl").read_text()
    (folder / "sweep.jsonl").write_text(cut[: cut.rindex("{") + 40])  # as a kill in the midst of a line would
    assert evaluate(folder, *texts) == 0
    again = capsys.readouterr()
    assert again.err.count("of 12: ") == 1 and again.out == first.out


def test_a_signal_ends_a_sweep_and_the_same_command_goes_on(looking, folder, capsys, monkeypatch):
    given = (f"--workdir={folder / 'run'}", f"--reference={folder / 'real.npz'}", "--features=own_features:rows")
    texts = (*given, "--num_images=60", "--num_steps=2", "--sweep", "--sweep_scales=1,2", f"--out={folder / 'stopped'}")
    add = sweep._Lines.add

    def signalled(lines, measurement):
        add(lines, measurement)
        os.kill(os.getpid(), signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(sweep._Lines, "add", signalled)
        with pytest.raises(signals.Interrupted):
            evaluate(folder, *texts)
    assert len((folder / "stopped.jsonl").read_text().splitlines()) == 1 and not (folder / "stopped.json").exists()
    monkeypatch.setattr(signals, "_came", None)
    capsys.readouterr()
    assert evaluate(folder, *texts) == 0
    assert "1 of 2: " not in (said := capsys.readouterr().err) and "2 of 2: " in said


@pytest.mark.parametrize(
    "texts, sentence",
    [
        ((), "--reference must be given"),
        (("--samples=drawn.npz", "--reference=real.npz"), "--out must be given with --samples"),
        (("--weights=x.keras", "--reference=real.npz"), "--out must be given with --weights"),
        (("--samples=drawn.npz", "--reference=real.npz", "--out=o", "--num_steps=9"), "--num_steps does nothing with"),
        (
            ("--workdir=run", "--reference=real.npz", "--sweep_scales=1,2"),
            "--sweep_scales does nothing with no --sweep",
        ),
        (("--samples=drawn.npz", "--reference=real.npz", "--sweep", "--out=o"), "--samples are measured as they are"),
        (("--samples=wrong.npz", "--reference=real.npz", "--out=o"), "must hold images as arr_0"),
        (("--samples=few.npz", "--reference=real.npz", "--out=o", "--features=own_features:rows"), "at least 20"),
        (("--samples=drawn.npz", "--reference=real.npz", "--out=o", "--features=fid"), "Features must be inception"),
        (("--samples=drawn.npz", "--reference=real.npz", "--out=o", "--features=no:f"), "'no:f' cannot be imported"),
        (("--samples=drawn.npz", "--reference=real.npz", "--out=o", "--features=builtins:dict"), "got a dict"),
        (("--samples=drawn.npz", "--reference=real.npz", "--out=o", "--features=classifier"), "real.npz has none"),
        (("--samples=drawn.npz", "--reference=nowhere", "--out=o"), "nowhere"),
        (("--workdir=run", "--reference=real.npz", "--num_images=3"), "--num_images must be at least 20, got 3"),
        (("--workdir=nowhere", "--reference=real.npz"), "--workdir=nowhere holds no checkpoints"),
        (("--workdir=run", "--reference=real.npz", "--sweep", "--guidance_scale=2"), "--guidance_scale is swept over"),
        (("--workdir=run", "--reference=real.npz", "--sweep", "--sweep_intervals=5"), "must be all, or low:high"),
        (("--workdir=run", "--reference=real.npz", "--sweep", "--sweep_intervals=5:-3"), "low < high"),
        (("--workdir=run", "--reference=real.npz", "--sweep", "--sweep_ema=maybe"), "must be true or false"),
        (("--compare=a.json",), "--compare needs at least two files"),
        (("--compare=a.json,b.json",), "a.json is no file"),
    ],
)
def test_what_is_wrong_is_said_in_one_sentence(folder, monkeypatch, texts, sentence):
    monkeypatch.chdir(folder)
    with pytest.raises((ValueError, FileNotFoundError)) as caught:
        evaluate(folder, *texts)
    assert sentence in str(caught.value) and "\n" not in str(caught.value)
    assert not list(folder.glob("o.*"))


@pytest.mark.slow
def test_the_program_ends_with_the_sentence_and_status_2(folder):
    command = [sys.executable, "-m", "keras_sid2.bin.evaluate", "--samples=x.npz", "--reference=y.npz", "--out=o"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert result.returncode == 2 and "Traceback" not in result.stderr
    assert result.stderr.strip().splitlines()[-1].startswith("sid2-evaluate: x.npz is no file")
