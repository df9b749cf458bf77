"""Transparent pictures: what is made of them in preparing and in reading, and that it is told."""

import io
import struct

import numpy as np
import pytest
import shard_helpers as make
from PIL import Image
from source_helpers import (
    encoded,
    noise,
    pixels_of,
    prepared,
    put,
    raw_png,
    raw_tiff,
    report_of,
    stored,
)

import pipelines

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
        change += ", where nothing of it is seen" * bool((expected == COLOURS[background]).all())
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


def test_pictures_of_which_nothing_is_seen_are_told(tmp_path):
    """White drawings on white are as lost as black ones were on nothing."""
    white, black = np.full((2, 8, 8, 4), 255, np.uint8)
    white[..., 3] = black[..., 3] = noise(8, 8)
    black[..., :3] = 0
    source = put(tmp_path / "source", {"a.png": encoded(white), "b.png": encoded(black), "c.png": encoded(black * 0)})
    for background, lost in (("white", 2), ("black", 2), ("#808080", 1)):
        directory = prepared("image_folder", source, background=background, config=background.strip("#"))
        change = f"RGBA composited on {background}"
        expected = {f"{change}, where nothing of it is seen": lost, change: 3 - lost}
        assert report_of(directory)["splits"]["train"]["changes"] == expected


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
