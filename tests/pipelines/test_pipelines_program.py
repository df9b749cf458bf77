"""The command line, in processes of its own, and what importing the package loads."""

import dataclasses
import importlib
import pathlib
import re
import subprocess
import sys
import types

import pytest

import pipelines
from pipelines.extras import require_tensorflow

pytestmark = pytest.mark.backend_free

ROOT = pathlib.Path(pipelines.__file__).parents[1]


def python(*arguments):
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, cwd=ROOT, timeout=120)


def test_import_is_cheap():
    heavy = ("tensorflow", "tensorflow_datasets", "sklearn", "keras", "keras_sid2", "jax", "torch")
    ran = python("-c", f"import sys, pipelines; print([m for m in {heavy} if m in sys.modules])")
    assert ran.stdout.strip() == "[]", ran.stderr


def test_prepare(tmp_path):
    ran = python("-m", "pipelines", "prepare", "digits", f"--data_dir={tmp_path}")
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.splitlines() == [str(tmp_path / "digits" / "1.0.0")]
    assert "Generating" not in ran.stderr
    assert pipelines.describe("digits", data_dir=tmp_path).num_examples == 1617


def test_list():
    ran = python("-m", "pipelines", "list")
    assert ran.returncode == 0
    assert [line.split()[0] for line in ran.stdout.splitlines()] == list(pipelines.dataset_names())


def test_help():
    ran = python("-m", "pipelines", "--help")
    assert ran.returncode == 0 and "sid2-data prepare NAME" in ran.stdout


@pytest.mark.parametrize("name", ["fields", "image_folder", "imagenet", "kinetics600", "npz"])
def test_every_setting_of_a_data_set_is_a_flag(name):
    from pipelines.__main__ import PREPARE
    from pipelines.datasets.local_builder import SourceConfig

    module = importlib.import_module(f"pipelines.datasets.{name}")
    configs = [found for found in vars(module).values() if isinstance(found, type) and issubclass(found, SourceConfig)]
    settings = {field.name for config in configs for field in dataclasses.fields(config)}
    assert settings - {"name", "version", "release_notes", "supported_versions", "description", "tags"} <= set(PREPARE)


@pytest.mark.parametrize(
    "arguments, sentence",
    [
        ([], "a command is missing: known are list, prepare"),
        (["prepar"], "unknown command 'prepar': known are list, prepare"),
        (["prepare"], "prepare takes 1 argument (sid2-data prepare NAME), got none"),
        (
            ["prepare", "digit"],
            "unknown data set 'digit': known are digit_scenes, digits, emoji, fields, image_folder, imagenet, ",
        ),
        (["prepare", "digits", "photo_patches"], "prepare takes 1 argument"),
        (["list", "digits"], "list takes no arguments (sid2-data list), got 1: digits"),
        (["list", "--data_dri=x"], "Unknown command line flag 'data_dri'"),
    ],
)
def test_wrong_command_line(arguments, sentence):
    ran = python("-m", "pipelines", *arguments)
    assert ran.returncode == 2
    assert ran.stdout == ""
    assert len(ran.stderr.splitlines()) == 1 and sentence in ran.stderr


@pytest.mark.parametrize("backend, hidden", [("jax", ["GPU", "TPU"]), ("torch", ["GPU", "TPU"]), ("tensorflow", [])])
def test_accelerators_are_left_to_another_backend(backend, hidden, monkeypatch):
    import tensorflow as tf

    calls = []
    monkeypatch.setattr(tf.config, "set_visible_devices", lambda devices, kind: calls.append((devices, kind)))
    keras = types.SimpleNamespace(backend=types.SimpleNamespace(backend=lambda: backend))
    monkeypatch.setitem(sys.modules, "keras", keras)
    require_tensorflow()
    assert calls == [([], kind) for kind in hidden]


def test_arrows_between_the_rooms_point_down():
    rooms = [
        "",
        "text_encoders",
        "datasets",
        "reading",
        "preparing",
        "checking",
    ]  # "": what lies beside the rooms, but for the two doors
    package = pathlib.Path(pipelines.__file__).parent
    wrong = []
    for path in package.rglob("*.py"):
        room = path.parent.name if path.parent != package else ""
        if path.name in ("__init__.py", "__main__.py") and not room:
            continue
        imported = re.findall(r"^ *(?:from|import) pipelines(?:\.(\w+))?", path.read_text(), re.M)
        wrong += [
            (path.name, other) for other in imported if rooms.index(room) < rooms.index(other if other in rooms else "")
        ]
    assert wrong == []
