"""Images on disk: what is written opens as it should, pieces survive interruption and damage, wrong input is told."""

import json
import shutil
import tracemalloc
import zipfile

import numpy as np
import pytest
from PIL import Image

from keras_sid2.image_files import NpzPieces, image_grid, write_animation, write_npz, write_png, write_pngs
from keras_sid2.image_reading import iterate_npz, iterate_pngs, npz_shape, read_images

pytestmark = pytest.mark.backend_free

SETTINGS = {"seed": 0, "images": 1000, "guidance": [1.0, None]}


def noise(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, "uint8")


IMAGES, LABELS = noise(1000, 4, 4, 1), np.arange(1000, dtype="int64") % 7


# -- pictures --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("channels", [1, 3])
def test_pngs_are_numbered_and_read_back(tmp_path, channels):
    images = noise(5, 6, 4, channels)
    write_pngs(tmp_path / "new", images[:2], 0)
    write_pngs(tmp_path / "new", images[2:], 2)
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == [f"00000{i}.png" for i in range(5)]
    blocks = list(iterate_pngs(tmp_path / "new", 2))
    assert [len(block) for block in blocks] == [2, 2, 1]
    np.testing.assert_array_equal(np.concatenate(blocks), images)


def test_a_grid_shows_each_image_enlarged():
    images = noise(3, 8, 8, 1)
    picture = image_grid(images, columns=2)
    assert picture.shape == (2 * 68, 2 * 68, 3)
    np.testing.assert_array_equal(picture[2:66:8, 70:134:8, 2], images[1, ..., 0])
    assert (picture[68:, 68:] == 255).all()


def test_grids_and_pngs_refuse_other_arrays(tmp_path):
    for images in (noise(2, 4, 4, 1).astype("float32"), noise(2, 4, 4), noise(2, 4, 4, 2), noise(0, 4, 4, 1)):
        for write in (image_grid, lambda images: write_pngs(tmp_path / "new", images)):
            with pytest.raises(ValueError, match=r"Images must be uint8 \[N, H, W, 1 or 3\], got"):
                write(images)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("suffix", ["gif", "webp"])
def test_an_animation_opens_with_its_frames_and_stays_at_its_end(tmp_path, suffix):
    frames = [np.full((10, 20, 3), 40 * i, "uint8") for i in range(6)]
    write_animation(tmp_path / f"a.{suffix}", frames, seconds=3.0)
    with Image.open(tmp_path / f"a.{suffix}") as animation:
        assert animation.n_frames == 6 and animation.size == (20, 10)
        for i, frame in enumerate(frames):
            animation.seek(i)
            np.testing.assert_array_equal(np.array(animation.convert("RGB")), frame)
            assert animation.info["duration"] == 500 + 2000 * (i == 5)


@pytest.mark.parametrize(
    "name, frames, sentence",
    [
        ("a.mp4", [noise(4, 4, 3)], r"is a \.gif or a \.webp file, got '.*a\.mp4'"),
        ("a.gif", [noise(4, 4, 3), noise(4, 5, 3)], "needs frames uint8 .* of one size, got .*4, 4, 3.*4, 5, 3"),
        ("a.gif", [noise(4, 4, 1)], "needs frames uint8"),
        ("a.gif", [], "got none"),
    ],
)
def test_an_animation_of_something_else_is_refused(tmp_path, name, frames, sentence):
    with pytest.raises(ValueError, match=sentence):
        write_animation(tmp_path / name, frames, 1.0)
    assert not list(tmp_path.iterdir())


# -- pieces ----------------------------------------------------------------------------------------------------------


def pieces_of(path, **settings):
    return NpzPieces(path, settings={**SETTINGS, **settings})


def add_rest(pieces, size, until=1000):
    while pieces.done < until:
        part = slice(pieces.done, min(pieces.done + size, 1000))
        pieces.add(IMAGES[part], LABELS[part])
    return pieces


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The bytes of all images, written at once."""
    path = tmp_path_factory.mktemp("whole") / "whole.npz"
    write_npz(path, IMAGES, LABELS)
    return path.read_bytes()


@pytest.mark.parametrize("interrupted_after", range(0, 1001, 100))
def test_interrupted_after_any_piece_the_bytes_are_those_of_all_at_once(tmp_path, whole, interrupted_after):
    path = tmp_path / "new" / "a.npz"
    add_rest(pieces_of(path), 100, until=interrupted_after)
    pieces = pieces_of(path)
    assert pieces.done == interrupted_after and not path.exists()
    held = [np.zeros_like(IMAGES[:0]), *pieces.batches()]
    np.testing.assert_array_equal(np.concatenate(held), IMAGES[:interrupted_after])
    add_rest(pieces, 64).finish()
    assert path.read_bytes() == whole and list(path.parent.iterdir()) == [path]
    with np.load(path, allow_pickle=False) as arrays:
        np.testing.assert_array_equal(arrays["arr_0"], IMAGES)
        np.testing.assert_array_equal(arrays["arr_1"], LABELS)


def test_without_classes_there_is_no_arr_1(tmp_path):
    pieces = pieces_of(tmp_path / "a.npz")
    pieces.add(IMAGES[:3])
    pieces.add(IMAGES[3:5])
    pieces.finish()
    write_npz(tmp_path / "b.npz", IMAGES[:5])
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()


def cut(path):
    path.write_bytes(path.read_bytes()[:-7])


def flip(path):
    data = bytearray(path.read_bytes())
    data[300] ^= 1
    path.write_bytes(data)


def shorten(path):
    with np.load(path) as arrays:
        images, labels = arrays["arr_0"], arrays["arr_1"]
    write_npz(path, images[:-1], labels[:-1])


def empty(path):
    path.write_bytes(b"")


def other_size(path):
    write_npz(path, noise(100, 2, 2, 1), LABELS[:100])


@pytest.mark.parametrize("damage", [cut, flip, shorten, empty, other_size, lambda path: path.unlink()])
def test_a_damaged_piece_and_those_after_it_are_dropped(tmp_path, whole, damage):
    path = tmp_path / "a.npz"
    add_rest(pieces_of(path), 100)
    damage(tmp_path / "a.npz.pieces" / "000000400.npz")
    pieces = pieces_of(path)
    assert pieces.done == (499 if damage is shorten else 400)  # a short piece is whole by itself
    assert len(list(pieces.folder.glob("*.npz"))) == 4 + (damage is shorten)
    add_rest(pieces, 100).finish()
    assert path.read_bytes() == whole


def test_every_flipped_bit_of_what_is_kept_is_found(tmp_path):
    pieces = pieces_of(tmp_path / "a.npz")
    pieces.add(IMAGES[:4], LABELS[:4])
    piece, sound = pieces.folder / "000000000.npz", (pieces.folder / "000000000.npz").read_bytes()
    for place in range(len(sound)):
        piece.write_bytes(sound[:place] + bytes([sound[place] ^ 16]) + sound[place + 1 :])
        pieces = pieces_of(tmp_path / "a.npz")
        assert not pieces.done or np.array_equal(next(pieces.batches()), IMAGES[:4])


def test_what_a_killed_program_left_is_removed(tmp_path, whole):
    path = tmp_path / "a.npz"
    add_rest(pieces_of(path), 500, until=500)
    (tmp_path / "a.npz.pieces" / ".writing-x.npz").write_bytes(b"half")
    pieces = add_rest(pieces_of(path), 500)
    shutil.copytree(pieces.folder, tmp_path / "kept")
    pieces.finish()
    shutil.move(tmp_path / "kept", pieces.folder)  # as if killed before the folder was removed
    pieces = pieces_of(path)
    assert pieces.done == 1000 and not list(pieces.folder.glob(".writing*"))
    pieces.finish()
    assert path.read_bytes() == whole


def test_pieces_of_other_settings_are_refused_and_kept(tmp_path):
    add_rest(pieces_of(tmp_path / "a.npz"), 500)
    with pytest.raises(ValueError, match=r"another request: seed was 0 and is 1, new was None and is 2; remove it"):
        pieces_of(tmp_path / "a.npz", seed=1, new=2)
    assert pieces_of(tmp_path / "a.npz", guidance=(1.0, None)).done == 1000
    for text in ("{", "3"):
        (tmp_path / "a.npz.pieces" / "settings.json").write_text(text)
        with pytest.raises(ValueError, match="does not say of what: remove it to start anew"):
            pieces_of(tmp_path / "a.npz")


def test_without_a_piece_other_settings_take_over(tmp_path):
    pieces_of(tmp_path / "a.npz", seed=1)
    pieces = pieces_of(tmp_path / "a.npz")
    assert json.loads((pieces.folder / "settings.json").read_text()) == SETTINGS
    with pytest.raises(ValueError, match="there are no images"):
        pieces.finish()
    assert not (tmp_path / "a.npz").exists()


@pytest.mark.parametrize(
    "images, labels, sentence",
    [
        (noise(2, 4, 4), LABELS[:2], "Images must be uint8"),
        (IMAGES[:2], LABELS[:3], r"Labels must be integers, one an image, got int64 \[3\]"),
        (IMAGES[:2], [0.5, 1.0], "Labels must be integers"),
        (noise(2, 4, 5, 1), LABELS[:2], "Pieces must be alike"),
        (IMAGES[:2], None, "Pieces must be alike"),
    ],
)
def test_a_piece_unlike_the_others_is_refused(tmp_path, images, labels, sentence):
    pieces = add_rest(pieces_of(tmp_path / "a.npz"), 100, until=100)
    with pytest.raises(ValueError, match=sentence):
        pieces.add(images, labels)
    assert pieces_of(tmp_path / "a.npz").done == 100


def test_fifty_thousand_images_are_never_held(tmp_path):
    size, total = 500, 50_000
    tracemalloc.start()
    pieces = pieces_of(tmp_path / "a.npz")
    for start in range(0, total, size):
        pieces.add(np.full((size, 8, 8, 1), start // size, "uint8"), np.full(size, start // size))
    pieces = pieces_of(tmp_path / "a.npz")
    pieces.finish()
    read = sum(len(block) for block in iterate_npz(tmp_path / "a.npz", size))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert read == total and npz_shape(tmp_path / "a.npz") == (total, 8, 8, 1)
    assert peak < total * 64 / 5, peak


# -- reading ---------------------------------------------------------------------------------------------------------


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
    flip(path)


def write_other_member(path):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("arr_0.npy", "text")


@pytest.mark.parametrize(
    "write, sentence",
    [
        (lambda path: np.savez(path, images=IMAGES), "must hold images as arr_0, the ADM layout; it holds images.npy"),
        (
            lambda path: np.savez(path, IMAGES / 255),
            r"must be uint8 \[N, H, W, 1 or 3\], got float64 \[1000",
        ),
        (lambda path: np.savez(path, IMAGES[..., 0]), r"must be uint8 \[N, H, W, 1 or 3\], got uint8 \[1000, 4, 4\]"),
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
