"""Measuring samples while training goes on: what is written, what is told, and what ends it."""

import functools
import json
import re

import numpy as np
import pytest
from helpers import tiny_network
from PIL import Image
from training_helpers import Steps, stripes, tiny_model

from keras_sid2.backend import steps_done
from keras_sid2.callbacks import measuring
from keras_sid2.callbacks.measuring import MeasureSamples
from keras_sid2.conditions import Vector
from keras_sid2.evaluation import Features, Reference, collect, evaluate

LABELS = np.arange(24) % 3


def features(extract=lambda images: images.mean(axis=(2, 3)) / 255.0) -> Features:
    return Features(name="rows", digest="", rule="", extract=extract)


def measure_with(those: Features, reference_of: Features | None = None):
    """The `measure` of a callback."""
    real, digest = collect(reference_of or those, [stripes(256)[0]], groups=1)
    return functools.partial(evaluate, features=those, reference=Reference(name="r", digest=digest, features=real))


@pytest.fixture(scope="module")
def model():
    return tiny_model()


@pytest.fixture
def callback(tmp_path):
    """Makes one with its file in `tmp_path`; `told` are the sentences it notes."""

    def make(measure, **options):
        options = {"every": 1, "labels": LABELS, "generate_options": {"num_steps": 4}, **options}
        made = MeasureSamples(
            measure, path=tmp_path / "run" / "m.jsonl", note=lambda text: made.told.append(text), **options
        )
        made.told = []
        return made

    return make


def lines(callback) -> list[dict]:
    return [json.loads(line) for line in callback.path.read_text().splitlines()] if callback.path.exists() else []


def train(model, *callbacks, windows: int):
    """Windows of one step."""
    model.fit(Steps(count=16), epochs=windows, shuffle=False, verbose=0, callbacks=list(callbacks))


def test_figures_grids_and_a_line_each_time(model, callback, tmp_path):
    logged, start, measure = [], steps_done(model), measure_with(features())
    made = callback(
        measure,
        every=2,
        generate_options={"num_steps": 4, "batch_size": 16},
        grids=tmp_path / "grids",
        log=lambda step, metrics: logged.append((step, metrics["frechet"])),
    )
    for _ in range(4):  # a fit each, as TrainingRun has several
        train(model, made, windows=1)
    steps = [step for step in range(start + 1, start + 5) if step % 2 == 0]
    assert [line["step"] for line in lines(made)] == steps == [step for step, _ in logged]
    assert [line["metrics"]["frechet"] for line in lines(made)] == [value for _, value in logged]
    first, last = (line["drawn"] for line in lines(made))
    assert last["training_step"] == steps[-1] and last["averaged_weights"] is True
    assert last["weights"] != first["weights"]
    expected = measure([model.generate(LABELS, num_steps=4, batch_size=16)]).metrics
    assert logged[-1][1] == pytest.approx(expected["frechet"], rel=1e-6)
    assert sorted(p.name for p in (tmp_path / "grids").iterdir()) == [f"step_{step:010d}.png" for step in steps]
    assert Image.open(tmp_path / "grids" / f"step_{steps[-1]:010d}.png").size[0] > 4 * 64


@pytest.mark.backend_free
def test_a_run_that_goes_on_drops_lines_of_steps_that_come_again(model, callback):
    made, step = callback(measure_with(features()), every=10**6), steps_done(model)
    kept = json.dumps({"step": step, "metrics": {}})
    made.path.parent.mkdir()
    made.path.write_text(f'{kept}\n{json.dumps({"step": step + 4})}\n{{"step": 1, "fig')
    train(model, made, windows=1)
    assert made.path.read_text() == f"{kept}\n"


# -- what ends a measurement, and what does not end training -----------------------------------------------------------


