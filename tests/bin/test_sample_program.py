"""sid2-sample: its files, its continuation, its refusals; in this process where no signal or exit code is looked at."""

import io
import os
import pathlib
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from absl import flags
from helpers import BACKEND, tiny_network
from PIL import Image
from rich.console import Console
from training_helpers import fit_steps, tiny_model

from keras_sid2 import DDIMSampler, DDPMSampler, Guidance, HeunSampler, ScaleCurve
from keras_sid2.bin import sample, sampling_flags, signals
from keras_sid2.bin.common import SamplingProgress
from keras_sid2.image_files import NpzPieces, write_npz, write_png
from keras_sid2.image_reading import iterate_pngs, read_images
from keras_sid2.training.checkpoints import save_checkpoint

WHITE = np.full((4, 4, 1), 255, "uint8")


def command(*given: str) -> list[str]:
    return [sys.executable, "-m", "keras_sid2.bin.sample", *map(str, given)]


def last_line(stderr: str) -> str:
    return stderr.strip().splitlines()[-1]


def parsed(*given: str) -> flags.FlagValues:
    values = flags.FlagValues()
    sample.define(values)
    values(["sid2-sample", *given])
    return values


def draw(*given: str) -> tuple[int, str]:
    """(exit code, what was printed) of the program in this process."""
    console = Console(file=io.StringIO(), width=200)
    code = sample.draw(parsed(*given), console)
    return code, console.file.getvalue()


def images_of(path) -> list:
    return read_images(path).tolist()


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    """The work directory of a model that has trained a little."""
    folder = tmp_path_factory.mktemp("trained")
    model = tiny_model()
    fit_steps(model)
    save_checkpoint(model, folder / "checkpoints", keep=1)
    return folder


@pytest.fixture(scope="module")
def unlabelled(tmp_path_factory):
    """A .keras file of a model without classes."""
    path = tmp_path_factory.mktemp("unlabelled") / "model.keras"
    tiny_model(network=tiny_network(num_classes=None)).save(path)
    return path


@pytest.fixture
def no_model(monkeypatch):
    """Loading a model is a defect: what is wrong must have been told before."""
    monkeypatch.setattr(sampling_flags, "load_model_from_flags", None)


# -- files -----------------------------------------------------------------------------------------------------------


def test_every_format(workdir, tmp_path):
    out = tmp_path / "new" / "drawn"
    how = ("--labels=0,1,2,2,1", "--num_steps=6", "--guidance_scale=2", "--guidance_interval=-3,5", "--frames=4")
    code, said = draw(f"--workdir={workdir}", f"--out={out}", *how, "--format=grid,npz,pngs,gif,webp")
    assert code == 0 and f"5 images: {out}.png, {out}.npz, {out}/, {out}.gif, {out}.webp" in said
    names = ["drawn", "drawn.gif", "drawn.npz", "drawn.png", "drawn.webp"]
    assert sorted(p.name for p in out.parent.iterdir()) == names
    with np.load(f"{out}.npz", allow_pickle=False) as arrays:
        assert set(arrays) == {"arr_0", "arr_1"}
        assert arrays["arr_0"].shape == (5, 4, 4, 1) and arrays["arr_0"].dtype == np.uint8
        assert arrays["arr_1"].tolist() == [0, 1, 2, 2, 1]
        assert np.concatenate(list(iterate_pngs(out, 2))).tolist() == arrays["arr_0"].tolist()
        last = arrays["arr_0"][0, ..., 0]
    assert Image.open(f"{out}.png").size == (3 * 68, 2 * (68 + 14))
    for suffix in (".gif", ".webp"):
        with Image.open(f"{out}{suffix}") as animation:
            assert animation.n_frames == 4 and animation.size == (2 * 3 * 68, 2 * 68)
            animation.seek(3)
            shown = np.array(animation.convert("RGB"))[2:66:16, 2:66:16, 0].astype(int)
        assert np.abs(shown - last).max() <= 1  # another batch size: up to rounding


def test_the_default_is_a_grid_and_the_adm_layout_of_the_classes_in_turn(workdir, tmp_path):
    draw(f"--workdir={workdir}", f"--out={tmp_path / 'a'}", "--num_steps=2")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.npz", "a.png"]
    with np.load(tmp_path / "a.npz", allow_pickle=False) as arrays:
        assert arrays["arr_1"].tolist() == [i % 3 for i in range(16)]


