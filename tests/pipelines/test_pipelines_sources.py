"""Data sets made from the user's files: what is stored of each source, what is left out, and what is refused."""

import collections
import functools
import io
import json
import pathlib
import shutil
import struct
import tarfile
import zipfile
import zlib

import numpy as np
import pytest
from PIL import Image

import pipelines

pytestmark = pytest.mark.backend_free


def noise(*shape, seed=0):
    return np.random.RandomState(seed).randint(0, 256, shape).astype(np.uint8)


def smooth(height, width, seed=0):
    """A picture that survives JPEG: gradients, with colours of its own."""
    rows, columns = np.mgrid[0:height, 0:width]
    planes = [rows * 255 // height, columns * 255 // width, np.full_like(rows, seed * 37 % 256)]
    return np.stack(planes, -1).astype(np.uint8)


def encoded(pixels, format="PNG", **options):
    file = io.BytesIO()
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    image.save(file, format, **options)
    return file.getvalue()


def put(root, files):
    """Writes {path: bytes} below `root`; returns it."""
    for path, data in files.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(data)
    return root


def pngs(*paths, size=12):
    """{path: a PNG that is like no other}."""
    return {path: encoded(noise(size, size, 3, seed=seed)) for seed, path in enumerate(paths)}


def prepared(name, source, where=None, **settings):
    """The directory of a data set made from `source`, beside it or in `where`."""
    source = pathlib.Path(source)
    return pathlib.Path(pipelines.prepare(name, where or source.parent / "prepared", source=source, **settings))


def stored(directory, split="train"):
    """[(encoded image, label or None)] of a split, as TensorFlow reads its records."""
    import tensorflow as tf

    files = sorted(str(path) for path in directory.glob(f"*-{split}.tfrecord-*"))
    examples = []
    for record in tf.data.TFRecordDataset(files).as_numpy_iterator():
        feature = tf.train.Example.FromString(record).features.feature
        assert set(feature) <= {"image", "label"}
        label = feature["label"].int64_list.value[0] if "label" in feature else None
        examples.append((feature["image"].bytes_list.value[0], label))
    return examples


def pixels_of(data):
    image = Image.open(io.BytesIO(data))
    assert image.mode in ("L", "RGB")
    return np.asarray(image)


def as_counted(examples):
    """A multiset of (shape, bytes of the pixels, label)."""
    return collections.Counter((pixels.shape, pixels.tobytes(), label) for pixels, label in examples)


def assert_pixels(directory, expected, split="train"):
    """The split holds just these: [(pixels, label or None)]."""
    found = [(pixels_of(data), label) for data, label in stored(directory, split)]
    assert as_counted(found) == as_counted(expected)


def report_of(directory):
    return json.loads((directory / "report.json").read_text())


def adm(image, size):
    """The crop of guided-diffusion's image_datasets.py, written down again."""
    while min(*image.size) >= 2 * size:
        image = image.resize(tuple(side // 2 for side in image.size), resample=Image.Resampling.BOX)
    scale = size / min(*image.size)
    image = image.resize(tuple(round(side * scale) for side in image.size), resample=Image.Resampling.BICUBIC)
    array = np.array(image)
    top, left = (array.shape[0] - size) // 2, (array.shape[1] - size) // 2
    return array[top : top + size, left : left + size]


def png16(pixels):
    """uint16 [H, W] or [H, W, 3] as a PNG of 16 bits, which Pillow does not write for RGB."""
    height, width = pixels.shape[:2]
    colour = 2 if pixels.ndim == 3 else 0
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 16, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


# ---------------------------------------------------------------------------------------------------- image_folder


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
    "a class named like a split": (pngs("test/1.png", "cat/1.png"), {"train": {"cat/1": "cat", "test/1": "test"}}),
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
    files = {f"x.{s}": encoded(p, formats.get(s, s), **{"lossless": True} * (s == "webp")) for s, p in pixels.items()}
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
        "alpha.png": encoded(noise(8, 8, 4)),
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


def oriented(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


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
    # fails today with encoding="original": where turning leaves height and width as they are (2, 3, 4, and every square
    # image), the file is kept with its orientation, which no reader looks at.
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
        "transparent palette.png": (encoded(palette, transparency=3), "palette converted to RGB"),
        "alpha.png": (encoded(noise(20, 20, 4)), "RGBA converted to RGB"),
        "grey alpha.png": (encoded(rgb.convert("LA")), "grey with alpha converted to RGB"),
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
    assert pipelines.describe(directory).image_shape == (20, 20, 1) or pipelines.describe(directory).image_shape[2] == 1
    (batch,) = pipelines.make_dataset(directory, batch_size=2, image_size=20, training=False)
    assert batch["image"].shape == (2, 20, 20, 1)


def unusable():
    """{path: (bytes, why no example can be made of it)}."""
    frames = [Image.fromarray(noise(12, 12, 3, seed=seed)) for seed in range(3)]
    together = {"save_all": True, "append_images": frames[1:]}
    deep = noise(12, 12).astype(np.uint16) * 257
    return {
        "animated gif named.png": (encoded(frames[0], "GIF", **together), r"is animated \(3 frames\)"),
        "animated.webp": (encoded(frames[0], "WEBP", **together), r"is animated \(3 frames\)"),
        "animated.png": (encoded(frames[0], "PNG", **together), r"is animated \(3 frames\)"),
        "deep grey.png": (png16(deep), "has more than 8 bits a channel"),
        # fails today: Pillow opens it as RGB of 8 bits and drops the lower ones without a word.
        "deep colour.png": (png16(np.stack([deep] * 3, -1)), "has (more than 8|16) bits a channel"),
        "cut.png": (encoded(noise(40, 40, 3))[:-600], "cannot be decoded"),
        "cut.jpg": (encoded(noise(40, 40, 3), "JPEG")[:-600], "cannot be decoded"),
        "cut.webp": (encoded(noise(40, 40, 3), "WEBP")[:-300], "cannot be decoded"),
        "cut.bmp": (encoded(noise(40, 40, 3), "BMP")[:-300], "cannot be decoded"),
        "header only.jpg": (encoded(noise(40, 40, 3), "JPEG")[:20], "cannot be decoded"),
        "text.png": (b"no picture\n", "cannot be decoded"),
        "empty.png": (b"", "is empty"),
    }


@pytest.mark.parametrize("encoding", ["png", "original"])
@pytest.mark.parametrize("name", unusable())
def test_unusable_files_are_refused(name, encoding, tmp_path):
    data, reason = unusable()[name]
    source = put(tmp_path / "source", {**pngs("a.png", "b.png"), name: data})
    with pytest.raises(ValueError, match=f"^{name} {reason}.*$") as caught:
        prepared("image_folder", source, encoding=encoding)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.glob("prepared/image_folder/*/1.0.0"))


def test_unusable_files_are_left_out_and_listed(tmp_path):
    bad = {name: data for name, (data, _) in unusable().items() if name != "deep colour.png"}
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
    others = {"train/cat/notes.txt": b"", "train/dog/x.TIFF": b"", "test/y.txt": b"", "README": b""}
    hidden = {"train/.cache/1.png": b"", "train/cat/._1.png": b"", ".DS_Store": b""}
    source = put(tmp_path / "source", {**files, **others, **hidden})
    (source / "train" / "bird").mkdir()
    directory = prepared("image_folder", source)
    assert report_of(directory)["notes"] == [
        "files of other kinds were left out: 1 .tiff, 2 .txt, 1 no suffix",
        "folders without images: train/bird",
        "classes that are not in test: dog",
    ]
    assert pipelines.describe(directory).class_names == ("cat", "dog")
    assert report_of(directory)["splits"]["train"]["per_class"] == {"0": 1, "1": 1}


def test_linked_folders_are_read(tmp_path):
    # fails today: os.walk does not follow them, and a class is missing without a note.
    source = put(tmp_path / "source", pngs("a/1.png", "b/1.png"))
    (tmp_path / "elsewhere").mkdir()
    shutil.move(source / "b", tmp_path / "elsewhere" / "b")
    (source / "b").symlink_to(tmp_path / "elsewhere" / "b")
    assert pipelines.describe(prepared("image_folder", source)).class_names == ("a", "b")


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
    # fails today: 'utf-8' codec can't encode character '\udcff'.
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
        "nothing": ({}, r"there are no images \(.jpg, .jpeg, .png, .webp, .bmp\) in "),
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


# ------------------------------------------------------------------------------------------------------------- npz


def write_npz(path, save=np.savez, **arrays):
    path.parent.mkdir(parents=True, exist_ok=True)
    save(path, **arrays)
    return path


@pytest.mark.parametrize("keys", [("images", "labels"), ("arr_0", "arr_1")], ids="/".join)
@pytest.mark.parametrize("labelled", [True, False], ids=["labels", "none"])
@pytest.mark.parametrize("channels", [1, 3])
def test_arrays_are_stored_as_they_are(keys, labelled, channels, tmp_path):
    images, labels = noise(7, 10, 12, channels), np.array([3, 0, 2, 0, 1, 3, 0], np.int32)
    arrays = {keys[0]: images, **({keys[1]: labels} if labelled else {})}
    directory = prepared("npz", write_npz(tmp_path / "some arrays.npz", **arrays), channels=channels)
    shown = images[..., 0] if channels == 1 else images
    expected = [(image, int(label) if labelled else None) for image, label in zip(shown, labels, strict=True)]
    assert_pixels(directory, expected)
    description = pipelines.describe(directory)
    assert description.image_shape == (10, 12, channels)
    assert description.num_classes == (4 if labelled else None)


def test_order_of_memory_and_width_of_labels_do_not_matter(tmp_path):
    images, labels = noise(5, 8, 9, 3), np.arange(5)
    expected = [(image, int(label)) for image, label in zip(images, labels, strict=True)]
    for number, dtype in enumerate(["uint8", ">i8", "int16", "uint64"]):
        arrays = {"labels": labels.astype(dtype), "more": np.zeros(3), "images": np.asfortranarray(images)}
        directory = prepared("npz", write_npz(tmp_path / f"arrays{number}.npz", **arrays))
        assert_pixels(directory, expected)


def test_folder_of_splits(tmp_path):
    train, test = noise(6, 8, 8, 3, seed=1), noise(4, 8, 8, 3, seed=2)
    write_npz(tmp_path / "source/train.npz", images=train, labels=np.arange(6))
    write_npz(tmp_path / "source/test.npz", images=test, labels=np.arange(4))
    directory = prepared("npz", tmp_path / "source")
    for split, images in (("train", train), ("test", test)):
        assert_pixels(directory, [(image, label) for label, image in enumerate(images)], split)
        assert pipelines.describe(directory, split=split).num_classes == 6


def test_folder_of_splits_of_different_sizes(tmp_path):
    train, test = noise(6, 8, 8, 3), noise(4, 20, 30, 3)
    write_npz(tmp_path / "source/train.npz", images=train)
    write_npz(tmp_path / "source/test.npz", images=test)
    directory = prepared("npz", tmp_path / "source", image_size=8)
    assert_pixels(directory, [(image, None) for image in train])
    assert_pixels(directory, [(adm(Image.fromarray(image), 8), None) for image in test], "test")
    whole = prepared("npz", tmp_path / "source")
    assert pipelines.describe(whole).image_shape == (None, None, 3)
    assert_pixels(whole, [(image, None) for image in test], "test")


def test_grey_arrays_become_rgb_unless_told_otherwise(tmp_path):
    grey = noise(5, 8, 8, 1)
    directory = prepared("npz", write_npz(tmp_path / "grey.npz", images=grey))
    assert_pixels(directory, [(image, None) for image in np.repeat(grey, 3, -1)])
    assert report_of(directory)["splits"]["train"]["changes"] == {"grey converted to RGB": 5}


def test_number_of_classes_can_be_given(tmp_path):
    source = write_npz(tmp_path / "a.npz", images=noise(3, 8, 8, 3), labels=np.array([0, 1, 1]))
    assert pipelines.describe(prepared("npz", source, num_classes=10)).num_classes == 10


def test_duplicate_arrays_are_found(tmp_path):
    images = noise(4, 8, 8, 3)
    images[3] = images[1]
    report = report_of(prepared("npz", write_npz(tmp_path / "a.npz", images=images)))
    assert report["duplicates_first"] == [["train/000000001", "train/000000003"]]


def test_arrays_that_are_written_anew_are_read_anew(tmp_path):
    # fails today: the arrays of a path are kept for the life of the process (functools.lru_cache).
    for seed, count in ((1, 4), (2, 6)):
        images = noise(count, 8, 8, 3, seed=seed)
        directory = prepared("npz", write_npz(tmp_path / "a.npz", images=images), config=f"seed{seed}")
        assert_pixels(directory, [(image, None) for image in images])


def _object_array():
    images = np.empty(2, object)
    images[:] = [noise(4, 4, 3), noise(5, 5, 3)]
    return images


IMAGES = noise(4, 8, 8, 3)
WRONG_ARRAYS = {
    "float": (dict(images=IMAGES / 255.0), {}, r"'images' of .* must be uint8 \[N,H,W,1 or 3\], got float64 \[4, 8"),
    "three axes": (dict(images=IMAGES[..., 0]), {}, r"must be uint8 \[N,H,W,1 or 3\], got uint8 \[4, 8, 8\]"),
    "channels first": (dict(arr_0=np.moveaxis(IMAGES, -1, 1)), {}, r"'arr_0' of .* got uint8 \[4, 3, 8, 8\]"),
    "labels too few": (dict(images=IMAGES, labels=np.arange(3)), {}, r"must be integers \[4\], got int64 \[3\]"),
    "one-hot": (dict(images=IMAGES, labels=np.eye(4, dtype=int)), {}, r"must be integers \[4\], got int64 \[4, 4\]"),
    "float labels": (dict(images=IMAGES, labels=np.ones(4)), {}, r"must be integers \[4\], got float64 \[4\]"),
    "negative": (dict(images=IMAGES, labels=np.array([0, 1, -1, 2])), {}, "label -1 of image 2 in .* is outside 0.."),
    "too large": (dict(arr_0=IMAGES, arr_1=np.arange(4)), dict(num_classes=3), "label 3 of image 3 .* is outside 0..2"),
    "objects": (dict(images=_object_array()), {}, "images.npy in .* holds Python objects, which are not read"),
    "other names": (dict(x=IMAGES, y=IMAGES), {}, "has no array images or arr_0, but x, y"),
    "no arrays": ({}, {}, "has no array images or arr_0, but nothing"),
    "no images": (dict(images=IMAGES[:0]), {}, "there are no examples for npz in"),
    "original": (dict(images=IMAGES), dict(encoding="original"), "encoding must be png or jpeg for arrays, got 'orig"),
    "classes 0": (dict(images=IMAGES, labels=np.arange(4)), dict(num_classes=0), "num_classes must be"),
    "classes text": (dict(images=IMAGES, labels=np.arange(4)), dict(num_classes="4"), "num_classes must be"),
}


@pytest.mark.parametrize("wrong", WRONG_ARRAYS)
def test_wrong_arrays(wrong, tmp_path):
    # "classes 0" and "classes text" fail today: num_classes is not checked.
    arrays, settings, sentence = WRONG_ARRAYS[wrong]
    with pytest.raises(ValueError, match=sentence) as caught:
        prepared("npz", write_npz(tmp_path / "a.npz", **arrays), **settings)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.glob("prepared/npz/*/1.0.0"))


def test_files_that_are_no_arrays(tmp_path):
    with pytest.raises(ValueError, match=r"is compressed, and cannot be read in pieces: save it with numpy.savez"):
        prepared("npz", write_npz(tmp_path / "packed.npz", np.savez_compressed, images=IMAGES))
    (tmp_path / "text.npz").write_text("no arrays")
    with pytest.raises(ValueError, match=r"text.npz is no .npz file \(File is not a zip file\)"):
        prepared("npz", tmp_path / "text.npz")
    whole = write_npz(tmp_path / "whole.npz", images=IMAGES).read_bytes()
    (tmp_path / "cut.npz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="cut.npz is no .npz file"):
        prepared("npz", tmp_path / "cut.npz")
    with zipfile.ZipFile(tmp_path / "other.npz", "w") as archive:
        archive.writestr("images", "text")
    with pytest.raises(ValueError, match="other.npz"):  # fails today: the sentence is numpy's, and names no file
        prepared("npz", tmp_path / "other.npz")


def test_wrong_npz_sources(tmp_path):
    np.save(tmp_path / "a.npy", IMAGES)
    with pytest.raises(ValueError, match="source must be an .npz file or a folder of them, got .*a.npy"):
        prepared("npz", tmp_path / "a.npy")
    with pytest.raises(ValueError, match="there are no .npz files in"):
        prepared("npz", tmp_path)
    write_npz(tmp_path / "mixed/train.npz", images=IMAGES, labels=np.arange(4))
    write_npz(tmp_path / "mixed/test.npz", images=IMAGES)
    with pytest.raises(ValueError, match="some of the files in .*mixed have labels and some have not"):
        prepared("npz", tmp_path / "mixed")


# -------------------------------------------------------------------------------------------------------- imagenet


TRAIN_TAR, VALIDATION_TAR = "ILSVRC2012_img_train.tar", "ILSVRC2012_img_val.tar"


@functools.cache
def tfds_lists():
    """WordNet ids in tfds's order, and those of the validation images, as its imagenet2012 gives them."""
    from tensorflow_datasets.datasets.imagenet2012 import imagenet2012_dataset_builder as module

    folder = pathlib.Path(module.__file__).parent
    return (folder / "labels.txt").read_text().split(), (folder / "validation_labels.txt").read_text().split()


def photo(seed):
    """A JPEG as ImageNet has them: of any size, some grey, some CMYK, some turned by EXIF."""
    image = Image.fromarray(smooth(30 + 5 * seed, 50 - 3 * seed, seed))
    image = image.convert({2: "L", 3: "CMYK"}.get(seed, "RGB"))
    return encoded(image, "JPEG", quality=85, **({"exif": oriented(6)} if seed == 4 else {}))


@pytest.fixture(scope="module")
def images():
    """{synset: {file: bytes}} of the training images, {file: bytes} of the validation images."""
    chosen = [tfds_lists()[0][number] for number in (0, 417, 999)]
    train = {
        synset: {f"{synset}_{file}.JPEG": photo(2 * number + file) for file in range(2)}
        for number, synset in enumerate(chosen)
    }
    return train, {f"ILSVRC2012_val_{number:08d}.JPEG": photo(number + 6) for number in (1, 2, 3, 50_000 - 1)}


def tar_of(files):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return buffer.getvalue()


def write_tars(root, images):
    train, validation = images
    inner = {f"{synset}.tar": tar_of(files) for synset, files in reversed(train.items())}
    return put(root, {TRAIN_TAR: tar_of(inner), VALIDATION_TAR: tar_of(validation)})


def write_tree(root, images, sorted_validation):
    train, validation = images
    put(root / "train", {f"{synset}/{name}": data for synset, files in train.items() for name, data in files.items()})
    folders = {name: f"{synset_of(name)}/" * sorted_validation for name in validation}
    return put(root / "val", {f"{folders[name]}{name}": data for name, data in validation.items()}).parent


def synset_of(validation_name):
    return tfds_lists()[1][int(validation_name[-13:-5]) - 1]


@pytest.mark.parametrize("settings", [{"image_size": 16}, {"encoding": "original"}], ids=str)
def test_imagenet_from_tar_files(settings, images, tmp_path):
    directory = prepared("imagenet", write_tars(tmp_path / "imagenet", images), **settings)
    train, validation = images
    number = {synset: number for number, synset in enumerate(tfds_lists()[0])}
    expected = {
        "train": [(data, number[synset]) for synset, files in train.items() for data in files.values()],
        "validation": [(data, number[synset_of(name)]) for name, data in validation.items()],
    }
    for split, examples in expected.items():
        if settings.get("encoding"):
            found = [data for data, _ in stored(directory, split)]
            plain = [data for data, _ in examples if Image.open(io.BytesIO(data)).mode == "RGB"]
            assert set(plain) <= set(found) and len(found) == len(examples)
        else:
            opened = [(Image.open(io.BytesIO(data)).convert("RGB"), label) for data, label in examples]
            assert_pixels(directory, [(adm(image, 16), label) for image, label in opened], split)
        assert sorted(label for _, label in stored(directory, split)) == sorted(label for _, label in examples)
    assert pipelines.describe(directory).num_classes == 1000
    assert pipelines.describe(directory).class_names == tuple(tfds_lists()[0])
    report = report_of(directory)
    assert report["notes"] == [
        "train has 6 images; the official data set has 1281167",
        "validation has 4 images; the official data set has 50000",
    ]
    assert report["splits"]["train"]["changes"] == {"grey converted to RGB": 1, "CMYK converted to RGB": 1}


@pytest.mark.parametrize("sorted_validation", [False, True], ids=["val/*", "val/class/*"])
def test_imagenet_tar_and_tree_give_the_same(sorted_validation, images, tmp_path):
    from_tar = prepared("imagenet", write_tars(tmp_path / "tar", images), image_size=16)
    from_tree = prepared("imagenet", write_tree(tmp_path / "tree", images, sorted_validation), image_size=16)
    files = sorted(path.name for path in from_tar.iterdir())
    assert files == sorted(path.name for path in from_tree.iterdir())
    for name in files:
        if name != "report.json" and name != "dataset_info.json":  # which name the source
            assert (from_tar / name).read_bytes() == (from_tree / name).read_bytes(), name


def test_imagenet_with_one_split(images, tmp_path):
    source = write_tree(tmp_path / "imagenet", images, False)
    shutil.rmtree(source / "train")
    directory = prepared("imagenet", source, image_size=16)
    assert set(report_of(directory)["splits"]) == {"validation"}
    assert len(stored(directory, "validation")) == 4


@pytest.mark.parametrize("name", [TRAIN_TAR, VALIDATION_TAR])
def test_imagenet_truncated_tar(name, images, tmp_path):
    source = write_tars(tmp_path / "imagenet", images)
    whole = (source / name).read_bytes()
    for length in (0, 300, 1800, len(whole.rstrip(b"\0")) - 400):
        (source / name).write_bytes(whole[:length])
        with pytest.raises(ValueError, match=rf"{name} is no whole tar file \(.*\)$"):
            prepared("imagenet", source)
    assert not list(tmp_path.glob("prepared/imagenet/*/1.0.0"))


def test_imagenet_damaged_image_in_a_tar(images, tmp_path):
    train, validation = images
    synset = next(iter(train))
    damaged = {**train, synset: {**train[synset], f"{synset}_9.JPEG": photo(0)[:200]}}
    source = write_tars(tmp_path / "imagenet", (damaged, validation))
    with pytest.raises(ValueError, match=f"^{synset}/{synset}_9.JPEG cannot be decoded"):
        prepared("imagenet", source)


def test_imagenet_names_that_are_not_its_own(images, tmp_path):
    train, validation = images
    wrong = {**train, "n00000001": {}}
    sentence = "'n00000001' in .* is none of ImageNet's 1000 classes, which are named like n01440764"
    with pytest.raises(ValueError, match=sentence):
        prepared("imagenet", write_tars(tmp_path / "tar", (wrong, validation)))
    source = write_tree(tmp_path / "tree", images, False)
    (source / "train" / "n00000001").mkdir()
    with pytest.raises(ValueError, match=sentence):
        prepared("imagenet", source)
    for write in (write_tars, functools.partial(write_tree, sorted_validation=False)):
        source = write(tmp_path / "val", ({}, {"ILSVRC2012_val_00000001.JPEG": photo(0)}))
        put(source / "val", {"ILSVRC2012_val_00050001.JPEG": photo(1)})
        put(source, {VALIDATION_TAR: tar_of({"ILSVRC2012_val_00050001.JPEG": photo(1)})} if write is write_tars else {})
        with pytest.raises(ValueError, match="'ILSVRC2012_val_00050001.JPEG' in .* is none of the validation images"):
            prepared("imagenet", source)
        shutil.rmtree(source)


def test_imagenet_where_there_is_none(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(
        ValueError, match=f"there is neither {TRAIN_TAR} nor {VALIDATION_TAR} nor a folder train or val"
    ):
        prepared("imagenet", tmp_path / "empty")
