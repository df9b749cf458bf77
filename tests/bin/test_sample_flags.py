"""sid2-sample: what its flags become, and its refusals; in this process where no exit code is looked at."""

import shutil
import subprocess
import sys

import numpy as np
import pytest
from helpers import BACKEND
from sample_helpers import WHITE, command, draw, last_line, parsed

from keras_sid2 import DDIMSampler, DDPMSampler, EDMHeunSampler, Guidance, HeunSampler, ScaleCurve
from keras_sid2.bin import sampling_flags
from keras_sid2.checkpoints import MODEL, checkpoints
from keras_sid2.io.image_files import write_npz, write_png


@pytest.fixture
def no_model(monkeypatch):
    """Loading a model is a defect: what is wrong must have been told before."""
    monkeypatch.setattr(sampling_flags, "load_model_from_flags", None)


@pytest.mark.backend_free
@pytest.mark.parametrize(
    "given, option, value",
    [
        ((), "sampler", None),  # of a SampleRequest: ddpm, or a student's own
        (("--sampler=ddpm",), "sampler", DDPMSampler(0.2)),
        (("--variance=0.1",), "sampler", DDPMSampler(0.1)),
        (("--sampler=ddim", "--eta=0.5"), "sampler", DDIMSampler(0.5)),
        (("--sampler=edm_heun", "--churn=0.3"), "sampler", EDMHeunSampler(churn=0.3)),
        (("--sampler=heun",), "sampler", HeunSampler()),
        (("--noise_levels=edm_rho",), "noise_levels", "edm_rho"),
        ((), "guidance", Guidance()),
        (("--guidance_scale=2.5", "--guidance_interval=-3,5"), "guidance", Guidance(2.5, (-3.0, 5.0))),
        (("--guidance_scale=2", "--noguidance_one_batch"), "guidance", Guidance(2.0, one_batch=False)),
        (("--guidance_scale=-3:1,0:2.5",), "guidance", Guidance(ScaleCurve(((-3.0, 1.0), (0.0, 2.5))))),
        (("--dynamic_threshold=0.9",), "dynamic_threshold", 0.9),
        (("--noema",), "use_ema", False),
        (("--batch_size=3",), "batch_size", 3),
    ],
)
def test_flags_become_arguments_of_a_drawing(given, option, value):
    assert sampling_flags.sampling_options(parsed(*given))[option] == value


def test_compile_never_is_torch_s(workdir):
    given = f"--workdir={workdir}", "--compile=never", "--guidance_scale=2"
    if BACKEND != "torch":
        with pytest.raises(ValueError, match=f"--compile=never is torch's, and {BACKEND} compiles every step: leave"):
            sampling_flags.sampling_options(parsed(*given))
        return
    options = sampling_flags.sampling_options(
        parsed(*given, f"--autoguide={checkpoints(workdir / 'checkpoints')[-1] / MODEL}")
    )
    models = sampling_flags.load_model_from_flags(parsed(*given)), options["guidance_network"]
    assert all(model.network.run_eagerly for model in models)
    assert not sampling_flags.load_model_from_flags(parsed(given[0])).network.run_eagerly


PAIRS = "--guidance_scale must be a number, or logsnr:scale pairs"


