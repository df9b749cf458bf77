"""Pictures that are not plain RGB of 8 bits: what is made of them in preparing and in reading, and that it is told."""

import io
import json
import pathlib
import struct
import subprocess
import sys
import warnings

import numpy as np
import pytest
import shard_helpers as make
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
from pipelines.opening import open_source

pytestmark = pytest.mark.backend_free

SIDE = 16
COLOURS = {"white": (255, 255, 255), "black": (0, 0, 0), "#3366cc": (0x33, 0x66, 0xCC)}


def u16(*values):
    return struct.pack(f">{len(values)}H", *values)


def transparent():
    """{kind: (bytes, straight colours [H,W,3] in 0..255, alpha [H,W,1] in 0..1, name of the kind in reports)}."""
    colour, grey, alpha = noise(SIDE, SIDE, 3), noise(SIDE, SIDE, 1, seed=1), noise(SIDE, SIDE, 1, seed=2)
    deep = np.random.default_rng(0).integers(0, 65536, (SIDE, SIDE, 4))
    few = noise(SIDE, SIDE, 1, seed=3)
    three = [np.concatenate([p, alpha], -1) for p in (colour, grey)]
    premultiplied = np.rint(colour * (alpha / 255)).astype(np.uint8)
    of_16 = np.rint(deep[..., :3] * (deep[..., 3:] / 65535)).astype(np.uint16)
    palette = Image.fromarray(colour).quantize(200, dither=Image.Dither.NONE)
    index, of_palette = np.asarray(palette)[..., None], np.asarray(palette.convert("RGB"))
    both = (np.arange(256) * 7 % 256).astype(np.uint8)  # an alpha for each colour of the palette
    rgb = np.repeat(grey, 3, -1)

    def keyed(bits, values, key, name):
        """Grey PNG in which one value is transparent."""
        data = raw_png(values, bits, 0, tRNS=u16(key))
        return data, np.repeat(values * (255.0 / (2**bits - 1)), 3, -1), values != key, f"{name} with transparency"

    deep_key = deep[..., :1].copy()
    deep_key[::2] = 4660
    deep_key[1::4] = 4661  # the same in its upper half
    colour_key = colour.copy()
    colour_key[::3, ::2] = 1, 2, 3
    deep_colour = deep[..., :3].copy()
    deep_colour[::3] = 300, 301, 302
    deep_colour[1::3] = 300, 301, 303
    return {
        "rgba.png": (encoded(three[0]), colour, alpha / 255, "RGBA"),
        "rgba.webp": (encoded(three[0], "WEBP", lossless=True, exact=True), colour, alpha / 255, "RGBA"),
        "la.png": (encoded(Image.fromarray(three[1], "LA")), rgb, alpha / 255, "grey with alpha"),
        "palette.png": (encoded(palette, transparency=bytes(both)), of_palette, both[index] / 255,
                        "palette with transparency"),
        "index.gif": (encoded(palette, "GIF", transparency=int(index[0, 0, 0])), of_palette, index != index[0, 0, 0],
                      "palette with transparency"),
        "colour key.png": (encoded(colour_key, transparency=(1, 2, 3)), colour_key,
                           (colour_key != (1, 2, 3)).any(-1, keepdims=True), "RGB with transparency"),
        "1 bit key.png": keyed(1, few & 1, 1, "black and white"),
        "2 bit key.png": keyed(2, few & 3, 2, "grey"),
        "4 bit key.png": keyed(4, few & 15, 5, "grey"),
        "8 bit key.png": keyed(8, few & 31, 7, "grey"),
        "16 bit key.png": (*keyed(16, deep_key, 4660, "")[:3], "grey with alpha"),
        "16 bit colour key.png": (raw_png(deep_colour, 16, 2, tRNS=u16(300, 301, 302)), deep_colour / 257,
                                  (deep_colour != (300, 301, 302)).any(-1, keepdims=True), "RGBA"),
        "16 bit rgba.png": (raw_png(deep, 16, 6), deep[..., :3] / 257, deep[..., 3:] / 65535, "RGBA"),
        "16 bit la.png": (raw_png(deep[..., 2:], 16, 4), np.repeat(deep[..., 2:3], 3, -1) / 257, deep[..., 3:] / 65535,
                          "grey with alpha"),
        "rgba.tiff": (encoded(three[0], "TIFF"), colour, alpha / 255, "RGBA"),
        "associated.tiff": (raw_tiff(np.concatenate([premultiplied, alpha], -1), photometric=2, extra=1),
                            premultiplied / np.maximum(alpha / 255, 1e-9), alpha / 255, "RGBA"),
        "16 bit associated.tiff": (raw_tiff(np.concatenate([of_16, deep[..., 3:].astype(np.uint16)], -1), ">", 2, 1),
                                   deep[..., :3] / 257, deep[..., 3:] / 65535, "RGBA"),
    }  # fmt: skip