@pytest.mark.backend_free
@pytest.mark.parametrize("kind, pieces", [("steps", (1, 0, 0)), ("batch", (4, 1, 0)), ("distance", (8, 2, 1))])
def test_it_is_broken_off_behind_the_piece_in_which_training_is_asked_to_stop(
    model, callback, kind, pieces, monkeypatch
):
    """Two batches of four reports each, then the distances."""
    done = dict.fromkeys(("steps", "batch", "distance"), 0)

    def works(which):
        done[which] += 1
        model.stop_training = model.stop_training or which == kind

    def drawing(*arguments, progress, **options):
        return draw(*arguments, progress=lambda *told: (works("steps"), progress(*told)), **options)

    def extract(images):
        works("batch")
        return features().extract(images)

    def measure(batches, *, drawn, progress):
        return evaluated(batches, drawn=drawn, progress=lambda *told: (works("distance"), progress(*told)))

    draw, evaluated = measuring.SampleRequest, measure_with(features(extract), reference_of=features())
    monkeypatch.setattr(measuring, "SampleRequest", drawing)
    made = callback(measure, generate_options={"num_steps": 4, "batch_size": 12})
    train(model, made, windows=1)
    assert tuple(done.values()) == pieces and not lines(made)
    assert re.fullmatch(r"Measuring .* was broken off after .* s: training is to stop.", *made.told)


@pytest.mark.backend_free
def test_one_line_says_what_it_cost(model, callback):
    start, made = steps_done(model), callback(measure_with(features()))
    train(model, made, windows=2)
    for step, since, told in zip((1, 2), ("training began", "the last one"), made.told, strict=True):
        what = rf"Measuring samples at step {start + step} took (\S+) s, (\S+) % of the time since {since}."
        seconds, share = map(float, re.fullmatch(what, told).groups())
        assert seconds == pytest.approx(lines(made)[step - 1]["seconds"], abs=2e-3, rel=0.01) and 0.0 < share <= 100.0


@pytest.mark.backend_free
def test_a_share_of_the_time_is_deprecated(callback):
    with pytest.warns(DeprecationWarning, match="every and num_images say how much is measured"):
        callback(None, max_share=0.05)


@pytest.mark.backend_free
def test_one_that_fails_is_told_and_training_goes_on(model, callback):
    errors = [np.linalg.LinAlgError("SVD did not converge\nAgain"), FileNotFoundError(2, "No such file", "r.npz")]
    start, failing, measure = steps_done(model), [*errors, None], measure_with(features())

    def sometimes(*arguments, **options):
        if error := failing.pop(0):
            raise error
        return measure(*arguments, **options)

    made = callback(sometimes)
    train(model, made, windows=3)
    assert [line["step"] for line in lines(made)] == [start + 3]
    assert made.told[:-1] == [
        f"Measuring samples at step {step} failed ({what}); training goes on."
        for step, what in (
            (start + 1, "LinAlgError: SVD did not converge"),
            (start + 2, "FileNotFoundError: [Errno 2] No such file: 'r.npz'"),
        )
    ]


@pytest.mark.backend_free
def test_ctrl_c_is_no_failure(model, callback):
    def interrupted(*arguments, **options):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(model, callback(interrupted), windows=1)


@pytest.mark.backend_free
def test_nothing_is_measured_of_a_model_whose_loss_is_not_finite(model, callback):
    made = callback(measure_with(features()))
    made.set_model(model)
    made.on_train_begin()
    for loss in (float("nan"), float("inf")):
        made.on_epoch_end(0, {"loss": loss})
    assert not lines(made)
    made.on_epoch_end(0, {"loss": 1.0})
    assert len(lines(made)) == 1


@pytest.mark.backend_free
def test_a_part_of_the_images_is_drawn_for_its_own_conditions(tmp_path, monkeypatch):
    model = tiny_model(network=tiny_network(conditions={"wind": Vector(2)}))
    wind = np.random.default_rng(0).normal(size=(6, 2)).astype("float32")
    options = {"num_steps": 2, "dtype": "uint8", "conditions": {"wind": wind}}
    drawn = []
    how = {"every": 1, "labels": [0, 1, 2] * 2, "generate_options": options, "path": tmp_path / "measurements.jsonl"}
    made = MeasureSamples(lambda batches, **_: drawn.extend(batches), **how)
    made.set_model(model)
    monkeypatch.setattr(measuring.processes, "share", lambda count, size: (2, 5))
    made._measured()
    whole = model.generate([0, 1, 2] * 2, **options)
    assert np.abs(np.concatenate(drawn).astype(int) - whole[2:5]).max() <= 1
