"""How benchmarks/text.py reads pictures of digits."""

import pathlib
import sys

import numpy as np
import pytest

from pipelines.datasets.digit_scenes import Group, Scene, drawn, picture_of, scene_of

pytestmark = pytest.mark.backend_free


@pytest.fixture(scope="module")
def text():
    sys.path.insert(0, str(pathlib.Path(__file__).parents[2] / "benchmarks"))
    try:
        import text
    finally:
        sys.path.pop(0)
    return text


def test_true_pictures_agree_and_others_do_not(text):
    scenes = [scene_of("test", i) for i in range(100)]
    pictures = np.stack([picture_of("test", i) for i in range(100)])
    found = text.judged(pictures, scenes)
    assert found["colour"] == found["count"] == 1.0
    assert min(found["digit"], found["place"], found["held_out"]) > 0.95
    shuffled = text.judged(pictures, scenes[1:] + scenes[:1])
    assert shuffled["digit"] < 0.3 and shuffled["colour"] < 0.4 and shuffled["scene"] < 0.05


def test_each_error_is_found(text):
    asked = Scene(Group(2, "red", 3), "above", Group(1, "blue", 7))  # no digit in a colour held out

    def judged(**changes) -> set[str]:
        """What is wrong with a picture of another scene."""
        picture = drawn(asked._replace(**changes), "train", np.random.default_rng(0))
        return {name for name, share in text.judged(picture[None], [asked]).items() if share < 1.0} - {"scene"}

    assert judged() == set()
    assert judged(first=Group(1, "red", 3)) == {"count"}
    assert judged(first=Group(2, "green", 3)) == {"colour"}
    assert judged(second=Group(1, "blue", 4)) == {"digit"}
    assert judged(relation="below") >= {"place", "digit", "colour"}
    assert judged(relation="left of") >= {"digit", "colour"}


def test_an_empty_picture_agrees_in_nothing(text):
    found = text.judged(np.zeros((1, 16, 16, 3), "uint8"), [scene_of("test", 0)])
    assert not any(found.values())
