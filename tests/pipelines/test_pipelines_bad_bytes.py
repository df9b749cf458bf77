"""Every kind of damage ends in one sentence that names shard, record and reason, or in a counted skip."""

import gc
import logging
import shutil
import threading
import time

import numpy as np
import pytest
import shard_helpers as make
from PIL import Image

import pipelines
from pipelines import tfrecord

pytestmark = pytest.mark.backend_free

PICTURES = make.pictures(12)
GOOD = make.png(PICTURES[0])


def animated(format):
    frames = [Image.fromarray(picture) for picture in PICTURES[:3]]
    return make.encoded(frames[0], format, save_all=True, append_images=frames[1:])


def read(path, **arguments):
    """All images and labels of one pass, through tf.data."""
    options = {"batch_size": 4, "image_size": 8, "training": False} | arguments
    batches = list(pipelines.make_dataset(path, **options))
    return (np.concatenate([batch[key].numpy() for batch in batches]) for key in ("image", "label"))


BAD_RECORDS = {
    "no_image": (make.record(label=1), "there is no feature image, only label"),
    "no_label": (make.record(GOOD), "there is no feature label, only image"),
    "nothing": (make.record(), "there is no feature image, only none at all"),
    "empty_image": (make.record(b"", 1), "the feature image is empty"),
    "two_images": (make.record([GOOD, GOOD], 1), "the feature image has 2 encoded images, expected 1"),
    "text": (make.record(b"no image at all", 1), "the feature image is no image"),
    "gif": (make.record(animated("GIF"), 1), "the feature image is a GIF image: only JPEG and PNG are read"),
    "webp": (make.record(animated("WEBP"), 1), "is a WebP image: only JPEG and PNG"),
    "apng": (make.record(animated("PNG"), 1), "is an animated PNG"),
    "sixteen_bits": (make.record(make.png(PICTURES[0][..., 0].astype(np.uint16)), 1), "has 16 bits a channel"),
    "cut_png": (make.record(GOOD[:-30], 1), "the feature image cannot be decoded"),
    "cut_png_header": (make.record(GOOD[:20], 1), "ends inside its header, after 20 bytes"),
    "cut_jpeg": (make.record(make.encoded(PICTURES[0], "JPEG")[:-20], 1), "cannot be decoded"),
    "label_is_text": (make.record(GOOD, label=[]), "the feature label has 0 integers, expected one"),
    "two_labels": (make.record(GOOD, label=[1, 2]), "the feature label has 2 integers"),
    "label_too_large": (make.record(GOOD, label=10), "the feature label is 10, outside 0..9"),
    "label_negative": (make.record(GOOD, label=-1), "the feature label is -1, outside 0..9"),
    "no_example": (b"\xff\xff\xff", "is no tf.train.Example"),
}


def shard_with(path, bad):
    records = [make.record(make.png(picture), number % 10) for number, picture in enumerate(PICTURES)]
    return make.write_shard(path, records[:5] + [bad] + records[5:])


@pytest.mark.parametrize("kind", BAD_RECORDS)
def test_each_kind_of_bad_record(kind, tmp_path, caplog):
    bad, reason = BAD_RECORDS[kind]
    path = shard_with(tmp_path / "some.tfrecord", bad)
    features = pipelines.RecordFeatures(num_classes=10)
    with pytest.raises(Exception, match="some.tfrecord, record 5: .*max_bad_records=N would skip") as error:
        list(read(path, features=features))
    assert reason in str(error.value) and "Traceback" not in str(error.value)
    counted = pipelines.BadRecords(2)
    with caplog.at_level(logging.WARNING):
        images, labels = read(path, features=features, max_bad_records=counted)
    np.testing.assert_array_equal(images, PICTURES)
    np.testing.assert_array_equal(labels, np.arange(12) % 10)
    assert counted.count == 1 and reason in str(counted.faults[0])
    assert (counted.faults[0].shard, counted.faults[0].record) == ("some.tfrecord", 5)
    assert (
        sum("skipped a bad record (1 of at most 2): some.tfrecord, record 5" in line for line in caplog.messages) == 1
    )


