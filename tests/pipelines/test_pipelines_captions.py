"""Captions of a folder of images, and what a text encoder makes of them in preparing."""

import contextlib
import itertools
import json
import os

import numpy as np
import pytest
from source_helpers import pngs, prepared, put, report_of

import pipelines
from pipelines import images
from pipelines.datasets.opening import BadSource
from pipelines.preparing import shards

pytestmark = pytest.mark.backend_free

PATHS = [f"{label}/{i}.png" for label, i in itertools.product(("cat", "dog"), range(4))]
CAPTIONS = {path: f"a {path[:3]}, number {i} \u2764" for i, path in enumerate(PATHS)}
WORDS = pipelines.text_encoder("words:8x16")


def csv(captions=CAPTIONS, header="file,caption") -> bytes:
    return "\n".join([header, *(f'{path},"{text}"' for path, text in captions.items())]).encode()


def jsonl(captions=CAPTIONS) -> bytes:
    return "".join(json.dumps({"file_name": path, "text": text}) + "\n" for path, text in captions.items()).encode()


def source_of(root, **files):
    return put(root / "source", {**pngs(*PATHS), **{name.replace("_", "."): data for name, data in files.items()}})


def texts_by_image(directory, make=pipelines.make_dataset):
    """{bytes of the pixels: (label, text)} as a reader gives them."""
    (batch,) = list(make(directory, batch_size=8, training=False, image_size=12))
    batch = {name: np.asarray(values) for name, values in batch.items()}
    assert set(batch) == {"image", "label", "text"} and batch["text"].dtype == np.float32
    return {i.tobytes(): (label, text) for i, label, text in zip(*batch.values(), strict=True)}


WAYS = {
    "a CSV": ("c.csv", {"c_csv": csv()}, CAPTIONS),
    "a CSV in other words, with a mark in front": (
        "c.csv",
        {"c_csv": b"\xef\xbb\xbf" + csv({f"./{path}": text for path, text in CAPTIONS.items()}, "image,text")},
        CAPTIONS,
    ),
    "a CSV with numbers in a column without a name": (
        "c.csv",
        {"c_csv": b"\n".join(b"%d,%s" % (i, line) if i else b"," + line for i, line in enumerate(csv().split(b"\n")))},
        CAPTIONS,
    ),
    "JSON lines": ("c.jsonl", {"c_jsonl": jsonl()}, CAPTIONS),
    "text beside the images": (
        "txt",
        {path.replace(".png", "_txt"): f"{text}\n".encode() for path, text in CAPTIONS.items()},
        CAPTIONS,
    ),
    "names of files": ("names", {}, {path: path[4] for path in PATHS}),
}


@pytest.mark.parametrize("way", WAYS)
def test_every_way_gives_each_image_its_caption_and_embedding(way, tmp_path):
    captions, files, expected = WAYS[way]
    directory = prepared("image_folder", source_of(tmp_path, **files), captions=captions, text_encoder="words:8x16")
    found = pipelines.read_captions(directory, 100)
    assert sorted(found) == sorted(expected.values())
    (batch,) = list(pipelines.make_dataset(directory, batch_size=8, training=False, image_size=12))
    np.testing.assert_array_equal(batch["text"], WORDS(found))
    by_image = texts_by_image(directory)
    size = {"window": None, "size": (12, 12), "channels": 3, "background": "white"}
    pixels = {path: images.decode(data, **size) for path, data in pngs(*PATHS).items()}
    for path, text in expected.items():
        label, embedding = by_image[pixels[path].tobytes()]
        assert label == ["cat", "dog"].index(path[:3])
        np.testing.assert_array_equal(embedding, WORDS([text])[0])
    assert not report_of(directory)["notes"]


