"""Values by name: what is put in under a name comes out under it, through both formats and both readers."""

import itertools
import json

import numpy as np
import pytest
import shard_helpers as make
from source_helpers import adm, encoded, noise, prepared, put, report_of

import pipelines
from pipelines import ValueSpec
from pipelines.images import resized

pytestmark = pytest.mark.backend_free

N, H, W = 9, 6, 8


def arrays(count=N):
    rng = np.random.default_rng(0)
    return {
        "images": noise(count, H, W, 3),
        "labels": np.arange(count) % 4,
        "mask": noise(count, H, W, 1, seed=1),
        "small": noise(count, H // 2, W // 2, 3, seed=2),
        "field": rng.normal(0, 5, (count, H, W, 2)).astype(np.float32),
        "text": rng.normal(0, 1, (count, 5, 3)).astype(np.float16),
        "given": noise(count, 2, H, W, 3, seed=3),
        "parts": np.arange(count * H * W, dtype=np.int64).reshape(count, H, W, 1),
        "number": np.arange(count) + 100,  # int64, as numpy makes them
        "day": np.arange(count) % 2 == 0,
        "big": np.arange(count, dtype=">f4"),
    }


def write(path, **changes):
    kept = {name: array for name, array in (arrays() | changes).items() if array is not None}
    np.savez(path, **kept)
    return path


@pytest.fixture(scope="module", params=["tfrecord", "array_record"])
def directory(request, tmp_path_factory):
    root = tmp_path_factory.mktemp("values")
    return prepared("npz", write(root / "all.npz"), file_format=request.param)


@pytest.fixture(scope="module")
def only(tmp_path_factory):
    return prepared("npz", write(tmp_path_factory.mktemp("values") / "all.npz"))


READERS = {"tf": pipelines.make_dataset, "grain": pipelines.make_grain_dataset}


def read(directory, reader="tf", steps=None, **settings):
    """Values by name of some batches, and where in the source they are from."""
    settings = {"batch_size": 4, **({"training": False} if steps is None else {})} | settings
    batches = list(itertools.islice(iter(READERS[reader](directory, **settings)), steps))
    found = {name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]}
    return found, found["number"] - 100 if "number" in found else None


NAMES = {"images": "image", "labels": "label"}
DTYPES = {"labels": np.int32, "parts": np.int32, "number": np.int32, "big": np.float32}


@pytest.mark.parametrize("reader", READERS)
def test_what_goes_in_comes_out(reader, directory):
    for settings in ({}, {"steps": 3, "seed": 4}):
        found, rows = read(directory, reader, **settings)
        assert set(found) == {NAMES.get(name, name) for name in arrays()}
        for name, array in arrays().items():
            value = found[NAMES.get(name, name)]
            assert value.dtype == DTYPES.get(name, array.dtype), name
            np.testing.assert_array_equal(value, array[rows], err_msg=name)


@pytest.mark.parametrize("reader", READERS)
def test_what_lies_over_the_image_is_mirrored_and_cut_with_it(reader, only):
    found, rows = read(only, reader, steps=5, flip=True, seed=1)
    mirrored = (found["image"] != arrays()["images"][rows]).any((1, 2, 3))
    assert 0 < mirrored.sum() < len(rows)
    for name in ("image", "mask", "small", "field", "given", "parts", "text"):
        value = arrays()["images" if name == "image" else name][rows]
        over = value.copy()
        over[mirrored] = value[mirrored][..., ::-1, :]
        np.testing.assert_array_equal(found[name], value if name == "text" else over, err_msg=name)
    # The largest square in the middle: columns 1 to 7 of 8, and half of that in `small`.
    cut, rows = read(only, reader, crop="center", image_size=6)
    for name in ("image", "mask", "field", "given", "parts"):
        value = arrays()["images" if name == "image" else name][rows]
        np.testing.assert_array_equal(cut[name], value[..., 1:7, :], err_msg=name)
    assert cut["small"].shape == (N, 3, 3, 3) and cut["text"].shape == (N, 5, 3)


