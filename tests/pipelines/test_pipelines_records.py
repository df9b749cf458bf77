"""The TFRecord format against TensorFlow's own, headers of images against Pillow's decoder, and plain files."""

import struct

import numpy as np
import pytest
import shard_helpers as make
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import pipelines
from pipelines import tfrecord
from pipelines.images import BadImage, decode, read_header
from pipelines.reading.decoding import GROUP
from pipelines.reading.tf_reader import _group_decoder

pytestmark = pytest.mark.backend_free


def test_crc_of_known_strings():
    # RFC 3720, B.4: 32 zeros have the CRC-32C 8a9136aa, 32 bytes of ones 62a8ab43.
    for data, crc in ((bytes(32), 0x8A9136AA), (b"\xff" * 32, 0x62A8AB43)):
        assert tfrecord.masked_crc(data) == ((crc >> 15 | crc << 17) + 0xA282EAD8) % 2**32


@given(st.lists(st.binary(max_size=300), max_size=8))
@settings(max_examples=40)
def test_tensorflow_reads_what_we_write(tmp_path_factory, records):
    import tensorflow as tf

    path = make.write_shard(tmp_path_factory.mktemp("records") / "x.tfrecord", records)
    assert list(tf.data.TFRecordDataset(path).as_numpy_iterator()) == records
    offsets, reason = tfrecord.find_records(path)
    assert reason == ""
    with tfrecord.open_file(path) as file:
        assert [tfrecord.read_record(file, a, b) for a, b in zip(offsets, offsets[1:], strict=False)] == records


def test_we_read_what_tensorflow_writes(tmp_path):
    import tensorflow as tf

    records = [b"", b"a", bytes(1000)]
    with tf.io.TFRecordWriter(str(tmp_path / "x")) as writer:
        for record in records:
            writer.write(record)
    offsets, _ = tfrecord.find_records(str(tmp_path / "x"))
    with tfrecord.open_file(str(tmp_path / "x")) as file:
        places = zip(offsets, offsets[1:], strict=False)
        assert [tfrecord.read_record(file, start, end) for start, end in places] == records


@given(
    height=st.integers(1, 70),
    width=st.integers(1, 70),
    mode=st.sampled_from(["RGB", "L", "P", "RGBA", "LA", "CMYK", "1"]),
    format=st.sampled_from(["JPEG", "PNG"]),
    progressive=st.booleans(),
)
def test_headers_say_what_pillow_finds(height, width, mode, format, progressive):
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    picture = Image.fromarray(pixels).convert("RGB" if mode == "CMYK" and format == "PNG" else mode)
    if format == "JPEG":
        picture = picture.convert({"P": "RGB", "RGBA": "RGB", "LA": "L", "1": "L"}.get(mode, mode))
    options = {"progressive": progressive, "exif": b"Exif\0\0" + bytes(200)} if format == "JPEG" else {}
    data = make.encoded(picture, format, **options)
    header = read_header(data)
    channels = {"RGB": 3, "L": 1, "P": 3, "RGBA": 4, "LA": 2, "CMYK": 4, "1": 1}[picture.mode]
    assert (header.format, header.height, header.width, header.channels) == (format.lower(), height, width, channels)
    if channels in (1, 3):
        assert decode(data).shape == (height, width, channels)


@pytest.mark.parametrize("format", ["JPEG", "PNG"])
def test_a_header_that_is_cut_anywhere(format):
    data = make.encoded(make.pictures(1, 30)[0], format)
    whole = read_header(data)
    for length in range(len(data)):
        try:
            assert read_header(data[:length]) == whole
        except BadImage:
            assert length < 700  # both begin with what the header needs


def test_sixteen_bits_and_no_pixels():
    data = bytearray(make.png(make.pictures(1)[0]))
    data[24] = 16
    with pytest.raises(BadImage, match="has 16 bits a channel: only 8 are read"):
        read_header(bytes(data))
    data[16:25] = struct.pack(">IIB", 0, 8, 8)
    with pytest.raises(BadImage, match="has no pixels"):
        read_header(bytes(data))


@given(
    height=st.integers(1, 60),
    width=st.integers(1, 60),
    mode=st.sampled_from(["RGB", "L", "P", "1"]),
    format=st.sampled_from(["JPEG", "PNG"]),
    quality=st.integers(5, 100),
    subsampling=st.integers(0, 2),
)
@settings(max_examples=25)
def test_both_decoders_give_the_same(height, width, mode, format, quality, subsampling):
    """TensorFlow's, of whole groups, and Pillow's: batches must not depend on who decodes."""

    pixels = np.random.default_rng(height + 200 * width).integers(0, 256, (GROUP, height, width, 3), np.uint8)
    jpeg = format == "JPEG"
    pictures = [
        Image.fromarray(picture).convert({"P": "RGB", "1": "L"}.get(mode, mode) if jpeg else mode) for picture in pixels
    ]
    options = {"quality": quality, "subsampling": subsampling} if jpeg else {}
    group = [make.encoded(picture, format, **options) for picture in pictures]
    shape = (height, width, read_header(group[0]).channels)
    together = _group_decoder(shape)(format.lower(), group)
    np.testing.assert_array_equal(together, [decode(data) for data in group])


