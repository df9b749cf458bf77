"""The builders: what they write is what scikit-learn holds; and what `prepare` says when it cannot."""

import os
import sys

import numpy as np
import pytest

import pipelines
from pipelines.datasets import digits

pytestmark = pytest.mark.backend_free


def everything(name, split, data_dir):
    """Images [N,H,W,C] (and labels [N]) of a split, in file order."""
    batches = list(pipelines.make_dataset(name, split=split, data_dir=data_dir, batch_size=200, training=False))
    return {key: np.concatenate([batch[key].numpy() for batch in batches]) for key in batches[0]}


def sorted_rows(images, labels):
    rows = np.concatenate([images.reshape(len(images), -1), labels[:, None]], axis=1)
    return rows[np.lexsort(rows.T)]


def test_digits_are_scikit_learns(data_dir):
    from sklearn.datasets import load_digits

    source = load_digits()
    images = np.floor(source.images / 16 * 255 + 0.5).astype(np.int64)
    is_test = np.arange(len(images)) % 10 == 0
    for split, chosen in {"train": ~is_test, "test": is_test}.items():
        stored = everything("digits", split, data_dir)
        assert stored["image"].dtype == np.uint8 and stored["label"].dtype == np.int32
        np.testing.assert_array_equal(
            sorted_rows(stored["image"].astype(np.int64), stored["label"]),
            sorted_rows(images[chosen], source.target[chosen]),
        )


def test_digits_test_split_has_every_class(data_dir):
    assert np.bincount(everything("digits", "test", data_dir)["label"], minlength=10).min() >= 10


def test_photo_patches_are_windows_of_the_photographs(data_dir):
    from sklearn.datasets import load_sample_images

    photos = load_sample_images().images
    for split, columns in {"train": slice(0, 512), "test": slice(512, 640)}.items():
        windows = {
            window.tobytes()
            for photo in photos
            for window in np.lib.stride_tricks.sliding_window_view(photo[:, columns], (64, 64), axis=(0, 1))[::8, ::8]
            .transpose(0, 1, 3, 4, 2)
            .reshape(-1, 64, 64, 3)
        }
        stored = everything("photo_patches", split, data_dir)
        assert set(stored) == {"image"}
        assert {image.tobytes() for image in stored["image"]} == windows


def test_several_shards(data_dir):
    for name in ("digits", "photo_patches"):
        shards = list(data_dir.glob(f"{name}/1.0.0/{name}-train.tfrecord-*"))
        assert len(shards) > 1 and all(shard.stat().st_size for shard in shards)


def test_second_call_leaves_the_files_alone(data_dir):
    before = {path: path.stat().st_mtime_ns for path in data_dir.rglob("*")}
    assert pipelines.prepare("digits", data_dir) == os.fspath(data_dir / "digits" / "1.0.0")
    assert {path: path.stat().st_mtime_ns for path in data_dir.rglob("*")} == before


def test_preparing_elsewhere_gives_the_same(data_dir, tmp_path, capsys):
    pipelines.prepare("digits", tmp_path)
    assert capsys.readouterr().out == ""
    here, there = (
        {path.name: path.read_bytes() for path in (d / "digits/1.0.0").iterdir()} for d in (data_dir, tmp_path)
    )
    assert here == there


@pytest.mark.parametrize("name", ["digit", "mnist", "", None, ["digits"]])
def test_unknown_name(name, tmp_path):
    with pytest.raises(ValueError, match="unknown data set .*: known are digit_scenes, .*, photo_patches"):
        pipelines.prepare(name, tmp_path)
    assert not list(tmp_path.iterdir())


def test_near_name(tmp_path):
    with pytest.raises(ValueError, match="did you mean 'photo_patches'"):
        pipelines.prepare("photo_patch", tmp_path)


def test_data_dir_is_no_directory(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="data_dir must be a directory, and .*file is a file"):
        pipelines.prepare("digits", tmp_path / "file")
    with pytest.raises(ValueError, match="data_dir must be a path or None, got 3"):
        pipelines.prepare("digits", 3)


def test_something_else_in_its_place(tmp_path):
    (tmp_path / "digits" / "1.0.0").mkdir(parents=True)
    with pytest.raises(ValueError, match="exists and holds no prepared data set: remove it"):
        pipelines.prepare("digits", tmp_path)


@pytest.mark.parametrize(
    "module, extra",
    [("sklearn.datasets", "demo"), ("google_crc32c", "data"), ("tensorflow_datasets", "data")],
)
def test_missing_dependency(module, extra, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, module, None)
    digits.digit_pixels.cache_clear()
    with pytest.raises(ImportError, match=rf'{module.split(".")[0]} is needed .*pip install "keras_sid2\[{extra}\]"'):
        pipelines.prepare("digits", tmp_path)
    assert not list(tmp_path.rglob("*.tfrecord*")) and not list(tmp_path.glob("digits/1.0.0*"))
