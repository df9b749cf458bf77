"""sid2-sample, and what lies where it writes: finished files, those of other requests, those of another program."""

import pathlib
import shutil
import types

import numpy as np
import pytest
from helpers import tiny_network
from sample_helpers import draw, images_of, request
from training_helpers import tiny_model

from keras_sid2.bin import sample
from keras_sid2.bin.sample_files import FinishedNpz, check_channels, open_npz
from keras_sid2.generation.provenance import read_provenance
from keras_sid2.io.image_files import NpzPieces, write_npz, write_pngs
from keras_sid2.io.image_reading import read_images

pytestmark = pytest.mark.backend_free


@pytest.fixture
def no_drawing(monkeypatch):
    """Drawing an image is a defect."""

    def batches(*_):
        raise AssertionError("drawn again")

    monkeypatch.setattr(sample.Request, "batches", batches)


@pytest.fixture(scope="module")
def drawn(workdir, tmp_path_factory):
    """A finished request."""
    folder = tmp_path_factory.mktemp("drawn")
    draw(*request(workdir, folder / "a"))
    return folder


@pytest.fixture
def copy(drawn, tmp_path):
    """A copy of it, to be changed."""
    return shutil.copytree(drawn, tmp_path / "copy")


def test_a_finished_npz_is_not_drawn_again_and_the_other_files_are_made_of_it(workdir, drawn, copy, no_drawing):
    (copy / "a.png").unlink()
    shutil.rmtree(copy / "a")
    code, said = draw(*request(workdir, copy / "a", "--batch_size=3"))
    assert code == 0 and "20 of 20 images are there already" in said and f"20 images: {copy / 'a'}.png" in said
    names = sorted(path.relative_to(copy) for path in copy.rglob("*"))
    assert names == sorted(path.relative_to(drawn) for path in drawn.rglob("*"))
    for name in ("a.npz", "a.npz.json", "a.png", "a/000019.png", "a/images.json"):
        assert (copy / name).read_bytes() == (drawn / name).read_bytes()


def damage(path):
    path.write_bytes(path.read_bytes()[:300])


def replace(path):
    write_npz(path, np.zeros((20, 4, 4, 1), "uint8"), np.arange(20) % 3)


def say_another_seed(path):
    path.write_text(path.read_text().replace('"seed": 0', '"seed": 1'))


@pytest.mark.parametrize(
    "name, change",
    [
        ("a.npz", damage),
        ("a.npz", replace),
        ("a.npz.json", pathlib.Path.unlink),
        ("a.npz.json", damage),
        ("a.npz.json", say_another_seed),
    ],
)
def test_an_npz_that_is_not_this_one_or_not_whole_is_not_taken_for_it(copy, name, change):
    settings = read_provenance(copy / "a.npz")
    del settings["images_digest"]
    assert isinstance(open_npz(copy / "a.npz", settings), FinishedNpz)
    change(copy / name)
    with open_npz(copy / "a.npz", settings) as pieces:
        assert isinstance(pieces, NpzPieces) and not pieces.done


def test_an_npz_of_another_request_is_overwritten(workdir, drawn, copy):
    say_another_seed(copy / "a.npz.json")
    code, said = draw(*request(workdir, copy / "a"), "--format=npz")
    assert code == 0 and "already" not in said
    assert all((copy / name).read_bytes() == (drawn / name).read_bytes() for name in ("a.npz", "a.npz.json"))


def test_a_folder_with_pictures_of_another_request_is_refused_and_kept(workdir, copy):
    before = {path: path.read_bytes() for path in copy.rglob("*") if path.is_file()}
    how = (f"--workdir={workdir}", f"--out={copy / 'a'}", "--num_steps=2", "--format=pngs,npz")
    with pytest.raises(ValueError, match="a holds pictures of another request: images was 20 and is 5, .*give another"):
        draw(*how, "--num_images=5")
    write_pngs(copy / "b", np.zeros((2, 4, 4, 1), "uint8"))
    with pytest.raises(ValueError, match="b holds pictures and does not say of what: remove it, or give another --out"):
        draw(*how, f"--out={copy / 'b'}")
    shutil.rmtree(copy / "b")
    assert before == {path: path.read_bytes() for path in copy.rglob("*") if path.is_file()}


