"""Files of fields: what samples are drawn for, and what is written."""

import sys

import numpy as np
import pytest

from keras_sid2 import Channels, Level, ResidualUViT, SiD2Model, SigmoidWeighting
from keras_sid2.bin.field_files import check_writable, read_fields, write_fields
from keras_sid2.bin.sample_request import Request, take_in_fields
from keras_sid2.conditions import Image, Vector
from keras_sid2.diffusion import CosineSchedule

pytestmark = pytest.mark.backend_free
xarray = pytest.importorskip("xarray")

CLIP = (2, 4, 4, 1)


def model_of(names, sample_shape=(4, 4, 1), **conditions):
    network = ResidualUViT(sample_shape, 1, None, 8, [Level("res", 8, 1)], conditions=conditions)
    return SiD2Model(
        network,
        CosineSchedule(),
        SigmoidWeighting(0.0),
        channels=Channels(names, (0.0,) * len(names), (1.0,) * len(names)),
    )


def written(path, **variables):
    xarray.Dataset(variables).to_netcdf(path, engine="h5netcdf")
    return str(path)


def test_a_vector_may_lie_in_one_variable(tmp_path):
    model = model_of(("u",), place=Vector(3, Channels(("place_0", "place_1", "place_2"), (0,) * 3, (1,) * 3)))
    place = np.arange(6, dtype="float32").reshape(2, 3)
    path = written(tmp_path / "a.nc", place=(("time", "k"), place))
    np.testing.assert_array_equal(read_fields(path, model)[0]["place"], place)


def test_what_is_alike_for_all_samples_does_not_count_them(tmp_path):
    model = model_of(("u",), mask=Image((4, 4, 1)))
    maps = np.zeros((2, 4, 4), "float32")
    path = written(tmp_path / "a.nc", u=(("time", "y", "x"), maps), mask=(("y", "x"), maps[0]))
    request = Request(model, 16, 0, None, {}, {})
    take_in_fields(request, [path], counted=False)
    assert request.count == 2 and request.conditions["mask"].shape == (1, 4, 4, 1)


def test_a_truth_of_another_size_is_refused_before_work_starts(tmp_path):
    path = written(tmp_path / "a.nc", u=(("time", "y", "x"), np.zeros((2, 8, 8))))
    with pytest.raises(ValueError, match="holds u of .*8.*, and the model draws .4, 4, 1.: leave them out"):
        read_fields(path, model_of(("u",)))


def test_longer_clips_are_written_beside_conditions_of_a_window(tmp_path):
    model = model_of(("u",), CLIP, terrain=Image(CLIP))
    write_fields(tmp_path / "a.nc", model, np.zeros((3, 5, 4, 4, 1)), {"terrain": np.ones((1, *CLIP))}, None, {})
    with xarray.open_dataset(tmp_path / "a.nc", engine="h5netcdf") as found:
        assert found["u"].dims == ("sample", "frame", "y", "x") and found["u"].shape == (3, 5, 4, 4)
        assert found["terrain_input"].dims == ("sample", "frame_terrain", "y", "x")


@pytest.mark.parametrize("name", ["x", "member", "wind/u"])
def test_names_that_a_file_cannot_hold_are_refused_before_work_starts(name):
    with pytest.raises(ValueError, match=f"cannot hold a channel named '{name}'"):
        check_writable(model_of((name,)))


def test_netcdf_needs_its_packages_before_work_starts(monkeypatch):
    monkeypatch.setitem(sys.modules, "h5netcdf", None)
    with pytest.raises(ImportError, match="h5netcdf"):
        check_writable(model_of(("u",)))


def test_conditions_that_share_a_name_are_no_variables_of_one_file(tmp_path):
    units = Channels(("u",), (0.0,), (1.0,))
    path = written(tmp_path / "a.nc", u=(("time", "y", "x"), np.zeros((2, 4, 4))))
    with pytest.raises(ValueError, match="u is a channel of the samples and of the condition past, which a NetCDF"):
        read_fields(path, model_of(("u",), past=Image((4, 4, 1), units)))  # else the truth would be the condition
    two = model_of(("v",), past=Image((4, 4, 1), units), older=Image((4, 4, 1), units))
    with pytest.raises(ValueError, match="u is a channel of the condition past and of the condition older"):
        check_writable(two)
