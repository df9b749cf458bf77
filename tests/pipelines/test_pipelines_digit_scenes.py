"""The data set digit_scenes: what is in a picture is what its caption says, by glyphs found again in it."""

import io

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

import pipelines
from pipelines.datasets import digit_scenes
from pipelines.datasets.digit_scenes import COLOURS, DIGITS, DigitScenes, Group, Scene, picture_of, scene_of

pytestmark = pytest.mark.backend_free

COUNT = 150


@pytest.fixture(scope="module")
def glyphs() -> dict[bytes, tuple[int, int]]:
    """{pixels: (kind, number in scikit-learn's file)}."""
    digits = load_digits()
    pixels = np.rint(digits.images * 255 / 16).astype("uint8")
    return {image.tobytes(): (int(kind), i) for i, (image, kind) in enumerate(zip(pixels, digits.target, strict=True))}


def _found(picture: np.ndarray, glyphs) -> list[tuple[int, int, str, int, int]]:
    """(row, column, colour, kind, number) of each cell that is not black."""
    found, names = [], {rgb: name for name, rgb in COLOURS.items()}
    for row in range(2):
        for column in range(2):
            cell = picture[row * 8 : row * 8 + 8, column * 8 : column * 8 + 8]
            if cell.any():
                colour = names[tuple(int(light) and 255 for light in cell.max((0, 1)))]
                found.append((row, column, colour, *glyphs[cell.max(-1).tobytes()]))
    return found


def test_another_encoder_takes_another_data_dir_where_there_are_no_config_names(tmp_path, monkeypatch):
    monkeypatch.setattr(digit_scenes, "SIZES", {"train": 3, "test": 2})
    pipelines.prepare("digit_scenes", tmp_path, text_encoder="words")
    with pytest.raises(ValueError, match="text_encoder='words:8x16.*there: 'words:16x64.*; give another data_dir"):
        pipelines.prepare("digit_scenes", tmp_path, text_encoder="words:8x16")


@pytest.mark.parametrize("split", ["train", "test"])
def test_pictures_show_what_captions_say(split, glyphs):
    builder = DigitScenes(data_dir="unused")
    for item in builder.listing()[split][:COUNT]:
        made = builder.example(item).features
        found = _found(np.asarray(Image.open(io.BytesIO(made["image"]))), glyphs)
        assert all((number % 10 == 0) == (split == "test") for *_, number in found)
        words = made["caption"].replace("left of", "left").replace("right of", "right").split()
        assert len(words) == 7 and made["caption"] == builder.caption(item)
        axis = 0 if words[3] in ("above", "below") else 1
        lines = sorted({cell[axis] for cell in found})
        groups = [words[:3], words[4:]] if words[3] in ("above", "left") else [words[4:], words[:3]]
        assert lines == [0, 1]
        for line, (count, colour, name) in zip(lines, groups, strict=True):
            there = [cell for cell in found if cell[axis] == line]
            assert len(there) == {"a": 1, "two": 2}[count]
            plain = name if count == "a" else name.removesuffix("es" if name in ("zeroes", "sixes") else "s")
            assert {cell[2:4] for cell in there} == {(colour, DIGITS.index(plain))}


def test_training_never_sees_what_test_is_about():
    train, test = ([scene_of(split, i) for i in range(1000)] for split in ("train", "test"))
    seen = {(g.colour, g.digit) for scene in train for g in (scene.first, scene.second)}
    assert len(seen) == 40 and {digit for _, digit in seen} == set(range(10)) and len({c for c, _ in seen}) == 5
    assert all({(s.first.colour, s.first.digit), (s.second.colour, s.second.digit)} - seen for s in test)


def test_a_picture_is_a_function_of_split_and_number():
    assert (picture_of("train", 3) == picture_of("train", 3)).all()
    assert (picture_of("train", 3) != picture_of("train", 4)).any()
    assert str(Scene(Group(2, "red", 3), "above", Group(1, "blue", 7))) == "two red threes above a blue seven"