def test_pictures_that_an_end_left_are_completed(workdir, drawn, tmp_path, monkeypatch):
    how = (*request(workdir, tmp_path / "a"), "--format=pngs")
    batches = sample.Request.batches

    def interrupted(self, *args):
        yield next(batches(self, *args))
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(sample.Request, "batches", interrupted)
        with pytest.raises(KeyboardInterrupt):
            draw(*how)
    assert len(list((tmp_path / "a").glob("*.png"))) == 4
    with pytest.raises(ValueError, match="pictures of another request: seed was 0 and is 1"):
        draw(*how, "--seed=1")
    draw(*how)
    for path in (drawn / "a").iterdir():
        assert (tmp_path / "a" / path.name).read_bytes() == path.read_bytes()


def test_while_another_program_draws_there_nothing_is_drawn(workdir, tmp_path, no_drawing):
    with NpzPieces(tmp_path / "a.npz", settings={"seed": 1}):
        before = sorted(tmp_path.rglob("*"))
        with pytest.raises(ValueError, match=r"a\.npz\.pieces is in use by process \d+ on .*: wait for its end"):
            draw(*request(workdir, tmp_path / "a"))
        assert sorted(tmp_path.rglob("*")) == before


def test_two_halves_are_the_whole_without_labels_too(workdir, tmp_path):
    how = (f"--workdir={workdir}", "--num_steps=2", "--format=npz", "--batch_size=5")
    draw(*how, f"--out={tmp_path / 'all'}", "--num_images=10")
    draw(*how, f"--out={tmp_path / 'rest'}", "--num_images=5", "--first_image=5")
    whole, rest = (np.load(tmp_path / f"{name}.npz", allow_pickle=False) for name in ("all", "rest"))
    for name in ("arr_0", "arr_1"):
        np.testing.assert_array_equal(rest[name], whole[name][5:])


def test_images_of_no_class(tmp_path):
    model, rng = tiny_model(), np.random.default_rng(0)
    for weight in model.network.weights:  # some begin at 0, such that classes make no difference
        weight.assign_add(rng.normal(scale=0.1, size=weight.shape))
    model.save(tmp_path / "model.keras")
    how = (f"--weights={tmp_path / 'model.keras'}", "--num_steps=4", "--format=npz", "--num_images=3")
    draw(*how, f"--out={tmp_path / 'none'}", "--labels=none")
    draw(*how, f"--out={tmp_path / 'zero'}", "--labels=0,0,0")
    told = [(tmp_path / f"{name}.npz.json").read_text() for name in ("none", "zero")]
    assert told[0] != told[1] and images_of(tmp_path / "none.npz") != images_of(tmp_path / "zero.npz")
    with np.load(tmp_path / "none.npz", allow_pickle=False) as arrays:
        assert set(arrays) == {"arr_0"}
    with pytest.raises(ValueError, match="Guidance needs labels"):
        draw(*how, f"--out={tmp_path / 'guided'}", "--labels=none", "--guidance_scale=2")


def test_four_channels_go_into_an_npz_and_are_no_picture(tmp_path, no_drawing, monkeypatch):
    tiny_model(network=tiny_network(image_shape=(4, 4, 4))).save(tmp_path / "four.keras")
    how = (f"--weights={tmp_path / 'four.keras'}", f"--out={tmp_path / 'a'}", "--num_images=3", "--num_steps=2")
    with pytest.raises(ValueError, match="--format=grid takes 1 or 3 channels, and the model has 4"):
        draw(*how)
    for name in ("pngs", "gif", "webp"):
        with pytest.raises(ValueError, match=f"--format={name} takes 1 or 3 channels"):
            check_channels(2, ["npz", name])
    assert [path.name for path in tmp_path.iterdir()] == ["four.keras"]
    monkeypatch.undo()
    draw(*how, "--format=npz")
    assert read_images(tmp_path / "a.npz").shape == (3, 4, 4, 4)
    assert "3 of 3 images are there already" in draw(*how, "--format=npz")[1]


def test_what_is_told_is_what_was_drawn(workdir, tmp_path, monkeypatch):
    monkeypatch.setattr(sample, "SHOWN", 4)
    how = (f"--workdir={workdir}", f"--out={tmp_path / 'a'}", "--num_images=6", "--num_steps=2", "--format=grid")
    assert draw(*how)[1].splitlines()[-1] == f"4 of 6 images: {tmp_path / 'a'}.png"
    few, many = (types.SimpleNamespace(count=count, of_clips=False) for count in (6, 60))
    assert sample._summary("a", ["grid", "npz"], few) == "6 images: a.png (the first 4), a.npz"
    assert sample._summary("a", ["gif"], many) == "16 of 60 images: a.gif"
    assert sample._summary("a", ["pngs", "webp"], few) == "6 images: a/, a.webp"
