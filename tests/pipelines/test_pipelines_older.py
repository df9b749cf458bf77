"""Data sets that the version before has written: they are read as it read them, and written as it did, to the byte."""

import itertools
import pathlib

import numpy as np
import pytest
from source_helpers import noise, prepared

import pipelines

pytestmark = pytest.mark.backend_free

OLDER = pathlib.Path(__file__).parent / "older"
# What that version was asked for when it wrote read.npz, beside batch_size=4, seed=5 and start_step=2.
ASKED = {
    "npz/arrays": {"image_size": (4, 6), "crop": "random", "flip": True},
    "image_folder/photos": {"image_size": 8, "crop": "random", "flip": True},
    "kinetics600/clips": {"flip": True},
}


def batches(name, split, kind, grain):
    make = pipelines.make_grain_dataset if grain else pipelines.make_dataset
    if kind == "stream":
        options = {"seed": 5, "start_step": 2, **ASKED[name]}
    else:
        options = {"training": False, **({"image_size": 8} if "photos" in name else {})}
    some = list(itertools.islice(iter(make(OLDER / name, split=split, batch_size=4, **options)), 3))
    return {key: np.concatenate([batch[key] for batch in some]) for key in some[0]}


@pytest.mark.parametrize("grain", [False, True], ids=["tf", "grain"])
def test_they_are_read_as_they_were(grain):
    with np.load(OLDER / "read.npz") as wanted:
        for case in {tuple(key.split("|")[:3]) for key in wanted}:
            found = batches(*case, grain)
            assert {"|".join((*case, key)) for key in found} == {k for k in wanted if k.startswith("|".join(case))}
            for key, value in found.items():
                expected = wanted["|".join((*case, key))]
                assert value.dtype == expected.dtype
                np.testing.assert_array_equal(value, expected)
    assert not any(report.faults for name in ASKED for report in pipelines.verify(OLDER / name))


def test_the_same_source_gives_the_same_shards(tmp_path):
    (tmp_path / "arrays").mkdir()
    for seed, (split, count) in enumerate({"train": 10, "test": 4}.items(), 1):
        np.savez(tmp_path / "arrays" / split, images=noise(count, 6, 8, 3, seed=seed), labels=np.arange(count) % 4)
    new = prepared("npz", tmp_path / "arrays", config="arrays")
    old = OLDER / "npz" / "arrays" / "1.0.0"
    for path in [*old.glob("*.tfrecord-*"), *old.glob("*.npy"), old / "features.json"]:
        assert (new / path.name).read_bytes() == path.read_bytes(), path.name
