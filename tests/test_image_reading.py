"""Images from disk: in blocks as they were written; what holds none is told in one sentence."""

import zipfile

import numpy as np
import pytest
from PIL import Image

from keras_sid2.io.image_files import write_png, write_pngs
from keras_sid2.io.image_reading import iterate_npz, iterate_pngs, read_images

pytestmark = pytest.mark.backend_free


def noise(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, "uint8")


IMAGES, LABELS = noise(1000, 4, 4, 1), np.arange(1000, dtype="int64") % 7


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_an_npz_is_read_in_blocks(tmp_path, save):
    save(tmp_path / "a.npz", IMAGES, LABELS)
    blocks = list(iterate_npz(tmp_path / "a.npz", 300))
    assert [len(block) for block in blocks] == [300, 300, 300, 100] and blocks[0].flags.writeable
    np.testing.assert_array_equal(np.concatenate(blocks), IMAGES)
    np.testing.assert_array_equal(read_images(tmp_path / "a.npz"), IMAGES)


def write_header_of_more(path):
    header = {**np.lib.format.header_data_from_array_1_0(IMAGES), "shape": (1001, 4, 4, 1)}
    with zipfile.ZipFile(path, "w") as archive, archive.open("arr_0.npy", "w") as member:
        np.lib.format.write_array_header_1_0(member, header)
        member.write(IMAGES.tobytes())


def write_damaged(path):
    np.savez(path, IMAGES)
    data = bytearray(path.read_bytes())
    data[300] ^= 1
    path.write_bytes(data)


def write_other_member(path):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("arr_0.npy", "text")


@pytest.mark.parametrize(
    "write, sentence",
    [
        (lambda path: np.savez(path, images=IMAGES), "must hold images as arr_0, the ADM layout; it holds images.npy"),
        (
            lambda path: np.savez(path, IMAGES / 255),
            r"must be uint8 \[N, H, W, C\] or \[N, F, H, W, C\], got float64 \[1000",
        ),
        (
            lambda path: np.savez(path, IMAGES[..., 0]),
            r"must be uint8 \[N, H, W, C\] or \[N, F, H, W, C\], got uint8 \[1000, 4, 4\]",
        ),
        (lambda path: np.savez(path, IMAGES[:0]), r"got uint8 \[0, 4, 4, 1\]"),
        (lambda path: np.savez(path, np.asfortranarray(noise(2, 3, 4, 3))), "in Fortran's order"),
        (lambda path: np.savez(path, np.array([{}])), r"got object \[1\]"),
        (lambda path: path.write_text("text"), "is no .npz file that can be read"),
        (write_other_member, "is no array of numpy's format 1 or 2"),
        (write_header_of_more, "ends before its 1001 images do"),
        (write_damaged, "is no .npz file that can be read: Bad CRC"),
    ],
)
def test_an_npz_that_holds_no_images_is_refused(tmp_path, write, sentence):
    write(tmp_path / "a.npz")
    with pytest.raises(ValueError, match=sentence):
        read_images(tmp_path / "a.npz")


def test_wrong_files_are_told_before_the_first_block(tmp_path):
    np.savez(tmp_path / "a.npz", images=IMAGES)
    with pytest.raises(ValueError, match="must hold images as arr_0"):
        iterate_npz(tmp_path / "a.npz", 4)
    with pytest.raises(FileNotFoundError, match="b.npz is no file"):
        iterate_npz(tmp_path / "b.npz", 4)
    with pytest.raises(ValueError, match="must be a folder with .png files, and there are none"):
        iterate_pngs(tmp_path, 4)
    for read in (iterate_npz, iterate_pngs):
        with pytest.raises(ValueError, match="batch_size must be an integer >= 1, got 0"):
            read(tmp_path / "a.npz", 0)


@pytest.mark.parametrize("mode, channels", [("1", 1), ("L", 1), ("P", 3), ("RGB", 3)])
def test_a_png_is_grey_or_in_colour(tmp_path, mode, channels):
    Image.new(mode, (5, 4), 1).save(tmp_path / "a.png")
    images = read_images(tmp_path / "a.png")
    assert images.shape == (1, 4, 5, channels) and images.dtype == np.uint8
    assert mode != "1" or (images == 255).all()


@pytest.mark.parametrize("mode", ["RGBA", "LA", "I;16"])
def test_a_png_of_another_kind_is_refused(tmp_path, mode):
    Image.new(mode, (5, 4)).save(tmp_path / "a.png")
    with pytest.raises(ValueError, match=f"of 8 bits and without transparency, got {mode}"):
        read_images(tmp_path / "a.png")


def test_what_is_no_png_is_refused(tmp_path):
    write_png(tmp_path / "cut.png", noise(64, 64, 3))
    cut_short = (tmp_path / "cut.png").read_bytes()[:2000]
    Image.new("RGB", (4, 4)).save(tmp_path / "a.jpg")
    for name, data in (("cut.png", cut_short), ("text.png", b"text"), ("a.jpg", (tmp_path / "a.jpg").read_bytes())):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(ValueError, match=f"{name} is no PNG file that can be read"):
            read_images(tmp_path / name)
    with pytest.raises(FileNotFoundError, match="none.png is no file"):
        read_images(tmp_path / "none.png")


def test_pngs_of_two_sizes_are_refused(tmp_path):
    write_pngs(tmp_path, noise(3, 4, 4, 1), 0)
    write_pngs(tmp_path, noise(1, 4, 6, 1), 3)
    blocks = iterate_pngs(tmp_path, 3)
    assert next(blocks).shape == (3, 4, 4, 1)
    with pytest.raises(ValueError, match=r"alike: 000000.png is \[4, 4, 1\], and 000003.png is \[4, 6, 1\]"):
        next(blocks)


@pytest.mark.parametrize("mode", ["P", "L", "RGB"])
def test_a_colour_that_is_transparent_is_not_dropped(tmp_path, mode):
    Image.fromarray(noise(4, 4)).convert(mode).save(tmp_path / "a.png", transparency=(0, 0, 0) if mode == "RGB" else 0)
    with pytest.raises(ValueError, match=f"of 8 bits and without transparency, got {mode} with transparency"):
        list(iterate_pngs(tmp_path, 4))