def composited(colours, alpha, background):
    return np.rint(colours * alpha + np.array(background) * (1.0 - alpha))


@pytest.fixture(scope="module")
def kinds():
    return transparent()


@pytest.fixture(scope="module")
def source(kinds, tmp_path_factory):
    """Each kind in a folder of its own, so that its label tells it."""
    files = {f"{name.replace('.', ' ')}/{name}": data for name, (data, *_) in kinds.items()}
    return put(tmp_path_factory.mktemp("transparent") / "source", files)


def by_kind(directory):
    names = pipelines.describe(directory).class_names
    return {names[label]: data for data, label in stored(directory)}


@pytest.mark.parametrize("background", COLOURS)
@pytest.mark.parametrize("encoding", ["png", "original", "jpeg"])
def test_every_kind_of_transparency_is_composited(background, encoding, kinds, source, tmp_path):
    settings = {} if background == "white" else {"background": background}  # white is the default
    directory = prepared("image_folder", source, where=tmp_path, encoding=encoding, quality=100, **settings)
    found, expected_changes = by_kind(directory), {}
    for name, (_, colours, alpha, kind) in kinds.items():
        expected = composited(colours, alpha, COLOURS[background])
        error = np.abs(pixels_of(found[name.replace(".", " ")]) - expected)
        # Of 16 bits, colours and alpha are rounded before; JPEG is not exact.
        exact = "16 bit" not in name and "associated" not in name
        assert error.max() <= (30 if encoding == "jpeg" else 0 if exact else 1.0), name
        assert encoding != "jpeg" or error.mean() < 4
        change = f"{kind} composited on {background}"
        expected_changes[change] = expected_changes.get(change, 0) + 1
    expected_changes["16 bits a channel scaled to 8"] = sum("16 bit" in name for name in kinds)
    changes = report_of(directory)["splits"]["train"]["changes"]
    assert changes == expected_changes
    for batch in pipelines.make_dataset(directory, batch_size=5, image_size=SIDE, training=False):
        assert batch["image"].shape[1:] == (SIDE, SIDE, 3)
        names = pipelines.describe(directory).class_names
        for image, label in zip(batch["image"].numpy(), batch["label"].numpy(), strict=True):
            np.testing.assert_array_equal(image, pixels_of(found[names[label]]))


@pytest.mark.parametrize("encoding", ["png", "original"])
def test_transparency_can_be_kept(encoding, kinds, source, tmp_path):
    directory = prepared("image_folder", source, where=tmp_path, encoding=encoding, background="keep")
    assert pipelines.describe(directory).image_shape == (None, None, 4)
    names = pipelines.describe(directory).class_names
    (batch,) = pipelines.make_dataset(directory, batch_size=99, image_size=SIDE, training=False)
    found = dict(zip((names[label] for label in batch["label"].numpy()), batch["image"].numpy(), strict=True))
    for name, (data, colours, alpha, _) in kinds.items():
        image = found[name.replace(".", " ")].astype(float)
        exact = "16 bit" not in name and "associated" not in name
        assert np.abs(image[..., 3:] - alpha * 255).max() <= (0 if exact else 0.51), name
        # A colour is as exact as its alpha is large; where nothing is seen it does not matter.
        assert (np.abs(image[..., :3] - colours) * (alpha > 0.05)).max() <= (0.51 if exact or "16" in name else 12), (
            name
        )
        if encoding == "original" and name == "rgba.png":
            assert by_kind(directory)[name.replace(".", " ")] == data
    assert not any(report.faults for report in pipelines.verify(directory))
    assert "composited" not in str(report_of(directory)["splits"]["train"]["changes"])


def test_opaque_pictures_are_not_called_transparent(tmp_path):
    picture = Image.fromarray(noise(8, 8, 3))
    files = {"a.png": encoded(picture.convert("RGBA")), "b.png": encoded(picture, transparency=(1, 2, 3))}
    files |= {
        "c.png": encoded(picture.convert("RGBA"), "WEBP"),
        "d.png": encoded(picture.convert("L"), transparency=300),
    }
    report = report_of(prepared("image_folder", put(tmp_path / "source", files)))
    assert report["splits"]["train"]["changes"] == {"opaque RGBA converted to RGB": 1, "grey converted to RGB": 1}


def halo():
    """A disc of one colour; what is transparent around it is of another, which must never be seen."""
    rows, columns = np.mgrid[:32, :32] - 15.5
    inside = rows**2 + columns**2 < 144
    return np.where(inside[..., None], (200, 60, 20, 255), (0, 255, 0, 0)).astype(np.uint8)


