"""The trained models that come with the library: each is whole, has a card, and draws what it says."""

import json
import pathlib
import tomllib

import h5py
import keras
import numpy as np
import pytest
from helpers import to_numpy
from training_helpers import fit_steps, tiny_model

import keras_sid2
from keras_sid2 import SiD2Model
from keras_sid2.training.preset_folder import TRAINED, preset_folder

NAMES = keras_sid2.list_trained()
MOST_BYTES = 20 * 2**20


@pytest.mark.backend_free
@pytest.mark.parametrize("name", NAMES)
def test_each_is_small_has_a_card_and_is_in_the_guide(name):
    folder = TRAINED / name
    assert {p.name for p in folder.iterdir()} == {"README.md", "config.json", "metadata.json", "model.weights.h5"}
    assert (folder / "model.weights.h5").stat().st_size < MOST_BYTES
    card, metadata = (folder / "README.md").read_text(), json.loads((folder / "metadata.json").read_text())
    numbers = f"{metadata['parameter_count']:,}", f"{metadata['training_step']} steps"
    assert all(said in card for said in (*numbers, "licence", f"--preset={name}"))
    assert metadata["weights_dtype"] == "float16" and metadata["date_saved"][:10] in card
    guide = pathlib.Path(__file__).parents[2] / "docs" / "guides" / "presets.md"
    assert f"| `{name}` |" in guide.read_text()


@pytest.mark.backend_free
def test_the_wheel_takes_them():
    project = tomllib.loads((pathlib.Path(__file__).parents[2] / "pyproject.toml").read_text())
    patterns = project["tool"]["setuptools"]["package-data"]["keras_sid2"]
    root = TRAINED.parent
    taken = {path for pattern in patterns for path in root.glob(pattern)}
    assert {path for path in TRAINED.rglob("*") if path.is_file()} <= taken


def test_trained_digits_are_of_their_classes():
    datasets = pytest.importorskip("sklearn.datasets")
    real = datasets.load_digits()
    images = np.rint(real.images * (255 / 16)).astype("uint8")[..., None]
    model, labels = SiD2Model.from_preset("sid2_digits_trained"), np.arange(40) % 10
    drawn = model.generate(labels, num_steps=16, sampler="dpmpp_2m", batch_size=40)
    near = np.square(drawn[:, None].astype(float) - images[None]).sum(axis=(2, 3, 4)).argsort(axis=1)[:, :5]
    votes = np.array([np.bincount(real.target[row], minlength=10).argmax() for row in near])
    assert np.mean(votes == labels) >= 0.9  # of five nearest real digits; measured 0.975 and above


def test_float16_holds_the_averages_alone_and_is_read_as_float32(tmp_path):
    model = tiny_model(seed=3)
    fit_steps(model)
    raw = [to_numpy(v.value).copy() for v in model.network.variables]
    model.save_preset(tmp_path / "half", dtype="float16")
    model.save_preset(tmp_path / "whole")
    assert all(np.array_equal(a, to_numpy(v.value)) for a, v in zip(raw, model.network.variables, strict=True))
    sizes = [(tmp_path / name / "model.weights.h5").stat().st_size for name in ("half", "whole")]
    assert sizes[0] < sizes[1]
    with h5py.File(tmp_path / "half" / "model.weights.h5") as file:
        kinds = set()
        file["layers"].visititems(lambda _, item: kinds.add(str(getattr(item, "dtype", "float16"))))
        assert kinds == {"float16"} and set(file["vars"]) == {"step"}
    again = SiD2Model.from_preset(tmp_path / "half")
    assert int(to_numpy(again.step.value)) == int(to_numpy(model.step.value)) == 4
    for weight, average, kept in zip(
        again.network.trainable_variables, again.averages(), model.averages(), strict=True
    ):
        wanted = to_numpy(kept.value).astype("float16").astype("float32")
        assert keras.backend.standardize_dtype(weight.dtype) == "float32"
        np.testing.assert_array_equal(to_numpy(weight.value), wanted)
        np.testing.assert_array_equal(to_numpy(average.value), wanted)
    again.compile()
    fit_steps(again)  # goes on


@pytest.mark.backend_free
def test_weights_beyond_float16_and_other_dtypes_are_refused(tmp_path):
    model = tiny_model(compiled=False)
    with pytest.raises(ValueError, match="in float32 or float16, got dtype='int8'"):
        model.save_preset(tmp_path / "half", dtype="int8")
    model.network.trainable_variables[0].assign(model.network.trainable_variables[0] + 1e5)
    with pytest.raises(ValueError, match="cannot be written as float16: .* is not finite in it"):
        model.save_preset(tmp_path / "half", dtype="float16")
    assert not any(tmp_path.iterdir())


@pytest.mark.backend_free
def test_names_near_a_trained_model_are_offered():
    assert preset_folder("sid2_digits_trained") == TRAINED / "sid2_digits_trained"
    with pytest.raises(ValueError, match="did you mean sid2_digits_trained"):
        SiD2Model.from_preset("sid2_digit_trained")
    new = SiD2Model.from_preset("sid2_digits_trained", load_weights=False)
    assert int(to_numpy(new.step.value)) == 0