@given(height=st.integers(1, 120), width=st.integers(1, 120), subsampling=st.integers(0, 2), data=st.data())
def test_a_window_is_a_part_of_the_whole(height, width, subsampling, data):
    pixels = np.random.default_rng(height + 200 * width).integers(0, 256, (height, width, 3), np.uint8)
    image = make.encoded(pixels, "JPEG", subsampling=subsampling)
    h, w = data.draw(st.integers(1, height)), data.draw(st.integers(1, width))
    top, left = data.draw(st.integers(0, height - h)), data.draw(st.integers(0, width - w))
    window = decode(image, np.array([top, left, h, w]), (h, w))
    np.testing.assert_array_equal(window, decode(image)[top : top + h, left : left + w])


@pytest.mark.parametrize("format", ["JPEG", "PNG"])
@pytest.mark.parametrize("size", [16, 24, 50, 64, 100, 150, 200, 400, 500])
def test_resizing_keeps_things_in_their_places(format, size):
    """A gradient stays a gradient, at every scale at which a JPEG may be decoded, for windows in odd places."""
    rows, columns = np.mgrid[0:400, 0:500]
    picture = np.stack([rows * 0.5, columns * 0.5, 200 - rows * 0.2 - columns * 0.2], -1)
    image = make.encoded(np.rint(picture).astype(np.uint8), format, **({"quality": 98} if format == "JPEG" else {}))
    for top, left, side in ((0, 50, 400), (37, 61, 333), (100, 101, 200)):
        found = decode(image, np.array([top, left, side, side]), (size, size)).astype(float)
        centres = (np.arange(size) + 0.5) * side / size - 0.5
        rows, columns = top + centres[:, None], left + centres[None, :]
        expected = np.stack(np.broadcast_arrays(rows * 0.5, columns * 0.5, 200 - rows * 0.2 - columns * 0.2), -1)
        inner = slice(size // 10, size - size // 10)
        # JPEG adds an error of its own, mostly in the colours, of which it keeps every other.
        assert np.abs(found - expected)[inner, inner].max() < (4 if format == "JPEG" else 1.6)
        assert abs((found - expected).mean()) < 0.5


def test_resizing_does_not_alias():
    """Stripes that are finer than the pixels become their mean, and not other stripes."""
    stripes = np.repeat(np.where(np.arange(420) % 3 == 0, 255, 0).astype(np.uint8)[None], 420, 0)
    image = make.png(np.stack([stripes] * 3, -1))
    for size in (40, 100, 128):
        assert np.ptp(decode(image, None, (size, size))[2:-2, 2:-2].astype(int)) < 40


def test_records_of_others(tmp_path):
    """Other feature names, plain files by a glob, other features beside."""
    pictures = make.pictures(6)
    records = []
    for number, picture in enumerate(pictures):
        example = make.tf_example_pb2.Example()
        example.features.feature["image/encoded"].bytes_list.value.append(make.encoded(picture, "PNG"))
        example.features.feature["image/class/label"].int64_list.value.append(number)
        example.features.feature["image/filename"].bytes_list.value.append(b"x")
        records.append(example.SerializeToString())
    for shard in range(2):
        make.write_shard(tmp_path / f"train-{shard:05d}-of-00002", records[shard::2])
    features = pipelines.RecordFeatures(image="image/encoded", label="image/class/label", num_classes=6)
    for given_path in (tmp_path / "train-*", str(tmp_path / "train-?????-of-00002")):
        options = {"batch_size": 6, "image_size": 8, "training": False, "features": features}
        (batch,) = pipelines.make_dataset(given_path, **options)
        np.testing.assert_array_equal(batch["label"], [0, 2, 4, 1, 3, 5])
        np.testing.assert_array_equal(batch["image"], pictures[[0, 2, 4, 1, 3, 5]])
    unlabelled = pipelines.RecordFeatures(image="image/encoded", label=None)
    (batch,) = pipelines.make_dataset(
        tmp_path / "train-00001*", batch_size=3, image_size=8, training=False, features=unlabelled
    )
    assert set(batch) == {"image"}
    described = pipelines.describe(tmp_path / "train-*", features=features)
    assert (described.num_classes, described.num_examples, described.image_shape) == (6, None, (None, None, 3))
    with pytest.raises(ValueError, match=r"may differ in size \(stored as \(None, None, 3\)\): give image_size"):
        pipelines.make_dataset(tmp_path / "train-*", batch_size=2, features=features)
    with pytest.raises(ValueError, match="split and data_dir go with a prepared data set, and '.*train-.*' stands for"):
        pipelines.make_dataset(tmp_path / "train-*", batch_size=2, split="test")


def test_a_data_set_that_tfds_has_written(tmp_path):
    """By its name in data_dir, with features of other names, without offsets beside its shards."""
    import tensorflow_datasets as tfds

    pictures = make.pictures(5)

    class Elsewhere(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        """Somebody else's data set."""

        VERSION = tfds.core.Version("2.0.1")

        def _info(self):
            features = {
                "picture": tfds.features.Image(shape=(8, 8, 3)),
                "kind": tfds.features.ClassLabel(names=["a", "b"]),
                "id": tfds.features.Text(),
            }
            return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

        def _split_generators(self, dl_manager):
            return {"train": ((i, {"picture": p, "kind": i % 2, "id": "x"}) for i, p in enumerate(pictures))}

        def _generate_examples(self):
            raise NotImplementedError

    Elsewhere(data_dir=tmp_path).download_and_prepare()
    features = pipelines.RecordFeatures(image="picture", label="kind")
    (batch,) = pipelines.make_dataset(
        "elsewhere", data_dir=tmp_path, batch_size=5, training=False, features=features, image_size=8
    )
    assert {image.tobytes() for image in batch["image"].numpy()} == {picture.tobytes() for picture in pictures}
    assert pipelines.describe("elsewhere", data_dir=tmp_path, features=features).class_names == ("a", "b")
