"""Sources of data sets that tests make, and what was stored of them."""

import collections
import hashlib
import io
import json
import pathlib
import struct
import zlib

import numpy as np
from PIL import Image

import pipelines


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
    """A multiset of (shape, digest of the pixels, label)."""
    return collections.Counter(
        (pixels.shape, hashlib.sha256(pixels.tobytes()).hexdigest()[:16], label) for pixels, label in examples
    )


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


def raw_png(pixels, bits, colour, **chunks):
    """Whole numbers [H, W, C] as a PNG of any depth and colour type, as Pillow does not write it; `chunks` before them.

    Colour types: 0 grey, 2 RGB, 4 grey and alpha, 6 RGBA.
    """
    height, width = pixels.shape[:2]
    rows = np.ascontiguousarray(pixels, ">u2").view(np.uint8).reshape(height, -1)
    if bits <= 8:
        flat = np.unpackbits(rows[:, 1::2, None], axis=-1)[..., -bits:]
        rows = np.packbits(flat.reshape(height, -1), axis=-1)

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0))
    others = b"".join(chunk(kind.encode(), data) for kind, data in chunks.items())
    data = chunk(b"IDAT", zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows)))
    return b"\x89PNG\r\n\x1a\n" + header + others + data + chunk(b"IEND", b"")


def raw_tiff(pixels, order="<", photometric=1, extra=None):
    """uint8 or uint16 [H, W, C] as a TIFF without compression. photometric: 0 white is zero, 1 black is, 2 RGB, 5 CMYK;
    extra: what a channel more is, 0 unspecified, 1 alpha with which colours are multiplied, 2 alpha."""
    height, width, channels = pixels.shape
    data = pixels.astype(pixels.dtype.newbyteorder(order)).tobytes()
    bits = struct.pack(f"{order}{channels}H", *[8 * pixels.itemsize] * channels)
    at_bits, at_data = 200, 208
    tags = [(256, 3, 1, width), (257, 3, 1, height), (259, 3, 1, 1), (262, 3, 1, photometric), (273, 4, 1, at_data)]
    tags += [(258, 3, channels, at_bits if channels > 2 else bits), (277, 3, 1, channels), (278, 3, 1, height)]
    tags += [(279, 4, 1, len(data))] + ([] if extra is None else [(338, 3, 1, extra)])
    file = {"<": b"II", ">": b"MM"}[order] + struct.pack(f"{order}HIH", 42, 8, len(tags))
    for tag, kind, count, value in sorted(tags, key=lambda tag: tag[0]):
        kept = (
            value
            if isinstance(value, bytes)
            else struct.pack(order + {3: "H", 4: "I"}[kind if count == 1 else 4], value)
        )
        file += struct.pack(f"{order}HHI", tag, kind, count) + kept.ljust(4, b"\0")
    return file.ljust(at_bits, b"\0") + bits.ljust(at_data - at_bits, b"\0") + data


def oriented(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif
