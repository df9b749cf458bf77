"""Measuring samples while training goes on: what is written, and how much time it may take."""

import dataclasses
import functools
import json

import keras
import numpy as np
import pytest
from PIL import Image
from training_helpers import Steps, stripes, tiny_model

from keras_sid2.backend import steps_done
from keras_sid2.callbacks import measuring
from keras_sid2.callbacks.measuring import MeasureSamples
from keras_sid2.evaluation import Features, Reference, collect, evaluate
from keras_sid2.training.time_share import TimeShare

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
        options = {"every": 1, "labels": LABELS, "generate_options": {"num_steps": 4}, "max_share": 1.0, **options}
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
        log=lambda step, figures: logged.append((step, figures["frechet"])),
    )
    for _ in range(4):  # a fit each, as TrainingRun has several
        train(model, made, windows=1)
    steps = [step for step in range(start + 1, start + 5) if step % 2 == 0]
    assert [line["step"] for line in lines(made)] == steps == [step for step, _ in logged]
    assert [line["figures"]["frechet"] for line in lines(made)] == [value for _, value in logged]
    first, last = (line["drawn"] for line in lines(made))
    assert last["training_step"] == steps[-1] and last["averaged_weights"] is True
    assert last["weights"] != first["weights"]
    expected = measure([model.generate(LABELS, num_steps=4, batch_size=16)]).figures
    assert logged[-1][1] == pytest.approx(expected["frechet"], rel=1e-6)
    assert sorted(p.name for p in (tmp_path / "grids").iterdir()) == [f"step_{step:010d}.png" for step in steps]
    assert Image.open(tmp_path / "grids" / f"step_{steps[-1]:010d}.png").size[0] > 4 * 64


def test_a_run_that_goes_on_drops_lines_of_steps_that_come_again(model, callback):
    made, step = callback(measure_with(features()), every=10**6), steps_done(model)
    kept = json.dumps({"step": step, "figures": {}})
    made.path.parent.mkdir()
    made.path.write_text(f'{kept}\n{json.dumps({"step": step + 4})}\n{{"step": 1, "fig')
    train(model, made, windows=1)
    assert made.path.read_text() == f"{kept}\n"


# -- its share of the time, by a clock of our own ----------------------------------------------------------------------


@dataclasses.dataclass
class Costs:
    """Seconds of each piece of work; `compiling` comes on top of the first one of a kind in a process."""

    step: float = 100.0
    sampler_step: float = 20.0
    batch: float = 10.0
    distance: float = 2.0
    compiling: float = 20.0


class World:
    """The clock of a training and its measurements, which really happen but take what `costs` say."""

    def __init__(self, costs: Costs):
        self.costs, self.now, self.taken, self.most_over = costs, 0.0, 0.0, 0.0
        self.new_process()

    def new_process(self):
        self._compiled = set()

    def works(self, kind: str):
        """One piece of work is done."""
        compiling = self.costs.compiling if kind not in self._compiled and kind != "distance" else 0.0
        seconds = getattr(self.costs, kind) + compiling
        self._compiled.add(kind)
        self.now += seconds
        if kind != "step":
            self.taken += seconds
            self.most_over = max(self.most_over, self.taken - 0.05 * self.now)

    def train(self, model, callback, windows: int):
        """What fit would call, in windows of one step; until it is asked to stop."""
        callback.set_model(model)
        model.stop_training = False
        callback.on_train_begin()
        for window in range(windows):
            callback.on_epoch_begin(window)
            self.works("step")
            model.optimizer.iterations.assign_add(1)
            callback.on_train_batch_end(0)
            callback.on_epoch_end(window, {"loss": 1.0})
            if model.stop_training:
                break
        callback.on_train_end()

    def drawing(self, *arguments, progress, **options):
        def counted(done, total):
            self.works("sampler_step")
            progress(done, total)

        return self._drawing(*arguments, progress=counted, **options)

    _drawing = staticmethod(measuring.Drawing)

    def measure(self):
        def extract(images):
            self.works("batch")
            return features().extract(images)

        evaluated = measure_with(features(extract), reference_of=features())

        def measure(batches, *, drawn, progress):
            def counted(done, total):
                self.works("distance")
                progress(done, total)

            return evaluated(batches, drawn=drawn, progress=counted)

        return measure


@pytest.fixture
def world(monkeypatch, callback):
    """Makes a World, and a callback in it for a process that begins."""

    def make(**costs):
        made = World(Costs(**costs))
        monkeypatch.setattr(measuring, "Drawing", made.drawing)
        options = {"max_share": 0.05, "clock": lambda: made.now}
        options["generate_options"] = {"num_steps": 4, "batch_size": 12}  # two batches of four reports each
        return made, lambda **others: callback(made.measure(), **options | others)

    return make


def trained_for(world, make_callback, model, processes: int, windows: int, **options) -> list[MeasureSamples]:
    made = []
    for _ in range(processes):
        world.new_process()
        made.append(make_callback(**options))
        world.train(model, made[-1], windows)
    return made


