"""verify, stats and the grid: what they say is what is there."""

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
import shard_helpers as make
from PIL import Image

import pipelines
from pipelines.checking.verifying import grid

pytestmark = pytest.mark.backend_free


def test_a_sound_data_set(data_dir, array_record_dir):
    from sklearn.datasets import load_digits

    targets = load_digits().target
    for directory in (data_dir, array_record_dir):
        test, train = pipelines.verify(directory / "digits")
        assert (test.split, test.records, test.shards, test.faults) == ("test", 180, 4, [])
        assert (train.split, train.records, train.shards, train.faults) == ("train", 1617, 4, [])
        assert test.kinds == {"PNG, grey": 180} and train.sizes == {(8, 8): 1617}
        for label in range(10):
            assert test.per_class[label] + train.per_class[label] == (targets == label).sum()
    (only,) = pipelines.stats("digits", data_dir=data_dir, split="test")
    assert (only.records, only.per_class, only.decoded) == (180, test.per_class, False)
    assert "test: 180 records in 4 shards, 0 of them bad" in str(only)


def test_every_fault_is_named(tmp_path):
    pictures = make.pictures(8, size=24)
    records = [make.record(make.png(picture), number) for number, picture in enumerate(pictures)]
    records[2] = b"\xff"
    records[5] = make.record(make.png(pictures[5])[:-40], 5)
    make.write_shard(tmp_path / "a.tfrecord", records[:4])
    make.write_shard(tmp_path / "b.tfrecord", [*records[4:], records[7]])
    content = bytearray((tmp_path / "a.tfrecord").read_bytes())
    content[200] ^= 1
    (tmp_path / "a.tfrecord").write_bytes(content)
    (report,) = pipelines.verify(tmp_path / "*.tfrecord")
    assert [(fault.shard, fault.record) for fault in report.faults] == [
        ("a.tfrecord", 0),
        ("a.tfrecord", 2),
        ("b.tfrecord", 1),
    ]
    for fault, reason in zip(report.faults, ("CRC", "no tf.train.Example", "cannot be decoded"), strict=True):
        assert reason in fault.reason and str(fault) in str(report)
    assert report.duplicates == [("b.tfrecord, record 3", "b.tfrecord, record 4")]
    assert "b.tfrecord, record 4 is equal to b.tfrecord, record 3" in str(report)
    (quick,) = pipelines.stats(tmp_path / "*.tfrecord")
    assert [(fault.shard, fault.record) for fault in quick.faults] == [("a.tfrecord", 0), ("a.tfrecord", 2)]


def test_a_plain_file_that_is_cut(tmp_path):
    records = [make.record(make.png(picture), number) for number, picture in enumerate(make.pictures(10))]
    for name in ("a", "b"):
        make.write_shard(tmp_path / f"{name}.tfrecord", records)
    (tmp_path / "a.tfrecord").write_bytes((tmp_path / "a.tfrecord").read_bytes()[:-5])
    (report,) = pipelines.verify(tmp_path / "*.tfrecord")
    assert [(fault.shard, fault.record) for fault in report.faults] == [("a.tfrecord", 9)]
    assert "the file ends inside the record" in str(report)


def test_missing_and_truncated_shards_are_in_the_report(data_dir, tmp_path):
    shutil.copytree(data_dir / "digits" / "1.0.0", tmp_path / "digits")
    shards = sorted((tmp_path / "digits").glob("digits-test.tfrecord-*"))
    shards[0].unlink()
    shards[2].write_bytes(shards[2].read_bytes()[:-10])
    (report,) = pipelines.verify(tmp_path / "digits", split="test")
    assert len(report.faults) == 46
    assert {fault.shard for fault in report.faults} == {shards[0].name, shards[2].name}
    assert sum(report.per_class.values()) == 134


