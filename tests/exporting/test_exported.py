"""Exported steps, run without Keras and this library, against `generate`."""

import json
import os
import pathlib
import shutil
import subprocess
import sys

import numpy as np
import pytest
from exporting_helpers import Here
from helpers import BACKEND, randomize, tiny_network
from training_helpers import tiny_model

import keras_sid2
from keras_sid2 import Guidance, threefry
from keras_sid2.exporting import folder, runner
from keras_sid2.sampling.noise_levels import NOISE_LEVELS
from keras_sid2.starting import EXPORT_BACKENDS

pytestmark = pytest.mark.backend_free

HERE = pathlib.Path(__file__).parent
ROOT = HERE.parent.parent
GUIDED = {"num_steps": 6, "guidance": 3.0, "interval": [-2.0, 3.0]}
# Of three batch sizes and, with the smallest, two samplers of several steps and one of two evaluations.
ASKED = {
    "one": {"conditions": {"label": [2]}, "seed": 5, **GUIDED},
    "three": {"conditions": {"label": [0, 1, 2]}, "seed": 6, "sampler": "dpmpp_2m", **GUIDED},
    "eight": {"conditions": {"label": [0, 1, 2, 0, 1, 2, 0, 1]}, "seed": 7, "first_image": 4, **GUIDED},
}


def start(program, *given, **environment):
    changes = {"PYTHONPATH": os.pathsep.join([str(ROOT), str(HERE.parent)]), **environment}
    result = subprocess.run(
        [sys.executable, program, *map(str, given)], env={**os.environ, **changes}, capture_output=True, text=True
    )
    assert not result.returncode, result.stderr
    return result


def asked_of_generate(arguments: dict) -> dict:
    """The arguments of `generate` for those of the runner."""
    found = dict(arguments)
    if "guidance" in found:
        found["guidance"] = Guidance(found["guidance"], found.pop("interval", None))
    return found