@pytest.mark.backend_free
@pytest.mark.parametrize("processes", [1, 4])
@pytest.mark.parametrize(
    "costs, over",
    [
        ({}, 0.0),  # what is not known yet takes less than what is
        ({"compiling": 0.0, "sampler_step": 30.0}, 0.0),
        ({"batch": 100.0}, 100.0 + 20.0),  # or else more, by one piece of it
        ({"distance": 50.0}, 50.0),
    ],
)
def test_it_takes_no_more_than_its_share_and_not_much_less(model, world, costs, over, processes):
    world, make_callback = world(**costs)
    made = trained_for(world, make_callback, model, processes, windows=360 // processes)
    assert world.most_over <= over
    assert 0.025 * world.now <= world.taken <= 0.05 * world.now
    assert lines(made[-1])


@pytest.mark.backend_free
def test_nothing_begins_before_compiling_fits(model, world):
    """A run that is over before the share is worth the compiling that the first training step took."""
    world, make_callback = world(step=10.0, compiling=100.0)
    trained_for(world, make_callback, model, processes=1, windows=180)
    assert world.taken == 0.0


@pytest.mark.backend_free
def test_what_is_put_off_is_told_once_and_when_it_begins(model, world):
    world, make_callback = world()
    (made,) = trained_for(world, make_callback, model, processes=1, windows=200)
    off, *broken_off, begun = made.told
    assert all("was broken off after" in text for text in broken_off)
    assert off.startswith("Measuring samples is put off: it would take 120 s") and "may take 0.05 of the time" in off
    assert begun.startswith(f"Measuring samples has begun, at step {lines(made)[0]['step']};")


@pytest.mark.backend_free
def test_getting_ready_counts(model, callback):
    """Reading real images took 2 s: in 30 s there is no time for more."""
    now, made_of = [0.0], measure_with(features())
    tick = keras.callbacks.LambdaCallback(on_epoch_begin=lambda epoch, logs: now.__setitem__(0, now[0] + 1.0))
    made = callback(made_of, max_share=0.05, getting_ready=2.0, clock=lambda: now[0])
    train(model, tick, made, windows=30)
    assert not lines(made)
    train(model, tick, made, windows=20)
    assert lines(made)


@pytest.mark.backend_free
def test_the_sums_outlive_a_process_that_is_killed(tmp_path):
    now = [0.0]
    open_share = functools.partial(TimeShare, 0.1, path=tmp_path / "t.json", clock=lambda: now[0])
    share = open_share()
    share.begin()
    now[0] = 100.0
    assert share.left_after(5.0) == pytest.approx(5.5) and share.waiting_for(20.0) == pytest.approx(80.0)
    with share.taking(8.0):
        killed = open_share()  # what one would know that begins after a kill in here
        now[0] = 110.0
    assert (killed.elapsed, killed.taken) == (108.0, 8.0)
    share.expected = 9.0
    share.keep()
    again = open_share()
    assert (again.elapsed, again.taken) == (share.elapsed, share.taken) == (110.0, 10.0)
    assert again.expected == 9.0
    for damage in (
        "[]",
        '{"elapsed_seconds": 1, "taken_seconds": 0, "expected_seconds": "x"}',
        '{"elapsed_seconds": 1, "taken_seconds": 2, "expected_seconds": 3}',
        '{"elapsed_seconds": 1',
        "null",
    ):
        (tmp_path / "t.json").write_text(damage)
        assert (open_share().elapsed, open_share().taken) == (0.0, 0.0)
    with pytest.raises(ValueError, match=r"share of time must be in \(0, 1\], got 1.5"):
        TimeShare(1.5, path=tmp_path / "t.json")


# -- what ends a measurement, and what does not end training -----------------------------------------------------------


@pytest.mark.backend_free
@pytest.mark.parametrize("kind", ["sampler_step", "batch", "distance"])
def test_it_is_broken_off_when_training_is_to_stop(model, world, kind, monkeypatch):
    world, make_callback = world()
    works, pieces = world.works, []

    def asked_to_stop(done):
        works(done)
        pieces.append(done)
        if done == kind:
            model.stop_training = True

    monkeypatch.setattr(world, "works", asked_to_stop)
    (made,) = trained_for(world, make_callback, model, processes=1, windows=3, max_share=1.0)
    assert pieces.count("step") == 1 and pieces.count(kind) == 1 and pieces[-1] == kind
    assert not lines(made) and made.told[-1].endswith("s: training is to stop.")


@pytest.mark.backend_free
def test_one_that_fails_is_told_and_training_goes_on(model, callback):
    start, failing, measure = steps_done(model), [True, True, False], measure_with(features())

    def sometimes(*arguments, **options):
        if failing.pop(0):
            raise np.linalg.LinAlgError("SVD did not converge")
        return measure(*arguments, **options)

    made = callback(sometimes)
    train(model, made, windows=3)
    assert [line["step"] for line in lines(made)] == [start + 3]
    assert made.told == [
        f"Measuring samples at step {step} failed (LinAlgError: SVD did not converge); training goes on."
        for step in (start + 1, start + 2)
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
