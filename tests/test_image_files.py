"""Images on disk: what is written opens as it should, pieces survive interruption and damage, wrong input is told."""

import contextlib
import errno
import json
import os
import pathlib
import shutil
import tempfile
import tracemalloc

import numpy as np
import pytest
from PIL import Image

from keras_sid2.io.image_files import NpzPieces, image_grid, write_animation, write_npz, write_pngs
from keras_sid2.io.image_reading import iterate_npz, iterate_pngs, npz_shape, read_images

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


def test_a_grid_shows_the_frames_of_clips_side_by_side():
    clips = noise(3, 4, 8, 8, 1)
    picture = image_grid(clips)
    assert picture.shape == (3 * 68, 4 * 9 * 8 + 4, 3)  # enlarged as a frame by itself is
    np.testing.assert_array_equal(picture[70:134:8, 2 + 72 : 2 + 72 + 64 : 8, 0], clips[1, 1, ..., 0])
    assert (picture[2:66, 2 + 64 : 2 + 72] == 255).all()


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


def test_a_video_opens_with_its_frames(tmp_path):
    av = pytest.importorskip("av")
    frames = [np.full((11, 20, 3), 40 * i, "uint8") for i in range(6)]
    write_animation(tmp_path / "a.mp4", frames, seconds=3.0, hold=1.0)
    with av.open(str(tmp_path / "a.mp4")) as container:
        found = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
        assert container.streams.video[0].average_rate == 2
    assert len(found) == 8 and found[0].shape == (12, 20, 3)
    for frame, expected in zip(found, [*frames, frames[-1], frames[-1]], strict=True):
        assert np.abs(frame.astype(int) - expected[0, 0, 0]).max() <= 4