def test_random_windows_are_the_same_for_all(tmp_path):
    """A picture of its own coordinates, kept as 8 bits, as floats and in half the size, shows which part each gave."""
    rows, columns = np.mgrid[0:64, 0:64]
    ramp = np.stack([rows, columns, rows], -1).astype(np.uint8) * 3
    half = ramp.reshape(32, 2, 32, 2, 3).mean((1, 3))
    source = {
        "images": ramp,
        "field": ramp.astype(np.float32),
        "half": half.astype(np.float32),
        "ids": ramp.astype(np.int32),
    }
    np.savez(tmp_path / "ramp.npz", **{name: np.stack([value] * 6) for name, value in source.items()})
    directory = prepared("npz", tmp_path / "ramp.npz")
    found, _ = read(directory, steps=6, crop="random", min_crop=0.4, flip=True, image_size=(32, 32))
    assert np.ptp(found["image"][:, 16, 16].astype(int), 0).max() > 20  # windows differ
    image = found["image"].astype(float)
    np.testing.assert_allclose(found["field"], image, atol=0.75)
    np.testing.assert_allclose(found["ids"][:, 1:-1, 1:-1], image[:, 1:-1, 1:-1], atol=6)  # the nearest: 3 a pixel
    assert found["half"].shape == (24, 16, 16, 3)
    inner = image.reshape(24, 16, 2, 16, 2, 3).mean((2, 4))[:, 2:-2, 2:-2]
    np.testing.assert_allclose(found["half"][:, 2:-2, 2:-2], inner, atol=3)


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_floats_are_resized_as_pictures_are_and_stay_in_their_range(dtype):
    pixels = np.where(np.arange(40)[:, None, None] % 3 == 0, 1, -1).astype(dtype) * np.ones((1, 40, 2), dtype)
    small, large = resized(pixels, (0, 0, 40, 40), (8, 8)), resized(pixels, (0, 0, 40, 40), (90, 90))
    assert small.dtype == dtype and np.ptp(small[2:-2].astype(float)) < 0.5  # stripes become their mean
    assert np.abs(large).max() <= 1 and large.shape == (90, 90, 2)
    ids = np.arange(16, dtype=np.int32).reshape(4, 4, 1)
    np.testing.assert_array_equal(resized(ids, (0, 0, 4, 4), (8, 8)), ids.repeat(2, 0).repeat(2, 1))
    np.testing.assert_array_equal(resized(ids > 7, (1, 1, 2, 2), (1, 1)), [[[True]]])


@pytest.mark.parametrize("name, shape", [("images", (H, W, 3)), ("images", (H, W, 5)), ("videos", (3, H, W, 2))])
def test_samples_of_floats(name, shape, tmp_path):
    pixels = np.random.default_rng(0).uniform(-1, 1, (N, *shape)).astype(np.float32)
    np.savez(tmp_path / "floats.npz", **{name: pixels})
    directory = prepared("npz", tmp_path / "floats.npz")
    data = pipelines.describe(directory)
    assert (data.sample_name, data.sample_shape, data.sample_dtype) == (name[:-1], shape, "float32")
    assert (data.num_classes, data.values) == (None, {})
    for reader in READERS:
        found, _ = read(directory, reader)
        assert sorted(map(bytes, found[name[:-1]])) == sorted(map(bytes, pixels))
    (report,) = pipelines.verify(directory)
    assert not report.faults and report.sizes == {(H, W): N}
    assert pipelines.random_grid(directory, count=4).shape[-1] == 3


def test_clips_of_eight_bits(tmp_path):
    clips = noise(N, 3, H, W, 3)
    np.savez(tmp_path / "clips.npz", videos=clips, labels=np.arange(N))
    directory = prepared("npz", tmp_path / "clips.npz")
    assert pipelines.describe(directory).sample_shape == (3, H, W, 3)
    found, _ = read(directory)
    np.testing.assert_array_equal(found["video"], clips[found["label"]])


