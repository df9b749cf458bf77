"""sid2-train and sid2-sample on fields in physical units."""

import dataclasses
import types

import numpy as np
import pytest
from run_helpers import run_in
from sample_helpers import draw

import pipelines
from keras_sid2 import Channels
from keras_sid2.bin.field_files import read_fields
from keras_sid2.checkpoints import load_model
from keras_sid2.conditions import Image, Vector
from keras_sid2.training.proposal import config_text

pytestmark = pytest.mark.backend_free  # what channels mean on each backend is in test_channels.py
xarray = pytest.importorskip("xarray")

DAY = Channels(("day",), (183.0,), (105.0,))
MEAN, STD = np.array([1e5, -3e-4]), np.array([700.0, 1e-3])


def dataset(count=32, seed=0):
    x = np.random.default_rng(seed).normal(MEAN, STD, (count, 4, 4, 2))
    low = x[..., 0].reshape(count, 2, 2, 2, 2).mean((2, 4))
    dims = ("time", "y", "x")
    parts = {"u": (dims, x[..., 0]), "v": (dims, x[..., 1]), "low": (("time", "yl", "xl"), low)}
    return xarray.Dataset(parts)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """NetCDF files, data sets made of them, and a run of two steps."""
    path = tmp_path_factory.mktemp("fields")
    (path / "source").mkdir()
    dataset().to_netcdf(path / "source/train.nc", engine="h5netcdf")
    dataset(6, 1).to_netcdf(path / "source/test.nc", engine="h5netcdf")
    both = {"source": path / "source", "variables": "u,v", "condition_variables": "low"}
    pipelines.prepare("fields", path / "data", **both)
    pipelines.prepare("fields", path / "plain", **{**both, "condition_variables": None})
    pipelines.prepare(
        "fields", path / "other", source=path / "source/test.nc", variables="u,v", condition_variables="low"
    )
    pipelines.prepare("fields", path / "swapped", **{**both, "variables": "v,u"})
    run_of(path / "data", path / "run", sample_every=2).train()
    return path


def run_of(data, workdir, **changes):
    small = ("network.levels=({'kind': 'res', 'channels': 8, 'blocks': 1},)", "network.embedding_dim=8")
    every = {"preset": None, "set": small, "batch_size": 8, "steps": 2, "checkpoint_every": 2, "sample_steps": 2}
    return run_in(str(data), workdir, **{**every, **changes})


def test_the_proposed_network_has_the_channels_of_the_data(folder):
    data = pipelines.describe(folder / "data")
    model = load_model(folder / "run/checkpoints/step_0000000002")
    found = data.sample_channels
    assert model.channels == Channels(found.names, found.mean, found.std)
    low = data.values["low"].channels
    assert model.conditions == {"low": Image((2, 2, 1), Channels(low.names, low.mean, low.std))}
    assert (folder / "run/samples/step_0000000002.png").is_file()


def test_a_run_goes_on_and_begins_from_another(folder):
    run = run_of(folder / "data", folder / "run", steps=4)
    assert int(run.train().step.numpy()) == 4
    began = run_of(folder / "other", folder / "begun", init_from=str(folder / "run"), set=())
    assert began.preset.channels == run.preset.channels
    began.note_remarks()
    assert "others than the network's, which are used" in began.console.export_text()


def test_conditions_are_cut_with_the_samples(folder, tmp_path):
    run = run_of(folder / "data", tmp_path / "a", crop="random", image_size="2")
    assert run.preset.sample_shape == (2, 2, 2) and run.preset.conditions["low"].shape == (1, 1, 1)
    run.train()


@pytest.mark.parametrize(
    "data, change, sentence",
    [
        ("swapped", {}, "with the channels u, v, and --data=.* has another order: v, u"),
        ("data", {"channels": None}, "has samples without channels, .* them in physical units, u, v"),
        ("data", {"channels": Channels(("u", "w"), (0, 0), (1, 1))}, "an unknown channel v and no channel w"),
        ("plain", {}, r"is conditioned on low of shape \(2, 2, 1\), and --data=.* has none"),
    ],
)
def test_data_that_do_not_fit_are_refused(folder, data, change, sentence, tmp_path):
    preset = dataclasses.replace(run_of(folder / "data", tmp_path / "a").experiment, **change)
    (tmp_path / "config.py").write_text(config_text(preset))
    with pytest.raises(ValueError, match=sentence):
        run_of(folder / data, tmp_path / "b", config=str(tmp_path / "config.py"), set=())