def test_both_readers_the_description_and_the_report_say_what_the_text_is(tmp_path):
    source = source_of(tmp_path, c_csv=csv())
    directory = prepared("image_folder", source, captions=str(source / "c.csv"), text_encoder="words:8x16")
    ours, theirs = (texts_by_image(directory, make) for make in (pipelines.make_dataset, pipelines.make_grain_dataset))
    assert ours.keys() == theirs.keys() and all((ours[key][1] == theirs[key][1]).all() for key in ours)
    spec = pipelines.describe(directory).values["text"]
    assert (spec.shape, spec.dtype, spec.encoder) == ((8, 16), "float16", WORDS.signature)
    came_out = pipelines.describe(directory, image_size=12).values["text"]
    assert came_out.dtype == "float32" and came_out.encoder == WORDS.signature
    told = {"name": "words:8x16", "signature": WORDS.signature, "length": 8, "width": 16}
    assert report_of(directory)["text"] == {"text": told}
    (report,) = pipelines.verify(directory)
    assert not report.faults and f"by {WORDS.signature}" in str(report)


def test_without_an_encoder_captions_are_kept_alone(tmp_path):
    directory = prepared("image_folder", source_of(tmp_path), captions="names")
    assert "text" not in pipelines.describe(directory).values
    assert sorted(pipelines.read_captions(directory, 3)) and pipelines.read_captions(directory, 3)[0] in "0123"
    with pytest.raises(ValueError, match="text_encoder='words.*there: None"):
        prepared("image_folder", tmp_path / "source", captions="names", text_encoder="words")


def files_of(directory):
    return {path.name: path.read_bytes() for path in directory.iterdir() if path.is_file()}


def test_processes_and_a_kill_make_no_difference(tmp_path, monkeypatch):
    source = source_of(tmp_path, c_csv=csv())
    how = {"captions": "c.csv", "text_encoder": "words:8x16", "examples_per_shard": 2}
    alone = files_of(prepared("image_folder", source, tmp_path / "alone", workers=1, **how))
    assert files_of(prepared("image_folder", source, tmp_path / "two", workers=2, **how)) == alone
    write, begun = shards._write, []

    def killed(*args, **kwargs):
        begun.append(args)
        if len(begun) == 3:
            raise KeyboardInterrupt
        return write(*args, **kwargs)

    with monkeypatch.context() as patched, contextlib.suppress(KeyboardInterrupt):
        patched.setattr(shards, "_write", killed)
        prepared("image_folder", source, tmp_path / "killed", workers=1, **how)
    assert len(begun) == 3
    assert files_of(prepared("image_folder", source, tmp_path / "killed", workers=1, **how)) == alone


def changed(**captions):
    """CAPTIONS with some others, by the number of the image in PATHS; None: without it."""
    given = CAPTIONS | {PATHS[int(number[1:])]: text for number, text in captions.items()}
    return {path: text for path, text in given.items() if text is not None}


BAD_ONES = {
    "missing": (csv(changed(_0=None, _5=None)), "2 of 8 captions cannot be used.*cat/0.png has no caption in c.csv"),
    "empty": (csv(changed(_1=" ")), "cat/1.png has an empty caption in c.csv"),
    "half a character": (jsonl(changed(_2="a \ud83d")), "cat/2.png has a caption in c.jsonl that is no Unicode"),
    "too long": (csv(changed(_7="word " * 9)), r"dog/3.png: its caption has 9 tokens, and words:8x16 takes 8"),
}


@pytest.mark.parametrize("case", BAD_ONES)
def test_bad_captions_stop_before_work_starts_or_are_left_out(case, tmp_path):
    data, sentence = BAD_ONES[case]
    name = "c.jsonl" if "jsonl" in sentence else "c.csv"
    source = source_of(tmp_path, **{name.replace(".", "_"): data})
    how = {"captions": name, "text_encoder": "words:8x16"}
    with pytest.raises(BadSource, match=f"max_bad_sources is 0.*{sentence}" if case != "missing" else sentence):
        prepared("image_folder", source, **how)
    assert not list((tmp_path / "prepared").rglob("*.tfrecord*"))
    directory = prepared("image_folder", source, max_bad_sources=2, **how)
    left = 2 if case == "missing" else 1
    assert pipelines.describe(directory).num_examples == 8 - left
    part = report_of(directory)["splits"]["train"]
    assert part["left_out"] == left and any(sentence.split(".*")[-1] in reason for reason in part["left_out_first"])


