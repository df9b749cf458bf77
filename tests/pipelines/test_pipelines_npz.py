"""Arrays as a data set: what is stored, and what is refused."""

import zipfile

import numpy as np
import pytest
from PIL import Image
from source_helpers import adm, assert_pixels, noise, prepared, report_of

import pipelines

pytestmark = pytest.mark.backend_free


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
        arrays = {"labels": labels.astype(dtype), "mu": np.zeros(3), "images": np.asfortranarray(images)}
        directory = prepared("npz", write_npz(tmp_path / f"arrays{number}.npz", **arrays), values="none")
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


@pytest.mark.parametrize("background, colour", [("white", 255), ("black", 0)])
def test_arrays_with_alpha_are_composited(background, colour, tmp_path):
    images = noise(5, 8, 8, 4)
    alpha = images[..., 3:] / 255
    source = write_npz(tmp_path / "a.npz", images=images)
    directory = prepared("npz", source, background=background)
    flat = np.rint(images[..., :3] * alpha + colour * (1 - alpha)).astype(np.uint8)
    assert_pixels(directory, [(image, None) for image in flat])
    assert report_of(directory)["splits"]["train"]["changes"] == {f"RGBA composited on {background}": 5}
    kept = prepared("npz", source, background="keep", config="kept")
    assert pipelines.describe(kept).image_shape == (8, 8, 4)
    (batch,) = pipelines.make_dataset(kept, batch_size=5, training=False)
    assert sorted(image.tobytes() for image in batch["image"].numpy()) == sorted(image.tobytes() for image in images)


def test_number_of_classes_can_be_given(tmp_path):
    source = write_npz(tmp_path / "a.npz", images=noise(3, 8, 8, 3), labels=np.array([0, 1, 1]))
    assert pipelines.describe(prepared("npz", source, num_classes=10)).num_classes == 10


def test_duplicate_arrays_are_found(tmp_path):
    images = noise(4, 8, 8, 3)
    images[3] = images[1]
    report = report_of(prepared("npz", write_npz(tmp_path / "a.npz", images=images)))
    assert report["duplicates_first"] == [["train/000000001", "train/000000003"]]


def test_arrays_that_are_written_anew_are_read_anew(tmp_path):
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
    "float": (dict(images=IMAGES / 255.0), {}, r"'images' of .* must be uint8 \[N,H,W,1, 3 or 4\], got float64 \[4, 8"),
    "three axes": (dict(images=IMAGES[..., 0]), {}, r"must be uint8 \[N,H,W,1, 3 or 4\], got uint8 \[4, 8, 8\]"),
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
    "original": (dict(images=IMAGES), dict(encoding="original"), "encoding must be one of png, jpeg, got .orig"),
    "classes 0": (dict(images=IMAGES, labels=np.arange(4)), dict(num_classes=0), "num_classes must be"),
    "classes text": (dict(images=IMAGES, labels=np.arange(4)), dict(num_classes="4"), "num_classes must be"),
}


@pytest.mark.parametrize("wrong", WRONG_ARRAYS)
def test_wrong_arrays(wrong, tmp_path):
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
    at = whole.index(b"\x93NUMPY")
    for number, place in enumerate((28, at, at + 12)):  # length of the extra field, magic string, header
        (tmp_path / f"bad{number}.npz").write_bytes(whole[:place] + b"\xff\xff" + whole[place + 2 :])
        with pytest.raises(ValueError, match=rf"^images.npy in .*bad{number}.npz is no array \(.*\)$"):
            prepared("npz", tmp_path / f"bad{number}.npz")
    with zipfile.ZipFile(tmp_path / "other.npz", "w") as archive:
        archive.writestr("images", "text")
    with pytest.raises(ValueError, match="other.npz"):
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