def test_limit(tmp_path):
    records = [b"\xff", make.record(GOOD, 1), b"\xff\xff", make.record(GOOD, 1), b"\xff\xff\xff"]
    path = make.write_shard(tmp_path / "some.tfrecord", records)
    assert len(next(read(path, max_bad_records=3))) == 2
    with pytest.raises(
        Exception, match=r"record \d: is no tf.train.Example; 3 records are bad, and max_bad_records is 2"
    ):
        list(read(path, max_bad_records=2))


def test_training_keeps_all_other_places(tmp_path):
    """A bad record's place is taken by the next good one of the stream; nothing else moves, now or in later epochs."""
    sound = make.write_shard(tmp_path / "sound.tfrecord", [make.record(make.png(p), i) for i, p in enumerate(PICTURES)])
    records = [make.record(make.png(p), i) if i not in (3, 4) else b"\xff" for i, p in enumerate(PICTURES)]
    damaged = make.write_shard(tmp_path / "damaged.tfrecord", records)
    arguments = {"batch_size": 6, "image_size": 8, "seed": 1, "flip": True}
    counted = pipelines.BadRecords(2)
    expected = pipelines.make_dataset(sound, **arguments).take(20)
    got = pipelines.make_dataset(damaged, max_bad_records=counted, **arguments).take(20)
    stream = np.concatenate([b["label"].numpy() for b in pipelines.make_dataset(sound, **arguments).take(23)])
    for step, (whole, batch) in enumerate(zip(expected, got, strict=True)):
        labels, found = whole["label"].numpy(), batch["label"].numpy()
        good = ~np.isin(labels, (3, 4))
        np.testing.assert_array_equal(found[good], labels[good])
        np.testing.assert_array_equal(batch["image"].numpy()[good], whole["image"].numpy()[good])
        for row in np.flatnonzero(~good):
            later = stream[6 * step + row :]
            assert found[row] == later[~np.isin(later, (3, 4))][0]
    assert counted.count == 2  # the same records in every epoch


def test_nothing_good(tmp_path):
    path = make.write_shard(tmp_path / "bad.tfrecord", [b"\xff"] * 4)
    with pytest.raises(Exception, match="all 4 records are bad"):
        next(iter(pipelines.make_dataset(path, batch_size=2, image_size=8, max_bad_records=9)))


def test_batches_of_one(tmp_path):
    records = [make.record(make.png(picture), number) for number, picture in enumerate(PICTURES[:3])]
    path = make.write_shard(tmp_path / "some.tfrecord", [*records, b"\xff"])
    arguments = {"batch_size": 1, "image_size": 8, "max_bad_records": 1}
    labels = [int(batch["label"][0]) for batch in pipelines.make_dataset(path, **arguments).take(40)]
    assert set(labels) == {0, 1, 2}


def test_a_shard_that_was_replaced(tmp_path):
    for value in (10, 20):
        path = make.write_shard(
            tmp_path / "x.tfrecord", [make.record(make.png(np.full((8, 8, 3), value, np.uint8)), 1)]
        )
        assert next(read(path)).max() == value


def test_equal_names_in_two_folders(tmp_path):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        make.write_shard(tmp_path / folder / "x.tfrecord", [make.record(GOOD, 1), b"\xff"])
    counted = pipelines.BadRecords(5)
    assert len(next(read(str(tmp_path / "*" / "x.tfrecord"), max_bad_records=counted))) == 2
    assert counted.count == 2