def test_grid_has_every_picture_in_its_place():
    pictures = make.pictures(5, size=40)
    picture = grid(pictures)
    assert picture.shape == (2 * 42, 3 * 42, 3)
    for number, expected in enumerate(pictures):
        top, left = 42 * (number // 3) + 1, 42 * (number % 3) + 1
        np.testing.assert_array_equal(picture[top : top + 40, left : left + 40], expected)
    assert (picture[43:83, 2 * 42 :] == 255).all()


def test_small_grey_pictures_are_enlarged():
    pictures = make.pictures(1)[..., :1]
    enlarged = grid(pictures)[1:-1, 1:-1]
    np.testing.assert_array_equal(enlarged[::8, ::8], np.repeat(pictures[0], 3, axis=-1))
    assert enlarged.shape == (64, 64, 3)


def test_random_grid(data_dir):
    first, same, other = (pipelines.random_grid("digits", data_dir=data_dir, count=9, seed=s) for s in (1, 1, 2))
    np.testing.assert_array_equal(first, same)
    assert first.shape == (3 * 66, 3 * 66, 3) and (first != other).any()
    assert pipelines.random_grid(data_dir / "digits", split="test", count=1000).shape == (13 * 66, 14 * 66, 3)


def program(*arguments, **options):
    command = [sys.executable, "-m", "pipelines", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, **options)


def test_the_program(tmp_path):
    """From a folder to a picture, by the commands that the help names."""
    source = tmp_path / "photos"
    for name in ("cat", "dog"):
        (source / name).mkdir(parents=True)
        for number, picture in enumerate(make.pictures(6, size=40, seed=len(name) + ord(name[0]))):
            Image.fromarray(picture).save(source / name / f"{number}.png")
    Image.fromarray(make.pictures(1)[0]).convert("CMYK").save(source / "cat" / "print.jpg")
    (source / "dog" / "notes.txt").write_text("good dog")
    prepare = ("prepare", "image_folder", f"--source={source}", "--image_size=16", f"--data_dir={tmp_path / 'data'}")
    ran = program(*prepare)
    assert ran.returncode == 0, ran.stderr
    (directory,) = ran.stdout.split()
    assert directory == str(tmp_path / "data" / "image_folder" / "photos-16-png" / "1.0.0")
    assert "train: 13 examples, 1 CMYK converted to RGB" in ran.stderr
    assert "files of other kinds were left out: 1 .txt" in ran.stderr and "config" not in ran.stderr
    assert program(*prepare).stdout.split() == [directory]
    assert (
        json.loads((tmp_path / "data/image_folder/photos-16-png/1.0.0/report.json").read_text())["settings"][
            "image_size"
        ]
        == 16
    )
    verified = program("verify", directory)
    assert verified.returncode == 0 and "classes: 2 of 6 to 7 each: cat (7), dog (6)" in verified.stdout
    shown = program("show", directory, f"--out={tmp_path / 'grid.png'}", "--count=4")
    assert shown.returncode == 0, shown.stderr
    assert Image.open(tmp_path / "grid.png").size == (2 * (4 * 16 + 2),) * 2
    shard = next((tmp_path / "data").rglob("*train.tfrecord-00000*"))
    shard.write_bytes(shard.read_bytes()[:-9])
    damaged = program("verify", directory)
    assert damaged.returncode == 1 and f"bad: {shard.name}, record" in damaged.stdout
    assert damaged.stderr.strip() == f"sid2-data: 1 bad records in {directory}"


@pytest.mark.parametrize(
    "arguments, sentence",
    [
        (
            ["prepare", "image_folder"],
            "image_folder is made from your files: give source (on the command line",
        ),
        (["prepare", "image_folder", "--source=/nowhere"], "source /nowhere does not exist"),
        (["prepare", "fields", "--source=."], "fields needs variables (on the command line: --variables="),
        (["prepare", "digits", "--source=x"], "digits has no setting 'source': it has no settings"),
        (
            ["prepare", "image_folder", "--source=.", "--stride=2"],
            "image_folder has no setting 'stride': it takes config",
        ),
        (["prepare", "digits", "--workers=0"], "workers must be an integer of at least 1, got 0"),
        (["prepare", "digits", "--file_format=zip"], "file_format must be one of tfrecord, array_record, got 'zip'"),
        (["verify", "/nowhere"], "there is no directory /nowhere"),
        (["show", "digits", "--data_dir=/nowhere"], "there is no directory /nowhere/digits"),
    ],
)
def test_wrong_command_lines(arguments, sentence):
    ran = program(*arguments)
    assert ran.returncode in (1, 2) and ran.stdout == ""
    assert len(ran.stderr.splitlines()) == 1 and sentence in ran.stderr