@pytest.mark.parametrize("background", COLOURS)
def test_resizing_makes_no_halo(background, tmp_path):
    """ADM's crop from 32 to 8 pixels is the mean over 4x4: the colour by its share, and the rest background."""
    source = put(tmp_path / "source", {"a.png": encoded(halo())})
    share = (halo()[..., 3:] / 255.0).reshape(8, 4, 8, 4, 1).mean((1, 3))
    expected = composited(np.array((200, 60, 20)), share, COLOURS[background])
    ((data, _),) = stored(prepared("image_folder", source, image_size=8, background=background))
    assert np.abs(pixels_of(data) - expected).max() <= 1  # it rounds twice
    ((data, _),) = stored(prepared("image_folder", source, image_size=8, background="keep", config="keep"))
    kept = np.asarray(Image.open(io.BytesIO(data))).astype(float)
    assert np.abs(kept[..., 3:] - 255 * share).max() <= 1
    most = share[..., 0] > 0.5
    assert np.abs(kept[most][:, :3] - (200, 60, 20)).max() <= 2  # no green
    assert not kept[kept[..., 3] == 0].any()


def test_reading_makes_no_halo(tmp_path):
    """Records of others, resized while they are read: composited they are what is kept, on the background."""
    path = make.write_shard(tmp_path / "a.tfrecord", [make.record(encoded(halo()), 0)] * 3)

    def read(**features):
        options = {"batch_size": 3, "image_size": 12, "training": False}
        (batch,) = pipelines.make_dataset(path, **options, features=pipelines.RecordFeatures(**features))
        return batch["image"].numpy()[1].astype(float)

    kept = read(channels=4)
    alpha = kept[..., 3:] / 255
    assert np.sum((alpha > 0) & (alpha < 1)) > 9  # at the edge, where green would be seen
    assert (np.abs(kept[..., :3] - (200, 60, 20)) * alpha).max() <= 1
    for background, colour in COLOURS.items():
        expected = composited(np.array((200, 60, 20)), alpha, colour)
        assert np.abs(read(background=background) - expected).max() <= 1.5
    np.testing.assert_array_equal(read(), read(background="white"))


def test_records_of_others_are_converted_when_they_are_read(tmp_path):
    """What tfds's own ImageNet holds beside RGB; alone and in groups, by both readers."""
    rgb = [Image.fromarray(noise(8, 8, 3, seed=seed)) for seed in range(40)]
    clear = [Image.fromarray(noise(8, 8, 4, seed=seed)) for seed in range(40)]
    data = [encoded(picture, "JPEG", quality=95) for picture in rgb]
    data[3] = encoded(rgb[3].convert("L"), "JPEG")
    data[9] = encoded(rgb[9].convert("CMYK"), "JPEG")
    data[20:38] = [encoded(picture) for picture in clear[20:38]]
    data[38] = encoded(rgb[38], transparency=rgb[38].getpixel((0, 0)))
    path = make.write_shard(tmp_path / "a.tfrecord", [make.record(image, 0) for image in data])
    expected = [np.asarray(Image.open(io.BytesIO(image)).convert("RGB")) for image in data]
    for number in range(20, 38):
        pixels = np.asarray(clear[number])
        expected[number] = composited(pixels[..., :3], pixels[..., 3:] / 255, (0, 0, 0))
    key = np.asarray(rgb[38]) != rgb[38].getpixel((0, 0))
    expected[38] = composited(np.asarray(rgb[38]), key.any(-1, keepdims=True), (0, 0, 0))
    features = pipelines.RecordFeatures(background="black")
    for reader in (pipelines.make_dataset, pipelines.make_grain_dataset):
        (batch,) = reader(path, batch_size=40, image_size=8, training=False, features=features)
        np.testing.assert_array_equal(np.asarray(batch["image"]), expected)
    (report,) = pipelines.stats(path)
    assert report.kinds == {"JPEG, RGB": 19, "JPEG, grey": 1, "JPEG, CMYK": 1, "PNG, RGBA": 19}
    with pytest.raises(Exception, match="record 0: the feature image is RGB, expected grey"):
        list(pipelines.make_dataset(path, batch_size=4, image_size=8, features=pipelines.RecordFeatures(channels=1)))


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
    "animated": (dict(animated="last"), "animated must be first or skip, got 'last'"),
    "classes": (dict(classes="leaf"), "classes must be None or one of top, parent, none, got 'leaf'"),
    "splits": (dict(splits="train"), "splits must be like train=train2017,test=val2017 .*, or none, got 'train'"),
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
    files = {"coco/train2017/a.png": encoded(halo()), **pngs("coco/val2017/b.png", "coco/unlabeled2017/c.png")}
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
