"""Which folder is a split and which a class: what is asked, what is said by options, and what is left out."""

import os
import shutil

import pytest
from source_helpers import encoded, noise, pixels_of, pngs, prepared, put, report_of, stored

import pipelines

pytestmark = pytest.mark.backend_free

COCO = ("train2017/1.png", "train2017/2.png", "val2017/3.png", "unlabeled2017/4.png")
NESTED = ("cat/train/1.png", "cat/test/2.png", "dog/train/3.png", "dog/test/4.png")
UNEVEN = ("a/1.png", "a/x/2.png", "a/x/deep/3.png", "b/y/4.png", "b/x/5.png")


def found(directory, files):
    """{split: {path: class name or None}} of what was stored."""
    splits = report_of(directory)["splits"]
    path_of = {pixels_of(data).tobytes(): path for path, data in files.items()}
    names = pipelines.describe(directory, split=next(iter(splits))).class_names
    return {
        split: {
            path_of[pixels_of(data).tobytes()]: None if label is None else names[label]
            for data, label in stored(directory, split)
        }
        for split in splits
    }


UNCLEAR = {
    "coco": (COCO[:3], "train2017, val2017 in .* like splits, .*: give --splits=train=train2017,val=val2017 or"),
    "coco with others": (COCO, r"val2017 in .* beside unlabeled2017, .*what it does not name is left out\)"),
    "unlabeled": (("train/1.png", "test/2.png", "unlabeled/3.png"), "test, train in .* beside unlabeled, .*=train"),
    "unlabeled with classes": (("train/a/1.png", "test/a/2.png", "unlabeled/b/3.png"), "beside unlabeled, "),
    "a class named train": (("bus/1.png", "train/2.png"), "train in .* beside bus, .*or --splits=none if they are cl"),
    "images beside splits": (("train/1.png", "test/2.png", "cover.png"), "test, train in .* beside cover.png, "),
    "words": (("my train set/1.png", "TEST-A/2.png"), "TEST-A, my train set in .*--splits=test=TEST-A,train=my tr"),
    "nested": (NESTED, "named like splits lie inside of others in .*, such as cat/test: give --splits=test=cat/test,"),
    "wrapped": (("data/train/a/1.png", "data/val/a/2.png"), "such as data/train: give --source=.*/source/data, or"),
    "no split is known": (("one/a/1.png", "two/a/2.png"), "too deep, such as 'one/a/1.png': .*--splits=train=FOLDER"),
    "uneven": (UNEVEN, "different depths, such as 'a/1.png' and .*: expected .* --classes=top .*, parent .* or none"),
    "uneven splits": (("train/a/1.png", "test/2.png"), "different depths, such as 'test/2.png' and 'train/a/1.png'"),
}  # fmt: skip


@pytest.mark.parametrize("case", UNCLEAR)
def test_what_is_not_clear_is_asked_in_one_sentence(case, tmp_path):
    files, sentence = UNCLEAR[case]
    with pytest.raises(ValueError, match=sentence) as caught:
        prepared("image_folder", put(tmp_path / "source", pngs(*files)))
    assert "\n" not in str(caught.value) and "--splits=" in str(caught.value) or case == "uneven"
    assert not (tmp_path / "prepared" / "image_folder").exists()


SAID = {
    "coco": (
        COCO,
        {"splits": "train=train2017,test=val2017"},
        {"train": {COCO[0]: None, COCO[1]: None}, "test": {COCO[2]: None}},
        ["1 images were left out, in folders that splits does not name: unlabeled2017"],
    ),
    "a mapping": (
        COCO,
        {"splits": {"train": ["train2017", "unlabeled2017"], "val": "val2017/"}, "classes": "none"},
        {"train": {COCO[0]: None, COCO[1]: None, COCO[3]: None}, "val": {COCO[2]: None}},
        [],
    ),
    "folders of one split": (
        ("a/x/1.png", "b/x/1.png", "b/y/2.png"),
        {"splits": "train=a,train=b"},
        {"train": {"a/x/1.png": "x", "b/x/1.png": "x", "b/y/2.png": "y"}},
        ["the class 'x' is made of several folders: a/x, b/x"],
    ),
    "nested": (
        NESTED,
        {"splits": "train=cat/train,train=dog/train,test=dog/test"},
        {"train": {NESTED[0]: None, NESTED[2]: None}, "test": {NESTED[3]: None}},
        ["1 images were left out, in folders that splits does not name: cat/test"],
    ),
    "no splits": (
        ("bus/1.png", "train/2.png"),
        {"splits": "none"},
        {"train": {"bus/1.png": "bus", "train/2.png": "train"}},
        [],
    ),
    "top": (
        UNEVEN,
        {"classes": "top"},
        {"train": {path: path[0] for path in UNEVEN}},
        [],
    ),
    "parent": (
        UNEVEN,
        {"classes": "parent"},
        {"train": dict(zip(UNEVEN, ["a", "x", "deep", "y", "x"], strict=True))},
        ["the class 'x' is made of several folders: a/x, b/x"],
    ),
    "none": (("0.png", *UNEVEN), {"classes": "none"}, {"train": dict.fromkeys(("0.png", *UNEVEN))}, []),
    "top below splits": (
        ("train/a/x/1.png", "train/b/2.png", "test/a/3.png"),
        {"classes": "top"},
        {"train": {"train/a/x/1.png": "a", "train/b/2.png": "b"}, "test": {"test/a/3.png": "a"}},
        ["classes that are not in test: b"],
    ),
    "no labels though there are folders": (
        ("cat/1.png", "dog/2.png"),
        {"classes": "none"},
        {"train": {"cat/1.png": None, "dog/2.png": None}},
        [],
    ),
    "one class": (
        ("cat/1.png", "cat/2.png"),
        {},
        {"train": {"cat/1.png": "cat", "cat/2.png": "cat"}},
        ["all images are of one class, 'cat': --classes=none gives them no label"],
    ),
    "all of source and names in any case": (
        ("Train/1.PNG", "TEST/2.png"),
        {},
        {"Train": {"Train/1.PNG": None}, "TEST": {"TEST/2.png": None}},
        [],
    ),
}


