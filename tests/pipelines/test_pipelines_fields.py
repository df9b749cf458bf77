"""Fields in physical units: statistics of channels, arrays, NetCDF and Zarr, and what is refused."""

import json
import re

import numpy as np
import pytest
from source_helpers import prepared, report_of

import pipelines
from pipelines.datasets.opening import BadSource
from pipelines.preparing import moments

xarray = pytest.importorskip("xarray")
pytestmark = pytest.mark.backend_free

MEAN, STD = np.array([1e5, -3e-4]), np.array([700.0, 1e-3])


def pair(count=40, size=6, seed=0):
    """u, v in very different units, float64 [N, H, W, 2]."""
    return np.random.default_rng(seed).normal(MEAN, STD, (count, size, size, 2))


def low_of(x):
    """Means over 2 x 2 of the first channel, [N, H/2, W/2]."""
    return x[..., 0].reshape(len(x), x.shape[1] // 2, 2, -1, 2).mean((2, 4))


def dataset_of(x):
    low = low_of(x)
    scalar = np.arange(len(x)) * 10.0
    return xarray.Dataset(
        {
            "u": (("time", "y", "x"), x[..., 0]),
            "v": (("time", "y", "x"), x[..., 1]),
            "low": (("time", "yl", "xl"), low),
            "land": (("y", "x"), (x[0, ..., 0] > 1e5).astype("float32")),
            "day": (("time",), scalar),
            "name": (("time",), np.array(["a"] * len(x))),
        }
    )


@pytest.fixture(scope="module")
def npz(tmp_path_factory):
    folder, x = tmp_path_factory.mktemp("npz"), pair().astype("float32")
    (folder / "source").mkdir()
    np.savez(folder / "source/train.npz", images=x, low=low_of(x).astype("float32")[..., None])
    other = pair(8, seed=1).astype("float32") * 2
    np.savez(folder / "source/test.npz", images=other, low=low_of(other).astype("float32")[..., None])
    return x, prepared("npz", folder / "source", channel_names="u,v")


def test_statistics_are_those_of_the_training_split_in_float64(npz):
    x, directory = npz
    found = pipelines.describe(directory).sample_channels
    assert found.names == ("u", "v")
    np.testing.assert_allclose(found.mean, x.astype("float64").mean((0, 1, 2)), rtol=1e-12)
    np.testing.assert_allclose(found.std, x.astype("float64").std((0, 1, 2)), rtol=1e-10)
    low = pipelines.describe(directory, split="test").values["low"].channels
    assert low.names == ("low",)
    np.testing.assert_allclose(low.std, low_of(x).astype("float32").astype("float64").std(), rtol=1e-10)


def test_physical_values_come_out_as_they_went_in(npz):
    x, directory = npz
    batches = [*pipelines.make_dataset(directory, batch_size=8, training=False).as_numpy_iterator()]
    found = np.concatenate([batch["image"] for batch in batches])
    assert found.dtype == "float32"
    np.testing.assert_array_equal(np.sort(found.ravel()), np.sort(x.ravel()))
    first = batches[0]
    np.testing.assert_allclose(first["low"][..., 0], low_of(first["image"]), rtol=1e-6)


def test_any_number_of_shards_and_processes_finds_the_same(npz, tmp_path):
    x, directory = npz
    np.savez(tmp_path / "a.npz", images=x)
    one, many = (
        report_of(prepared("npz", tmp_path / "a.npz", channel_names=["u", "v"], config=f"c{n}", examples_per_shard=n))
        for n in (1, 100)
    )
    np.testing.assert_allclose(one["channels"]["image"]["std"], many["channels"]["image"]["std"], rtol=1e-12)


@pytest.mark.parametrize("kind", ["nc", "classic", "zarr", "folder"])
def test_variables_of_files_are_channels(kind, tmp_path):
    x, source = pair(12), tmp_path / "source"
    source.mkdir()
    data = dataset_of(x)
    if kind == "zarr":
        data.drop_vars("name").to_zarr(source / "a.zarr", consolidated=False)
    elif kind == "classic":
        data.drop_vars("name").to_netcdf(source / "a.nc", engine="scipy")
    else:
        data.to_netcdf(source / ("train.nc" if kind == "folder" else "a.nc"), engine="h5netcdf")
    if kind == "folder":
        dataset_of(pair(5, seed=2)).to_netcdf(source / "validation.nc", engine="h5netcdf")
    given = source if kind == "folder" else next(source.iterdir())
    directory = prepared("fields", given, variables="u,v", condition_variables="low,land,day")
    found = pipelines.describe(directory)
    assert found.sample_shape == (6, 6, 2) and found.sample_channels.names == ("u", "v")
    assert {name: spec.shape for name, spec in found.values.items()} == {
        "low": (3, 3, 1),
        "land": (6, 6, 1),
        "day": (1,),
    }
    np.testing.assert_allclose(
        found.sample_channels.std, x.astype("float32").astype("float64").std((0, 1, 2)), rtol=1e-9
    )
    (batch,) = pipelines.make_dataset(directory, batch_size=12, training=False).as_numpy_iterator()
    order = (batch["day"][:, 0] / 10).astype(int)
    np.testing.assert_array_equal(batch["image"], x[order].astype("float32"))
    np.testing.assert_allclose(batch["low"][..., 0], low_of(x)[order], rtol=1e-6)
    if kind == "folder":
        assert pipelines.describe(directory, split="validation").num_examples == 5


def test_clips_have_frames_between(tmp_path):
    clips = np.random.default_rng(0).normal(5, 2, (6, 3, 4, 4))
    xarray.Dataset({"u": (("n", "step", "y", "x"), clips)}).to_netcdf(tmp_path / "a.nc", engine="h5netcdf")
    directory = prepared("fields", tmp_path / "a.nc", variables="u", sample_dim="n")
    assert pipelines.describe(directory).sample_shape == (3, 4, 4, 1)


def test_missing_numbers_make_an_example_bad(tmp_path):
    data = dataset_of(pair(6))
    data["u"][2, 0, 0] = np.nan
    data.to_netcdf(tmp_path / "a.nc", engine="h5netcdf")
    with pytest.raises(BadSource, match="not finite"):
        prepared("fields", tmp_path / "a.nc", variables="u,v")
    directory = prepared("fields", tmp_path / "a.nc", variables="u,v", config="b", max_bad_sources=1)
    assert report_of(directory)["splits"]["train"]["left_out"] == 1
    assert np.isfinite(pipelines.describe(directory).sample_channels.mean).all()


def test_what_is_in_it_is_told(npz):
    _, directory = npz
    told = str(pipelines.stats(directory, split="train")[0])
    assert re.search(r"channels of image: u 999\d\d\.\d+ \+- 7\d\d", told) and "channels of low: low" in told
    assert pipelines.random_grid(directory, count=4).shape == (2 * (6 * 5 + 2), 2 * (12 * 5 + 2), 3)


@pytest.mark.parametrize(
    "settings, sentence",
    [
        ({}, r"outside \[-1, 1\].*--channel_names=NAME"),
        ({"channel_names": "u"}, "channel_names must be one for each channel"),
        ({"channel_names": "u,u"}, "names one twice"),
        ({"channel_names": 3}, "channel_names must be like u,v"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(settings, sentence, tmp_path):
    np.savez(tmp_path / "a.npz", images=pair(4).astype("float32"))
    with pytest.raises((ValueError, BadSource), match=sentence):
        prepared("npz", tmp_path / "a.npz", **settings)


def test_constant_channels_are_refused(tmp_path):
    x = pair(4).astype("float32")
    x[..., 1] = 3.0
    np.savez(tmp_path / "a.npz", images=x)
    with pytest.raises(ValueError, match="the channel 'v' is constant"):
        prepared("npz", tmp_path / "a.npz", channel_names="u,v")


@pytest.mark.parametrize(
    "settings, sentence",
    [
        ({"variables": "u,w"}, "there is no variable 'w' in .*, but u, v, low"),
        ({"variables": "u,low"}, "the same dimensions"),
        ({"variables": "u", "sample_dim": "t"}, "give --sample_dim=NAME"),
        ({"variables": "u", "condition_variables": "name"}, "no variable of numbers"),
    ],
)
def test_files_that_do_not_fit_are_refused(settings, sentence, tmp_path):
    dataset_of(pair(4)).to_netcdf(tmp_path / "a.nc", engine="h5netcdf")
    with pytest.raises(ValueError, match=sentence):
        prepared("fields", tmp_path / "a.nc", **settings)


def test_pickles_are_not_read(tmp_path):
    pair_of = dataset_of(pair(4)).drop_vars("name")
    pair_of.to_zarr(tmp_path / "a.zarr", zarr_format=2)
    path = tmp_path / "a.zarr/u/.zarray"
    told = json.loads(path.read_text()) | {"filters": [{"id": "pickle"}]}
    path.write_text(json.dumps(told))
    with pytest.raises(ValueError, match="pickled objects"):
        prepared("fields", tmp_path / "a.zarr", variables="u")
    (tmp_path / "b.nc").write_bytes(b"nothing of the kind")
    with pytest.raises(ValueError, match="cannot be read as NetCDF or Zarr"):
        prepared("fields", tmp_path / "b.nc", variables="u")


def test_a_constant_beside_the_sample_may_be_large():
    count, mean, squares = [4, [2e9], [0.0]]
    found = moments.statistics([count, mean, squares], ("seconds",), of_sample=False)
    assert found["std"][0] >= np.spacing(np.float32(2e9))  # what channels must have
