"""sid2-evaluate --features=fields as a user starts it."""

import json

import numpy as np
import pytest
from evaluate_helpers import evaluate

from keras_sid2.evaluation import measure_fields

pytestmark = pytest.mark.backend_free
BOTH = ("height", "width")


@pytest.fixture
def files(tmp_path):
    rng = np.random.default_rng(0)
    samples, truth = (
        rng.normal(size=(70, 3, 4, 8, 2)).astype("float32"),
        rng.normal(size=(70, 4, 8, 2)).astype("float32"),
    )
    np.savez(tmp_path / "drawn.npz", samples=samples, channels=["u", "t"])
    np.savez(tmp_path / "true.npz", images=truth, latitude=[-60.0, -20.0, 20.0, 60.0])
    return tmp_path, samples, truth


def measured(folder, *texts):
    given = (f"--samples={folder / 'drawn.npz'}", f"--reference={folder / 'true.npz'}", f"--out={folder / 'out'}")
    assert evaluate(folder, *given, "--features=fields", *texts) == 0
    return json.loads((folder / "out.json").read_text())


def test_scores_are_those_of_the_library(files, capsys):
    folder, samples, truth = files
    found = measured(folder, "--periodic=width", "--by_latitude")
    weights = np.cos(np.deg2rad([-60.0, -20.0, 20.0, 60.0]))
    expected = measure_fields([(samples, truth)], ["u", "t"], periodic="width", weights=weights)
    assert found["metrics"] == pytest.approx(expected.metrics, rel=1e-12)
    assert found["measured"] == expected.measured and found["drawn"]["samples"] == "drawn.npz"
    printed = capsys.readouterr().out
    assert "crps_u" in printed and "channels=['u', 't']" in printed


def test_latitude_may_reach_from_pole_to_pole_in_float32(files):
    folder, samples, truth = files
    np.savez(folder / "true.npz", images=truth, latitude=np.array([-90, -30, 30, 90], "float32"))
    found = measured(folder, "--by_latitude")["metrics"]
    expected = measure_fields([(samples, truth)], ["u", "t"], weights=[0.0, 1.0, 1.0, 0.0]).metrics
    assert found["crps_u"] == pytest.approx(expected["crps_u"], rel=1e-6)


def test_a_netcdf_file_may_hold_the_truth_too(files):
    xarray = pytest.importorskip("xarray")
    folder, samples, truth = files
    variables = {
        "t": (("sample", "member", "y", "x"), samples[..., 1]),
        "u": (("sample", "member", "y", "x"), samples[..., 0]),
    }
    variables |= {"u_truth": (("sample", "y", "x"), truth[..., 0]), "t_truth": (("sample", "y", "x"), truth[..., 1])}
    variables["u_input"] = ("sample", "y_low", "x_low"), truth[:, ::2, ::2, 0]
    coordinates = {"latitude": ("y", [-60.0, -20.0, 20.0, 60.0])}
    xarray.Dataset(variables, coordinates).to_netcdf(folder / "drawn.nc", engine="h5netcdf")
    xarray.Dataset({"u": variables["u_truth"], "t": variables["t_truth"]}).to_netcdf(
        folder / "true.nc", engine="h5netcdf"
    )
    expected = measured(folder, "--by_latitude")["metrics"]
    for reference in ("drawn.nc", "true.nc"):
        given = (f"--samples={folder / 'drawn.nc'}", f"--reference={folder / reference}", "--by_latitude")
        assert measured(folder, *given)["metrics"] == pytest.approx(expected, rel=1e-9)
    xarray.Dataset({"u": variables["u_truth"]}).to_netcdf(folder / "true.nc", engine="h5netcdf")
    with pytest.raises(ValueError, match="must hold t, u, of one shape"):
        measured(folder, *given[:2])
    clips = {name: (("sample", "frame", "y", "x"), samples[..., 0]) for name in ("t", "u")}
    xarray.Dataset(clips).to_netcdf(folder / "clips.nc", engine="h5netcdf")
    with pytest.raises(ValueError, match="ensembles of them, and not of clips: t of .*clips.nc is"):
        measured(folder, f"--samples={folder / 'clips.nc'}", f"--reference={folder / 'drawn.nc'}")


@pytest.mark.parametrize(
    "arrays, texts, message",
    [
        ({"samples": np.zeros((70, 3, 4, 8, 2), "uint8")}, [], "must be float"),
        ({"fields": np.zeros((2, 2))}, [], "must hold fields as samples, images or arr_0; it holds fields"),
        ({"samples": np.zeros((70, 1, 4, 8, 2))}, [], "at least 2 members"),
        ({"samples": np.zeros((70, 3, 4, 8, 1))}, [], "as many pixels and channels"),
        ({"samples": np.zeros((69, 3, 4, 8, 2))}, [], "Each ensemble needs its truth"),
        ({}, ["--periodic=depth"], "periodic along some of"),
        ({}, ["--split=test"], "--split does nothing"),
    ],
)
def test_wrong_input(files, arrays, texts, message):
    folder, samples, _ = files
    np.savez(folder / "drawn.npz", **(arrays or {"samples": samples}))
    with pytest.raises(ValueError, match=message):
        measured(folder, *texts)
    assert not (folder / "out.json").exists()


def test_what_the_files_must_say(files):
    folder, samples, truth = files
    np.savez(folder / "true.npz", images=truth, channels=["u", "v"])
    with pytest.raises(ValueError, match="must have the same channels"):
        measured(folder)
    np.savez(folder / "true.npz", images=truth)
    with pytest.raises(ValueError, match="--by_latitude needs an array latitude"):
        measured(folder, "--by_latitude")
    np.savez(folder / "true.npz", images=truth, latitude=["north", "20", "-20", "south"])
    with pytest.raises(ValueError, match="latitude must be numbers"):
        measured(folder, "--by_latitude")
    (folder / "true.npz").write_bytes(b"nothing")
    with pytest.raises(ValueError, match="no .npz file that can be read"):
        measured(folder)
    with pytest.raises(ValueError, match=r"out.nc holds fields: give --features=fields"):
        evaluate(folder, "--samples=out.nc", "--reference=true.npz", "--out=scores")
    (folder / "true.npz").unlink()
    (folder / "true.npz").mkdir()
    with pytest.raises(ValueError, match="measured from .npz, .nc or .zarr, and .*true.npz is another folder"):
        measured(folder)
    with pytest.raises(ValueError, match="--features=fields are of files"):
        evaluate(folder, "--workdir=run", "--reference=true.npz", "--features=fields")
    with pytest.raises(ValueError, match="--periodic goes with --features=fields"):
        evaluate(folder, "--workdir=run", "--reference=true.npz", "--periodic=width")
