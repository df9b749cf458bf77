"""A folder of images: its layouts, what is stored of each file, what is left out, and what is refused."""

import collections
import io
import shutil

import numpy as np
import pytest
from PIL import Image
from source_helpers import (
    adm,
    as_counted,
    assert_pixels,
    encoded,
    noise,
    oriented,
    pixels_of,
    pngs,
    prepared,
    put,
    raw_tiff,
    report_of,
    smooth,
    stored,
)

import pipelines

pytestmark = pytest.mark.backend_free


LAYOUTS = {
    "split/class": (
        pngs("train/cat/1.png", "train/dog/1.png", "train/dog/2.png", "test/dog/1.png", "test/ape/3.png"),
        {"train": {"cat/1": "cat", "dog/1": "dog", "dog/2": "dog"}, "test": {"dog/1": "dog", "ape/3": "ape"}},
    ),
    "class": (pngs("b/1.png", "a/1.png", "c/1.png"), {"train": {"a/1": "a", "b/1": "b", "c/1": "c"}}),
    "flat": (pngs("1.png", "2.png"), {"train": {"1": None, "2": None}}),
    "splits without classes": (
        pngs("train/1.png", "train/2.png", "Val/1.png"),
        {"train": {"1": None, "2": None}, "Val": {"1": None}},
    ),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(layout, tmp_path):
    files, splits = LAYOUTS[layout]
    directory = prepared("image_folder", put(tmp_path / "source", files))
    names = sorted({name for images in splits.values() for name in images.values()} - {None})
    for split, images in splits.items():
        paths = {key: next(p for p in files if p in (f"{key}.png", f"{split}/{key}.png")) for key in images}
        expected = [
            (pixels_of(files[paths[key]]), None if name is None else names.index(name)) for key, name in images.items()
        ]
        assert_pixels(directory, expected, split)
        description = pipelines.describe(directory, split=split)
        assert description.num_examples == len(images)
        assert description.class_names == (tuple(names) or None)
        assert description.num_classes == (len(names) or None)
    assert set(report_of(directory)["splits"]) == set(splits)
    assert not any(report.faults for report in pipelines.verify(directory))


def test_every_suffix(tmp_path):
    pixels = {suffix: smooth(20, 24, seed) for seed, suffix in enumerate(["JPG", "jpeg", "png", "webp", "bmp"])}
    formats = {"JPG": "JPEG"}
    files = {f"x.{suffix}": encoded(picture, formats.get(suffix, suffix)) for suffix, picture in pixels.items()}
    directory = prepared("image_folder", put(tmp_path / "source", files))
    assert_pixels(directory, [(np.asarray(Image.open(io.BytesIO(data))), None) for data in files.values()])
    assert {data[:4] for data, _ in stored(directory)} == {b"\x89PNG"}


SIZES = [(64, 64), (63, 65), (16, 16), (31, 200), (200, 33), (7, 5), (32, 17), (1, 1), (129, 128)]


@pytest.mark.parametrize("size", [16, 31])
def test_stored_pixels_are_adms_crop(size, tmp_path):
    files = {}
    for number, (height, width) in enumerate(SIZES):
        image = smooth(height, width, number) // 2 + noise(height, width, 3, seed=number) // 2
        files[f"{number}.png"], files[f"{number}.jpg"] = encoded(image), encoded(image, "JPEG", quality=90)
    source = put(tmp_path / "source", files)
    directory = prepared("image_folder", source, image_size=size)
    assert_pixels(directory, [(adm(Image.open(source / name), size), None) for name in files])
    assert pipelines.describe(directory).image_shape == (size, size, 3)
    read = np.concatenate(
        [batch["image"].numpy() for batch in pipelines.make_dataset(directory, batch_size=5, training=False)]
    )
    expected = collections.Counter(adm(Image.open(source / name), size).tobytes() for name in files)
    assert collections.Counter(image.tobytes() for image in read) == expected


def test_public_crop_is_adms():
    for height, width in SIZES:
        image = Image.fromarray(noise(height, width, 3))
        np.testing.assert_array_equal(np.asarray(pipelines.adm_center_crop(image, 16)), adm(image, 16))


def test_originals_are_kept_byte_for_byte(tmp_path):
    picture = smooth(40, 30)
    kept = {
        "small.jpg": encoded(picture, "JPEG", quality=30),
        "progressive.jpeg": encoded(picture, "JPEG", progressive=True, comment=b"kept"),
        "some.png": encoded(noise(9, 9, 3), compress_level=1),
        "upright.jpg": encoded(picture // 3, "JPEG", exif=oriented(1)),
    }
    changed = {
        "some.webp": encoded(smooth(20, 20, 1), "WEBP", lossless=True),
        "some.bmp": encoded(smooth(20, 20, 2), "BMP"),
        "grey.jpg": encoded(picture[..., 0], "JPEG"),
        "alpha.png": encoded(Image.fromarray(noise(8, 8, 3)).convert("RGBA")),
    }
    directory = prepared("image_folder", put(tmp_path / "source", {**kept, **changed}), encoding="original")
    found = [data for data, _ in stored(directory)]
    assert set(kept.values()) <= set(found)
    others = [(pixels_of(data), None) for data in found if data not in kept.values()]
    expected = [(np.asarray(Image.open(io.BytesIO(data)).convert("RGB")), None) for data in changed.values()]
    assert as_counted(others) == as_counted(expected)
    assert sum(report_of(directory)["splits"]["train"]["changes"].values()) == len(changed)
    assert pipelines.describe(directory).image_shape == (None, None, 3)
    assert not pipelines.verify(directory)[0].faults


TURNED = {
    1: lambda p: p,
    2: np.fliplr,
    3: lambda p: np.rot90(p, 2),
    4: np.flipud,
    5: lambda p: p.transpose(1, 0, 2),
    6: lambda p: np.rot90(p, -1),
    7: lambda p: np.rot90(p, 2).transpose(1, 0, 2),
    8: lambda p: np.rot90(p),
}


@pytest.mark.parametrize("encoding", ["png", "original"])
@pytest.mark.parametrize("shape", [(16, 24), (16, 16)])
def test_exif_turns_images_upright(encoding, shape, tmp_path):
    # Where turning leaves height and width as they are (2, 3, 4, and every square
    # image), the file must not be kept with its orientation, which no reader looks at.
    files = {f"{number}.jpg": encoded(smooth(*shape, number), "JPEG", exif=oriented(number)) for number in TURNED}
    directory = prepared("image_folder", put(tmp_path / "source", files), encoding=encoding)
    expected = [(TURNED[number](np.asarray(Image.open(io.BytesIO(files[f"{number}.jpg"])))), None) for number in TURNED]
    assert_pixels(directory, expected)


def converted():
    """{path: (bytes, what the report says, or "")}."""
    picture = smooth(20, 20)
    rgb = Image.fromarray(picture)
    palette = rgb.quantize(16)
    return {
        "grey.png": (encoded(picture[..., 0]), "grey converted to RGB"),
        "grey.jpg": (encoded(picture[..., 1], "JPEG"), "grey converted to RGB"),
        "cmyk.jpg": (encoded(rgb.convert("CMYK"), "JPEG"), "CMYK converted to RGB"),
        "palette.png": (encoded(palette), "palette converted to RGB"),
        "grey alpha.png": (encoded(rgb.convert("LA")), "opaque grey with alpha converted to RGB"),
        "alpha.png": (encoded(rgb.convert("RGBA")), "opaque RGBA converted to RGB"),
        "bits.png": (encoded(rgb.convert("1")), "black and white converted to RGB"),
        "still gif named.png": (encoded(palette, "GIF"), "palette converted to RGB"),
        "plain.png": (encoded(picture), ""),
    }


def test_colour_modes_are_converted_and_counted(tmp_path):
    files = converted()
    directory = prepared("image_folder", put(tmp_path / "source", {path: data for path, (data, _) in files.items()}))
    images = [Image.open(io.BytesIO(data)).convert("RGB") for data, _ in files.values()]
    assert_pixels(directory, [(np.asarray(image), None) for image in images])
    changes = collections.Counter(change for _, change in files.values() if change)
    assert report_of(directory)["splits"]["train"]["changes"] == changes
    assert {Image.open(io.BytesIO(data)).mode for data, _ in stored(directory)} == {"RGB"}


def test_one_channel(tmp_path):
    picture = smooth(20, 20)
    files = {"grey.png": encoded(picture[..., 0]), "colour.png": encoded(picture)}
    directory = prepared("image_folder", put(tmp_path / "source", files), channels=1)
    expected = [(picture[..., 0], None), (np.asarray(Image.fromarray(picture).convert("L")), None)]
    assert_pixels(directory, expected)
    assert report_of(directory)["splits"]["train"]["changes"] == {"RGB converted to grey": 1}
    assert pipelines.describe(directory).image_shape[2] == 1
    (batch,) = pipelines.make_dataset(directory, batch_size=2, image_size=20, training=False)
    assert batch["image"].shape == (2, 20, 20, 1)


def unusable():
    """{path: (bytes, why no example can be made of it)}."""
    return {
        "of 64 bits.tiff": (
            raw_tiff(noise(4, 4, 1).astype(np.uint64)),
            "is a TIFF of a kind that Pillow does not read",
        ),
        "float.tiff": (
            encoded(Image.fromarray(noise(12, 12) / np.float32(255)), "TIFF"),
            "holds floating-point numbers",
        ),
        "long.tiff": (
            encoded(Image.fromarray(noise(12, 12).astype(np.int32)), "TIFF"),
            "holds whole numbers of unknown",
        ),
        "cut.png": (encoded(noise(40, 40, 3))[:-600], "cannot be decoded"),
        "cut.jpg": (encoded(noise(40, 40, 3), "JPEG")[:-600], "cannot be decoded"),
        "cut.webp": (encoded(noise(40, 40, 3), "WEBP")[:-300], "cannot be decoded"),
        "cut.bmp": (encoded(noise(40, 40, 3), "BMP")[:-300], "cannot be decoded"),
        "header only.jpg": (encoded(noise(40, 40, 3), "JPEG")[:20], "is no image that Pillow knows"),
        "text.png": (b"no picture\n", "is no image that Pillow knows"),
        "empty.png": (b"", "is empty"),
    }


@pytest.mark.parametrize("encoding", ["png", "original"])
@pytest.mark.parametrize("name", unusable())
def test_unusable_files_are_refused(name, encoding, tmp_path):
    data, reason = unusable()[name]
    source = put(tmp_path / "source", {**pngs("a.png", "b.png"), name: data})
    with pytest.raises(ValueError, match=f"^{name} {reason}.* \\(--max_bad_sources=N leaves .*$") as caught:
        prepared("image_folder", source, encoding=encoding)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.glob("prepared/image_folder/*/1.0.0"))


def test_unusable_files_are_left_out_and_listed(tmp_path):
    bad = {name: data for name, (data, _) in unusable().items()}
    good = pngs("a.png", "b.png")
    source = put(tmp_path / "source", {**good, **bad})
    directory = prepared("image_folder", source, max_bad_sources=len(bad))
    assert_pixels(directory, [(pixels_of(data), None) for data in good.values()])
    train = report_of(directory)["splits"]["train"]
    assert (train["examples"], train["left_out"]) == (len(good), len(bad))
    for name in bad:
        assert sum(reason.startswith(name) for reason in train["left_out_first"]) == 1


def test_shards_of_which_nothing_is_left_are_read(tmp_path):
    source = put(tmp_path / "source", {**pngs("a.png", "b.png", "c.png"), "d.png": b"", "e.png": b""})
    for file_format in ("tfrecord", "array_record"):
        directory = prepared(
            "image_folder", source, examples_per_shard=1, max_bad_sources=2, file_format=file_format, config=file_format
        )
        assert sorted(report_of(directory)["splits"]["train"]["shard_lengths"]) == [0, 0, 1, 1, 1]
        (batch,) = pipelines.make_dataset(directory, batch_size=8, training=False, image_size=12)
        assert len(batch["image"]) == 3
        (report,) = pipelines.verify(directory)
        assert (report.records, report.faults) == (3, [])


def test_nothing_is_left_of_a_split(tmp_path):
    source = put(tmp_path / "source", {**pngs("train/a.png"), "test/b.png": b""})
    with pytest.raises(ValueError, match="no example of the split 'test' could be made: .*b.png is empty"):
        prepared("image_folder", source, max_bad_sources=1)


def test_other_files_and_empty_folders_are_noted(tmp_path):
    files = pngs("train/cat/1.png", "train/dog/1.png", "test/cat/1.png")
    others = {"train/cat/notes.txt": b"", "train/dog/x.SVG": b"", "test/y.txt": b"", "README": b""}
    hidden = {
        "train/@eaDir/1.png": b"",
        "__MACOSX/train/cat/._1.png": b"",
        "train/.cache/1.png": b"",
        "train/cat/._1.png": b"",
        ".DS_Store": b"",
    }
    source = put(tmp_path / "source", {**files, **others, **hidden})
    (source / "train" / "bird").mkdir()
    directory = prepared("image_folder", source)
    assert report_of(directory)["notes"] == [
        "files of other kinds were left out: 1 .svg, 2 .txt, 1 no suffix",
        "folders without images: train/bird",
        "classes that are not in test: dog",
    ]
    assert pipelines.describe(directory).class_names == ("cat", "dog")
    assert report_of(directory)["splits"]["train"]["per_class"] == {"0": 1, "1": 1}


def test_linked_folders_are_read(tmp_path):
    source = put(tmp_path / "source", pngs("a/1.png", "b/1.png"))
    (tmp_path / "elsewhere").mkdir()
    shutil.move(source / "b", tmp_path / "elsewhere" / "b")
    (source / "b").symlink_to(tmp_path / "elsewhere" / "b")
    assert pipelines.describe(prepared("image_folder", source)).class_names == ("a", "b")
    (tmp_path / "link").symlink_to(source)
    assert pipelines.describe(prepared("image_folder", tmp_path / "link")).class_names == ("a", "b")


def test_duplicates_are_found_inside_and_across_splits(tmp_path):
    one, two, three, four = pngs("1", "2", "3", "4").values()
    files = {
        **{"train/a/1.png": one, "train/a/copy of 1.png": one, "train/b/1 again.png": one},
        **{"train/b/2.png": two, "test/b/2 again.png": two},
        **{"train/a/3.png": three, "test/a/4.png": four},
    }
    report = report_of(prepared("image_folder", put(tmp_path / "source", files)))
    assert (report["duplicates"], report["duplicates_between_splits"]) == (3, 1)
    assert report["duplicates_first"] == [
        ["test/b/2 again.png", "train/b/2.png"],
        ["train/a/1.png", "train/a/copy of 1.png", "train/b/1 again.png"],
    ]
    unique = prepared("image_folder", put(tmp_path / "unique", pngs("1.png", "2.png")))
    assert report_of(unique)["duplicates"] == 0


def test_names_with_spaces_and_of_other_alphabets(tmp_path):
    files = pngs(
        "train/Schäferhund und Katze/ein Bild (1).png", "train/猫/図 1.png", "train/% [a]*?/x+y#.png", "test/猫/ñ.png"
    )
    source = put(tmp_path / "ein Ordner – 画像", files)
    directory = prepared("image_folder", source, where=tmp_path / "data dir ü")
    names = ("% [a]*?", "Schäferhund und Katze", "猫")
    assert pipelines.describe(directory).class_names == names
    paths = {split: [path for path in files if path.startswith(split)] for split in ("train", "test")}
    for split, chosen in paths.items():
        expected = [(pixels_of(files[path]), names.index(path.split("/")[1])) for path in chosen]
        assert_pixels(directory, expected, split)
        assert not pipelines.verify(directory, split=split)[0].faults


def test_names_that_are_no_unicode(tmp_path):
    source = put(tmp_path / "source", pngs("a/1.png", "b/1.png"))
    with open(bytes(source / "a") + b"/\xff.png", "wb") as file:
        file.write(encoded(noise(12, 12, 3, seed=9)))
    assert pipelines.describe(prepared("image_folder", source)).num_examples == 3


def test_jpeg_quality(tmp_path):
    picture = smooth(40, 40) // 2 + noise(40, 40, 3) // 2
    source = put(tmp_path / "source", {"a.png": encoded(picture)})
    lengths = []
    for quality in (1, 50, 95, 100):
        directory = prepared("image_folder", source, encoding="jpeg", quality=quality, config=f"q{quality}")
        ((data, _),) = stored(directory)
        tables = encoded(picture, "JPEG", quality=quality)
        assert Image.open(io.BytesIO(data)).quantization == Image.open(io.BytesIO(tables)).quantization
        lengths.append(len(data))
    assert lengths == sorted(set(lengths))
    assert abs(pixels_of(data).astype(int) - picture).mean() < 2


@pytest.mark.parametrize(
    "files, sentence",
    {
        "nothing": (
            {},
            r"there are no images \(.jpg, .jpeg, .jpe, .jfif, .png, .apng, .webp, .bmp, .gif, .tif, .tiff\) in ",
        ),
        "no images": ({"a/notes.txt": b""}, "there are no images"),
        "mixed": (pngs("1.png", "a/2.png"), "lie at different depths, such as '1.png' and 'a/2.png': expected split/"),
        "mixed deeper": (pngs("a/1.png", "b/c/2.png"), "different depths, such as 'a/1.png' and 'b/c/2.png'"),
        "too deep": (pngs("a/b/c/1.png"), "lie too deep, such as 'a/b/c/1.png': expected split/class/image"),
    }.values(),
    ids=str,
)
def test_wrong_layouts(files, sentence, tmp_path):
    (tmp_path / "source").mkdir()
    put(tmp_path / "source", files)
    with pytest.raises(ValueError, match=sentence):
        prepared("image_folder", tmp_path / "source")
    assert not list(tmp_path.glob("prepared/image_folder/*/1.0.0"))


WRONG_SETTINGS = {
    "image_size 0": (dict(image_size=0), "image_size must be None or at least 1, got 0"),
    "image_size text": (dict(image_size="64"), "image_size must be None or at least 1, got '64'"),
    "encoding": (dict(encoding="webp"), "encoding must be one of png, jpeg, original, got 'webp'"),
    "original, size": (dict(encoding="original", image_size=8), "'original' leaves images whole: give no image_size"),
    "quality 0": (dict(quality=0), "quality must be from 1 to 100, got 0"),
    "quality 101": (dict(quality=101), "quality must be from 1 to 100, got 101"),
    "quality 9.5": (dict(quality=9.5), "quality must be from 1 to 100, got 9.5"),
    "channels": (dict(channels=4), "channels must be 1 or 3, got 4"),
    "config": (dict(config="a/b"), "name must be made of letters, digits, '.', '_' and '-', got 'a/b'"),
    "config dots": (dict(config=".."), "name must be made of letters"),
    "unknown": (dict(img_size=8), "image_folder has no setting 'img_size': it takes .*; did you mean 'image_size'"),
    "source 3": (dict(source=3), "source must be a path, got 3"),
    "source empty": (dict(source=""), "source must be a path, got ''"),
    "no source": (dict(source=None), "image_folder is made from your files: give source"),
    "format": (dict(file_format="zip"), "file_format must be one of tfrecord, array_record, got 'zip'"),
    "workers": (dict(workers=0), "workers must be an integer of at least 1, got 0"),
    "shards": (dict(examples_per_shard=0), "examples_per_shard must be an integer of at least 1, got 0"),
    "bad": (dict(max_bad_sources=-1), "max_bad_sources must be None or at least 0, got -1"),
}


@pytest.mark.parametrize("wrong", WRONG_SETTINGS)
def test_wrong_settings(wrong, tmp_path):
    settings, sentence = WRONG_SETTINGS[wrong]
    source = put(tmp_path / "source", pngs("1.png"))
    with pytest.raises(ValueError, match=sentence) as caught:
        pipelines.prepare("image_folder", tmp_path / "prepared", **{"source": source, **settings})
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "prepared").exists()


def test_wrong_sources(tmp_path):
    with pytest.raises(FileNotFoundError, match="source .*nowhere does not exist"):
        prepared("image_folder", tmp_path / "nowhere")
    put(tmp_path, pngs("1.png"))
    with pytest.raises(ValueError, match="source must be a folder of images, and .*1.png is a file"):
        prepared("image_folder", tmp_path / "1.png")
    with pytest.raises(ValueError, match="digits has no setting 'source': it has no settings"):
        pipelines.prepare("digits", tmp_path / "prepared", source=tmp_path)


def test_folders_are_named_after_source_and_settings(tmp_path):
    source = put(tmp_path / "my flowers.v2", pngs("1.png"))
    names = [
        prepared("image_folder", source, **settings).parent.name
        for settings in ({}, {"image_size": 8}, {"image_size": 8, "encoding": "jpeg"}, {"config": "mine"})
    ]
    assert names == ["my_flowers-png", "my_flowers-8-png", "my_flowers-8-jpeg", "mine"]