WRONG_FILES = {
    "two captions": (csv() + b"\ncat/0.png,again", "cat/0.png twice, in lines 2 and 10"),
    "a path outside": (csv(CAPTIONS | {"../cat/0.png": "x"}), "line 10 .* names '../cat/0.png'"),
    "an absolute path": (csv(CAPTIONS | {"/etc/a.png": "x"}), "line 10 .* names '/etc/a.png'"),
    "not UTF-8": (csv() + "\ncat/9.png,\xe4".encode("latin-1"), "is not UTF-8"),
    "no column": (csv(header="file,title"), "has no column 'caption'.*, but file, title"),
    "a comma too many": (csv() + b"\ncat/9.png,red, blue", "more than 2 columns in line 10"),
    "an open quote": (csv() + b'\ncat/9.png,"red', "is no CSV"),
    "nothing": (b"file,caption\n", "has no captions"),
}


@pytest.mark.parametrize("case", WRONG_FILES)
def test_a_wrong_file_is_refused(case, tmp_path):
    data, sentence = WRONG_FILES[case]
    with pytest.raises(ValueError, match=sentence):
        prepared("image_folder", source_of(tmp_path, c_csv=data), captions="c.csv", text_encoder="words:8x16")


@pytest.mark.parametrize(
    ("line", "sentence"),
    [(b"{", "is no JSON in line 9"), (b'["a"]', "got line 9"), (b'{"file": "x.png", "caption": 3}', "must be text")],
)
def test_wrong_json_lines_are_refused(line, sentence, tmp_path):
    with pytest.raises(ValueError, match=sentence):
        prepared("image_folder", source_of(tmp_path, c_jsonl=jsonl() + line), captions="c.jsonl")


def test_captions_that_no_image_has_are_told(tmp_path):
    data = csv(CAPTIONS | {"bird/0.png": "a bird"})
    directory = prepared("image_folder", source_of(tmp_path, c_csv=data), captions="c.csv", text_encoder="words:8x16")
    assert report_of(directory)["notes"] == ["1 captions are of no image that is taken: bird/0.png"]


def test_captions_that_are_not_encoded_are_told(tmp_path):
    source = source_of(tmp_path, c_csv=csv(CAPTIONS))
    (note,) = report_of(prepared("image_folder", source, captions="c.csv"))["notes"]
    assert note.endswith("needs --text_encoder")


def test_text_beside_an_image_that_is_none_is_a_bad_source(tmp_path):
    texts = {path.replace(".png", "_txt"): b"a text" for path in PATHS}
    for data, sentence in (("\xe4".encode("latin-1"), "not UTF-8"), (b" \n", "empty caption")):
        source = source_of(tmp_path, **{**texts, "cat/0_txt": data})
        with pytest.raises(BadSource, match=f"cat/0.png has .*{sentence}"):
            prepared("image_folder", source, captions="txt", text_encoder="words:8x16")
    (source / "cat/0.txt").unlink()
    with pytest.raises(BadSource, match="cat/0.png has no 0.txt with its caption"):
        prepared("image_folder", source, captions="txt", text_encoder="words:8x16")


def test_a_name_that_is_not_utf_8_is_no_caption(tmp_path):
    folder = tmp_path / "source"
    put(folder, pngs("a.png", "b.png"))
    os.rename(folder / "a.png", os.fsencode(folder) + b"/\xff.png")
    with pytest.raises(BadSource, match="has a name that is not UTF-8"):
        prepared("image_folder", folder, captions="names")


def test_settings_that_do_not_go_together(tmp_path):
    source = source_of(tmp_path)
    with pytest.raises(ValueError, match="captions must be a .csv or .jsonl file, txt or names"):
        prepared("image_folder", source, captions="captions.xml")
    with pytest.raises(FileNotFoundError, match="no file of captions nowhere.csv"):
        prepared("image_folder", source, captions="nowhere.csv")
    with pytest.raises(ValueError, match="text_encoder must be a name"):
        prepared("image_folder", source, captions="names", text_encoder="")
    with pytest.raises(ValueError, match="image_folder has no captions to encode: give --captions"):
        prepared("image_folder", source, text_encoder="words")
    prepared("image_folder", source, captions="names", text_encoder="words:8x16")
    with pytest.raises(ValueError, match="text_encoder='words:9x16.*there: 'words:8x16"):
        prepared("image_folder", source, captions="names", text_encoder="words:9x16")
    prepared("image_folder", source, captions="names", text_encoder="words:8x16")
