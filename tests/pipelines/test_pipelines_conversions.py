"""Pictures of other modes and depths, too small, or of several frames: what is made of them, and that it is told."""

import io
import json
import pathlib
import struct
import subprocess
import sys
import warnings

import numpy as np
import pytest
from PIL import Image
from source_helpers import (
    adm,
    encoded,
    noise,
    oriented,
    pixels_of,
    pngs,
    prepared,
    put,
    raw_png,
    raw_tiff,
    report_of,
    stored,
)

import pipelines
from pipelines.datasets.opening import open_source

pytestmark = pytest.mark.backend_free


def deep():
    """{kind: (bytes, whole numbers [H,W,C] in 0..most, most)}: every value of 16 bits, in grey, and colours."""
    every = np.arange(65536).reshape(256, 256, 1)
    colour = np.random.default_rng(0).integers(0, 65536, (9, 7, 3))
    colour[:4] = colour[:4] // 256 * 256 + 255  # cut down and not rounded they would be darker
    twelve = np.arange(4096).reshape(64, 64, 1)
    pairs = twelve.reshape(-1, 2)
    packed = np.stack([pairs[:, 0] >> 4, (pairs[:, 0] & 15) << 4 | pairs[:, 1] >> 8, pairs[:, 1] & 255], -1)
    twelve_bits = bytearray(raw_tiff(packed.astype(np.uint8).reshape(64, 96, 1)))
    for tag, old, new in ((256, 96, 64), (258, 8, 12)):
        at = twelve_bits.index(struct.pack("<HHIH", tag, 3, 1, old))
        twelve_bits[at + 8 : at + 10] = struct.pack("<H", new)
    short = every.astype(np.uint16)
    return {
        "grey.png": (raw_png(every, 16, 0), every, 65535),
        "colour.png": (raw_png(colour, 16, 2), colour, 65535),
        "grey little.tiff": (raw_tiff(short), every, 65535),
        "grey big.tiff": (raw_tiff(short, ">"), every, 65535),
        "packed.tiff": (encoded(Image.fromarray(short[..., 0]), "TIFF", compression="tiff_lzw"), every, 65535),
        "white is zero.tiff": (raw_tiff(short, "<", 0), 65535 - every, 65535),
        "12 bits.tiff": (bytes(twelve_bits), twelve, 4095),
        "colour little.tiff": (raw_tiff(colour.astype(np.uint16), "<", 2), colour, 65535),
        "colour big.tiff": (raw_tiff(colour.astype(np.uint16), ">", 2), colour, 65535),
    }


@pytest.mark.parametrize("name", deep())
def test_sixteen_bits_are_scaled_and_counted(name):
    data, values, most = deep()[name]
    image, changes, _ = open_source(data, channels=values.shape[2], upright=True)
    expected = np.floor(values / most * 255 + 0.5)  # v / 257, rounded
    np.testing.assert_array_equal(np.asarray(image), expected[..., 0] if values.shape[2] == 1 else expected)
    assert changes == ("16 bits a channel scaled to 8",)


def test_sixteen_bits_of_cmyk_and_turned():
    deep = np.random.default_rng(0).integers(0, 65536, (6, 8, 4)).astype(np.uint16)
    image, changes, _ = open_source(raw_tiff(deep, ">", 5), channels=3, upright=True)
    eight = Image.fromarray(np.floor(deep / 257 + 0.5).astype(np.uint8), "CMYK").convert("RGB")
    np.testing.assert_array_equal(np.asarray(image), np.asarray(eight))
    assert changes == ("16 bits a channel scaled to 8", "CMYK converted to RGB")
    turned = raw_png(deep[..., :3], 16, 2, eXIf=oriented(6).tobytes().removeprefix(b"Exif\0\0"))
    image, changes, _ = open_source(turned, channels=3, upright=True)
    np.testing.assert_array_equal(np.asarray(image), np.rot90(np.floor(deep[..., :3] / 257 + 0.5), -1))
    assert changes == ("16 bits a channel scaled to 8", "turned upright")


def test_separate_planes_of_sixteen_bits_are_refused():
    data = raw_tiff(np.zeros((6, 8, 3), np.uint16), "<", 2)
    rows_in_a_strip = struct.pack("<HHIH", 278, 3, 1, 6)
    assert rows_in_a_strip in data
    planar = data.replace(rows_in_a_strip, struct.pack("<HHIH", 284, 3, 1, 2))
    with pytest.raises(ValueError, match="has 16 bits a channel in separate planes, which are not read"):
        open_source(planar, channels=3, upright=True)


