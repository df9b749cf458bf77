"""sid2-evaluate --sweep: what it finds, what it leaves alone, and how it goes on."""

import json
import os
import signal

import pytest
from evaluate_helpers import evaluate, filled
from PIL import Image
from training_helpers import fit_steps, tiny_model

from keras_sid2 import SampleRequest
from keras_sid2.bin import measurement_lines, signals, sweep
from keras_sid2.checkpoints import save_checkpoint
from keras_sid2.evaluation import Measurement
from keras_sid2.training import NonFiniteImages

pytestmark = pytest.mark.backend_free


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    with filled(tmp_path_factory.mktemp("sweep")) as folder:
        yield folder


def given(folder, out, *more):
    """Flags of a small sweep."""
    common = (f"--workdir={folder / 'run'}", f"--reference={folder / 'real.npz'}", "--features=own_features:rows")
    return (*common, "--num_images=60", "--num_steps=2", "--sweep", f"--out={out}", *more)


def lines_of(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_sweep_finds_a_setting_and_is_not_done_twice(folder, capsys):
    lists = ("--sweep_intervals=all,-3:5", "--sweep_steps=2,4")
    texts = (*given(folder, folder / "sweep"), "--sweep_scales=1,2", *lists)
    texts = tuple(text for text in texts if text != "--num_steps=2")
    assert evaluate(folder, *texts) == 0
    first = capsys.readouterr()
    *swept, anew = lines_of(folder / "sweep.jsonl")
    assert len(swept) == 2 * 3  # steps x (none, everywhere, in the interval)
    best = min(swept, key=lambda line: line["metrics"]["frechet"])
    assert "best " in first.out and "95 % interval" in first.out and "of 6: " in first.err
    assert Image.open(folder / "sweep.png").size[0] > 500
    of_images = ("images_digest", "seed")
    assert {k: v for k, v in anew["drawn"].items() if k not in of_images} == {
        k: v for k, v in best["drawn"].items() if k not in of_images
    }
    assert (best["drawn"]["seed"], anew["drawn"]["seed"]) == (0, 1) and "measured anew with seed 1" in first.out
    assert json.loads((folder / "sweep.json").read_text()) == anew
    assert f"frechet    {anew['metrics']['frechet']:.5g}, 95 %" in first.out
    whole = (folder / "sweep.jsonl").read_text()
    for kept, drawn in ((whole[: whole.rindex("{") + 40], 1), (whole[:-1], 0)):  # killed in a line, or at its end
        (folder / "sweep.jsonl").write_text(kept)
        assert evaluate(folder, *texts) == 0
        again = capsys.readouterr()
        assert again.err.count("of 6: ") == 0 and again.err.count("the best one anew") == drawn
        assert again.out == first.out and (folder / "sweep.jsonl").read_text() == whole


def test_a_student_is_swept_over_in_its_own_steps(folder, tmp_path):
    model = tiny_model(student_steps=3)
    fit_steps(model)
    save_checkpoint(model, tmp_path / "run" / "checkpoints", keep=1)
    texts = [text for text in given(folder, tmp_path / "sweep", "--sweep_scales=1") if text != "--num_steps=2"]
    assert evaluate(folder, f"--workdir={tmp_path / 'run'}", *texts[1:]) == 0
    assert {line["drawn"]["num_steps"] for line in lines_of(tmp_path / "sweep.jsonl")} == {3}


def test_a_signal_ends_a_sweep_and_the_same_command_goes_on(looking, folder, capsys, monkeypatch):
    texts = given(folder, folder / "stopped", "--sweep_scales=1", "--sweep_ema=true,false")
    add = measurement_lines.SweepLines.add

    def signalled(lines, measurement):
        add(lines, measurement)
        os.kill(os.getpid(), signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(measurement_lines.SweepLines, "add", signalled)
        with pytest.raises(signals.Interrupted):
            evaluate(folder, *texts)
    assert len(lines_of(folder / "stopped.jsonl")) == 1 and not (folder / "stopped.json").exists()
    monkeypatch.setattr(signals, "_came", None)
    capsys.readouterr()
    assert evaluate(folder, *texts) == 0
    assert "1 of 2: " not in (said := capsys.readouterr().err) and "2 of 2: " in said


def test_a_sweep_over_the_variance_of_ddpm(folder, capsys):
    texts = given(folder, folder / "varied", "--sweep_scales=1", "--sweep_variance=0,0.5,1")
    assert evaluate(folder, *texts) == 0
    samplers = [line["drawn"]["sampler"] for line in lines_of(folder / "varied.jsonl")]
    assert samplers[:3] == [f"DDPMSampler(variance={v})" for v in (0.0, 0.5, 1.0)] and samplers[3] in samplers[:3]
    said = capsys.readouterr()
    assert "1 of 3: no guidance, 2 steps, variance 0, averaged weights" in said.err and "variance" in said.out
    for more, sentence in (
        (("--sweep_variance=0,2",), r"DDPMSampler's variance must be in \[0, 1\], got 2.0"),
        (("--sweep_variance=a",), "--sweep_variance must be numbers, with commas between, got 'a'"),
        (("--sweep_variance=0.1", "--sampler=ddim"), "--sweep_variance goes with --sampler=ddpm, got --sampler=ddim"),
        (("--sweep_variance=0.1", "--variance=0.2"), "--variance is swept over: give --sweep_variance in its place"),
    ):
        with pytest.raises(ValueError, match=sentence):
            evaluate(folder, *given(folder, folder / "varied", *more))


def test_a_setting_that_draws_nan_ends_a_sweep_and_is_not_written(folder, tmp_path, monkeypatch):
    """The second of two: the line of the first one stays."""
    drawn = SampleRequest.batches

    def ill(request):
        if request.sampler.variance == 1.0:
            raise NonFiniteImages("image 3 of seed 0 became NaN.")
        return drawn(request)

    monkeypatch.setattr(SampleRequest, "batches", ill)
    with pytest.raises(FloatingPointError, match="image 3"):
        evaluate(folder, *given(folder, tmp_path / "out", "--sweep_scales=1", "--sweep_variance=0,1"))
    assert len(lines_of(tmp_path / "out.jsonl")) == 1
    assert [p.name for p in tmp_path.iterdir()] == ["out.jsonl"]


MEASURED = '{"metrics": {"frechet": 1.0}, "measured": {}, "drawn": {}}\n'


@pytest.mark.parametrize(
    "content, sentence",
    [
        (2 * '{"step": 1, "seconds": 1, "metrics": {}, "measured": {}, "drawn": {}}\n', "Line 1 of .*out.jsonl is no"),
        (MEASURED + "damaged\n" + MEASURED, "Line 2 of .*out.jsonl is no measurement of a sweep"),
        (MEASURED + "\n", "Line 2 of"),
        (MEASURED + '{"step": 1', "out.jsonl is no file of a sweep: give another --out"),
    ],
)
def test_a_file_with_anything_else_in_it_is_left_as_it_is(folder, tmp_path, content, sentence):
    (tmp_path / "out.jsonl").write_text(content)
    with pytest.raises(ValueError, match=sentence):
        evaluate(folder, *given(folder, tmp_path / "out"))
    assert (tmp_path / "out.jsonl").read_text() == content and len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("suffix, sentence", [("png", "is there and of no sweep"), ("json", "is no measurement")])
def test_a_file_that_a_sweep_would_write_over_is_refused(folder, tmp_path, suffix, sentence):
    (tmp_path / f"out.{suffix}").write_text("{}")
    with pytest.raises(ValueError, match=f"out.{suffix} {sentence}"):
        evaluate(folder, *given(folder, tmp_path / "out"))
    assert (tmp_path / f"out.{suffix}").read_text() == "{}"


def test_two_sweeps_do_not_write_to_one_file(folder, tmp_path):
    (tmp_path / "out.jsonl").write_text(MEASURED)
    with measurement_lines.sweep_lines(tmp_path / "out.jsonl") as lines:
        with pytest.raises(ValueError, match="out.jsonl is in use by another sweep"):
            evaluate(folder, *given(folder, tmp_path / "out"))
        lines.add(measurement(2.0))
    with measurement_lines.sweep_lines(tmp_path / "out.jsonl") as lines:
        assert [found.metrics["frechet"] for found in lines.found] == [1.0, 2.0]


# -- the plot --------------------------------------------------------------------------------------------------------


def measurement(frechet):
    metrics = {"frechet": frechet, "frechet_low": frechet - 0.25, "frechet_high": frechet + 0.5}
    return Measurement(metrics=metrics, measured={}, drawn={})


def plotted(settings, tmp_path, monkeypatch):
    """(the axes, {label of a line: (its x, its y)}) of settings whose Frechet distances are 1, 2, ...; 9 anew."""
    plt = sweep.pyplot()
    settings = [sweep.Setting(*setting, *([] if len(setting) > 4 else [{}])) for setting in settings]
    rows = [(setting, measurement(float(i))) for i, setting in enumerate(settings, 1)]
    with monkeypatch.context() as patch:
        patch.setattr(plt, "close", lambda _: None)
        sweep.plot(rows, measurement(9.0), tmp_path / "plot.png")
    axes = plt.gcf().axes[0]
    lines = {bars.get_label(): tuple(map(list, bars.lines[0].get_data())) for bars in axes.containers}
    plt.close("all")
    assert lines.pop("the best one, measured anew")[1] == [9.0]
    return axes, lines


def test_the_plot_is_over_scale_where_it_was_swept(tmp_path, monkeypatch):
    inside = (-3.0, 5.0)
    settings = [(2.0, None, 8, True), (1.0, None, 8, True), (2.0, inside, 8, True), (1.0, None, 4, True)]
    axes, lines = plotted([*settings, (3.0, None, 4, True)], tmp_path, monkeypatch)
    assert lines == {
        "guided everywhere, 8 steps": ([1.0, 2.0], [2.0, 1.0]),
        "guided from -3 to 5, 8 steps": ([1.0, 2.0], [2.0, 3.0]),
        "guided everywhere, 4 steps": ([1.0, 3.0], [4.0, 5.0]),
    }
    assert axes.get_xlabel() == "guidance scale"


def test_the_plot_is_over_steps_where_there_is_one_scale(tmp_path, monkeypatch):
    settings = [(1.0, None, 8, True), (1.0, None, 2, True), (1.0, None, 4, True), (1.0, None, 4, False)]
    axes, lines = plotted(settings, tmp_path, monkeypatch)
    assert lines == {"no guidance": ([2, 4, 8], [2.0, 3.0, 1.0]), "no guidance, raw weights": ([4], [4.0])}
    assert axes.get_xlabel() == "sampler steps" and [t.get_text() for t in axes.get_xticklabels()] == ["2", "4", "8"]


def test_the_plot_is_over_variance_where_that_alone_was_swept(tmp_path, monkeypatch):
    settings = [(1.0, None, 8, True, {}, variance) for variance in (0.3, 0.1, 0.2)]
    axes, lines = plotted(settings, tmp_path, monkeypatch)
    assert lines == {"no guidance": ([0.1, 0.2, 0.3], [2.0, 3.0, 1.0])}
    assert axes.get_xlabel() == "variance of ddpm"
    _, lines = plotted([(1.0, None, n, True, {}, 0.1) for n in (2, 4)], tmp_path, monkeypatch)
    assert list(lines) == ["no guidance, variance 0.1"]


def test_the_plot_names_kinds_where_there_is_one_scale_and_number_of_steps(tmp_path, monkeypatch):
    settings = [(2.0, None, 8, True), (2.0, (-3.0, 5.0), 8, True), (2.0, None, 8, False)]
    axes, _ = plotted(settings, tmp_path, monkeypatch)
    names = ["guided everywhere", "guided everywhere, raw weights", "guided from -3 to 5"]
    assert [t.get_text() for t in axes.get_xticklabels()] == names
    points = {tuple(map(tuple, bars.lines[0].get_data())) for bars in axes.containers}
    assert points == {((0, 1, 2), (1.0, 3.0, 2.0)), ((0,), (9.0,))}
    assert axes.get_title() == "guidance scale 2, 8 steps"
