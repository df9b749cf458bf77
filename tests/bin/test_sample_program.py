"""sid2-sample: its files, its continuation, its progress; in this process where no exit code is looked at."""

import io
import os
import re
import signal
import subprocess
import time
import types

import keras
import numpy as np
import pytest
from helpers import BACKEND
from PIL import Image
from rich.console import Console
from sample_helpers import WHITE, command, draw, images_of, last_line, parsed, request
from training_helpers import tiny_model

from keras_sid2.bin import sample, sample_request, sampling_flags, signals
from keras_sid2.bin.common import ProgressLine, SamplingProgress, print_line, tell
from keras_sid2.io.image_files import NpzPieces, write_npz, write_png
from keras_sid2.io.image_reading import iterate_pngs, read_images

# -- files -----------------------------------------------------------------------------------------------------------


def test_every_format(workdir, tmp_path):
    out = tmp_path / "new" / "drawn"
    how = ("--labels=0,1,2,2,1", "--num_steps=6", "--guidance_scale=2", "--guidance_interval=-3,5", "--frames=4")
    code, said = draw(f"--workdir={workdir}", f"--out={out}", *how, "--format=grid,npz,pngs,gif,webp")
    assert code == 0 and f"5 images: {out}.png, {out}.npz, {out}/, {out}.gif, {out}.webp" in said
    names = ["drawn", "drawn.gif", "drawn.npz", "drawn.npz.json", "drawn.png", "drawn.webp"]
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
            assert animation.n_frames == 4 and animation.size == (2 * 3 * 68, 2 * (68 + 14))
            animation.seek(3)
            shown = np.array(animation.convert("RGB"))[2:66:16, 2:66:16, 0].astype(int)
        assert np.abs(shown - last).max() <= 1  # another batch size: up to rounding


def ill_model(path):
    """A .keras file whose images of class 1 are NaN."""
    model = tiny_model()
    (table,) = [w for w in model.network.weights if len(w.shape) == 2 and w.shape[0] == 4]
    values = np.array(keras.ops.convert_to_numpy(table.value))
    values[1] = np.nan
    table.assign(values)
    model.save(path)
    return path


@pytest.mark.backend_free
def test_images_that_are_not_finite_end_it_with_a_sentence_and_leave_nothing_of_them(tmp_path, capsys):
    how = (f"--out={tmp_path / 'a'}", "--num_steps=2", "--batch_size=2", "--format=grid,npz,pngs", "--labels=0,2,1,0")
    with pytest.raises(FloatingPointError, match=r"image 2 \(label 1\) of seed 0 became .* in step 1 of 2") as error:
        draw(f"--weights={ill_model(tmp_path / 'ill.keras')}", *how)
    assert tell(error.value, "sid2-sample") == 1 and capsys.readouterr().err.count("\n") == 1
    assert not any((tmp_path / name).exists() for name in ("a.png", "a.npz", "a.npz.json"))
    assert [p.name for p in (tmp_path / "a.npz.pieces").glob("*.npz")] == ["000000000.npz"]
    assert sorted(p.name for p in (tmp_path / "a").iterdir()) == ["000000.png", "000001.png", "images.json"]


@pytest.mark.backend_free
def test_where_the_first_images_are_not_finite_the_way_is_free(tmp_path):
    ill, sound = ill_model(tmp_path / "ill.keras"), tmp_path / "sound.keras"
    tiny_model().save(sound)
    how = (f"--out={tmp_path / 'a'}", "--num_steps=2", "--batch_size=2", "--format=grid,npz,pngs", "--labels=1,0")
    with pytest.raises(FloatingPointError):
        draw(f"--weights={ill}", *how)
    assert draw(f"--weights={sound}", *how)[0] == 0


@pytest.mark.backend_free
def test_the_default_is_a_grid_and_the_adm_layout_of_the_classes_in_turn(workdir, tmp_path):
    draw(f"--workdir={workdir}", f"--out={tmp_path / 'a'}", "--num_steps=2")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.npz", "a.npz.json", "a.png"]
    with np.load(tmp_path / "a.npz", allow_pickle=False) as arrays:
        assert arrays["arr_1"].tolist() == [i % 3 for i in range(16)]


@pytest.mark.backend_free
def test_without_classes_there_are_no_labels(unlabelled, tmp_path):
    draw(f"--weights={unlabelled}", f"--out={tmp_path / 'a'}", "--num_steps=2", "--num_images=3")
    with np.load(tmp_path / "a.npz", allow_pickle=False) as arrays:
        assert set(arrays) == {"arr_0"} and len(arrays["arr_0"]) == 3


@pytest.mark.backend_free
def test_a_second_request_continues_the_first(workdir, tmp_path):
    how = (f"--workdir={workdir}", "--num_steps=2", "--format=npz,pngs", "--batch_size=2")
    draw(*how, f"--out={tmp_path / 'all'}", "--labels=0,1,2,2")
    draw(*how, f"--out={tmp_path / 'rest'}", "--labels=2,2", "--first_image=2")
    assert images_of(tmp_path / "rest.npz") == images_of(tmp_path / "all.npz")[2:]
    assert [p.name for p in sorted((tmp_path / "rest").glob("*.png"))] == ["000002.png", "000003.png"]