def test_without_classes_there_are_no_labels(unlabelled, tmp_path):
    draw(f"--weights={unlabelled}", f"--out={tmp_path / 'a'}", "--num_steps=2", "--num_images=3")
    with np.load(tmp_path / "a.npz", allow_pickle=False) as arrays:
        assert set(arrays) == {"arr_0"} and len(arrays["arr_0"]) == 3


def test_a_second_request_continues_the_first(workdir, tmp_path):
    how = (f"--workdir={workdir}", "--num_steps=2", "--format=npz,pngs", "--batch_size=2")
    draw(*how, f"--out={tmp_path / 'all'}", "--labels=0,1,2,2")
    draw(*how, f"--out={tmp_path / 'rest'}", "--labels=2,2", "--first_image=2")
    assert images_of(tmp_path / "rest.npz") == images_of(tmp_path / "all.npz")[2:]
    assert [p.name for p in sorted((tmp_path / "rest").iterdir())] == ["000002.png", "000003.png"]


def test_images_given_lead_to_the_result(workdir, tmp_path):
    how = (f"--workdir={workdir}", "--num_steps=2", "--format=npz", "--labels=0,1,2", "--batch_size=2")
    mask = np.zeros((4, 4, 1), "uint8")
    mask[1:3] = 255
    write_png(tmp_path / "white.png", WHITE)
    write_png(tmp_path / "mask.png", mask)
    write_npz(tmp_path / "three.npz", np.arange(48, dtype="uint8").reshape(3, 4, 4, 1))
    draw(*how, f"--out={tmp_path / 'a'}", f"--known={tmp_path / 'white.png'}", f"--mask={tmp_path / 'mask.png'}")
    kept = read_images(tmp_path / "a.npz")[:, 1:3]
    assert (kept == 255).all()
    draw(*how, f"--out={tmp_path / 'b'}", f"--known={tmp_path / 'three.npz'}", f"--mask={tmp_path / 'mask.png'}")
    given = read_images(tmp_path / "three.npz")
    assert read_images(tmp_path / "b.npz")[:, 1:3].tolist() == given[:, 1:3].tolist()
    draw(*how, f"--out={tmp_path / 'c'}", f"--init={tmp_path / 'three.npz'}", "--t_start=0.001")
    draw(*how, f"--out={tmp_path / 'd'}", f"--init={tmp_path / 'white.png'}", "--t_start=0.001")
    assert images_of(tmp_path / "c.npz") != images_of(tmp_path / "d.npz")


def test_a_weaker_model_guides(workdir, tmp_path):
    tiny_model(weights_seed=1).save(tmp_path / "other.keras")
    how, drawn = (f"--workdir={workdir}", "--num_steps=2", "--format=npz", "--labels=0,1"), []
    for weaker in (None, tmp_path / "other.keras", workdir):
        flags_of_it = () if weaker is None else ("--guidance_scale=3", f"--autoguide={weaker}")
        draw(*how, f"--out={tmp_path / 'a'}", *flags_of_it)
        drawn.append(read_images(tmp_path / "a.npz").astype(int))
    without, by_another, by_itself = drawn
    assert np.abs(by_another - without).max() > 1 >= np.abs(by_itself - without).max()


# -- continuing ------------------------------------------------------------------------------------------------------


def request(workdir, out, *more: str) -> tuple[str, ...]:
    how = ("--num_images=20", "--num_steps=2", "--batch_size=4", "--format=grid,npz,pngs")
    return f"--workdir={workdir}", f"--out={out}", *how, *more


@pytest.mark.parametrize("span", [1, 8])
@pytest.mark.parametrize("there", [0, 4, 12])
def test_interrupted_after_a_piece_it_goes_on_to_the_same_bytes(workdir, tmp_path, monkeypatch, there, span):
    monkeypatch.setattr(sample, "_SPAN", span)
    draw(*request(workdir, tmp_path / "whole"))
    add = NpzPieces.add

    def interrupted(pieces, images, labels):
        if pieces.done == there:
            raise KeyboardInterrupt
        add(pieces, images, labels)

    with monkeypatch.context() as patch:
        patch.setattr(NpzPieces, "add", interrupted)
        code, said = draw(*request(workdir, tmp_path / "a"))
    assert code == 130 and f"interrupted; {there} of 20 images are in {tmp_path / 'a'}.npz.pieces: the same" in said
    assert not (tmp_path / "a.npz").exists() and not (tmp_path / "a.png").exists()
    for path in (tmp_path / "a").glob("*.png"):
        path.unlink()  # they are written again from the pieces
    code, said = draw(*request(workdir, tmp_path / "a"))
    assert code == 0 and (not there or f"{there} of 20 images are there already" in said)
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "whole.npz").read_bytes()
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "whole.png").read_bytes()
    assert np.concatenate(list(iterate_pngs(tmp_path / "a", 50))).tolist() == images_of(tmp_path / "a.npz")


