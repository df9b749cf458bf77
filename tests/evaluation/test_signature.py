"""Measurements with their signature, and references that are kept."""

import numpy as np
import pytest

from keras_sid2.evaluation import (
    Features,
    Measurement,
    Reference,
    check_comparable,
    collect,
    evaluate,
    measure,
    reference_of,
)

pytestmark = pytest.mark.backend_free

IMAGES = np.random.default_rng(0).integers(0, 256, (300, 4, 4, 1), dtype="uint8")


def means(images):
    """Two features: the means of the upper and the lower half."""
    return images.reshape(len(images), 2, -1).mean(2) / 255.0


PLAIN = Features(name="halves", digest="", rule="value / 255", extract=means)


def batches(images=IMAGES, size=64):
    return (images[i : i + size] for i in range(0, len(images), size))


def measured(images=IMAGES, features=PLAIN, **drawn) -> Measurement:
    real, digest = collect(features, batches(IMAGES[::-1]), groups=1)
    return evaluate(
        batches(images), features=features, reference=Reference(name="r", digest=digest, features=real), drawn=drawn
    )


def test_figures_are_those_of_measure_and_the_signature_says_how():
    found = measured(IMAGES[:200], sampler="ddim", seed=3)
    ours, digest = collect(PLAIN, batches(IMAGES[:200], 7))
    real, _ = collect(PLAIN, batches(IMAGES[::-1]), groups=1)
    assert found.figures == pytest.approx(measure(ours, real), rel=1e-9)
    assert found.measured["images"] == 200 and found.measured["reference_images"] == 300
    assert found.drawn == {"images_digest": digest, "sampler": "ddim", "seed": 3}
    for part in ("features=halves", "rule=value / 255", "images=200", "sampler=ddim", "seed=3"):
        assert part in found.signature()


def test_the_digest_is_of_the_images_and_not_of_their_order_or_batches():
    def digest(images, size=64):
        return collect(PLAIN, batches(images, size))[1]

    assert digest(IMAGES) == digest(IMAGES[::-1]) == digest(IMAGES, 11)
    other = IMAGES.copy()
    other[5, 0, 0, 0] ^= 1
    assert digest(other) != digest(IMAGES) != digest(IMAGES[:-1])
    assert digest(IMAGES.reshape(300, 2, 8, 1)) != digest(IMAGES)


def test_a_file_of_it_comes_back(tmp_path):
    found = measured()
    found.write(tmp_path / "new" / "m.json")
    assert Measurement.read(tmp_path / "new" / "m.json") == found


@pytest.mark.parametrize("text", ["", "{}", "[1]", '{"figures": 1, "measured": 2, "drawn": 3}', "figures"])
def test_a_file_that_is_none_is_refused(tmp_path, text):
    (tmp_path / "m.json").write_text(text)
    with pytest.raises(ValueError, match="is no measurement of sid2-evaluate"):
        Measurement.read(tmp_path / "m.json")
    with pytest.raises(FileNotFoundError, match="nowhere.json is no file"):
        Measurement.read(tmp_path / "nowhere.json")


def test_what_was_drawn_may_differ_between_figures_that_compare():
    check_comparable([measured(seed=0), measured(seed=1, sampler="heun"), measured(IMAGES[::-1])])


@pytest.mark.parametrize(
    "other, difference",
    [
        (measured(IMAGES[:200]), "images is 300 in the one and 200 in the other"),
        (
            measured(features=Features(name="other", digest="", rule="value / 255", extract=means)),
            "features is 'halves'",
        ),
        (
            measured(features=Features(name="halves", digest="ab", rule="value / 255", extract=means)),
            "features_digest is",
        ),
        (measured(features=Features(name="halves", digest="", rule="rounded", extract=means)), "rule is 'value / 255'"),
    ],
)
def test_unlike_signatures_do_not_compare_and_the_difference_is_named(other, difference):
    with pytest.raises(ValueError, match=f"a.json and b.json do not compare: {difference}"):
        check_comparable([measured(), other], ["a.json", "b.json"])


def test_another_reference_does_not_compare():
    real, digest = collect(PLAIN, batches(IMAGES[:250]), groups=1)
    other = evaluate(batches(), features=PLAIN, reference=Reference(name="r", digest=digest, features=real))
    with pytest.raises(ValueError, match="do not compare: reference is"):
        check_comparable([measured(), other])


def test_images_that_are_no_bytes_and_features_of_another_shape_are_refused():
    with pytest.raises(ValueError, match="Images to be measured must be uint8, .* got float64"):
        collect(PLAIN, [IMAGES / 255.0])
    flat = Features(name="flat", digest="", rule="", extract=lambda images: images.ravel())
    with pytest.raises(
        ValueError, match=r"The features function 'flat' must give \[64, D\] for 64 images, got \[1024\]"
    ):
        collect(flat, batches())


def test_clips_take_the_same_path():
    clips = IMAGES.reshape(60, 5, 4, 4, 1)
    over_time = Features(
        name="frames", digest="", rule="", extract=lambda c: c.reshape(len(c), 5, -1).mean(2)[:, :3] / 255.0
    )
    real, digest = collect(over_time, batches(clips, 16), groups=1)
    found = evaluate(
        batches(clips, 16), features=over_time, reference=Reference(name="r", digest=digest, features=real)
    )
    assert abs(found.figures["frechet"]) < 1e-9 and found.measured["images"] == 60


# References.


class Counted:
    """Batches that know how often they were read."""

    def __init__(self, images=IMAGES):
        self.images, self.times = images, 0

    def __call__(self):
        self.times += 1
        return batches(self.images)


def test_a_reference_is_read_once_and_again_only_when_something_changes(tmp_path):
    source = Counted()

    def reference(features=PLAIN, fingerprint=("a", 1), capacity=10_000):
        return reference_of(
            source, features, name="real", fingerprint=fingerprint, cache=tmp_path / "kept", capacity=capacity
        )

    first, again = reference(), reference()
    assert source.times == 1 and first.digest == again.digest and again.name == "real"
    np.testing.assert_array_equal(first.features.sample, again.features.sample)
    np.testing.assert_allclose(first.features.statistics.covariance, again.features.statistics.covariance, rtol=1e-12)
    reference(fingerprint=("a", 2))
    reference(features=Features(name="halves", digest="", rule="another", extract=means))
    reference(capacity=50)
    assert source.times == 4


@pytest.mark.parametrize("suffix", [".npz", ".json"])
def test_a_damaged_reference_is_made_anew(tmp_path, suffix):
    source = Counted()

    def reference():
        return reference_of(source, PLAIN, name="real", fingerprint=1, cache=tmp_path).digest

    expected = reference()
    (path,) = tmp_path.glob(f"*{suffix}")
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 255
    path.write_bytes(data[: len(data) - 3])
    assert reference() == expected and source.times == 2
    assert reference() == expected and source.times == 2


def test_without_a_cache_nothing_is_kept(tmp_path):
    assert reference_of(Counted(), PLAIN, name="real").digest == measured().measured["reference"]
    assert not list(tmp_path.iterdir())
