"""Files: what is in them, what comes back, and a run that goes on from one to the bit."""

import json
import zipfile

import keras
import numpy as np
import pytest
from training_helpers import all_weights, fit_steps, one_level_model, same_weights

from keras_sid2.checkpoints import checkpoint_step, checkpoints, fault, load_model, save_checkpoint


def test_a_keras_file_brings_back_model_optimizer_and_settings(tmp_path):
    model = one_level_model(seed=9, label_dropout=0.2)
    fit_steps(model)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert same_weights(model, loaded)
    for part in ("schedule", "weighting", "recipe", "label_dropout", "seed"):
        assert getattr(loaded, part) == getattr(model, part)
    np.testing.assert_array_equal(*(m.generate([0, 1], num_steps=4) for m in (model, loaded)))


def test_the_file_names_only_registered_classes_and_keeps_no_compile_mode(tmp_path):
    model = one_level_model()
    model.save(tmp_path / "model.keras")
    with zipfile.ZipFile(tmp_path / "model.keras") as archive:
        config = json.loads(archive.read("config.json"))
    assert config["registered_name"] == "keras_sid2>SiD2Model"
    assert set(config["compile_config"]) == {"optimizer"}
    assert config["compile_config"]["optimizer"]["registered_name"] == "keras_sid2>EmaAdam"
    assert "__lambda__" not in json.dumps(config)


def test_a_run_goes_on_from_a_checkpoint_to_the_bit(tmp_path):
    undisturbed = one_level_model()
    fit_steps(undisturbed)
    first = one_level_model()
    fit_steps(first, count=32)
    path = save_checkpoint(first, tmp_path, keep=2)
    assert checkpoint_step(path) == 2
    second = load_model(path)
    fit_steps(second, start=2)
    assert same_weights(undisturbed, second)


def test_the_newest_checkpoints_are_kept(tmp_path):
    model = one_level_model()
    for _ in range(3):
        fit_steps(model, count=16)
        save_checkpoint(model, tmp_path, keep=2)
    assert [checkpoint_step(path) for path in checkpoints(tmp_path)] == [2, 3]
    assert len(list(tmp_path.iterdir())) == 2


def test_a_save_that_fails_leaves_what_was_there(tmp_path, monkeypatch):
    model = one_level_model()
    fit_steps(model, count=16)
    path = save_checkpoint(model, tmp_path, keep=1)

    def fails(path):
        path.write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(model, "save", fails)
    with pytest.raises(OSError, match="disk full"):
        save_checkpoint(model, tmp_path, keep=1)
    assert fault(path) is None and len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("content", [b"", b"no zip at all"])
def test_a_file_that_is_none_is_named(tmp_path, content):
    path = tmp_path / "step_0000000001.keras"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="step_0000000001.keras is no .keras file of a SiD2Model"):
        load_model(path)


def test_a_file_of_another_model_is_refused(tmp_path):
    path = tmp_path / "other.keras"
    keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)]).save(path)
    with pytest.raises(ValueError, match="holds a Sequential, not a SiD2Model"):
        load_model(path)


def test_weights_alone_go_into_a_model_of_the_same_preset(tmp_path):
    model, other = one_level_model(), one_level_model(weights_seed=1)
    fit_steps(model)
    model.save_weights(tmp_path / "some.weights.h5")
    other.load_weights(tmp_path / "some.weights.h5")
    assert len(all_weights(other)) == len(all_weights(model))
    np.testing.assert_array_equal(*(m.generate([0, 1], num_steps=4) for m in (model, other)))
