"""examples/moment_matching.py: another objective, three networks, two groups of one optimizer, no train step."""

import importlib.util
import pathlib

import keras
import numpy as np
import pytest
from helpers import to_numpy


@pytest.fixture(scope="module")
def example():
    path = pathlib.Path(__file__).parents[2] / "examples" / "moment_matching.py"
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def trained(example):
    return example.distilled(teacher_steps=800, student_steps=400)


def test_two_steps_of_the_student_are_nearer_to_the_data_than_two_of_the_teacher(example, trained):
    real = example.points(1000, seed=2)
    options = dict(num_images=1000, batch_size=1000, num_steps=2, dtype="float32")
    teacher, student = (example.energy_distance(model.generate(**options), real) for model in trained)
    assert student < 0.25 * teacher


def test_the_teacher_stays_as_it_was_and_the_others_move(trained):
    teacher, student = trained
    with teacher.averaged_weights():
        start = [to_numpy(w) for w in teacher.network.weights]
    for network, moved in ((student.teacher, False), (student.auxiliary, True), (student.network, True)):
        same = [np.allclose(to_numpy(w), before, atol=1e-6) for w, before in zip(network.weights, start, strict=True)]
        assert all(same) != moved, network.name
    assert len(student.averages()) == len(student.network.trainable_variables)


def test_a_file_holds_all_three_networks_and_trains_on(example, trained, tmp_path):
    _, student = trained
    student.save(tmp_path / "student.keras")
    again = keras.saving.load_model(tmp_path / "student.keras")
    for ours, theirs in zip(student.get_weights(), again.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    data = example.points(128, seed=3)
    losses = [
        model.fit(data, batch_size=128, shuffle=False, verbose=0).history["loss"][0] for model in (student, again)
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    assert not again.teacher.trainable_variables


def test_parts_of_a_batch_train_it_too(example):
    recipe = example.AdamRecipe(1e-3, warmup_steps=0, beta_1=0.0, accumulation_steps=2)
    networks = {name: example.PlaneNetwork(8, name=name) for name in ("student", "teacher", "auxiliary")}
    for network in networks.values():
        network({"z_t": np.zeros((1, 1, 1, 2), "float32"), "logsnr": np.zeros(1, "float32")})
    objective = example.MomentMatching(example.CosineSchedule(), example.SigmoidWeighting(0.0), "x")
    model = example.MomentMatchingModel(networks.pop("student"), objective=objective, recipe=recipe, **networks)
    model.compile()
    assert np.isfinite(model.fit(example.points(64), batch_size=32, verbose=0).history["loss"]).all()