def test_after_a_signal_the_batch_that_is_drawn_is_kept(looking, workdir, tmp_path, monkeypatch):
    draw(*request(workdir, tmp_path / "whole"))
    add = NpzPieces.add

    def signalled(pieces, images, labels):
        if pieces.done == 4:
            os.kill(os.getpid(), signal.SIGTERM)
        add(pieces, images, labels)

    with monkeypatch.context() as patch:
        patch.setattr(NpzPieces, "add", signalled)
        code, said = draw(*request(workdir, tmp_path / "a"))
    assert code == 143 and "interrupted; 8 of 20 images are in" in said
    monkeypatch.setattr(signals, "_came", None)
    code, said = draw(*request(workdir, tmp_path / "a"))
    assert code == 0 and "8 of 20 images are there already" in said
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "whole.npz").read_bytes()


def test_another_request_does_not_go_on(workdir, tmp_path):
    write_png(tmp_path / "white.png", WHITE)
    write_png(tmp_path / "black.png", 0 * WHITE)
    init = (f"--init={tmp_path / 'white.png'}", "--t_start=0.5")
    drawn = sample._Request.describe(_loaded(request(workdir, tmp_path / "a", *init)))
    NpzPieces(tmp_path / "a.npz", settings=drawn).add(np.zeros((4, 4, 4, 1), "uint8"), np.arange(4) % 3)
    labels = ",".join("1" * 20)
    for change, sentence in (
        (("--seed=1",), "seed was 0 and is 1"),
        ((f"--init={tmp_path / 'black.png'}",), "init was"),
        (("--num_images=21",), "images was 20 and is 21"),
        ((f"--labels={labels}",), "labels was"),
        (("--sampler=ddim",), "sampler was"),
        (("--t_start=0.25",), "t_start was 0.5 and is 0.25"),
    ):
        with pytest.raises(ValueError, match=f"a.npz.pieces holds pieces of another request: .*{sentence}"):
            draw(*request(workdir, tmp_path / "a", *init, *change))
    code, said = draw(*request(workdir, tmp_path / "a", *init, "--batch_size=3"))
    assert code == 0 and "4 of 20 images are there already" in said


def _loaded(given):
    values = parsed(*given)
    drawn = sample._Request(model=sampling_flags.load_model_from_flags(values), **sample._read_flags(values))
    drawn.labels = np.arange(drawn.count) % 3
    return drawn


def test_no_batch_is_of_a_size_of_its_own_and_a_grid_needs_no_more_than_it_shows(workdir, monkeypatch):
    monkeypatch.setattr(sample, "_SPAN", 8)
    drawn = _loaded(request(workdir, "unused"))
    spans = []
    monkeypatch.setattr(drawn, "drawing", lambda first, last, _: spans.append((first, last)) or NoImages())
    list(drawn.batches(4, 29, SamplingProgress(Console(file=io.StringIO()), 29)))
    assert spans == [(4, 12), (12, 20), (20, 29)]
    assert sample._needed(["grid"], 5000) == 400 and sample._needed(["gif"], 5000) == 0
    assert sample._needed(["grid", "pngs"], 5000) == 5000


class NoImages:
    def batches(self):
        return iter(())


