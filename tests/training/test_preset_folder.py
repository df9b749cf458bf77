"""Presets as folders, in KerasHub's layout: what is in them, what is refused, and that nothing is half written."""

import inspect
import json
import pathlib
import sys
import types

import h5py
import keras
import numpy as np
import pytest
from helpers import to_numpy
from training_helpers import fit_steps, tiny_model

from keras_sid2 import SiD2Model
from keras_sid2.io import atomic
from keras_sid2.training import preset_folder


@pytest.fixture(scope="module")
def model():
    found = tiny_model(seed=5)
    fit_steps(found)
    return found


@pytest.fixture(scope="module")
def kept(model, tmp_path_factory):
    path = tmp_path_factory.mktemp("presets") / "made" / "on the way"
    model.save_preset(path)
    return path


@pytest.fixture
def folder(kept, tmp_path):
    """A copy, to be damaged."""
    path = tmp_path / "preset"
    path.mkdir()
    for file in kept.iterdir():
        (path / file.name).write_bytes(file.read_bytes())
    return path


def values(model):
    return [to_numpy(v.value) for v in (*model.network.variables, *model.averages(), model.step)]


def same(a, b):
    return all(np.array_equal(x, y) for x, y in zip(values(a), values(b), strict=True))


def test_a_folder_gives_weights_averages_steps_and_settings(model, kept):
    again = SiD2Model.from_preset(kept)
    assert same(again, model) and not again.compiled
    assert (again.seed, again.objective, again.recipe) == (5, model.objective, model.recipe)


def test_it_has_keras_hub_s_files_and_no_optimizer(model, kept):
    assert {path.name for path in kept.iterdir()} == {"config.json", "metadata.json", "model.weights.h5"}
    config, metadata = (json.loads((kept / name).read_text()) for name in ("config.json", "metadata.json"))
    assert config["registered_name"] == "keras_sid2>SiD2Model"
    assert (metadata["parameter_count"], metadata["training_step"]) == (model.network.count_params(), 4)
    assert metadata["keras_version"] == keras.__version__
    with h5py.File(kept / "model.weights.h5") as file:
        assert "optimizer" not in file and "layers" in file


def test_without_its_weights_it_is_a_new_model_and_may_compute_otherwise(kept, folder):
    (folder / "model.weights.h5").unlink()
    new = SiD2Model.from_preset(folder, load_weights=False, seed=7, dtype="mixed_bfloat16", remat=True)
    assert (int(new.step.numpy()), new.seed, new.network.dtype_policy.name) == (0, 7, "mixed_bfloat16")
    assert all(level.remat for level in new.network.levels)
    with pytest.raises(FileNotFoundError, match="is no folder of a preset: it has no model.weights.h5"):
        SiD2Model.from_preset(folder)


def damaged_weights(folder):
    with open(folder / "model.weights.h5", "r+b") as file:
        file.seek(-1, 2)
        file.write(b"?")


def of_another_class(folder):
    text = (folder / "config.json").read_text()
    (folder / "config.json").write_text(
        text.replace("keras_sid2>ResidualUViT", "mine>Net").replace("ResidualUViT", "Net")
    )


@pytest.mark.backend_free
@pytest.mark.parametrize(
    "damage, sentence",
    [
        (damaged_weights, "model.weights.h5 is damaged: its SHA-256 is not what metadata.json says"),
        (lambda folder: (folder / "config.json").write_text("{"), "config.json is damaged: it is no JSON object"),
        (lambda folder: (folder / "config.json").write_text("{}"), "config.json holds a dict, not a SiD2Model"),
        (of_another_class, "config.json holds a Net, a class that is not imported: import what defines and registers"),
        (lambda folder: (folder / "metadata.json").unlink(), "is no folder of a preset: it has no metadata.json"),
    ],
)
def test_what_is_not_sound_is_refused(folder, damage, sentence):
    damage(folder)
    with pytest.raises((ValueError, FileNotFoundError)) as error:
        SiD2Model.from_preset(folder)
    assert sentence in str(error.value) and "\n" not in str(error.value)


@pytest.mark.backend_free
def test_an_earlier_preset_is_replaced_and_nothing_else_is(model, folder, tmp_path):
    (folder / "model.weights.h5").write_bytes(b"old")
    model.save_preset(folder)
    assert same(SiD2Model.from_preset(folder), model)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("years")
    with pytest.raises(ValueError, match="mine is there and is no preset, so nothing is written over it"):
        model.save_preset(tmp_path / "mine")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine", "preset"]


@pytest.mark.backend_free
def test_a_preset_that_cannot_be_written_leaves_the_one_before(model, kept, folder, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    for module, name in ((preset_folder, "write_json"), (atomic.os, "rename")):
        with monkeypatch.context() as patch:
            patch.setattr(module, name, full)
            with pytest.raises(OSError, match="No space left"):
                model.save_preset(folder)
        assert same(SiD2Model.from_preset(folder), model) and len(list(folder.parent.iterdir())) == 1


def snapshot_download(repo_id, *, repo_type=None, revision=None, allow_patterns=None, ignore_patterns=None):
    """As far as it is used, the signature of huggingface_hub's."""


@pytest.mark.backend_free
@pytest.mark.parametrize("load_weights", [True, False])
def test_hugging_face_s_snapshot_is_such_a_folder(model, kept, monkeypatch, load_weights):
    asked = {}

    def download(*args, **kwargs):
        asked.update(inspect.signature(snapshot_download).bind(*args, **kwargs).arguments)
        return str(kept)

    monkeypatch.setitem(sys.modules, "huggingface_hub", types.SimpleNamespace(snapshot_download=download))
    found = SiD2Model.from_preset("hf://me/digits", load_weights=load_weights)
    wanted = ["config.json", "metadata.json", "model.weights.h5"][: 3 if load_weights else 2]
    assert asked == {"repo_id": "me/digits", "allow_patterns": wanted}
    assert int(found.step.numpy()) == (4 if load_weights else 0)


@pytest.mark.backend_free
def test_what_cannot_be_downloaded_is_told_in_one_sentence(monkeypatch):
    def download(**_):
        raise OSError("404 Client Error.\n\nRepository Not Found for url: ...")

    monkeypatch.setitem(sys.modules, "huggingface_hub", types.SimpleNamespace(snapshot_download=download))
    with pytest.raises(ValueError, match=r"^hf://me/digits could not be downloaded: 404 Client Error\.$"):
        SiD2Model.from_preset("hf://me/digits")
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ImportError, match="hf://me/digits needs huggingface_hub: pip install huggingface_hub"):
        SiD2Model.from_preset("hf://me/digits")
    with pytest.raises(ValueError, match="A preset at Hugging Face is hf://user/name, got 'hf://digits'"):
        SiD2Model.from_preset("hf://digits")
    with pytest.raises(FileNotFoundError, match="There is no folder /nowhere/preset to take a model from"):
        SiD2Model.from_preset(pathlib.Path("/nowhere/preset"))
