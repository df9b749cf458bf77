"""Images that are measured: what their kept statistics go by, and which may stand beside which."""

import os
import shutil

import numpy as np
import pytest
from training_helpers import stripes

from keras_sid2.bin.measuring import check_alike, open_images
from keras_sid2.io.image_files import write_npz, write_pngs

pytestmark = pytest.mark.backend_free


def at_noon(folder):
    """Gives all files of a folder one time of change."""
    for path in folder.rglob("*"):
        os.utime(path, (1e9, 1e9))


def pngs(folder, images):
    write_pngs(folder, images)


def npz(folder, images):
    write_npz(folder / "real.npz", images)


def print_of(folder, write):
    return open_images(str(folder / "real.npz" if write is npz else folder)).fingerprint


@pytest.mark.parametrize("write", [npz, pngs])
def test_the_fingerprint_of_files_goes_by_place_time_and_content(tmp_path, write):
    images = np.random.default_rng(0).integers(0, 256, (40, 64, 64, 3), "uint8")  # far more than is looked at
    other = images.copy()
    other[20, 30, 30] ^= 1
    for name, content in (("a", images), ("b", images), ("c", other)):
        write(tmp_path / name, content)
        at_noon(tmp_path / name)
    first = print_of(tmp_path / "a", write)
    assert print_of(tmp_path / "a", write) == first != print_of(tmp_path / "b", write)
    shutil.copytree(tmp_path / "c", tmp_path / "a", dirs_exist_ok=True)
    at_noon(tmp_path / "a")
    assert print_of(tmp_path / "a", write) != first  # one pixel of equally large files
    shutil.copytree(tmp_path / "b", tmp_path / "a", dirs_exist_ok=True)
    assert print_of(tmp_path / "a", write) == first
    os.utime(next((tmp_path / "a").iterdir()), (1e9 + 1, 1e9 + 1))
    assert print_of(tmp_path / "a", write) != first


def test_the_fingerprint_of_files_goes_by_their_size_and_number(tmp_path):
    write_pngs(tmp_path, np.zeros((2, 4, 4, 1), "uint8"))

    def found(size):
        (tmp_path / "000001.png").write_bytes((tmp_path / "000000.png").read_bytes().ljust(size, b"\0"))
        at_noon(tmp_path)
        return open_images(str(tmp_path)).fingerprint

    assert found(20_000) == found(20_000) != found(20_001)  # where beginning and end are alike
    before = found(20_000)
    (tmp_path / ".writing-000002.png").write_bytes(b"")
    assert open_images(str(tmp_path)).fingerprint == before
    (tmp_path / ".writing-000002.png").rename(tmp_path / "000002.png")
    assert open_images(str(tmp_path)).fingerprint != before


def test_the_fingerprint_of_a_data_set_goes_by_split_size_crop_place_and_content(data, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(data, copy)

    def found(folder=copy, **options):
        return open_images(str(folder), **options).fingerprint

    reading = ({}, {"split": "test"}, {"split": "train,test"}, {"image_size": (4, 4)}, {"crop": "center"})
    prints = [found(), found(data), *(found(**options) for options in reading[1:])]
    assert all(prints.count(one) == 1 for one in prints) and found() == prints[0]
    shard = next(copy.rglob("*train*-00000-*"))
    content, stat = shard.read_bytes(), shard.stat()
    for place in (20, len(content) - 1):  # in the first record, in the last one
        shard.write_bytes(bytes(byte ^ (i == place) for i, byte in enumerate(content)))
        os.utime(shard, ns=(stat.st_atime_ns, stat.st_mtime_ns))
        assert found() != prints[0] and found(split="test") == prints[2]
    assert open_images(data).shape == (8, 8, 1) and open_images(data, image_size=(4, 4)).shape == (4, 4, 1)


def test_images_of_another_shape_are_refused_but_where_features_resize_both(tmp_path):
    write_npz(tmp_path / "real.npz", stripes(2)[0])
    real = open_images(str(tmp_path / "real.npz"))
    assert check_alike((4, 4, 1), real, "classifier") is None and check_alike((None, None, 1), real, "a:b") is None
    for shape, name in (((4, 5, 1), "4x5x1"), ((5, 4, 1), "5x4x1"), ((4, 4, 3), "4x4x3")):
        for features in ("classifier", "a:b"):
            with pytest.raises(ValueError, match=f"the images are {name} and those of real.npz are 4x4x1: resize"):
                check_alike(shape, real, features)
        assert "Inception resizes both" in check_alike(shape, real, "inception")