def test_description_says_what_comes_out(only):
    data = pipelines.describe(only)
    assert (data.sample_name, data.sample_shape, data.sample_dtype, data.num_classes) == (
        "image",
        (H, W, 3),
        "uint8",
        4,
    )
    assert {name: (spec.shape, spec.dtype) for name, spec in data.values.items()} == {
        "mask": ((H, W, 1), "uint8"),
        "small": ((H // 2, W // 2, 3), "uint8"),
        "field": ((H, W, 2), "float32"),
        "text": ((5, 3), "float16"),
        "given": ((2, H, W, 3), "uint8"),
        "parts": ((H, W, 1), "int32"),
        "number": ((), "int32"),
        "day": ((), "bool"),
        "big": ((), "float32"),
    }
    cut = pipelines.describe(only, image_size=4, crop="center", values=["small", "text"])
    assert (cut.sample_shape, cut.num_classes) == ((4, 4, 3), None)
    shapes = {name: spec.shape for name, spec in cut.values.items()}
    with pytest.raises(ValueError, match="crop='center' or"):
        pipelines.describe(only, image_size=4)
    batch = next(
        iter(pipelines.make_dataset(only, batch_size=2, image_size=4, crop="random", values=["small", "text"]))
    )
    assert {name: tuple(value.shape[1:]) for name, value in batch.items()} == {"image": (4, 4, 3), **shapes}


def test_reports_name_them(only):
    (report,) = pipelines.verify(only)
    assert not report.faults and report.values["number"] == "int32 [], 100 to 108"
    assert "mask: uint8 [6, 8, 1], encoded" in str(report)
    assert report_of(only)["settings"]["values"] is None


def test_adm_crop_of_pictures_beside(tmp_path):
    from PIL import Image

    kept = ("images", "mask", "small", "number", "text")
    source = write(tmp_path / "a.npz", **{name: None for name in arrays() if name not in kept})
    directory = prepared("npz", source, image_size=4, values=["mask", "number", "text"])
    found, rows = read(directory)
    for picture, row in zip(found["mask"], rows, strict=True):
        np.testing.assert_array_equal(picture[..., 0], adm(Image.fromarray(arrays()["mask"][row, ..., 0]), 4))
    assert set(found) == {"image", "mask", "number", "text"}
    assert pipelines.describe(prepared("npz", source, image_size=4, config="s")).values["small"].shape == (2, 2, 3)


WRONG = {
    "rows": (dict(text=np.zeros((3, 2), np.int8)), {}, r"'text' of .* must have 9 rows as 'images' has, got int8"),
    "no axis": (dict(text=np.float32(3)), {}, r"'text' of .* must have 9 rows .*: mend it, or name"),
    "float64": (dict(text=np.zeros((N, 2))), {}, "array 'text' is float64, which is not kept: save it as one of uint8"),
    "complex": (dict(text=np.zeros(N, complex)), {}, "array 'text' is complex128, which is not kept"),
    "strings": (dict(text=np.array(["a"] * N)), {}, "array 'text' is str.*, which is not kept"),
    "objects": (dict(text=np.array([None] * N)), {}, "text.npy in .* holds Python objects, which are not read"),
    "large": (dict(number=np.full(N, 2**40)), {}, "array 'number' has numbers beyond 32 bits"),
    "not finite": (dict(text=np.full(N, np.inf, np.float16)), {}, r"text \d of .* has numbers that are not finite"),
    "unscaled": (dict(images=np.full((N, H, W, 3), 2, np.float32)), {}, r"image \d of .* is outside \[-1, 1\], .*: 2"),
    "absent": ({}, dict(values="txt,mask"), "has no array 'txt', but mask, .*; did you mean 'text'"),
    "values 3": ({}, dict(values=3), "values must be like text,mask"),
    "no name": (dict(arr_2=np.zeros(N, np.float32)), {}, r"the array 'arr_2' of .* needs a name"),
    "both": (dict(videos=noise(N, 2, H, W, 3)), {}, "has both images and videos, but"),
    "cut": ({}, dict(image_size=4), r"image_size=4 crops pictures of uint8, and 'field' is float32 \[6, 8, 2\]"),
    "odd": (dict(field=None, parts=None), dict(image_size=5), "cannot follow in 'small': it is 3x4 where the .* 6x8"),
}  # fmt: skip


@pytest.mark.parametrize("wrong", WRONG)
def test_wrong_values(wrong, tmp_path):
    changes, settings, sentence = WRONG[wrong]
    with pytest.raises(ValueError, match=sentence) as caught:
        prepared("npz", write(tmp_path / "a.npz", **changes), **settings)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.glob("prepared/npz/*/1.0.0"))


def test_files_that_do_not_agree(tmp_path):
    (tmp_path / "source").mkdir()
    write(tmp_path / "source" / "train.npz")
    for changes, sentence in (
        ({"text": None}, "some of the files in .* have text and some have not"),
        ({"images": np.zeros((N, H, W, 3), np.float32)}, r"'image' is .* in test and .* in train"),
        (
            {"text": np.zeros((N, 5, 3), np.float32)},
            r"'text' is float32 \[5, 3\] in test and float16 \[5, 3\] in train",
        ),
    ):
        write(tmp_path / "source" / "test.npz", **changes)
        with pytest.raises(ValueError, match=sentence):
            prepared("npz", tmp_path / "source")


def test_what_cannot_follow_is_refused_before_work_starts(tmp_path):
    others = {name: None for name in arrays() if name not in ("images", "number")}
    depth = {"depth": np.zeros((N, H, W), np.float32), "wide": np.zeros((N, H, H, 1), np.float32)}
    directory = prepared("npz", write(tmp_path / "a.npz", **others, **depth))
    assert set(read(directory)[0]) == {"image", "number", "depth", "wide"}
    for settings, sentence in (
        ({"flip": True}, r"'depth' float32 \[6, 8\] looks like a map of the image without an axis of channels"),
        ({"flip": True, "values": ["wide"]}, "crop, flip and image_size cannot follow in 'wide': it is 6x6 where the"),
        ({"crop": "random", "values": ["wide"]}, "cannot follow in 'wide'"),
        ({"values": ["deep"]}, "there is no value 'deep' in .*, but depth, number, wide; did you mean 'depth'"),
        ({"values": "depth"}, r"values must be names, as \['label', 'text'\], or None, got 'depth'"),
    ):
        for make_data in READERS.values():
            with pytest.raises(ValueError, match=sentence):
                make_data(directory, batch_size=4, **settings)
    assert set(read(directory, steps=1, flip=True, values=["number"])[0]) == {"image", "number"}
    assert set(read(directory, values=())[0]) == {"image"}


def test_augmentation_of_what_lies_over_is_refused(only):
    import keras

    layer = [keras.layers.RandomFlip()]
    with pytest.raises(
        ValueError, match="augment changes images alone, and field, given, mask, parts, small could not follow"
    ):
        pipelines.make_dataset(only, batch_size=4, augment=layer)


def test_plain_files_of_others(tmp_path):
    """Lists of numbers, as other programs write them, under keys of their own, and bytes."""
    records, text = [], np.random.default_rng(0).normal(0, 1, (4, 6)).astype(np.float32)
    for number, picture in enumerate(make.pictures(4)):
        example = make.tf_example_pb2.Example.FromString(make.record(make.png(picture), number))
        example.features.feature["t/floats"].float_list.value.extend(text[number])
        example.features.feature["age"].int64_list.value.append(-number)
        example.features.feature["field"].bytes_list.value.append(text[number].tobytes())
        records.append(example.SerializeToString())
    path = make.write_shard(tmp_path / "x.tfrecord", records)
    specs = {"text": ValueSpec((2, 3), key="t/floats"), "age": ValueSpec((), "int8"), "field": ValueSpec((1, 2, 3))}
    features = pipelines.RecordFeatures(values=specs)
    settings = {"batch_size": 4, "image_size": 8, "training": False}
    (batch,) = pipelines.make_grain_dataset(path, features=features, **settings, values=["label", "text", "age"])
    np.testing.assert_array_equal(batch["text"], text.reshape(4, 2, 3))
    np.testing.assert_array_equal(batch["age"], -np.arange(4))
    for spec, sentence in (
        (ValueSpec((2, 2), key="t/floats"), r"the feature t/floats has 6 numbers, expected 4 for float32 \[2, 2\]"),
        (ValueSpec((), "uint8", key="age"), "the feature age has numbers that are no uint8"),
        (ValueSpec((5, 1, 1), key="field"), "the feature field has 24 bytes, expected 20 for float32"),
        (ValueSpec((3,), key="none"), "there is no feature none, only age, field, image, label, t/floats"),
    ):
        (report,) = pipelines.verify(path, features=pipelines.RecordFeatures(values={"value": spec}))
        assert report.faults and sentence.replace("\\", "") in report.faults[-1].reason
    with pytest.raises(ValueError, match="dtype must be one of uint8, .*, got 'float64'"):
        ValueSpec((3,), "float64")
    with pytest.raises(ValueError, match="an encoded value is uint8"):
        ValueSpec((3,), "uint8", encoded=True)


def test_a_data_set_of_tfds_gives_what_is_asked_for(tmp_path):
    import tensorflow_datasets as tfds

    kinds = {
        "image": tfds.features.Image(shape=(8, 8, 3)),
        "mask": tfds.features.Image(shape=(8, 8, 1)),
        "pose": tfds.features.Tensor(shape=(2, 3), dtype=np.float32),
        "id": tfds.features.Text(),
    }

    class Others(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        """Somebody else's data set."""

        VERSION = tfds.core.Version("1.0.0")

        def _info(self):
            return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(kinds))

        def _split_generators(self, dl_manager):
            return {"train": self._generate_examples()}

        def _generate_examples(self):
            for number, picture in enumerate(make.pictures(3)):
                pose = np.full((2, 3), number, np.float32)
                yield number, {"image": picture, "mask": picture[..., :1], "pose": pose, "id": "x"}

    Others(data_dir=tmp_path).download_and_prepare()
    settings = {"batch_size": 3, "training": False}
    (batch,) = pipelines.make_dataset(tmp_path, **settings)
    assert set(batch) == {"image"}
    (batch,) = pipelines.make_dataset(tmp_path, **settings, values=["pose", "mask"])
    np.testing.assert_array_equal(batch["mask"], batch["image"][..., :1])
    by_bytes = {picture.tobytes(): number for number, picture in enumerate(make.pictures(3))}
    numbers = [by_bytes[image.tobytes()] for image in batch["image"].numpy()]
    np.testing.assert_array_equal(batch["pose"][:, 0, 0], numbers)
    with pytest.raises(ValueError, match="there is no value 'id' in .*, but mask, pose"):
        pipelines.make_dataset(tmp_path, **settings, values=["id"])


def test_a_data_set_that_the_version_before_made_without_them_is_not_taken_for_one_with(tmp_path):
    source = write(tmp_path / "a.npz", **{name: None for name in arrays() if name not in ("images", "text")})
    directory = prepared("npz", source, values="none", config="c")
    report = report_of(directory)
    del report["settings"]["values"]
    (directory / "report.json").write_text(json.dumps(report))
    with pytest.raises(ValueError, match=r"values=text \(there: none\); give another config name"):
        prepared("npz", source, config="c")


@pytest.mark.parametrize("encoding", ["png", "original"])
def test_pictures_of_one_size_are_described_by_it(encoding, tmp_path):
    files = {f"{name}/{number}.png": encoded(noise(6, 8, 3, seed=number)) for name in "ab" for number in range(3)}
    source = put(tmp_path / "source", files)
    data = pipelines.describe(prepared("image_folder", source, encoding=encoding, examples_per_shard=2))
    assert (data.sample_shape, data.num_classes, data.image_shape) == ((6, 8, 3), 2, (None, None, 3))
    put(source, {"a/other.png": encoded(noise(6, 9, 3))})
    data = pipelines.describe(prepared("image_folder", source, encoding=encoding, config="other"))
    assert data.sample_shape == (None, None, 3)
