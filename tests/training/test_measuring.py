"""Measuring samples while training goes on: what is written, and how much time it may take."""

import functools
import itertools
import json

import numpy as np
import pytest
from PIL import Image
from training_helpers import Steps, stripes, tiny_model

from keras_sid2.evaluation import Features, Reference, collect, evaluate
from keras_sid2.training import measuring
from keras_sid2.training.measuring import MeasureSamples
from keras_sid2.training.optimizer import steps_done

PLAIN = Features(
    name="rows", digest="", rule="", extract=lambda images: images.astype("float64").mean(axis=(2, 3)) / 255.0
)
LABELS = np.arange(24) % 3


@pytest.fixture(scope="module")
def model():
    return tiny_model()


@pytest.fixture
def measure():
    real, digest = collect(PLAIN, [stripes(256)[0]], groups=1)
    return functools.partial(evaluate, features=PLAIN, reference=Reference(name="r", digest=digest, features=real))


@pytest.fixture
def clock(monkeypatch):
    """Each look at the clock is a second later."""
    seconds = itertools.count()
    monkeypatch.setattr(measuring.time, "perf_counter", lambda: float(next(seconds)))


def train(model, callback, windows):
    for _ in range(windows):  # a fit each, as TrainingRun has several
        model.fit(Steps(), shuffle=False, verbose=0, callbacks=[callback])


def test_figures_grids_and_a_line_each_time(model, measure, tmp_path):
    logged, start = [], steps_done(model)
    callback = MeasureSamples(
        measure,
        every=8,
        labels=LABELS,
        generate_options={"num_steps": 4, "batch_size": 16},
        path=tmp_path / "run" / "m.jsonl",
        grids=tmp_path / "grids",
        log=lambda step, figures: logged.append((step, figures["frechet"])),
        max_share=1.0,
    )
    train(model, callback, 4)
    steps = [start + 8, start + 16]
    lines = [json.loads(line) for line in (tmp_path / "run" / "m.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == steps == [step for step, _ in logged]
    assert [line["figures"]["frechet"] for line in lines] == [value for _, value in logged]
    assert lines[-1]["drawn"]["training_step"] == steps[-1] and lines[-1]["drawn"]["averaged_weights"] is True
    assert lines[-1]["drawn"]["weights"] == model.weights_digest() != lines[0]["drawn"]["weights"]
    drawn = model.generate(LABELS, num_steps=4, batch_size=16)
    expected = measure([drawn]).figures
    assert lines[-1]["figures"]["frechet"] == pytest.approx(expected["frechet"], rel=1e-6)
    assert sorted(p.name for p in (tmp_path / "grids").iterdir()) == [f"step_{step:010d}.png" for step in steps]
    assert Image.open(tmp_path / "grids" / f"step_{steps[-1]:010d}.png").size[0] > 4 * 64


def test_the_share_of_time_is_kept(model, measure, clock, tmp_path):
    """By a clock that counts looks: a measurement is put off until all of them are in the share."""
    callback = MeasureSamples(
        measure,
        every=4,
        labels=LABELS,
        generate_options={"num_steps": 2},
        path=tmp_path / "m.jsonl",
        max_share=0.2,
    )
    measured_at = []
    original = callback._measure
    callback._measure = lambda step: (measured_at.append(step), original(step))
    train(model, callback, 30)
    elapsed = float(measuring.time.perf_counter()) - callback._begin
    assert 2 <= len(measured_at) < 30
    assert callback._spent <= 0.2 * elapsed + callback._expected


def test_a_run_that_goes_on_drops_lines_of_steps_that_come_again(model, measure, tmp_path):
    path, step = tmp_path / "m.jsonl", steps_done(model)
    kept = json.dumps({"step": step, "figures": {}})
    path.write_text(f'{kept}\n{json.dumps({"step": step + 4})}\n{{"step": 1, "fig')
    callback = MeasureSamples(measure, every=10**6, labels=LABELS, path=path)
    train(model, callback, 1)
    assert path.read_text() == f"{kept}\n"
