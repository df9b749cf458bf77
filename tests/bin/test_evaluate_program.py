"""sid2-evaluate as a user starts it."""

import json
import subprocess
import sys

import numpy as np
import pytest
from absl import flags
from evaluate_helpers import evaluate, filled
from rich.console import Console
from training_helpers import stripes, tiny_model

import pipelines
from keras_sid2.bin import evaluate as program
from keras_sid2.bin import sample, sweep
from keras_sid2.bin.common import tell
from keras_sid2.bin.flag_table import define
from keras_sid2.evaluation import ImagesDigest
from keras_sid2.generation.provenance import write_provenance
from keras_sid2.io.image_files import write_npz

pytestmark = pytest.mark.backend_free


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    with filled(tmp_path_factory.mktemp("evaluate")) as folder:
        yield folder


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
    assert {"method", "rule", "features_digest", "reference", "images", "groups", "kept"} <= set(other["measured"])
    for name in other["measured"]:
        changed = {**other, "measured": {**other["measured"], name: "another"}}
        (folder / "out" / "other.json").write_text(json.dumps(changed))
        with pytest.raises(ValueError, match=f"do not compare: {name} is .* in the one and 'another' in the other"):
            evaluate(folder, f"--compare={files[0]},{folder / 'out' / 'other.json'}")


def test_images_and_features_that_are_not_finite_end_it_and_nothing_is_written(folder, tmp_path, capsys):
    model = tiny_model()
    model.trainable_variables[0].assign(np.full(model.trainable_variables[0].shape, np.nan))
    model.save(tmp_path / "ill.keras")
    of_model = (f"--weights={tmp_path / 'ill.keras'}", "--features=own_features:rows", "--num_images=30")
    of_files = (f"--samples={folder / 'drawn.npz'}", "--features=own_features:ill")
    for texts, sentence in (
        ((*of_model, "--num_steps=2"), "The weights are not finite: "),
        (of_files, "The features function 'ill' gave features that are NaN or infinite for "),
    ):
        with pytest.raises(FloatingPointError, match=sentence) as error:
            evaluate(folder, *texts, f"--reference={folder / 'real.npz'}", f"--out={tmp_path / 'out'}")
        assert tell(error.value, "sid2-evaluate") == 1 and capsys.readouterr().err.count("sid2-evaluate: ") == 1
    assert [p.name for p in tmp_path.iterdir()] == ["ill.keras"]


def test_lines_are_compared_and_what_some_lack_is_left_empty(folder, tmp_path, capsys):
    def line(step, **metrics):
        return json.dumps({"step": step, "seconds": 1.0, "metrics": metrics, "measured": {}, "drawn": {"seed": step}})

    log = tmp_path / "measurements.jsonl"
    log.write_text(line(100, frechet=3.25, kid=0.125) + "\n" + line(200, frechet=1.5) + "\n" + line(300, frechet=7.0))
    assert evaluate(folder, f"--compare={log}") == 0
    printed = capsys.readouterr().out
    assert all(text in printed for text in ("measurements:1", "measurements:3", "3.25", "0.125", "1.5", "7", "300"))
    assert evaluate(folder, f"--compare={log}:3,{log}:2") == 0
    printed = capsys.readouterr().out
    assert printed.index("measurements:3") < printed.index("measurements:2") and "3.25" not in printed
    log.write_text(line(100, frechet=3.25) + "\n{}\n")
    for text, sentence in (
        (f"{log}", "measurements.jsonl:2 is no measurement of sid2-evaluate or sid2-train"),
        (f"{log}:1", "needs at least two measurements, got .*measurements.jsonl:1"),
        (f"{log}:9,{log}:1", "must end with the number of a line, from 1 to 2"),
        (f"{tmp_path / 'none.jsonl'}", "none.jsonl is no file"),
    ):
        with pytest.raises((ValueError, FileNotFoundError), match=sentence):
            evaluate(folder, f"--compare={text}")


def test_images_in_a_file_are_measured(folder):
    texts = (f"--samples={folder / 'drawn.npz'}", f"--reference={folder / 'real.npz'}", f"--out={folder / 'file'}")
    assert evaluate(folder, *texts, "--features=own_features:rows") == 0
    written = json.loads((folder / "file.json").read_text())
    assert written["measured"]["images"] == 150 and written["drawn"]["samples"] == "drawn.npz"
    assert abs(written["metrics"]["frechet"]) < 0.01 and written["metrics"]["precision"] > 0.8


def draw(folder, *texts):
    """sid2-sample."""
    values = flags.FlagValues()
    define(sample.SampleFlags, values)
    values(["sid2-sample", f"--workdir={folder / 'run'}", "--num_steps=2", "--num_images=60", *texts])
    assert sample.main(values, Console(quiet=True)) == 0


