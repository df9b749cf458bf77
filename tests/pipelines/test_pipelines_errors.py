"""Each wrong input of `make_dataset` and `describe` ends in one sentence, before anything is read."""

import shutil

import numpy as np
import pytest

import pipelines

pytestmark = pytest.mark.backend_free


@pytest.mark.parametrize(
    "arguments, sentence",
    [
        ({"batch_size": 0}, "batch_size must be an integer of at least 1 .*, got 0"),
        ({"batch_size": 2.5}, "batch_size must be an integer of at least 1 .*, got 2.5"),
        ({"batch_size": True}, "batch_size must be an integer of at least 1 .*, got True"),
        ({"seed": -1}, "seed must be an integer of at least 0 .*, got -1"),
        ({"seed": 2**63}, r"seed must be an integer .*below 2\*\*63"),
        ({"seed": "a"}, "seed must be an integer .*, got 'a'"),
        ({"start_step": -3}, "start_step must be an integer of at least 0"),
        ({"start_step": 2**62}, "start_step=4611686018427387904 with batch_size=8 is beyond"),
        ({"process_count": 0}, "process_count must be an integer of at least 1"),
        ({"process_index": 2, "process_count": 2}, "process_index must be below process_count=2, got 2"),
        ({"crop": "middle"}, "crop must be None, 'center' or 'random', got 'middle'"),
        ({"crop": "random", "min_crop": 0}, r"min_crop must be in \(0, 1\], got 0"),
        ({"max_bad_records": -1}, "max_bad_records must be an integer of at least 0, got -1"),
        ({"features": "image"}, "features must be a pipelines.RecordFeatures or None, got 'image'"),
        ({"features": pipelines.RecordFeatures(image="picture")}, "has no uint8 image .* named 'picture', but image"),
        ({"features": pipelines.RecordFeatures(label="class")}, "has no feature 'class', but image, label"),
        ({"training": "yes"}, "training must be True or False, got 'yes'"),
        ({"flip": 1}, "flip must be True or False, got 1"),
        ({"drop_remainder": 1}, "drop_remainder must be True, False or None, got 1"),
        ({"training": False, "start_step": 2}, "are for training=True, got start_step=2, flip=False, crop=None"),
        ({"training": False, "flip": True}, "are for training=True, got start_step=0, flip=True, crop=None"),
        ({"split": "validation"}, "unknown split 'validation': digits in .* has test, train"),
        ({"split": None}, "unknown split None"),
        ({"split": "train[:10%]"}, "unknown split"),
        ({"image_size": 16}, "image_size 16x16 was asked for and the images of digits are 8x8: give crop="),
        ({"image_size": (8, 9)}, "image_size 8x9 was asked for"),
        ({"image_size": (8, 8, 1)}, r"image_size must be one integer or \(height, width\), got \(8, 8, 1\)"),
        ({"image_size": "8"}, "image_size must be an integer of at least 1 .*, got '8'"),
        (
            {"training": False, "split": "test", "batch_size": 181, "drop_remainder": True},
            "batch_size=181 with drop_remainder=True gives no batch: digits has 180 examples in test",
        ),
        ({"data_dir": 4}, "data_dir must be a path or None, got 4"),
    ],
)
def test_wrong_argument(arguments, sentence, data_dir):
    with pytest.raises(ValueError, match=sentence):
        pipelines.make_dataset("digits", **({"batch_size": 8, "data_dir": data_dir} | arguments))


@pytest.mark.parametrize("name_or_dir", [None, 3, "", ["digits"]])
def test_neither_name_nor_path(name_or_dir):
    with pytest.raises(
        ValueError, match=r"expected a data set name \(digit_scenes, digits, .*, photo_patches\) or a dir"
    ):
        pipelines.describe(name_or_dir)


def test_unknown_name(data_dir):
    with pytest.raises(
        FileNotFoundError,
        match="'digit' is neither a data set name .* nor a directory; did you mean 'digits'",
    ):
        pipelines.describe("digit")
    with pytest.raises(
        ValueError,
        match="data_dir goes with a data set name, and 'digit' is neither one of .* nor a folder .*; did you mean",
    ):
        pipelines.describe("digit", data_dir=data_dir)


def test_not_prepared(tmp_path):
    with pytest.raises(FileNotFoundError, match=f"write it with: sid2-data prepare digits --data_dir={tmp_path}$"):
        pipelines.describe("digits", data_dir=tmp_path)