@pytest.mark.parametrize("case", SAID)
def test_splits_and_classes_as_they_are_said(case, tmp_path):
    paths, settings, expected, notes = SAID[case]
    files = pngs(*paths)
    directory = prepared("image_folder", put(tmp_path / "source", files), **settings)
    assert found(directory, files) == expected
    assert report_of(directory)["notes"] == notes
    assert not any(report.faults for report in pipelines.verify(directory))


@pytest.mark.parametrize(
    "splits, sentence",
    {
        "train=train2018": "splits names the folder 'train2018', and there are no images in .*: there are in train2017",
        "train=train2017,test=train2017": r"the splits train \(train2017\) and test \(train2017\) of .* share images",
        "train=.,test=val2017": r"the splits train \(.\) and test \(val2017\) of .* share images",
        "train=labels": "splits names the folder 'labels', and there are no images",
    }.items(),
    ids=str,
)
def test_splits_that_cannot_be(splits, sentence, tmp_path):
    source = put(tmp_path / "source", pngs(*COCO))
    (source / "labels").mkdir()
    with pytest.raises(ValueError, match=sentence):
        prepared("image_folder", source, splits=splits)


def test_images_of_no_class(tmp_path):
    source = put(tmp_path / "source", pngs("train/a/1.png", "train/2.png", "train/3.png"))
    for classes in ("top", "parent"):
        with pytest.raises(ValueError, match="2 images in .* lie in no folder of a class, such as 'train/2.png': move"):
            prepared("image_folder", source, classes=classes)


def test_two_splits_that_are_one_folder_by_a_link(tmp_path):
    source = put(tmp_path / "source", pngs("train/a/1.png"))
    (source / "test").symlink_to(source / "train")
    for splits in (None, "train=train,test=test"):
        with pytest.raises(ValueError, match=r"the splits .* share images: name each folder once, as in --splits=t"):
            prepared("image_folder", source, splits=splits)


def test_what_lies_beside_pictures_does_no_harm(tmp_path):
    """An empty split and class, what systems leave behind, links that lead nowhere or back, suffixes in any case."""
    files = pngs("train/cat/1.PNG", "train/dog/2.Png", "test/cat/3.png")
    source = put(tmp_path / "source", {**files, "annotations/labels.json": b"{}", "train/cat/Thumbs.db": b"",
                 "train/cat/@eaDir/1.png": encoded(noise(5, 5, 3)), "__MACOSX/train/cat/._1.PNG": b""})  # fmt: skip
    for folder in ("val", "train/bird"):
        (source / folder).mkdir()
    (source / "train" / "cat" / "back").symlink_to(source)
    os.symlink(source / "nowhere.png", source / "train" / "cat" / "lost.png")
    directory = prepared("image_folder", source, max_bad_sources=1)
    assert found(directory, files) == {
        "train": {"train/cat/1.PNG": "cat", "train/dog/2.Png": "dog"},
        "test": {"test/cat/3.png": "cat"},
    }
    report = report_of(directory)
    (reason,) = report["splits"]["train"]["left_out_first"]
    assert reason.startswith("train/cat/lost.png ") and "No such file" in reason
    assert report["notes"] == [
        "files of other kinds were left out: 1 .db, 1 .json",
        "folders without images: annotations, train/bird, train/cat/back (a link back, not followed), val",
        "classes that are not in test: dog",
    ]


def test_an_interrupted_run_goes_on_with_the_same_options_only(tmp_path):
    source = put(tmp_path / "source", {**pngs("a/1.png", "b/x/2.png"), "b/3.png": b""})
    with pytest.raises(ValueError, match="b/3.png is empty"):
        prepared("image_folder", source, classes="top", config="mine")
    with pytest.raises(ValueError, match="was begun from other files or with other settings"):
        prepared("image_folder", source, classes="parent", config="mine")
    shutil.copy(source / "a" / "1.png", source / "b" / "3.png")
    assert pipelines.describe(prepared("image_folder", source, classes="top", config="mine")).num_examples == 3