def test_images_in_files_have_the_signature_of_those_that_are_drawn(folder, capsys):
    common = (f"--reference={folder / 'real.npz'}", "--features=own_features:rows")
    draw(folder, "--format=npz,pngs", f"--out={folder / 'kept'}", "--seed=3", "--sampler=ddim")
    how = ("--num_steps=2", "--num_images=60", "--seed=3", "--sampler=ddim")
    evaluate(folder, f"--workdir={folder / 'run'}", *common, *how, f"--out={folder / 'direct'}")
    direct = (folder / "direct.json").read_text()
    for kind in (".npz", ""):
        evaluate(folder, f"--samples={folder / 'kept'}{kind}", *common, f"--out={folder / 'of_file'}")
        assert (folder / "of_file.json").read_text() == direct
    provenance = json.loads((folder / "kept.npz.json").read_text())
    assert provenance["seed"] == 3 and provenance == json.loads((folder / "kept" / "images.json").read_text())


def test_what_is_told_of_other_images_is_left_aside(folder, capsys):
    digest = ImagesDigest()
    digest.add(stripes(60)[0])
    write_npz(folder / "other.npz", stripes(60)[0][::-1])
    write_provenance(folder / "other.npz", digest.hexdigest(), {"seed": 0})
    texts = (f"--samples={folder / 'other.npz'}", f"--reference={folder / 'real.npz'}", "--features=own_features:rows")
    assert evaluate(folder, *texts, f"--out={folder / 'of_file'}") == 0
    assert "other.npz.json tells how other images were drawn: it is left aside." in capsys.readouterr().err
    drawn = json.loads((folder / "of_file.json").read_text())["drawn"]
    assert set(drawn) == {"samples", "images_digest"} and drawn["samples"] == "other.npz"
    (folder / "other.npz.json").write_text("[]")
    with pytest.raises(ValueError, match="other.npz.json does not say how the images beside it were drawn"):
        evaluate(folder, *texts, f"--out={folder / 'of_file'}")


def test_a_file_that_is_no_measurement_is_not_written_over(folder, tmp_path):
    (tmp_path / "run.json").write_text("{}")
    texts = (f"--samples={folder / 'drawn.npz'}", f"--reference={folder / 'real.npz'}", "--features=own_features:rows")
    with pytest.raises(ValueError, match="run.json is no measurement of sid2-evaluate"):
        evaluate(folder, *texts, f"--out={tmp_path / 'run'}")
    assert (tmp_path / "run.json").read_text() == "{}"


def test_a_sweep_draws_fewer_images_if_nobody_says_how_many(folder, monkeypatch):
    common = (f"--workdir={folder / 'run'}", f"--reference={folder / 'real.npz'}", "--features=own_features:rows")
    counts = []
    monkeypatch.setattr(program, "SWEEP_IMAGES", 40)
    monkeypatch.setattr(sweep, "run", lambda _, measuring, *__: counts.append(measuring.count))
    for given in ((), ("--num_images=60",)):
        evaluate(folder, *common, "--sweep", f"--out={folder / 'few'}", *given)
    assert counts == [40, 60]


def test_a_prepared_data_set_is_a_reference_and_fits_a_classifier(folder):
    data = pipelines.prepare("digits", data_dir=str(folder / "data"))
    texts = (f"--samples={data}", f"--reference={data}", "--split=train,test", "--features=classifier")
    assert evaluate(folder, *texts, f"--out={folder / 'digits'}") == 0
    written = json.loads((folder / "digits.json").read_text())
    assert written["measured"]["features"] == "classifier-64" and written["measured"]["reference_images"] == 1797
    assert written["metrics"]["inception_score"] > 8 and written["metrics"]["precision"] > 0.9


@pytest.mark.parametrize(
    "texts, sentence",
    [
        ((), "--reference must be given"),
        (("--samples=drawn.npz", "--reference=real.npz"), "--out must be given with --samples"),
        (("--weights=x.keras", "--reference=real.npz"), "--out must be given with --weights"),
        (("--samples=drawn.npz", "--reference=real.npz", "--out=o", "--num_steps=9"), "--num_steps does nothing with"),
        (
            ("--workdir=run", "--reference=real.npz", "--sweep_scales=1,2"),
            "--sweep_scales does nothing without --sweep",
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
        (("--workdir=nowhere", "--reference=real.npz"), "holds no checkpoints"),
        (("--workdir=run", "--reference=real.npz", "--sweep", "--guidance_scale=2"), "--guidance_scale is swept over"),
        (("--workdir=run", "--reference=real.npz", "--sweep", "--sweep_intervals=5"), "must be all, or low:high"),
        (("--workdir=run", "--reference=real.npz", "--sweep", "--sweep_intervals=5:-3"), "low < high"),
        (("--workdir=run", "--reference=real.npz", "--sweep", "--sweep_ema=maybe"), "must be true or false"),
        (("--samples=drawn.npz", "--reference=real.npz", "--out=o", "--split=test"), "--split does nothing with --ref"),
        (("--samples=drawn.npz", "--reference=real.npz", "--out=o", "--data_dir=d"), "real.npz, which is no data set"),
        (("--workdir=run", "--reference=pngs", "--crop=center"), "--crop does nothing with --reference=pngs, which"),
        (
            ("--samples=drawn.npz", "--reference=large.npz", "--out=o", "--features=own_features:rows"),
            "the images are 4x4x1 and those of large.npz are 8x8x3: resize one of them",
        ),
        (
            ("--workdir=run", "--reference=large.npz", "--features=own_features:rows"),
            "the images are 4x4x1 and those of",
        ),
        (("--compare=",), "--compare needs at least two measurements, got none"),
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