@pytest.mark.backend_free
@pytest.mark.parametrize(
    "given, sentence",
    [
        (
            ("--format=grid,avi",),
            "among grid, npz, pngs, gif, webp, mp4, nc, with commas between, got 'grid,avi'",
        ),
        (("--format=",), "--format must be among"),
        (("--frames=3",), "--frames goes with --format=gif or webp or mp4"),
        (("--format=gif", "--frames=0"), "--frames must be at least 1, got 0"),
        (("--format=gif", "--frames=50", "--num_steps=4"), "--frames must be at most --num_steps (4), got 50"),
        (("--resamplings=3",), "--resamplings does nothing without --known"),
        (("--out=",), "--out must be a path of files, without suffix, as runs/digits, got ''"),
        (("--out={tmp}/",), "--out must be a path of files"),
        (("--out={tmp}/white.png/a",), "white.png/a cannot be written: "),
        (("--out=/proc/nothing/a",), "--out=/proc/nothing/a cannot be written: "),
        (("--out={tmp}/three.npz", "--format=pngs"), "three.npz is no folder"),
        (("--out={tmp}/folder",), "folder.png is a folder"),
        (("--num_steps=0",), "--num_steps must be at least 1, got 0"),
        (("--batch_size=0",), "--batch_size must be at least 1, got 0"),
        (("--compile=always",), "--compile must be auto or never, got 'always'"),
        (("--num_images=0",), "--num_images must be at least 1, got 0"),
        (("--first_image=-1",), "--first_image must be at least 0, got -1"),
        (("--seed=-1",), "--seed must be at least 0, got -1"),
        (("--labels=0,x",), "--labels must be numbers, with commas between, got '0,x'"),
        (("--labels=",), "--labels must be numbers, with commas between, got ''"),
        (("--labels=0,1", "--num_images=3"), "--labels are 2 and --num_images=3: give one of them"),
        (("--sampler=euler",), "sampler must be one of ddpm, ddim, heun, dpmpp_2m"),
        (("--sampler=heun", "--churn=0.1"), "--churn goes with --sampler=edm_heun, got --sampler=heun"),
        (("--sampler=edm_heun", "--churn=-1"), "churn must be a number >= 0, got -1.0"),
        (("--sampler=heun", "--eta=1"), "--eta goes with --sampler=ddim, got --sampler=heun"),
        (("--sampler=ddim", "--variance=1"), "--variance goes with --sampler=ddpm, got --sampler=ddim"),
        (("--sampler=ddim", "--eta=2"), "eta must be in [0, 1], got 2.0"),
        (("--noise_levels=log",), "noise_levels must be one of uniform_t, uniform_logsnr, edm_rho"),
        (("--dynamic_threshold=1.5",), "--dynamic_threshold must be in (0, 1], got 1.5"),
        (("--guidance_scale=x",), f"{PAIRS} as -3:1,0:2.5,5:1, with commas between, got 'x'"),
        (("--guidance_scale=-1",), "The guidance scale must be a finite number >= 0"),
        (("--guidance_scale=1:2:3",), "A ScaleCurve needs at least two points"),
        (("--guidance_scale=3:1,0:2",), "with rising logsnr"),
        (("--guidance_scale=2", "--guidance_interval=5,-3"), "(low, high) in logsnr with low < high, got (5.0, -3.0)"),
        (("--guidance_interval=-3,5",), "--guidance_interval does nothing at --guidance_scale=1"),
        (("--autoguide=/nowhere",), "--autoguide does nothing at --guidance_scale=1"),
        (("--autoguide=/nowhere", "--guidance_scale=2"), "--autoguide=/nowhere is no file"),
        (("--init={tmp}/white.png",), "--init and --t_start go together: give both or neither"),
        (("--init={tmp}/white.png", "--t_start=0"), "--t_start must be in (0, 1], got 0.0"),
        (("--init={tmp}/three.npz", "--t_start=1"), "--init must hold one image, or one for each of the 16, got 3"),
        (("--known={tmp}/white.png",), "--known and --mask go together"),
        (("--known={tmp}/none.png", "--mask={tmp}/white.png"), "none.png is no file"),
        (("--known={tmp}/white.png", "--mask={tmp}/three.npz"), "three.npz must be one picture, got 3"),
        (
            ("--known={tmp}/white.png", "--mask={tmp}/black.png"),
            "black.png is white nowhere, so that nothing",
        ),
        (("--known={tmp}/bare.npz", "--mask={tmp}/white.png"), "bare.npz must hold images as arr_0"),
    ],
)
def test_what_the_flags_alone_say_is_refused_before_a_model_is_loaded(no_model, tmp_path, given, sentence):
    write_png(tmp_path / "white.png", WHITE)
    write_png(tmp_path / "black.png", 0 * WHITE)
    write_npz(tmp_path / "three.npz", np.stack([WHITE] * 3))
    np.savez(tmp_path / "bare.npz", images=WHITE)
    (tmp_path / "folder.png").mkdir()
    before = sorted(tmp_path.iterdir())
    with pytest.raises((ValueError, FileNotFoundError)) as error:
        draw("--workdir=unused", f"--out={tmp_path / 'a'}", *(flag.format(tmp=tmp_path) for flag in given))
    assert sentence in str(error.value) and "\n" not in str(error.value)
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.backend_free
@pytest.mark.parametrize(
    "given, sentence",
    [
        ((), "Give either --workdir, or --weights"),
        (("--workdir=",), "Give either --workdir, or --weights"),
        (("--workdir=/nowhere",), "--workdir=/nowhere holds no checkpoints"),
        (("--workdir={workdir}", "--preset=sid2_digits"), "--preset goes with --weights"),
        (("--weights=/nowhere.keras",), "--weights=/nowhere.keras is no file"),
        (("--weights={tmp}/text.keras",), "text.keras is no .keras file of a SiD2Model that can be read: it is no zip"),
        (
            ("--weights={tmp}/text.weights.h5", "--preset=sid2_digits"),
            "text.weights.h5 is no .weights.h5 file that can be read: ",
        ),
        (
            ("--weights={tmp}/white.png",),
            "a .keras file, the folder of a checkpoint or a preset, or a .weights.h5",
        ),
        (("--weights={tmp}/text.weights.h5",), "text.weights.h5 needs --preset or --config, of which they are"),
        (
            ("--preset=sid2_digits",),
            "--preset=sid2_digits is no folder, no hf://user/name, and has no weights: sid2_digits_trained, "
            "sid2_emoji_trained has.",
        ),
        (("--workdir={workdir}", "--set=batch_size=3"), "--set goes with --weights=NAME.weights.h5 only"),
        (("--preset=hf://me",), "A preset at Hugging Face is hf://user/name, got 'hf://me'"),
        (("--weights={tmp}", "--config={tmp}/white.png"), "white.png, read as Python: SyntaxError"),
        (("--workdir={workdir}", "--labels=7"), "Labels must be in [0, 2], got 7"),
        (("--weights={unlabelled}", "--labels=0"), "This model has no classes"),
        (
            ("--weights={unlabelled}", "--guidance_scale=2"),
            "Guidance needs labels to be guided by, or a guidance network",
        ),
        (("--workdir={workdir}", "--init={tmp}/wide.png", "--t_start=1"), "init must be images [16, 4, 4, 1]"),
        (
            ("--workdir={workdir}", "--known={tmp}/white.png", "--mask={tmp}/wide.png"),
            "mask must be bool and broadcast to the images [16, 4, 4, 1], true where they are kept; got bool [4, 5, 1]",
        ),
        (
            ("--workdir={workdir}", "--autoguide={unlabelled}", "--guidance_scale=2"),
            "The guidance network must have the images and classes ((4, 4, 1), {'label': ClassLabel(num_classes=3)}",
        ),
    ],
)
def test_what_the_model_does_not_take_is_refused_before_anything_is_drawn(
    workdir, unlabelled, tmp_path, given, sentence
):
    write_png(tmp_path / "white.png", WHITE)
    write_png(tmp_path / "wide.png", np.full((4, 5, 1), 255, "uint8"))
    for name in ("text.keras", "text.weights.h5"):
        (tmp_path / name).write_text("text")
    before = sorted(tmp_path.iterdir())
    names = {"workdir": workdir, "unlabelled": unlabelled, "tmp": tmp_path}
    with pytest.raises((ValueError, FileNotFoundError)) as error:
        draw(f"--out={tmp_path / 'a'}", *(flag.format(**names) for flag in given))
    assert sentence in str(error.value) and "\n" not in str(error.value)
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.slow
@pytest.mark.backend_free
@pytest.mark.parametrize(
    "given, sentence",
    [
        (("--format=avi",), "--format must be among"),
        (("--workdir={workdir}", "--labels=7"), "Labels must be in [0, 2], got 7"),
        (("--workdir={workdir}", "digits"), "takes flags only, got 'digits'"),
    ],
)
def test_a_shell_gets_one_sentence_and_exit_code_2(workdir, tmp_path, given, sentence):
    given = [flag.format(workdir=workdir) for flag in given]
    result = subprocess.run(command(*given, f"--out={tmp_path / 'a'}"), capture_output=True, text=True, timeout=300)
    assert result.returncode == 2
    assert last_line(result.stderr).startswith("sid2-sample: ") and sentence in last_line(result.stderr)
    assert "Traceback" not in result.stderr and not list(tmp_path.iterdir())


@pytest.mark.backend_free
def test_without_a_valid_checkpoint_nothing_is_said_of_an_earlier_one(workdir, tmp_path, capsys):
    shutil.copytree(workdir, tmp_path / "run")
    (path,) = checkpoints(tmp_path / "run" / "checkpoints")
    (path / MODEL).write_bytes(b"damaged")
    with pytest.raises(FileNotFoundError, match="run holds no valid checkpoint: train there with sid2-train"):
        draw(f"--workdir={tmp_path / 'run'}", f"--out={tmp_path / 'a'}")
    assert "is not sound: model.keras has 7 bytes" in (said := capsys.readouterr().err) and "passed over" in said


@pytest.mark.backend_free
def test_help_of_an_installed_program_says_what_it_does_and_shows_the_shared_flags_too():
    script = "import sys; from keras_sid2.bin.sample import run; sys.argv = ['bin/sid2-sample', '--help']; run()"
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=300)
    assert result.returncode == 0 and result.stdout.startswith("sid2-sample: draws images from a trained model")
    assert "--guidance_scale" in result.stdout and "--format" in result.stdout