def test_array_records_that_are_cut(array_record_dir, tmp_path):
    whole, cut, empty = (tmp_path / f"{name}.array_record" for name in "abc")
    shard = next((array_record_dir / "digits" / "1.0.0").glob("*test*-00000*"))
    shutil.copy(shard, whole)
    cut.write_bytes(shard.read_bytes()[: len(shard.read_bytes()) * 2 // 3])
    empty.write_bytes(b"")
    features = pipelines.RecordFeatures(channels=1)
    with pytest.raises(ValueError, match=r"[bc].array_record: "):
        read(tmp_path / "*.array_record", features=features)
    counted = pipelines.BadRecords(2)
    assert len(next(read(tmp_path / "*.array_record", features=features, max_bad_records=counted))) == 45
    assert {fault.shard for fault in counted.faults} == {"b.array_record", "c.array_record"}
    (report,) = pipelines.verify(tmp_path / "*.array_record", features=features)
    assert len(report.faults) == 2


def test_threads_and_batches_go_with_the_data_set(data_dir):
    def threads():
        return [thread for thread in threading.enumerate() if thread.name.startswith("sid2-data")]

    gc.collect()
    before = len(threads())
    for _ in range(3):
        dataset = pipelines.make_dataset(data_dir / "digits", batch_size=50)
        iterator = iter(dataset)
        del dataset
        next(iterator)  # it keeps what it needs
        del iterator
    gc.collect()
    deadline = time.monotonic() + 20
    while len(threads()) > before and time.monotonic() < deadline:
        time.sleep(0.1)
    assert len(threads()) <= before


@pytest.fixture
def digits(data_dir, tmp_path):
    shutil.copytree(data_dir / "digits" / "1.0.0", tmp_path / "digits")
    return tmp_path / "digits"


def first_shard(directory):
    return sorted(directory.glob("digits-test.tfrecord-*"))[0]


def damage(path, at, value=0xFF):
    content = bytearray(path.read_bytes())
    content[at] ^= value
    path.write_bytes(content)


def test_wrong_crc_of_data(digits):
    offsets = np.load(digits / "test.offsets.npy", allow_pickle=False)
    damage(first_shard(digits), offsets[7] + 40)
    with pytest.raises(Exception, match="test.tfrecord-00000-of-00004, record 7: its CRC does not fit its data"):
        list(read(digits, split="test"))
    assert len(next(read(digits, split="test", max_bad_records=1))) == 179


def test_wrong_length_costs_one_record_where_there_are_offsets(digits):
    offsets = np.load(digits / "test.offsets.npy", allow_pickle=False)
    damage(first_shard(digits), offsets[7])
    with pytest.raises(Exception, match="record 7: the CRC of its length is wrong"):
        list(read(digits, split="test"))
    assert len(next(read(digits, split="test", max_bad_records=1))) == 179
    (digits / "test.offsets.npy").unlink()  # and all that follow where there are none
    with pytest.raises(ValueError, match="record 7: the CRC of its length is wrong"):
        pipelines.make_dataset(digits, split="test", batch_size=4)
    assert len(next(read(digits, split="test", max_bad_records=38))) == 180 - 38
    with pytest.raises(ValueError, match="38 records are bad, and max_bad_records is 37"):
        pipelines.make_dataset(digits, split="test", batch_size=4, max_bad_records=37)


def test_truncated_shard_is_found_before_work_starts(digits):
    shard = first_shard(digits)
    shard.write_bytes(shard.read_bytes()[:-20])
    with pytest.raises(
        ValueError, match="test.tfrecord-00000-of-00004, record 44: the shard ends early, after .* bytes"
    ):
        pipelines.make_dataset(digits, split="test", batch_size=4)
    assert len(next(read(digits, split="test", max_bad_records=1))) == 179
    assert pipelines.describe(digits, split="test").num_examples == 180


def test_missing_shard_is_counted(digits):
    first_shard(digits).unlink()
    with pytest.raises(FileNotFoundError, match="1 of 4 shards are missing in .*00000-of-00004"):
        pipelines.make_dataset(digits, split="test", batch_size=4)
    counted = pipelines.BadRecords(45)
    assert len(next(read(digits, split="test", max_bad_records=counted))) == 135
    assert counted.count == 45 and "the shard is missing" in str(counted.faults[0])


def test_empty_files(digits, tmp_path):
    first_shard(digits).write_bytes(b"")
    with pytest.raises(ValueError, match="record 0: the shard ends early, after 0 bytes"):
        pipelines.make_dataset(digits, split="test", batch_size=4)
    (tmp_path / "empty.tfrecord").write_bytes(b"")
    with pytest.raises(ValueError, match="empty.tfrecord, record 0: the file is empty"):
        pipelines.make_dataset(tmp_path / "empty.tfrecord", batch_size=4, image_size=8)


def test_files_that_are_no_tfrecord(tmp_path):
    (tmp_path / "notes.tfrecord").write_text("These are not the records that you are looking for.")
    with pytest.raises(
        ValueError, match="notes.tfrecord, record 0: the CRC of its length is wrong: damaged, compressed"
    ):
        pipelines.make_dataset(tmp_path / "notes.tfrecord", batch_size=1, image_size=8)
    with pytest.raises(FileNotFoundError, match=r"no file matches .*\*.tfrecord"):
        pipelines.make_dataset(tmp_path / "none" / "*.tfrecord", batch_size=1, image_size=8)


def test_offsets_of_other_shards(digits):
    shutil.copy(digits / "train.offsets.npy", digits / "test.offsets.npy")
    with pytest.raises(ValueError, match="test.offsets.npy does not fit the 4 shards beside it"):
        pipelines.make_dataset(digits, split="test", batch_size=4)


# Fuzzing: what is read is compared with the originals, so nothing wrong may pass as good.


def corrupted(content, rng):
    """One random corruption of a file's bytes."""
    content = bytearray(content)
    at = int(rng.integers(len(content)))
    length = int(rng.integers(1, 400))
    match rng.integers(4):
        case 0:
            for place in rng.integers(len(content), size=int(rng.integers(1, 4))):
                content[place] ^= 1 << int(rng.integers(8))
        case 1:
            del content[at:]
        case 2:
            content[at : at + length] = bytes(len(content[at : at + length]))
        case 3:
            other = int(rng.integers(len(content)))
            one, two = content[at : at + length], content[other : other + length]
            content[at : at + len(one)], content[other : other + len(two)] = two[: len(one)], one[: len(two)]
    return bytes(content)


@pytest.mark.parametrize("offsets", [True, False])
@pytest.mark.parametrize("file_format", ["tfrecord", "array_record"])
def test_fuzz(file_format, offsets, data_dir, array_record_dir, tmp_path):
    """250 corruptions for each way of reading, 1000 in all."""
    if file_format == "array_record" and not offsets:
        pytest.skip("ArrayRecord has its own index; its 500 corruptions are in the other case")
    root = {"tfrecord": data_dir, "array_record": array_record_dir}[file_format] / "digits" / "1.0.0"
    shutil.copytree(root, tmp_path / "digits")
    if not offsets:
        (tmp_path / "digits" / "test.offsets.npy").unlink()
    originals = {image.tobytes() + bytes([label]) for image, label in _by_grain(root, 0)}
    shard = sorted((tmp_path / "digits").glob(f"digits-test.{file_format}-*"))[1]
    content, rng = shard.read_bytes(), np.random.default_rng(7)
    found = {"whole": 0, "skipped": 0}
    for trial in range(500 if file_format == "array_record" else 250):
        shard.write_bytes(corrupted(content, rng))
        counted = pipelines.BadRecords(180)
        rows = _by_grain(tmp_path / "digits", counted)
        assert {image.tobytes() + bytes([label]) for image, label in rows} <= originals
        assert len(rows) + min(counted.count, 45) >= 180
        if counted.count and trial % 8 == 0:
            with pytest.raises(ValueError, match=rf"{shard.name}, record \d+: .*max_bad_records=N would"):
                _by_grain(tmp_path / "digits", 0)
        found["skipped" if counted.count else "whole"] += 1
    assert found["skipped"] > 100, found


def _by_grain(directory, bad):
    """Rows (image, label) of the split test, read by the thin reader: the one through tf.data shares all its parts."""
    options = {"split": "test", "batch_size": 180, "training": False, "max_bad_records": bad}
    return [
        (image, int(label))
        for batch in pipelines.make_grain_dataset(directory, num_threads=1, **options)
        for image, label in zip(batch["image"], batch["label"], strict=True)
    ]


def test_fuzz_through_tf_data(data_dir, tmp_path):
    shutil.copytree(data_dir / "digits" / "1.0.0", tmp_path / "digits")
    originals = {image.tobytes() for image, _ in _by_grain(data_dir / "digits", 0)}
    shard, rng = first_shard(tmp_path / "digits"), np.random.default_rng(11)
    content = shard.read_bytes()
    for _ in range(20):
        shard.write_bytes(corrupted(content, rng))
        counted = pipelines.BadRecords(180)
        images, _ = read(tmp_path / "digits", split="test", max_bad_records=counted)
        assert {image.tobytes() for image in images} <= originals
        assert len(images) + min(counted.count, 45) >= 180


def test_a_length_that_claims_the_whole_world(tmp_path):
    """A damaged length must not become an allocation."""
    length = (2**62).to_bytes(8, "little")
    (tmp_path / "huge.tfrecord").write_bytes(length + tfrecord.masked_crc(length).to_bytes(4, "little") + b"data")
    with pytest.raises(ValueError, match="huge.tfrecord, record 0: the file ends inside the record"):
        pipelines.make_dataset(tmp_path / "huge.tfrecord", batch_size=1, image_size=8)