@pytest.mark.slow
@pytest.mark.backend_free
def test_ctrl_c_keeps_the_pieces_and_the_same_command_goes_on(workdir, tmp_path):
    steps = 16 if BACKEND == "torch" else 256  # long enough to be interrupted; torch is slow with networks this small
    how = ("--num_images=400", "--batch_size=8", f"--num_steps={steps}")
    given = (f"--workdir={workdir}", f"--out={tmp_path / 'a'}", *how)
    with open(tmp_path / "log", "w") as stderr:
        process = subprocess.Popen(command(*given), stderr=stderr)
        wait_for(lambda: list((tmp_path / "a.npz.pieces").glob("0*8.npz")), process)
        process.send_signal(signal.SIGINT)
        code = process.wait(timeout=120)
    said = (tmp_path / "log").read_text()
    assert code == 130 and "the same command goes on" in last_line(said) and "Traceback" not in said
    assert not (tmp_path / "a.npz").exists()
    result = subprocess.run(command(*given), capture_output=True, text=True, timeout=300)
    assert result.returncode == 0 and "images are there already" in result.stderr, result.stderr
    assert read_images(tmp_path / "a.npz").shape == (400, 4, 4, 1) and not (tmp_path / "a.npz.pieces").exists()


def wait_for(condition, process):
    deadline = time.monotonic() + 240
    while not condition():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)


# -- progress --------------------------------------------------------------------------------------------------------


@pytest.mark.backend_free
def test_a_log_gets_about_twenty_lines_with_speed_and_time_left():
    console = Console(file=io.StringIO(), width=200)
    with SamplingProgress(console, 50_000, start=1000) as line:
        for first in range(1000, 50_000, 100):
            report = line.part(first, 100)
            for done in range(1, 11):
                report(done, 10)
    lines = console.file.getvalue().splitlines()
    assert 18 <= len(lines) <= 20 and lines[-1].startswith("images 50000/50000  ")
    assert all(" images/s, 0:00:00 left" in line for line in lines)


@pytest.mark.backend_free
def test_a_terminal_gets_a_bar():
    console = Console(file=io.StringIO(), width=200, force_terminal=True)
    with SamplingProgress(console, 8) as line:
        for done in range(1, 9):
            line.part(0, 8)(done, 8)
            time.sleep(0.001)
    assert "8/8" in console.file.getvalue() and "images/s" in console.file.getvalue()


# -- flags -----------------------------------------------------------------------------------------------------------


