"""Names of version 0.3 still work, each with a warning that says the new one."""

import json

import numpy as np
import pytest
from training_helpers import tiny_model

import keras_sid2
from keras_sid2 import checkpoints, generation, sampling, training
from keras_sid2.evaluation import Measurement
from keras_sid2.generation.provenance import provenance_path, read_provenance
from keras_sid2.io.image_files import NpzPieces

pytestmark = pytest.mark.backend_free


@pytest.mark.parametrize(
    "module, old, new",
    [
        (keras_sid2, "Drawing", "SampleRequest"),
        (checkpoints, "unsound", "corrupt_checkpoints"),
        (generation, "Drawing", "SampleRequest"),
        (sampling, "GRIDS", "NOISE_LEVELS"),
        (sampling, "get_grid", "get_noise_levels"),
        (training, "Drawing", "SampleRequest"),
        (training, "UnsoundBatch", "CorruptBatch"),
    ],
)
def test_old_names_of_a_module(module, old, new):
    with pytest.warns(DeprecationWarning, match=f"{old} is called .*{new} now") as caught:
        assert getattr(module, old) is getattr(module, new)
    assert caught[0].filename == __file__
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = module.nothing


def test_old_arguments_warn_of_the_line_that_gives_them():
    with pytest.warns(DeprecationWarning, match="grid= is called noise_levels= now") as caught:
        images = tiny_model().generate([0], num_steps=1, grid="edm_rho")
    assert len(images) == 1 and __file__ in [warning.filename for warning in caught if "grid=" in str(warning.message)]


def test_old_keys_of_files(tmp_path):
    drawn = {"images_digest": "0", "grid": "edm_rho", "seed": 1}
    (tmp_path / "m.json").write_text(json.dumps({"figures": {"frechet": 1.0}, "measured": {}, "drawn": drawn}))
    found = Measurement.read(tmp_path / "m.json")
    assert found.metrics == found.figures == {"frechet": 1.0}
    assert found.drawn == {"images_digest": "0", "noise_levels": "edm_rho", "seed": 1}
    images = tmp_path / "a.npz"
    provenance_path(images).write_text(json.dumps({**drawn, "weaker": "w"}))
    assert read_provenance(images) == {**found.drawn, "guidance_network": "w"}


def test_an_npz_that_was_begun_under_old_names_goes_on(tmp_path):
    with NpzPieces(tmp_path / "a.npz", settings={"grid": "edm_rho"}) as pieces:
        pieces.add(np.zeros((2, 4, 4, 1), "uint8"))
    with NpzPieces(tmp_path / "a.npz", settings={"noise_levels": "edm_rho"}) as pieces:
        assert pieces.done == 2
        pieces.finish()
    assert (tmp_path / "a.npz").is_file()