def test_absent_empty_and_foreign_directories(tmp_path):
    remedy = "write one of digit_scenes, digits, .*, photo_patches there with: sid2-data prepare NAME --data_dir="
    with pytest.raises(FileNotFoundError, match=f"there is no directory .*absent: {remedy}"):
        pipelines.describe(tmp_path / "absent")
    with pytest.raises(FileNotFoundError, match=f"there is nothing in .*: {remedy}"):
        pipelines.describe(tmp_path)
    (tmp_path / "notes.txt").write_text("no data")
    with pytest.raises(FileNotFoundError, match=f"there is no prepared data set in .*: {remedy}"):
        pipelines.describe(tmp_path)
    with pytest.raises(ValueError, match="notes.txt is a file"):
        pipelines.describe(tmp_path / "notes.txt")


def test_several_data_sets(data_dir):
    with pytest.raises(
        ValueError, match="holds several data sets, give one of them: .*/digits/1.0.0, .*/photo_patches/1"
    ):
        pipelines.describe(data_dir)


def test_newest_version_and_no_unfinished_one(data_dir, tmp_path):
    for version in ("1.0.0", "9.0.0", "10.0.0", "incomplete.ABCDEF_11.0.0"):
        shutil.copytree(data_dir / "digits" / "1.0.0", tmp_path / "digits" / version)
    assert pipelines.describe(tmp_path).num_examples == 1617
    (tmp_path / "digits" / "10.0.0" / "digits-train.tfrecord-00000-of-00004").unlink()
    with pytest.raises(FileNotFoundError, match=r"in .*/digits/10\.0\.0"):
        pipelines.describe(tmp_path)


def test_missing_shards(data_dir, tmp_path):
    shutil.copytree(data_dir / "digits", tmp_path / "digits")
    for number in (1, 3):
        (tmp_path / f"digits/1.0.0/digits-train.tfrecord-0000{number}-of-00004").unlink()
    with pytest.raises(FileNotFoundError, match="2 of 4 shards are missing in .*, the first is .*-00001-of-00004"):
        pipelines.make_dataset("digits", data_dir=tmp_path, batch_size=8)
    assert pipelines.describe("digits", split="test", data_dir=tmp_path).num_examples == 180


def test_shard_with_too_few_records(data_dir, tmp_path):
    """Uncounted, it would silently move all examples after it, and `start_step` would not keep its word."""
    shutil.copytree(data_dir / "digits", tmp_path / "digits")
    shards = sorted(tmp_path.glob("digits/1.0.0/digits-train.tfrecord-*"))
    shutil.copy(tmp_path / "digits/1.0.0/digits-test.tfrecord-00000-of-00004", shards[0])
    with pytest.raises(ValueError, match="digits-train.tfrecord-00000-of-00004, record 45: the shard ends early"):
        pipelines.make_dataset("digits", data_dir=tmp_path, batch_size=100)
    (tmp_path / "digits/1.0.0/train.offsets.npy").unlink()  # as in a data set that tfds has written by itself
    with pytest.raises(
        ValueError, match="digits-train.tfrecord-00000-of-00004, record 45: the shard has only 45 records"
    ):
        pipelines.make_dataset("digits", data_dir=tmp_path, batch_size=100)


def test_foreign_features(tmp_path):
    import tensorflow_datasets as tfds

    class Numbers(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        """No images."""

        VERSION = tfds.core.Version("1.0.0")

        def _info(self):
            return tfds.core.DatasetInfo(
                builder=self, features=tfds.features.FeaturesDict({"value": tfds.features.Scalar(np.int64)})
            )

        def _split_generators(self, dl_manager):
            return {"train": self._generate_examples()}

        def _generate_examples(self):
            yield 0, {"value": 0}

    Numbers(data_dir=tmp_path).download_and_prepare()
    with pytest.raises(ValueError, match=r"has no uint8 image \[H,W,C\] or clip .* named 'image', but value"):
        pipelines.describe(tmp_path)


def test_other_file_format(data_dir, tmp_path):
    shutil.copytree(data_dir / "digits", tmp_path / "digits")
    info = tmp_path / "digits/1.0.0/dataset_info.json"
    info.write_text(info.read_text().replace('"fileFormat": "tfrecord"', '"fileFormat": "riegeli"'))
    with pytest.raises(ValueError, match="is in the format riegeli: only tfrecord and array_record are read"):
        pipelines.describe(tmp_path)


def test_copies_that_are_no_versions_of_one_another(data_dir, tmp_path):
    shutil.copytree(data_dir / "digits" / "1.0.0", tmp_path / "mine")
    assert pipelines.describe(tmp_path).num_examples == 1617
    shutil.copytree(data_dir / "digits" / "1.0.0", tmp_path / "yours")
    with pytest.raises(ValueError, match="holds several data sets, give one of them: .*/mine, .*/yours"):
        pipelines.describe(tmp_path)