@pytest.mark.backend_free
@pytest.mark.parametrize(
    "given, option, value",
    [
        ((), "sampler", DDPMSampler(0.2)),
        (("--variance=0.1",), "sampler", DDPMSampler(0.1)),
        (("--sampler=ddim", "--eta=0.5"), "sampler", DDIMSampler(0.5)),
        (("--sampler=heun",), "sampler", HeunSampler()),
        (("--grid=edm_rho",), "grid", "edm_rho"),
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


PAIRS = "--guidance_scale must be a number, or logsnr:scale pairs"


@pytest.mark.backend_free
@pytest.mark.parametrize(
    "given, sentence",
    [
        (
            ("--format=grid,mp4",),
            "among grid, npz, pngs, gif, webp, with commas between, got 'grid,mp4'",
        ),
        (("--format=",), "--format must be among"),
        (("--frames=3",), "--frames goes with --format=gif or webp"),
        (("--format=gif", "--frames=0"), "--frames must be at least 1, got 0"),
        (("--num_steps=0",), "--num_steps must be at least 1, got 0"),
        (("--batch_size=0",), "--batch_size must be at least 1, got 0"),
        (("--num_images=0",), "--num_images must be at least 1, got 0"),
        (("--first_image=-1",), "--first_image must be at least 0, got -1"),
        (("--seed=-1",), "--seed must be at least 0, got -1"),
        (("--labels=0,x",), "--labels must be numbers with commas between, got '0,x'"),
        (("--labels=",), "--labels must be numbers with commas between, got ''"),
        (("--labels=0,1", "--num_images=3"), "--labels are 2 and --num_images=3: give one of them"),
        (("--sampler=euler",), "sampler must be one of ddpm, ddim, heun, dpmpp_2m"),
        (("--sampler=heun", "--eta=1"), "--eta goes with --sampler=ddim, got --sampler=heun"),
        (("--sampler=ddim", "--variance=1"), "--variance goes with --sampler=ddpm, got --sampler=ddim"),
        (("--sampler=ddim", "--eta=2"), "eta must be in [0, 1], got 2.0"),
        (("--grid=log",), "grid must be one of uniform_t, uniform_logsnr, edm_rho"),
        (("--dynamic_threshold=1.5",), "--dynamic_threshold must be in (0, 1], got 1.5"),
        (("--guidance_scale=x",), f"{PAIRS} as -3:1,0:2.5,5:1, got 'x'"),
        (("--guidance_scale=-1",), "The guidance scale must be a finite number >= 0"),
        (("--guidance_scale=1:2:3",), "A ScaleCurve needs at least two points"),
        (("--guidance_scale=3:1,0:2",), "with rising logsnr"),
        (("--guidance_scale=2", "--guidance_interval=5,-3"), "(low, high) in logsnr with low < high, got (5.0, -3.0)"),
        (("--guidance_interval=-3,5",), "--guidance_interval does nothing at --guidance_scale=1"),
        (("--autoguide=/nowhere",), "--autoguide does nothing at --guidance_scale=1"),
        (("--autoguide=/nowhere", "--guidance_scale=2"), "/nowhere is neither a .keras file nor a work directory"),
        (("--init={tmp}/white.png",), "--init and --t_start go together: give both or neither"),
        (("--init={tmp}/white.png", "--t_start=0"), "--t_start must be in (0, 1], got 0.0"),
        (("--init={tmp}/three.npz", "--t_start=1"), "--init must hold one image, or one for each of the 16, got 3"),
        (("--known={tmp}/white.png",), "--known and --mask go together"),
        (("--known={tmp}/none.png", "--mask={tmp}/white.png"), "none.png is no file"),
        (("--known={tmp}/white.png", "--mask={tmp}/three.npz"), "three.npz must be one picture, got 3"),
        (("--known={tmp}/bare.npz", "--mask={tmp}/white.png"), "bare.npz must hold images as arr_0"),
    ],
)
def test_what_the_flags_alone_say_is_refused_before_a_model_is_loaded(no_model, tmp_path, given, sentence):
    write_png(tmp_path / "white.png", WHITE)
    write_npz(tmp_path / "three.npz", np.stack([WHITE] * 3))
    np.savez(tmp_path / "bare.npz", images=WHITE)
    before = sorted(tmp_path.iterdir())
    with pytest.raises((ValueError, FileNotFoundError)) as error:
        draw("--workdir=unused", f"--out={tmp_path / 'a'}", *(flag.format(tmp=tmp_path) for flag in given))
    assert sentence in str(error.value) and "\n" not in str(error.value)
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize(
    "given, sentence",
    [
        ((), "Give either --workdir, or --weights"),
        (("--workdir=/nowhere",), "--workdir=/nowhere holds no checkpoints"),
        (("--workdir={workdir}", "--preset=sid2_digits"), "--preset goes with --weights"),
        (("--weights=/nowhere.keras",), "--weights=/nowhere.keras is no file"),
        (("--weights={tmp}/white.png",), "must be a .keras file, or a .weights.h5 file with --preset"),
        (("--workdir={workdir}", "--labels=7"), "Labels must be in [0, 2], got 7"),
        (("--weights={unlabelled}", "--labels=0"), "This model has no classes"),
        (("--weights={unlabelled}", "--guidance_scale=2"), "Guidance needs labels to be guided by, or a weaker model"),
        (("--workdir={workdir}", "--init={tmp}/wide.png", "--t_start=1"), "init must be images [16, 4, 4, 1]"),
        (
            ("--workdir={workdir}", "--known={tmp}/white.png", "--mask={tmp}/wide.png"),
            "mask must be bool and broadcast to the images [16, 4, 4, 1], true where they are kept; got bool [4, 5, 1]",
        ),
        (
            ("--workdir={workdir}", "--autoguide={unlabelled}", "--guidance_scale=2"),
            "The weaker model must have the images and classes ((4, 4, 1), 3) of this one",
        ),
    ],
)
def test_what_the_model_does_not_take_is_refused_before_anything_is_drawn(
    workdir, unlabelled, tmp_path, given, sentence
):
    write_png(tmp_path / "white.png", WHITE)
    write_png(tmp_path / "wide.png", np.zeros((4, 5, 1), "uint8"))
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
        (("--format=mp4",), "--format must be among"),
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
def test_help_shows_the_shared_flags_too():
    result = subprocess.run(command("--help"), capture_output=True, text=True, timeout=300)
    assert "--guidance_scale" in result.stdout and "--format" in result.stdout
    assert pathlib.Path(sample.__file__).name in result.stdout