@pytest.fixture(scope="module")
def file(model, tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "model.keras"
    model.save(path)
    return path


@pytest.fixture(scope="module", params=EXPORT_BACKENDS)
def exported(request, model, file, tmp_path_factory):
    """The folder of a format."""
    path = tmp_path_factory.mktemp("exported") / request.param
    if request.param == "onnx":
        pytest.importorskip("onnxscript"), pytest.importorskip("onnxruntime")
    if EXPORT_BACKENDS[request.param] == BACKEND:
        model.export(path, request.param)
    else:
        start(HERE / "export_program.py", file, path, request.param, KERAS_BACKEND=EXPORT_BACKENDS[request.param])
    return path


@pytest.mark.slow
def test_three_batch_sizes_are_drawn_as_generate_draws_them(exported, model, tmp_path):
    out = tmp_path / "out.npz"
    start(HERE / "runner_program.py", exported, json.dumps(ASKED), out, PYTHONPATH="")
    assert sorted(path.name for path in exported.parent.iterdir()) == [exported.name]
    with np.load(out) as found:
        for name, arguments in ASKED.items():
            expected = model.generate(**asked_of_generate(arguments))
            assert expected.std() > 10 and found[name].dtype == np.uint8
            assert np.abs(found[name].astype(int) - expected).max() <= 1, name


# -- the runner's own arithmetic, and the step's, in this process ----------------------------------------------------


SAMPLERS = {
    "ddpm": keras_sid2.DDPMSampler(0.4),
    "ddim": keras_sid2.DDIMSampler(0.5),
    "heun": keras_sid2.HeunSampler(),
    "edm_heun": keras_sid2.EDMHeunSampler(churn=0.2),
    "dpmpp_2m": keras_sid2.DPMSolver2MSampler(),
}
SETTINGS = {"ddpm": {"variance": 0.4}, "ddim": {"eta": 0.5}, "edm_heun": {"churn": 0.2}}


@pytest.mark.parametrize("sampler", runner.SAMPLERS)
def test_every_sampler_of_the_library_runs_on_it(model, sampler):
    arguments = {
        "conditions": {"label": [1, 2]},
        "noise_levels": "edm_rho" if sampler == "heun" else "uniform_t",
        **GUIDED,
    }
    expected = model.generate(**{**asked_of_generate(arguments), "sampler": SAMPLERS[sampler]}, dtype="float32")
    found = Here(model).generate(**arguments, sampler={"name": sampler, **SETTINGS.get(sampler, {})}, dtype="float32")
    assert set(SAMPLERS) == set(keras_sid2.sampling.SAMPLERS) == set(runner.SAMPLERS)
    np.testing.assert_allclose(found, expected, atol=5e-3)


def test_z_s_is_a_step_of_ddim(model):
    here, noise = Here(model), np.random.RandomState(0).normal(size=(2, 4, 4, 1)).astype("float32")
    level = np.full(2, -1.0, "float32")
    found = here.plain({"z_t": noise, "logsnr_t": level, "logsnr_s": level + 2.0, "label": np.int32([0, 3])})
    expected = runner.flow(noise, found["x_hat"], np.float32(-1.0), np.float32(1.0))
    np.testing.assert_allclose(found["z_s"], expected, atol=1e-5)


def test_outside_of_the_interval_its_scale_is_one(model):
    here, noise = Here(model), np.random.RandomState(0).normal(size=(2, 4, 4, 1)).astype("float32")
    level = np.float32([7.0, 9.0])  # where estimates are not clipped
    plain = {"z_t": noise, "logsnr_t": level, "logsnr_s": level, "label": np.int32([0, 1])}
    guided = {**plain, "negative_label": np.int32([3, 3]), "scale": np.float32([50, 50])}
    guided["interval"] = np.float32([[6, 8]] * 2)
    apart = np.abs(here.guided(guided)["x_hat"] - here.plain(plain)["x_hat"]).max(axis=(1, 2, 3))
    assert apart[0] > 1e-4 and apart[1] < 1e-5, apart


def test_noise_is_the_library_s():
    numbers = np.arange(3) + 2**31 - 5
    keys = threefry.fold_in(threefry.key(2**32 - 1, 2), numbers.astype("int32"))
    expected = threefry.normal(keys, (3, 3, 1), index=7)
    found = runner.normal(runner.keys_of(2**32 - 1, numbers), (3, 3, 1), 7)
    np.testing.assert_allclose(found, np.asarray(expected), atol=1e-6)


@pytest.mark.parametrize("name", runner.LEVELS)
@pytest.mark.parametrize(
    "schedule",
    [
        keras_sid2.diffusion.CosineSchedule(-9.0, 8.0),
        keras_sid2.diffusion.ShiftedCosineSchedule(32, 64),
        keras_sid2.diffusion.CosineInterpolatedSchedule(128),
    ],
)
def test_noise_levels_are_the_library_s(name, schedule):
    expected = NOISE_LEVELS[name](schedule, 7)
    np.testing.assert_allclose(runner.levels_of(name, folder._schedule(schedule), 7), expected, atol=2e-4)


FIELDS = keras_sid2.Channels(("u", "v"), (3.0, -200.0), (2.0, 50.0))
CLIPS = keras_sid2.conditions.Frames((3, 4, 4, 1), given=(1, 2))
PAIR = keras_sid2.conditions.Image((4, 4, 2), channels=FIELDS)
KINDS = {
    "fields": (
        {"image_shape": (4, 4, 2), "num_classes": None, "conditions": {"before": PAIR}},
        {"channels": FIELDS},
        {"conditions": {"before": (np.random.RandomState(1).normal(size=(2, 4, 4, 2)) * [2, 50] + [3, -200])}},
    ),
    "texts": (
        {"num_classes": None, "conditions": {"text": keras_sid2.conditions.TextEmbedding(3, 4)}},
        {},
        {"conditions": {"text": np.float32(np.eye(3, 4) * [[[1]], [[-2]]])}},
    ),
    "vectors": (
        {"num_classes": None, "conditions": {"force": keras_sid2.conditions.Vector(3)}},
        {},
        {"conditions": {"force": np.float32([[1, 2, 3], [0, 0, 1]])}, "negative_conditions": {"force": [-1, 0, 1]}},
    ),
    "images": (
        {"conditions": {"sketch": keras_sid2.conditions.Image((2, 2, 1))}},
        {"label_dropout": {"label": 0.1, "sketch": 0.0}},
        {"conditions": {"label": [0, 1], "sketch": np.uint8([[[[0], [255]]] * 2] * 2)}},
    ),
    "given frames": (
        {"image_shape": (3, 4, 4, 1), "num_classes": None, "conditions": {"frames": CLIPS}},
        {},
        {"conditions": {"frames": np.uint8(np.arange(32).reshape(1, 2, 4, 4, 1) * 8)}, "guidance": 1.5},
    ),
    "half precision": ({"dtype": "mixed_bfloat16"}, {}, {"conditions": {"label": [1]}, "num_steps": 2}),
    "nothing": ({"num_classes": None}, {}, {"num_images": 2, "guidance": 1.0}),
}


@pytest.mark.parametrize("kind", KINDS)
def test_models_of_other_conditions(kind):
    network, settings, arguments = KINDS[kind]
    model = tiny_model(network=randomize(tiny_network(**network)), compiled=False, **settings)
    arguments = {"num_steps": 4, "guidance": 2.0, **arguments}
    expected = model.generate(**asked_of_generate(arguments), dtype="float32")
    found = Here(model).generate(**arguments, dtype="float32")
    # Half precision is exported in float32, which generate does not compute in.
    size = np.abs(expected).max() if kind == "fields" else 1.0
    np.testing.assert_allclose(found, expected, atol=(0.3 if kind == "half precision" else 1e-3) * size)
    if kind == "given frames":
        np.testing.assert_allclose(found[:, :2] * 127.5 + 127.5, arguments["conditions"]["frames"], atol=1e-3)


@pytest.mark.parametrize(
    "kind, values",
    [
        ("fields", np.zeros((1, 4, 4, 2), "uint8")),
        ("given frames", np.full((1, 2, 4, 4, 1), 200.0)),
        ("given frames", np.zeros((1, 2, 4, 4, 1), "int32")),
        ("vectors", np.full((1, 3), np.inf)),
    ],
)
def test_the_runner_refuses_the_values_that_generate_refuses(kind, values):
    network, settings, _ = KINDS[kind]
    model = tiny_model(network=tiny_network(**network), compiled=False, **settings)
    for draw in (model.generate, Here(model).generate):
        with pytest.raises(ValueError, match="must be"):
            draw(conditions={name: values for name in model.conditions}, num_steps=1)


@pytest.mark.parametrize(
    "arguments, sentence",
    [
        ({"conditions": {"label": [3]}}, "label must be integers from 0 to 2"),
        ({"conditions": {"text": [1]}}, "conditions must be among label, got 'text'"),
        ({"sampler": "euler", "num_images": 1}, "sampler must be among ddpm"),
        ({"noise_levels": "linear", "num_images": 1}, "noise_levels must be among uniform_t"),
        ({}, "or num_images be given"),
        ({"num_images": 1, "num_steps": 0}, "num_steps must be an integer from 1, got 0"),
        ({"num_images": 1, "batch_size": -1}, "batch_size must be an integer from 1, got -1"),
        ({"num_images": 1, "seed": -1}, "seed must be an integer from 0 to 4294967295, got -1"),
        ({"num_images": 1, "seed": 1.5}, "seed must be an integer"),
        ({"num_images": 2, "first_image": 2**31 - 2}, "first_image must be an integer from 0 to 2147483645"),
        ({"num_images": 1, "guidance": -2.0}, "guidance must be a finite number >= 0"),
        ({"num_images": 1, "guidance": 2.0, "interval": [5, -3]}, "interval must be .* with low < high"),
        (
            {"num_images": 1, "sampler": {"name": "ddpm", "variance": 7}},
            "variance of ddpm must be a number from 0 to 1",
        ),
        ({"num_images": 1, "sampler": {"name": "heun", "eta": 0.5}}, "A setting of heun must be among none"),
        ({"num_images": 1, "dtype": "uint16"}, "dtype must be among None, uint8, float32, got 'uint16'"),
        ({"num_images": 1, "negative_conditions": {"label": [1]}}, "do nothing at guidance 1"),
    ],
)
def test_the_runner_refuses(model, arguments, sentence):
    with pytest.raises(ValueError, match=sentence):
        Here(model).generate(**arguments)


class OtherSchedule(keras_sid2.diffusion.CosineSchedule):
    pass


def test_export_refuses_and_leaves_what_is_there(model, tmp_path):
    other = next(name for name, backend in EXPORT_BACKENDS.items() if backend != BACKEND)
    own = next(name for name, backend in reversed(EXPORT_BACKENDS.items()) if backend == BACKEND)
    there, ours = tmp_path / "there", tmp_path / "ours"
    there.mkdir(), ours.mkdir()
    (there / "mine").write_text("mine")
    for name in ("step.json", "runner.py"):
        (ours / name).write_text("{}")
    strange = tiny_model(schedule=OtherSchedule(), compiled=False)
    reserved = {"scale": keras_sid2.conditions.Vector(2)}
    named = tiny_model(network=tiny_network(num_classes=None, conditions=reserved), compiled=False)
    for refused, target, format, sentence in (
        (model, "new", "keras", "format must be one of savedmodel, onnx, torch, jax, got 'keras'"),
        (model, "new", other, f"is written on {EXPORT_BACKENDS[other]}, and this is {BACKEND}"),
        (model, "there", own, "is there already, and is no exported step: give another folder."),
        (model, "ours", own, r"give another folder, or overwrite it \(overwrite=True, --overwrite\)."),
        (model, "there/mine/new", own, "would lie in a file"),
        (strange, "new", own, "this model's schedule is OtherSchedule"),
        (named, "new", own, "a condition's name must be .* got 'scale'"),
    ):
        with pytest.raises(ValueError, match=sentence):
            refused.export(tmp_path / target, format)
    assert (there / "mine").read_text() == "mine" and not (tmp_path / "new").exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["ours", "there"]


def test_the_runner_tells_what_is_wrong_in_one_sentence(tmp_path):
    shutil.copy(ROOT / "keras_sid2" / "exporting" / "runner.py", tmp_path / "runner.py")
    program = [sys.executable, tmp_path / "runner.py", "--out=a.npy"]
    for given, told in (("--conditions=no.npz", "no.npz"), ("--num_steps=1", "step.json")):
        result = subprocess.run([*program, given], capture_output=True, text=True, cwd=tmp_path)
        assert result.returncode == 2 and told in result.stderr and "Traceback" not in result.stderr


def test_nothing_is_left_where_writing_fails(model, tmp_path, monkeypatch):
    def full(*_):
        raise OSError("the disk is full")

    monkeypatch.setattr(shutil, "copyfile", full)
    monkeypatch.setitem(folder.WRITERS, folder.check_format(None), lambda *_: None)
    with pytest.raises(OSError, match="full"):
        model.export(tmp_path / "new")
    assert list(tmp_path.iterdir()) == []
