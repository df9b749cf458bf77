"""Measurements with their signature."""

import dataclasses
import re

import numpy as np
import pytest
from plain_features import IMAGES, PLAIN, batches, means, reference

from keras_sid2.evaluation import (
    Features,
    FeatureSet,
    ImagesDigest,
    Measurement,
    Reference,
    cannot_be_told,
    check_comparable,
    collect,
    evaluate,
    folded,
    measure,
    signature,
)

pytestmark = pytest.mark.backend_free


def measured(images=IMAGES, features=PLAIN, options=None, **drawn) -> Measurement:
    real = reference(IMAGES[::-1], features)
    return evaluate(batches(images), features=features, reference=real, drawn=drawn, **(options or {}))


def test_figures_are_those_of_measure_and_the_signature_says_how():
    found = measured(IMAGES[:200], sampler="ddim", seed=3)
    ours, digest = collect(PLAIN, batches(IMAGES[:200], 7))
    real, _ = collect(PLAIN, batches(IMAGES[::-1]), groups=1)
    assert found.metrics == pytest.approx(measure(ours, real), rel=1e-9)
    assert found.measured["images"] == 200 and found.measured["reference_images"] == 300
    assert found.drawn == {"images_digest": digest, "sampler": "ddim", "seed": 3}
    for part in (
        "features=halves",
        "rule=value / 255",
        "images=200",
        "groups=10",
        "kept=[200, 300]",
        "sampler=ddim",
        "seed=3",
    ):
        assert part in found.signature()


def test_the_digest_is_of_the_images_and_of_their_order_and_not_of_batches():
    def digest(images, size=64):
        return collect(PLAIN, batches(images, size))[1].split("-")

    assert digest(IMAGES) == digest(IMAGES, 11)
    (images, order), (again, reverse) = digest(IMAGES), digest(IMAGES[::-1])
    assert images == again and order != reverse
    other = IMAGES.copy()
    other[5, 0, 0, 0] ^= 1
    different = (other, IMAGES[:-1], IMAGES.reshape(300, 2, 8, 1))
    assert all(digest(each)[0] != images and digest(each)[1] != order for each in different)


def test_a_digest_passes_on_what_it_is_of():
    digest = ImagesDigest()
    np.testing.assert_array_equal(np.concatenate(list(digest.passing(batches()))), IMAGES)
    assert digest.hexdigest() == reference().digest


def test_equal_signatures_have_equal_figures():
    """Order settles which images are kept and which are left out for the interval, so it is in the signature."""
    options = {"capacity": 120}
    first, again, other = (measured(images, options=options) for images in (IMAGES, IMAGES, IMAGES[::-1]))
    assert first == again and first.signature() == again.signature() != other.signature()
    assert first.metrics["frechet"] == pytest.approx(other.metrics["frechet"], abs=1e-12)
    assert first.metrics["kid"] != other.metrics["kid"]
    parts = [reference(images, capacity=120) for images in (IMAGES, IMAGES[::-1])]
    pair = [evaluate(batches(), features=PLAIN, reference=each) for each in parts]
    assert pair[0].metrics["kid"] != pair[1].metrics["kid"]
    with pytest.raises(ValueError, match="do not compare: reference is"):
        check_comparable(pair)


@pytest.mark.parametrize(
    "changed, difference",
    [
        ({"name": "other"}, "their name is 'halves', and 'other' of those to measure with"),
        ({"digest": "ab"}, "their digest is '', and 'ab'"),
        ({"rule": "value / 256"}, "their rule is 'value / 255', and 'value / 256'"),
    ],
)
def test_a_reference_of_other_features_is_refused_before_anything_is_drawn(changed, difference):
    def drawing():
        pytest.fail("something was drawn")
        yield

    with pytest.raises(ValueError, match=f"The reference 'r' is of other features: {difference}"):
        evaluate(drawing(), features=dataclasses.replace(PLAIN, **changed), reference=reference())
    by_hand = FeatureSet(groups=1)
    by_hand.add(means(IMAGES))
    with pytest.raises(ValueError, match="'r' does not tell what features it is of: make it by `collect`"):
        evaluate(drawing(), features=PLAIN, reference=Reference(name="r", digest="", features=by_hand))