@pytest.mark.backend_free
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
    write_png(tmp_path / "mask.png", mask // 255)  # of 0 and 1
    draw(*how, f"--out={tmp_path / 'b'}", f"--known={tmp_path / 'three.npz'}", f"--mask={tmp_path / 'mask.png'}")
    given = read_images(tmp_path / "three.npz")
    assert read_images(tmp_path / "b.npz")[:, 1:3].tolist() == given[:, 1:3].tolist()
    draw(*how, f"--out={tmp_path / 'c'}", f"--init={tmp_path / 'three.npz'}", "--t_start=0.001")
    draw(*how, f"--out={tmp_path / 'd'}", f"--init={tmp_path / 'white.png'}", "--t_start=0.001")
    assert images_of(tmp_path / "c.npz") != images_of(tmp_path / "d.npz")


@pytest.mark.backend_free
def test_a_guidance_network_guides(workdir, tmp_path):
    tiny_model(weights_seed=1).save(tmp_path / "other.keras")
    how, drawn = (f"--workdir={workdir}", "--num_steps=2", "--format=npz", "--labels=0,1"), []
    for guidance_network in (None, tmp_path / "other.keras", workdir):
        flags_of_it = () if guidance_network is None else ("--guidance_scale=3", f"--autoguide={guidance_network}")
        draw(*how, f"--out={tmp_path / 'a'}", *flags_of_it)
        drawn.append(read_images(tmp_path / "a.npz").astype(int))
    without, by_another, by_itself = drawn
    assert np.abs(by_another - without).max() > 1 >= np.abs(by_itself - without).max()


# -- continuing ------------------------------------------------------------------------------------------------------


@pytest.mark.backend_free
@pytest.mark.parametrize("span", [1, 8])
@pytest.mark.parametrize("there", [0, 4, 12])
def test_interrupted_after_a_piece_it_goes_on_to_the_same_bytes(workdir, tmp_path, monkeypatch, there, span):
    monkeypatch.setattr(sample_request, "_SPAN", span)
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
    told = (tmp_path / "whole.npz.json").read_text()  # its digest is of the images that were there before too
    assert (tmp_path / "a.npz.json").read_text() == told == (tmp_path / "a" / "images.json").read_text()
    assert np.concatenate(list(iterate_pngs(tmp_path / "a", 50))).tolist() == images_of(tmp_path / "a.npz")


@pytest.mark.backend_free
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


@pytest.mark.backend_free
def test_another_request_does_not_go_on(workdir, tmp_path):
    write_png(tmp_path / "white.png", WHITE)
    write_png(tmp_path / "black.png", 0 * WHITE)
    init = (f"--init={tmp_path / 'white.png'}", "--t_start=0.5")
    drawn = sample.Request.describe(_loaded(request(workdir, tmp_path / "a", *init)))
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
    drawn = sample.Request(model=sampling_flags.load_model_from_flags(values), **sample.read_flags(values))
    drawn.labels = np.arange(drawn.count) % 3
    return drawn


@pytest.mark.backend_free
def test_no_batch_is_of_a_size_of_its_own_and_a_grid_needs_no_more_than_it_shows(workdir, monkeypatch):
    monkeypatch.setattr(sample_request, "_SPAN", 8)
    drawn = _loaded(request(workdir, "unused"))
    spans = []
    monkeypatch.setattr(drawn, "sample_request", lambda first, last, _: spans.append((first, last)) or NoImages())
    list(drawn.batches(4, 29, SamplingProgress(Console(file=io.StringIO()), 29)))
    assert spans == [(4, 12), (12, 20), (20, 29)]
    many = types.SimpleNamespace(count=5000, of_clips=False)
    assert sample._needed(["grid"], many) == 400 and sample._needed(["gif"], many) == 0
    assert sample._needed(["grid", "pngs"], many) == 5000


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
    first, *lines = console.file.getvalue().splitlines()
    assert first == "images 1000/50000  compiling the sampler ..." and max(map(len, lines)) <= 80
    assert 18 <= len(lines) <= 20 and lines[-1].startswith("images 50000/50000  ")
    assert all(re.search(r" images/s, 0:00:0\d left$", line) for line in lines)


@pytest.mark.backend_free
def test_a_log_gets_no_more_lines_than_images():
    console = Console(file=io.StringIO(), width=200)
    with SamplingProgress(console, 4) as line:
        report = line.part(0, 4)
        for done in range(1, 257):
            report(done, 256)
    assert len(console.file.getvalue().splitlines()) == 1 + 4


@pytest.mark.backend_free
def test_a_terminal_gets_a_bar():
    console = Console(file=io.StringIO(), width=200, force_terminal=True)
    with SamplingProgress(console, 8) as line:
        for done in range(1, 9):
            line.part(0, 8)(done, 8)
            time.sleep(0.001)
    assert "8/8" in console.file.getvalue() and "images/s" in console.file.getvalue()


@pytest.mark.backend_free
def test_lines_fit_a_terminal_but_for_paths(monkeypatch):
    path = "/" + "x" * 100
    sentence = f"Stopped and saved at step 1000, with a few words more than a line of a terminal has, in {path} it is."
    for width, longest in ((None, len(sentence)), (80, 103)):
        monkeypatch.setenv("COLUMNS", "80") if width else monkeypatch.delenv("COLUMNS", raising=False)
        console = Console(file=io.StringIO())
        print_line(console, sentence)
        lines = console.file.getvalue().splitlines()
        assert max(map(len, lines)) == longest and " ".join(map(str.strip, lines)) == sentence
        assert all(len(line) <= 80 or line.strip() == path for line in lines) or width is None
    console = Console(file=io.StringIO(), width=80, force_terminal=True, color_system=None)
    with ProgressLine(console, "train", 1_000_000) as line:
        line.say(123_456, "loss 0.2700  123456 images/s  31 % of peak  waiting for data 12.1 %  saving 5 %")
    shown = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", console.file.getvalue()).replace("\r", "\n").splitlines()
    (told,) = {text for text in shown if "loss" in text}
    assert len(told) <= 80 and "loss 0.2700  123456 images/s" in told
