"""References that are kept: read once, known again, and made anew when something is not as it was."""

import dataclasses
import json

import numpy as np
import pytest
from plain_features import IMAGES, PLAIN, batches, means, reference

from keras_sid2.evaluation import Features, evaluate, reference_of
from keras_sid2.evaluation import reference as reference_module

pytestmark = pytest.mark.backend_free


class Counted:
    """Batches that know how many of them were read."""

    def __init__(self, images=IMAGES):
        self.images, self.read = images, 0

    def __call__(self):
        for images in batches(self.images):
            self.read += 1
            yield images


WHOLE = 5  # batches of IMAGES


def kept(source, folder, features=PLAIN, fingerprint=("a", 1), **options):
    return reference_of(source, features, name="real", fingerprint=fingerprint, cache=folder, **options)


def test_a_reference_is_read_once_and_again_only_when_something_changes(tmp_path):
    source = Counted()
    first, again = kept(source, tmp_path / "new"), kept(source, tmp_path / "new")
    assert source.read == WHOLE + 1  # the first batch, to see whether it is the same still
    assert first.digest == again.digest and again.name == "real" and again.features.made_by == PLAIN.identity
    np.testing.assert_array_equal(first.features.sample, again.features.sample)
    np.testing.assert_allclose(first.features.statistics.covariance, again.features.statistics.covariance, rtol=1e-12)
    kept(source, tmp_path / "new", fingerprint=("a", 2))
    kept(source, tmp_path / "new", features=Features(name="halves", digest="", rule="another", extract=means))
    kept(source, tmp_path / "new", capacity=50)
    assert source.read == 4 * WHOLE + 1


def test_what_was_measured_by_another_method_is_made_anew(tmp_path, monkeypatch):
    source = Counted()
    kept(source, tmp_path)
    monkeypatch.setattr(reference_module, "METHOD", "another")
    kept(source, tmp_path)
    assert source.read == 2 * WHOLE


@pytest.mark.parametrize("images", [255 - IMAGES, IMAGES[:, :, ::-1], IMAGES[::-1], IMAGES[:20]])
def test_other_images_with_the_same_fingerprint_are_seen(tmp_path, images):
    """Mirrored ones too, of which these features are the same."""
    kept(Counted(), tmp_path)
    other = Counted(images)
    assert kept(other, tmp_path).digest == reference(images).digest
    read = other.read
    assert read == -(-len(images) // 64)
    assert kept(other, tmp_path).digest == reference(images).digest and other.read == read + 1


@pytest.mark.parametrize("changed", [1.002, 0.5, None])
def test_a_features_function_that_was_changed_under_its_name_is_seen(tmp_path, changed):
    def other(images):
        return means(images)[:, :1] if changed is None else means(images) * [1.0, changed]

    source = Counted()
    kept(source, tmp_path)
    again = kept(source, tmp_path, features=dataclasses.replace(PLAIN, extract=other))
    np.testing.assert_allclose(again.features.sample, other(IMAGES), rtol=1e-6)
    assert source.read == 2 * WHOLE


def test_features_that_round_a_little_differently_are_the_same(tmp_path):
    source, rounded = Counted(), dataclasses.replace(PLAIN, extract=lambda images: means(images).astype("float16"))
    kept(source, tmp_path)
    kept(source, tmp_path, features=rounded)
    assert source.read == WHOLE + 1


@pytest.mark.parametrize("suffix", [".npz", ".json"])
def test_a_damaged_reference_is_made_anew(tmp_path, suffix):
    source = Counted()
    expected = kept(source, tmp_path).digest
    (path,) = tmp_path.glob(f"*{suffix}")
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 255
    path.write_bytes(data[: len(data) - 3])
    assert kept(source, tmp_path).digest == expected and source.read == 2 * WHOLE
    assert kept(source, tmp_path).digest == expected and source.read == 2 * WHOLE + 1


@pytest.mark.parametrize("change", ["null", "[]", '"x"', "{}", {"first": None}, {"first": {}}, {"file": 1}])
def test_a_reference_beside_another_json_is_made_anew(tmp_path, change):
    source = Counted()
    expected = kept(source, tmp_path).digest
    (path,) = tmp_path.glob("*.json")
    path.write_text(change if isinstance(change, str) else json.dumps(json.loads(path.read_text()) | change))
    assert kept(source, tmp_path).digest == expected and source.read == 2 * WHOLE


def test_a_cache_that_cannot_be_written_is_warned_of(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.warns(UserWarning, match="The statistics of real are not kept in .*file"):
        found = kept(Counted(), tmp_path / "file" / "cache")
    assert found.digest == reference().digest


def test_without_a_cache_nothing_is_kept(tmp_path):
    assert reference_of(Counted(), PLAIN, name="real").digest == reference().digest
    assert not list(tmp_path.iterdir())


def test_a_reference_keeps_no_logits(tmp_path):
    scored = dataclasses.replace(PLAIN, extract=lambda images: (means(images), means(images)))
    assert kept(Counted(), tmp_path, features=scored).features.inception_score is None
    metrics = evaluate(batches(), features=scored, reference=kept(Counted(), tmp_path, features=scored)).metrics
    assert metrics["inception_score"] > 1.0