@pytest.mark.parametrize(
    "name, frames, sentence",
    [
        ("a.avi", [noise(4, 4, 3)], r"is a \.gif, \.webp or \.mp4 file, got '.*a\.avi'"),
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


def interrupted(path, size, until=1000):
    """The folder of pieces that a program leaves which has not come to `finish`."""
    with pieces_of(path) as pieces:
        add_rest(pieces, size, until)
    return pieces.folder


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The bytes of all images, written at once."""
    path = tmp_path_factory.mktemp("whole") / "whole.npz"
    write_npz(path, IMAGES, LABELS)
    return path.read_bytes()


@pytest.mark.parametrize("interrupted_after", range(0, 1001, 100))
def test_interrupted_after_any_piece_the_bytes_are_those_of_all_at_once(tmp_path, whole, interrupted_after):
    path = tmp_path / "new" / "a.npz"
    interrupted(path, 100, until=interrupted_after)
    pieces = pieces_of(path)
    assert pieces.done == interrupted_after and not path.exists()
    held = [np.zeros_like(IMAGES[:0]), *pieces.batches()]
    np.testing.assert_array_equal(np.concatenate(held), IMAGES[:interrupted_after])
    add_rest(pieces, 64)
    pieces.finish()
    assert path.read_bytes() == whole and list(path.parent.iterdir()) == [path]
    with np.load(path, allow_pickle=False) as arrays:
        np.testing.assert_array_equal(arrays["arr_0"], IMAGES)
        np.testing.assert_array_equal(arrays["arr_1"], LABELS)


def test_a_piece_that_was_being_written_when_the_program_was_killed_is_no_piece(tmp_path, whole):
    path = tmp_path / "a.npz"
    half = interrupted(path, 100, until=300) / ".writing-killed" / "000000300.npz"
    half.parent.mkdir()
    half.write_bytes(b"PK")
    pieces = pieces_of(path)
    assert pieces.done == 300
    add_rest(pieces, 100)
    pieces.finish()
    assert path.read_bytes() == whole and list(tmp_path.iterdir()) == [path]


def part_of(path, index):
    return NpzPieces(path, settings=SETTINGS, share=(index, 3))


def test_the_parts_of_several_processes_make_the_bytes_of_all_at_once(tmp_path, whole):
    path, edges = tmp_path / "a.npz", (0, 300, 650, 1000)
    for stop in (450, 1000):  # the second time all but what is there
        for index in (2, 0, 1):
            with part_of(path, index) as pieces:
                first, last = edges[index], min(edges[index + 1], max(stop, edges[index]))
                for start in range(first + pieces.done, last, 64):
                    part = slice(start, min(start + 64, last))
                    pieces.add(IMAGES[part], LABELS[part])
                assert pieces.done == last - first
    for count, share in ((1, (0, 1)), (2, (1, 2))):
        with pytest.raises(ValueError, match=f"a.npz.pieces holds pieces of 3 processes, and there are {count}: start"):
            NpzPieces(path, settings=SETTINGS, share=share)
    with part_of(path, 0) as pieces:
        pieces.join()
        assert pieces.done == 1000
        pieces.finish()
    assert path.read_bytes() == whole and list(tmp_path.iterdir()) == [path]


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
    damage(interrupted(path, 100) / "000000400.npz")
    pieces = pieces_of(path)
    assert pieces.done == (499 if damage is shorten else 400)  # a short piece is whole by itself
    assert len(list(pieces.folder.glob("*.npz"))) == 4 + (damage is shorten)
    add_rest(pieces, 100)
    pieces.finish()
    assert path.read_bytes() == whole


def does_not_answer(path):
    raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))


def test_a_disk_that_does_not_answer_costs_no_piece(tmp_path, monkeypatch):
    folder = interrupted(tmp_path / "a.npz", 100, until=300)
    with monkeypatch.context() as patch, pytest.raises(OSError, match="Input/output error"):
        patch.setattr(pathlib.Path, "read_bytes", does_not_answer)
        pieces_of(tmp_path / "a.npz")
    assert len(list(folder.glob("*.npz"))) == 3
    with pieces_of(tmp_path / "a.npz") as pieces:
        assert pieces.done == 300


def test_every_flipped_bit_of_what_is_kept_is_found(tmp_path):
    with pieces_of(tmp_path / "a.npz") as pieces:
        pieces.add(IMAGES[:4], LABELS[:4])
    piece, sound = pieces.folder / "000000000.npz", (pieces.folder / "000000000.npz").read_bytes()
    for place in range(len(sound)):
        piece.write_bytes(sound[:place] + bytes([sound[place] ^ 16]) + sound[place + 1 :])
        with pieces_of(tmp_path / "a.npz") as pieces:
            assert not pieces.done or np.array_equal(next(pieces.batches()), IMAGES[:4])


class Killed(BaseException):
    """Where a program ends."""


def killed():
    raise Killed


@contextlib.contextmanager
def kept_directory(*, prefix, dir, **_):
    """What is left of a temporary directory by a kill."""
    yield tempfile.mkdtemp(prefix=prefix, dir=dir)


def test_what_a_killed_program_left_is_removed(tmp_path, whole):
    path = tmp_path / "a.npz"
    folder = interrupted(path, 500, until=500)
    (folder / ".writing-x.npz").write_bytes(b"half")  # of version 0.3
    with pytest.MonkeyPatch.context() as patch, pieces_of(path) as pieces:
        patch.setattr(tempfile, "TemporaryDirectory", kept_directory)
        patch.setattr(os, "replace", lambda *_: killed())
        with pytest.raises(Killed):
            add_rest(pieces, 500)
    assert len(list(folder.glob(".writing-*/000000500.npz"))) == 1
    with pieces_of(path) as pieces:
        assert pieces.done == 500 and not list(folder.glob(".writing*"))
        add_rest(pieces, 500)
        shutil.copytree(pieces.folder, tmp_path / "kept")
        pieces.finish()
    shutil.move(tmp_path / "kept", pieces.folder)  # as if killed before the folder was removed
    pieces = pieces_of(path)
    assert pieces.done == 1000 and not list(pieces.folder.glob(".writing*"))
    pieces.finish()
    assert path.read_bytes() == whole


def test_an_end_at_any_file_that_is_removed_is_made_good(tmp_path, whole, monkeypatch):
    unlink, path = os.unlink, tmp_path / "a.npz"
    for survived in range(5):  # of three pieces, settings.json and lock
        removed = []

        def unlink_or_end(*args, survived=survived, removed=removed, **options):
            if args[0] in ("settings.json", "lock") or str(args[0]).startswith("0000"):
                if len(removed) == survived:
                    raise Killed
                removed.append(args[0])
            unlink(*args, **options)

        with pieces_of(path) as pieces, monkeypatch.context() as patch:
            add_rest(pieces, 400)
            patch.setattr(os, "unlink", unlink_or_end)
            with pytest.raises(Killed):
                pieces.finish()
        assert len(removed) == survived and path.read_bytes() == whole
        with pieces_of(path, seed=survived) as pieces:
            assert not pieces.done and sorted(p.name for p in tmp_path.iterdir()) == ["a.npz", "a.npz.pieces"]


def test_while_one_holds_the_pieces_another_is_refused(tmp_path, whole):
    path = tmp_path / "a.npz"
    with pieces_of(path) as pieces:
        add_rest(pieces, 100, until=300)
        for other in ({}, {"seed": 1}):
            with pytest.raises(ValueError, match=r"pieces is in use by process \d+ .*: wait for its end, or write"):
                pieces_of(path, **other)
        add_rest(pieces, 100)
        pieces.finish()
        with pieces_of(path, seed=1) as other:  # free from `finish` on
            assert not other.done
    assert path.read_bytes() == whole
    with pytest.raises(ValueError, match="is in use"), pieces_of(path), pieces_of(path):
        pass
    with pieces_of(path):  # who was refused holds nothing
        pass


@pytest.mark.parametrize("images", [3, 5])
def test_what_another_wrote_without_a_lock_makes_no_npz(tmp_path, images):
    with pieces_of(tmp_path / "a.npz") as pieces:
        add_rest(pieces, 4, until=8)
        write_npz(pieces.folder / "000000004.npz", IMAGES[:images], LABELS[:images])
        with pytest.raises(ValueError, match="are others than were counted: run it again"):
            pieces.finish()
        (pieces.folder / "settings.json").write_text('{"seed": 1}')
        with pytest.raises(ValueError, match="holds pieces of another request: seed was 1 and is 0"):
            pieces.finish()
    assert [p.name for p in tmp_path.iterdir()] == ["a.npz.pieces"]


@pytest.mark.parametrize("channels", [2, 4])
def test_an_npz_takes_any_number_of_channels(tmp_path, channels):
    images = noise(6, 3, 5, channels)
    with pieces_of(tmp_path / "a.npz") as pieces:
        pieces.add(images[:4])
    with pieces_of(tmp_path / "a.npz") as pieces:
        pieces.add(images[pieces.done :])
        pieces.finish()
    np.testing.assert_array_equal(read_images(tmp_path / "a.npz"), images)


def test_pieces_of_other_settings_are_refused_and_kept(tmp_path):
    interrupted(tmp_path / "a.npz", 500)
    with pytest.raises(ValueError, match=r"another request: seed was 0 and is 1, new was None and is 2; remove it"):
        pieces_of(tmp_path / "a.npz", seed=1, new=2)
    with pieces_of(tmp_path / "a.npz", guidance=(1.0, None)) as pieces:
        assert pieces.done == 1000
    for text in ("{", "3"):
        (tmp_path / "a.npz.pieces" / "settings.json").write_text(text)
        with pytest.raises(ValueError, match="does not say of what: remove it to start anew"):
            pieces_of(tmp_path / "a.npz")


def test_without_a_piece_other_settings_take_over(tmp_path):
    pieces_of(tmp_path / "a.npz", seed=1).close()
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
    interrupted(tmp_path / "a.npz", 100, until=100)
    with pieces_of(tmp_path / "a.npz") as pieces, pytest.raises(ValueError, match=sentence):
        pieces.add(images, labels)
    with pieces_of(tmp_path / "a.npz") as pieces:
        assert pieces.done == 100


def test_fifty_thousand_images_are_never_held(tmp_path):
    size, total = 500, 50_000
    tracemalloc.start()
    with pieces_of(tmp_path / "a.npz") as pieces:
        for start in range(0, total, size):
            pieces.add(np.full((size, 8, 8, 1), start // size, "uint8"), np.full(size, start // size))
    pieces = pieces_of(tmp_path / "a.npz")
    pieces.finish()
    read = sum(len(block) for block in iterate_npz(tmp_path / "a.npz", size))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert read == total and npz_shape(tmp_path / "a.npz") == (total, 8, 8, 1)
    assert peak < total * 64 / 5, peak