def test_small_pictures_are_enlarged_or_left_out_and_counted(tmp_path):
    sizes = {"a.png": (20, 30), "b.png": (16, 16), "c.png": (15, 40), "d.png": (4, 4), "e.png": (1, 300)}
    files = {name: encoded(noise(*size, 3)) for name, size in sizes.items()}
    source = put(tmp_path / "source", files)
    report = report_of(prepared("image_folder", source, image_size=16))["splits"]["train"]
    assert (report["examples"], report["changes"], report["skipped"]) == (5, {"enlarged to 16": 3}, {})
    directory = prepared("image_folder", source, image_size=16, min_size=15, config="large")
    report = report_of(directory)["splits"]["train"]
    assert (report["examples"], report["left_out"], report["changes"]) == (3, 0, {"enlarged to 16": 1})
    assert report["skipped"] == {"with a side shorter than min_size=15": 2}
    found = sorted(pixels_of(data).tobytes() for data, _ in stored(directory))
    assert found == sorted(
        adm(Image.open(io.BytesIO(files[name])), 16).tobytes() for name in ("a.png", "b.png", "c.png")
    )
    whole = prepared("image_folder", source, encoding="original", min_size=16, config="whole")
    assert {data for data, _ in stored(whole)} == {files["a.png"], files["b.png"]}
    with pytest.raises(
        ValueError, match="no example of the split 'train' could be made: 5 with a side shorter than min"
    ):
        prepared("image_folder", source, min_size=99, config="none")


@pytest.mark.parametrize("format", ["GIF", "WEBP", "PNG", "TIFF"])
@pytest.mark.parametrize("encoding", ["png", "original"])
def test_of_several_frames_the_first_is_taken_or_none(format, encoding, tmp_path):
    frames = [Image.fromarray(noise(12, 12, 3, seed=seed)).quantize(8).convert("RGB") for seed in range(3)]
    options = {"lossless": True} if format == "WEBP" else {}
    data = encoded(frames[0], format, save_all=True, append_images=frames[1:], **options)
    still = pngs("still.png")
    source = put(tmp_path / "source", {**still, f"several.{format.lower()}": data})
    told = "first of several frames or pages taken"
    directory = prepared("image_folder", source, encoding=encoding)
    report = report_of(directory)["splits"]["train"]
    assert (report["examples"], report["changes"][told], report["skipped"]) == (2, 1, {})
    expected = [pixels_of(still["still.png"]), np.asarray(frames[0])]
    assert {pixels_of(d).tobytes() for d, _ in stored(directory)} == {pixels.tobytes() for pixels in expected}
    assert not any(report.faults for report in pipelines.verify(directory))
    directory = prepared("image_folder", source, encoding=encoding, animated="skip", config="stills")
    report = report_of(directory)["splits"]["train"]
    assert (report["examples"], report["changes"], report["left_out"]) == (1, {}, 0)
    assert report["skipped"] == {"with several frames or pages": 1}


def test_other_colour_modes_are_converted():
    rgb = Image.fromarray(noise(8, 8, 3))
    for mode, format in (("LAB", "TIFF"), ("CMYK", "TIFF"), ("1", "TIFF"), ("P", "BMP")):
        image, changes, _ = open_source(
            encoded(rgb.convert(mode) if mode != "LAB" else lab(), format), channels=3, upright=True
        )
        name = {"1": "black and white", "P": "palette"}.get(mode, mode)
        assert image.mode == "RGB" and changes in ((f"{name} converted to RGB",), ()), mode
        if mode == "LAB":
            assert np.abs(np.asarray(image).astype(int) - 119).max() <= 1  # L* = 50 is sRGB 119


def lab():
    return Image.fromarray(np.full((4, 4, 3), (128, 0, 0), np.uint8), "LAB")


def test_colour_profiles_are_told(tmp_path):
    from PIL import ImageCms

    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    picture = noise(9, 9, 3)
    wide = srgb.replace(b"s\0R\0G\0B", b"P\x003\0-\0D").replace(b"sRGB", b"wide")
    files = {"a.png": encoded(picture, icc_profile=srgb), "b.jpg": encoded(picture, "JPEG", icc_profile=srgb)}
    files["c.png"] = encoded(picture, icc_profile=wide)
    directory = prepared("image_folder", put(tmp_path / "source", files), encoding="original")
    told = report_of(directory)["splits"]["train"]["changes"]
    assert told == {"colour profile other than sRGB not applied": 1}
    assert {data for data, _ in stored(directory)} == set(files.values())


def test_warnings_of_pillow_are_counted_and_not_printed(tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 150)
    files = {**pngs("a.png", "b.png"), "c.png": encoded(noise(12, 13, 3)), "d.png": encoded(noise(12, 14, 3)),
             "e.jpg": encoded(noise(9, 9, 3), "JPEG", exif=b"Exif\0\0II*\0\x08\0\0\0\x05\0")}  # fmt: skip
    source = put(tmp_path / "source", files)
    with warnings.catch_warnings(record=True) as printed:
        warnings.simplefilter("always")
        report = report_of(prepared("image_folder", source))["splits"]["train"]
        warnings.warn("another", stacklevel=1)
    assert [str(warning.message) for warning in printed if "PIL" in warning.filename] == []
    assert str(printed[-1].message) == "another"
    assert report["examples"] == 5
    assert report["changes"].pop("of more than 150 pixels") == 2
    assert list(report["changes"].values()) == [1] and "Pillow warned: " in next(iter(report["changes"]))
    put(source, {"f.png": encoded(noise(20, 20, 3))})
    with pytest.raises(
        ValueError, match=r"f.png cannot be decoded \(Image size \(400 pixels\) exceeds .*--max_bad_sources"
    ):
        prepared("image_folder", source, config="hard")


