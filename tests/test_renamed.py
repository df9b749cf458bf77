"""Names of version 0.3 still work, each with a warning that says the new one."""

import json

import pytest

import keras_sid2
from keras_sid2 import checkpoints, generation, sampling, training
from keras_sid2.evaluation import Measurement
from keras_sid2.generation.provenance import provenance_path, read_provenance

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


def test_old_keys_of_files(tmp_path):
    drawn = {"images_digest": "0", "grid": "edm_rho", "seed": 1}
    (tmp_path / "m.json").write_text(json.dumps({"figures": {"frechet": 1.0}, "measured": {}, "drawn": drawn}))
    found = Measurement.read(tmp_path / "m.json")
    assert found.metrics == found.figures == {"frechet": 1.0}
    assert found.drawn == {"images_digest": "0", "noise_levels": "edm_rho", "seed": 1}
    images = tmp_path / "a.npz"
    provenance_path(images).write_text(json.dumps({**drawn, "weaker": "w"}))
    assert read_provenance(images) == {**found.drawn, "guidance_network": "w"}