def test_features_of_another_width_are_refused_at_the_first_batch():
    rows = Features(name="rows", digest="", rule="", extract=lambda images: images.mean(axis=(2, 3)))
    drawn = batches(IMAGES.reshape(300, 8, 2, 1))
    with pytest.raises(ValueError, match="as many features, got 8 and 4"):
        evaluate(drawn, features=rows, reference=reference(features=rows))
    assert len(list(drawn)) == 4  # of 5


def test_a_file_of_it_comes_back(tmp_path):
    found = measured()
    found.write(tmp_path / "new" / "m.json")
    assert Measurement.read(tmp_path / "new" / "m.json") == found


@pytest.mark.parametrize("text", ["", "{}", "[1]", '{"metrics": 1, "measured": 2, "drawn": 3}', "metrics"])
def test_a_file_that_is_none_is_refused(tmp_path, text):
    (tmp_path / "m.json").write_text(text)
    with pytest.raises(ValueError, match="is no measurement of sid2-evaluate"):
        Measurement.read(tmp_path / "m.json")
    with pytest.raises(FileNotFoundError, match="nowhere.json is no file"):
        Measurement.read(tmp_path / "nowhere.json")


def test_what_was_drawn_may_differ_between_figures_that_compare():
    check_comparable([measured(seed=0), measured(seed=1, sampler="heun"), measured(IMAGES[::-1])])


def test_figures_of_another_method_do_not_compare(monkeypatch):
    one = measured()
    monkeypatch.setattr(signature, "METHOD", "another")
    with pytest.raises(ValueError, match="do not compare: method is .* in the one and 'another' in the other"):
        check_comparable([one, measured()])


@pytest.mark.parametrize(
    "other, difference",
    [
        (measured(IMAGES[:200]), "images is 300 in the one and 200 in the other"),
        (measured(options={"groups": 5}), "groups is 10 in the one and 5 in the other"),
        (
            measured(options={"capacity": 120}),
            re.escape("kept is [300, 300] in the one and [120, 300] in the other"),
        ),
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


def test_custom_settings_that_read_alike_cannot_be_told_apart_and_that_is_said():
    drawn = [{"sampler": "custom own.Sampler", "schedule": "S()"}, {"sampler": "custom own.Sampler", "schedule": "S()"}]
    digested = dataclasses.replace(PLAIN, digest="ab")
    found = [dataclasses.replace(measured(features=digested), drawn=d) for d in (*drawn, {"sampler": "custom other"})]
    said = "sampler is 'custom own.Sampler' in a and b: that is a name only, so whether they are equal cannot be told."
    assert cannot_be_told(found, "abc") == [said] and cannot_be_told(found[1:], "bc") == []
    assert "features is 'halves' in a and b" in cannot_be_told([measured(), measured()], "ab")[0]


def test_another_reference_does_not_compare():
    other = evaluate(batches(), features=PLAIN, reference=reference(IMAGES[:250]))
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
    assert abs(found.metrics["frechet"]) < 1e-9 and found.measured["images"] == 60


def test_folds_are_told_by_mean_and_deviation():
    parts = [measured(IMAGES[fold:], options={"groups": 2}, seed=fold) for fold in range(4)]
    parts = [dataclasses.replace(part, measured=parts[0].measured) for part in parts]
    found = folded(parts)
    distances = np.array([part.metrics["frechet"] for part in parts])
    assert np.ptp(distances) > 0.0
    np.testing.assert_allclose([found.metrics[f"frechet_{fold}"] for fold in range(1, 5)], distances)
    np.testing.assert_allclose(found.metrics["frechet"], distances.sum() / 4)
    deviation = np.sqrt(np.square(distances - distances.mean()).sum() / 3)
    np.testing.assert_allclose(found.metrics["frechet_deviation"], deviation)
    assert not any(name.endswith(("_low", "_high", "_std")) for name in found.metrics)
    assert "folds=4" in found.signature() and found.drawn["seed"] == 0
    assert found.drawn["images_digest"] not in [part.drawn["images_digest"] for part in parts]
    with pytest.raises(ValueError, match="do not compare: folds is None in the one and 4 in the other"):
        check_comparable([parts[0], found])
    with pytest.raises(ValueError, match="do not compare: images is"):
        folded([parts[0], measured(IMAGES[5:], options={"groups": 2})])