@pytest.mark.parametrize("file_format", ["tfrecord"])
def test_settings_are_part_of_what_a_data_set_is(file_format, tmp_path):
    source = put(tmp_path / "source", pngs("train/a/1.png", "test/a/1.png"))
    directory = prepared("image_folder", source, config="mine")
    same = {"background": "#fff", "min_size": None, "animated": "first"}
    assert prepared("image_folder", source, config="mine", **same) == directory
    for other, sentence in (
        ({"background": "Black"}, r"background='black' \(there: 'white'\); give another config name"),
        ({"background": "keep"}, r"channels=4 \(there: 3\), background='keep' \(there: 'white'\)"),
        ({"min_size": 3}, r"min_size=3 \(there: None\)"),
        ({"animated": "skip"}, r"animated='skip' \(there: 'first'\)"),
        ({"splits": {"train": "train"}}, r"splits=\{'train': \['train'\]\} \(there: None\)"),
        ({"classes": "parent"}, r"classes='parent' \(there: None\)"),
    ):
        with pytest.raises(ValueError, match=sentence):
            prepared("image_folder", source, config="mine", **other)


def test_data_sets_of_the_version_before(tmp_path, caplog):
    """They have no such settings in their reports, and dropped transparency."""
    source = put(tmp_path / "source", {**pngs("a.png"), "b.png": encoded(noise(8, 8, 4))})
    directory = prepared("image_folder", source, encoding="original")
    report = report_of(directory)
    for name in ("background", "min_size", "animated", "splits", "classes"):
        del report["settings"][name]
    (directory / "report.json").write_text(json.dumps(report))
    assert prepared("image_folder", source, encoding="original") == directory
    assert "earlier version, which dropped the transparency of images: 1 of them" in caplog.text
    with pytest.raises(ValueError, match=r"background='black' \(there: 'white'\)"):
        prepared("image_folder", source, encoding="original", background="black")


WRONG = {
    "background": (dict(background="wite"), "background must be white, black, a colour .* or keep, got 'wite'"),
    "background 3": (dict(background=3), "background must be white, black, a colour"),
    "half clear": (dict(background="#11223344"), "background must be white, black, a colour"),
    "keep jpeg": (dict(background="keep", encoding="jpeg"), "background 'keep' needs encoding png or original: JPEG"),
    "keep grey": (dict(background="keep", channels=1), "channels must be 4, got 1"),
    "four channels": (dict(channels=4), "channels must be 1 or 3, got 4: background='keep' stores RGBA"),
    "min_size": (dict(min_size=0), "min_size must be None or at least 1, got 0"),
    "animated": (dict(animated="last"), "animated must be one of first, skip, got 'last'"),
    "classes": (dict(classes="leaf"), "classes must be one of None, top, parent, none, got 'leaf'"),
    "splits": (dict(splits="train"), "splits must be like train=train2017,test=val2017 .*, or none, got 'train'"),
    "splits of numbers": (dict(splits={"train": 3}), "splits must be like .* got {'train': 3}"),
    "split name": (dict(splits="1=a"), "splits must be like"),
    "split outside": (dict(splits="train=../x"), "splits must name folders inside of source, got '../x'"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_wrong_settings(wrong, tmp_path):
    settings, sentence = WRONG[wrong]
    with pytest.raises(ValueError, match=sentence) as caught:
        prepared("image_folder", put(tmp_path / "source", pngs("1.png")), **settings)
    assert "\n" not in str(caught.value) and not (tmp_path / "prepared").exists()


def test_wrong_background_for_reading():
    with pytest.raises(ValueError, match="background must be a colour for reading, got 'keep': give channels=4"):
        pipelines.RecordFeatures(background="keep")


def test_the_program_says_what_was_done(tmp_path):
    files = {
        "coco/train2017/a.png": encoded(noise(12, 12, 4)),
        **pngs("coco/val2017/b.png", "coco/unlabeled2017/c.png"),
    }
    put(tmp_path, {**files, "coco/val2017/tiny.png": encoded(noise(3, 3, 3))})
    command = [sys.executable, "-m", "pipelines", "prepare", "image_folder", f"--source={tmp_path / 'coco'}"]
    command += [f"--data_dir={tmp_path / 'data'}", "--splits=train=train2017,test=val2017", "--background=teal"]
    ran = subprocess.run(
        [*command, "--min_size=8"],
        capture_output=True,
        text=True,
        timeout=120,
        cwd=pathlib.Path(pipelines.__file__).parents[1],
    )
    assert ran.returncode == 0, ran.stderr
    assert "train: 1 examples, 1 RGBA composited on #008080" in ran.stderr
    assert "test: 1 examples, 1 left out with a side shorter than min_size=8" in ran.stderr
    assert "1 images were left out, in folders that splits does not name: unlabeled2017" in ran.stderr