def test_beside_pictures_the_preset_alone_says_the_units_of_values(folder, tmp_path):
    rng = np.random.default_rng(0)
    pictures, day = rng.integers(0, 256, (16, 4, 4, 3), "uint8"), rng.uniform(0, 366, (16, 1)).astype("float32")
    np.savez(tmp_path / "a.npz", images=pictures, day=day)
    pipelines.prepare("npz", tmp_path / "data", source=tmp_path / "a.npz")
    preset = run_of(folder / "data", tmp_path / "a").experiment
    network = {**preset.network, "image_shape": (4, 4, 3), "conditions": {"day": Vector(1, DAY)}}
    (tmp_path / "config.py").write_text(config_text(dataclasses.replace(preset, network=network, channels=None)))
    run = run_of(tmp_path / "data", tmp_path / "b", config=str(tmp_path / "config.py"), set=())
    assert run.field_remarks == [] and run.train().conditions == {"day": Vector(1, DAY)}


def test_inception_is_refused(folder, tmp_path):
    with pytest.raises(ValueError, match="are of pictures, and --data=.* has fields"):
        run_of(folder / "data", tmp_path / "a", measure_every=2)


def test_samples_are_netcdf_with_input_truth_and_prediction(folder, tmp_path):
    test = dataset(6, 1)
    test.isel(time=slice(0, 3)).to_netcdf(tmp_path / "given.nc", engine="h5netcdf")
    asked = (
        f"--workdir={folder / 'run'}",
        f"--condition={tmp_path / 'given.nc'}",
        "--num_steps=2",
        "--ensemble_size=2",
    )
    code, said = draw(*asked, f"--out={tmp_path / 'a.nc'}", "--num_images=3")
    assert code == 0 and "a.nc" in said
    found = xarray.open_dataset(tmp_path / "a.nc", engine="h5netcdf")
    assert found["u"].dims == ("sample", "member", "y", "x") and found["u"].shape == (3, 2, 4, 4)
    np.testing.assert_allclose(found["v_truth"], test["v"][:3], rtol=1e-6)
    np.testing.assert_allclose(
        found["low_input"][..., 0] if found["low_input"].ndim > 3 else found["low_input"], test["low"][:3], rtol=1e-6
    )
    model = load_model(sorted((folder / "run/checkpoints").glob("step_*"))[-1])
    given = {"low": test["low"][:3].values[..., None]}
    drawn = model.generate(conditions=given, num_steps=2, ensemble_size=2)
    np.testing.assert_allclose(np.stack([found["u"], found["v"]], -1), drawn, rtol=1e-5, atol=1e-7)


def test_samples_are_arrays_in_units(folder, tmp_path):
    np.save(tmp_path / "low.npy", dataset(1)["low"].values[0, ..., None])
    asked = (
        f"--workdir={folder / 'run'}",
        f"--condition=low={tmp_path / 'low.npy'}",
        "--num_steps=2",
        "--num_images=5",
    )
    code, said = draw(*asked, f"--out={tmp_path / 'a'}", "--batch_size=2", "--format=npz,grid")
    assert code == 0
    with np.load(tmp_path / "a.npz", allow_pickle=False) as arrays:
        assert arrays["arr_0"].dtype == "float32" and arrays["arr_0"].shape == (5, 4, 4, 2)
        assert np.abs(arrays["arr_0"][..., 0].mean() - 1e5) < 3000
    assert (
        "5 of 5 images are there already"
        in draw(*asked, f"--out={tmp_path / 'a'}", "--batch_size=2", "--format=npz")[1]
    )


def test_conditions_are_read_as_they_were_prepared(tmp_path):
    names = Channels(("k_0", "k_1", "k_2"), (0.0,) * 3, (1.0,) * 3)
    conditions = {"mask": Image((4, 4, 1), Channels(("mask",), (0.0,), (1.0,))), "k": Vector(3, names)}
    model = types.SimpleNamespace(channels=Channels(("u",), (0.0,), (1.0,)), sample_shape=(4, 4, 1))
    model.conditions = conditions
    k = np.arange(6.0, dtype="float32").reshape(2, 3)
    parts = {"mask": (("y", "x"), np.ones((4, 4))), "k": (("time", "size"), k)}  # a mask for all, a vector each
    xarray.Dataset(parts).to_netcdf(tmp_path / "given.nc", engine="h5netcdf")
    found, truth = read_fields(str(tmp_path / "given.nc"), model)
    assert truth is None and found["mask"].shape == (1, 4, 4, 1)
    np.testing.assert_array_equal(found["k"], k)


@pytest.mark.parametrize(
    "flags, sentence",
    [
        (("--format=gif",), "fields are written as npz, nc, grid"),
        (("--dynamic_threshold=0.9",), r"there is clip=\(lowest"),
        (("--condition={f}/none.nc",), "none.nc does not exist|is no file"),
        (("--condition={f}/source/train.nc", "--num_images=3"), "must hold one, or one for each of the 3"),
    ],
)
def test_samples_that_cannot_be_are_refused(folder, flags, sentence, tmp_path):
    flags = [flag.format(f=folder) for flag in flags]
    with pytest.raises((ValueError, FileNotFoundError), match=sentence):
        draw(f"--workdir={folder / 'run'}", "--num_steps=2", f"--out={tmp_path / 'a'}", *flags)
