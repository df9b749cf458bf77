"""What a feature set keeps does not depend on batches, and is drawn evenly; files of it are whole or refused."""

import numpy as np
import pytest

from keras_sid2.evaluation import FeatureSet, FeatureStatistics, inception_score
from keras_sid2.evaluation.feature_set import _BLOCK
from keras_sid2.evaluation.inception_score import StreamedScore

pytestmark = pytest.mark.backend_free

ROWS = np.random.default_rng(0).normal(size=(500, 4)) + 3.0
LOGITS = np.random.default_rng(1).normal(size=(500, 3)).astype("float32")


def filled(features=ROWS, logits=LOGITS, batch=64, into=None, **kwargs):
    into = into or FeatureSet(**{"groups": 3, "capacity": 50, **kwargs})
    for start in range(0, len(features), batch):
        into.add(features[start : start + batch], None if logits is None else logits[start : start + batch])
    return into


def assert_same(one, other, rtol=0.0):
    assert one.count == other.count
    np.testing.assert_array_equal(one.sample, other.sample)
    assert one.inception_score == (pytest.approx(other.inception_score, rel=rtol) if rtol else other.inception_score)
    for a, b in zip(one.groups, other.groups, strict=True):
        assert a.count == b.count
        np.testing.assert_allclose(a.mean, b.mean, rtol=rtol)
        np.testing.assert_allclose(a.scatter, b.scatter, rtol=rtol, atol=rtol * np.abs(b.scatter).max())


@pytest.mark.parametrize("batch", [1, 7, 500])
def test_batches_make_no_difference(batch):
    assert_same(filled(batch=batch), filled(batch=64))


@pytest.mark.parametrize("batch", [1000, _BLOCK, 2 * _BLOCK + 5])
def test_batches_make_no_difference_beyond_a_block(batch):
    features = np.random.default_rng(1).normal(size=(2 * _BLOCK + 5, 3))
    assert_same(filled(features, None, batch), filled(features, None, 64))
    expected = FeatureStatistics.of(features)
    np.testing.assert_allclose(filled(features, None, batch).statistics.mean, expected.mean, rtol=1e-10)
    np.testing.assert_allclose(filled(features, None, batch).statistics.covariance, expected.covariance, rtol=1e-10)


@pytest.mark.parametrize("batch", [1, 7, 500])
def test_the_inception_score_is_of_all_images_not_of_the_sample(batch):
    assert filled(batch=batch).inception_score == pytest.approx(inception_score(LOGITS), rel=1e-12)


@pytest.mark.parametrize("shuffled", [500, 64, 20])
def test_more_images_than_are_shuffled_at_once_are_summed(shuffled, monkeypatch):
    """Each run of them by a shuffle of its own: another choice of splits, whose scores differ by chance."""
    monkeypatch.setattr(StreamedScore, "SHUFFLED", shuffled)
    score = filled(batch=1).inception_score
    assert score == filled(batch=64).inception_score == filled(batch=500).inception_score
    by_chance = [inception_score(LOGITS, seed=seed).mean for seed in range(100)]
    assert min(by_chance) - 1.0 / shuffled < score.mean < max(by_chance) + 1.0 / shuffled


def test_each_run_of_images_has_a_shuffle_of_its_own(monkeypatch):
    monkeypatch.setattr(StreamedScore, "SHUFFLED", 250)
    places = [np.argsort(np.random.RandomState(seed).permutation(250)) for seed in (2020, 2021)]
    split = np.concatenate(places) * 10 // 250
    p = np.exp(LOGITS.astype("float64"))
    p /= p.sum(1, keepdims=True)
    kl = [(p[split == s] * np.log(p[split == s] / p[split == s].mean(0))).sum(1).mean() for s in range(10)]
    assert filled().inception_score.mean == pytest.approx(np.exp(kl).mean(), rel=1e-12)


def test_looking_changes_nothing():
    looked = FeatureSet(groups=3, capacity=50)
    for i, (row, logits) in enumerate(zip(ROWS, LOGITS, strict=True)):
        looked.add(row[None], logits[None])
        _ = looked.groups, looked.inception_score if i >= 9 else None
    assert_same(looked, filled())


def test_callers_may_reuse_their_arrays():
    batch, kept = np.empty((1, 4)), FeatureSet(groups=3, capacity=50)
    for row, logits in zip(ROWS, LOGITS, strict=True):
        batch[:] = row
        kept.add(batch, logits[None])
    assert_same(kept, filled())


def test_every_row_of_images_goes_to_all_groups():
    """Told by a feature that is the image's number: each group has one of every seven in a row."""
    numbers = FeatureSet(groups=7)
    numbers.add(np.arange(500.0)[:, None])
    assert sorted(g.count for g in numbers.groups) == [71] * 4 + [72] * 3
    whole = FeatureSet(groups=7)
    whole.add(np.arange(497.0)[:, None])
    for group in whole.groups:
        assert abs(group.mean[0] - 248) <= 3  # one of each row: never more than three away from its middle
    in_turn = [np.arange(497)[i::7].mean() for i in range(7)]
    assert sorted(round(g.mean[0], 2) for g in whole.groups) != [round(m, 2) for m in in_turn]


def test_groups_of_classes_in_turn_are_not_the_classes():
    classes = FeatureSet(groups=10)
    classes.add(np.eye(10)[np.arange(2000) % 10])
    for group in classes.groups:
        assert np.abs(group.mean - 0.1).max() < 0.1


def test_the_statistics_are_those_of_all_images():
    np.testing.assert_allclose(filled(groups=7).statistics.covariance, np.cov(ROWS, rowvar=False), rtol=1e-10)


def test_a_small_set_is_its_own_sample_in_order():
    kept = filled(capacity=500)
    assert kept.sample.dtype == "float32" and kept.width == 4
    np.testing.assert_array_equal(kept.sample, ROWS.astype("float32"))
    assert filled(capacity=0).sample.shape == (0, 4)


def test_the_sample_has_different_images():
    numbers = np.arange(500.0)[:, None]
    assert len(set(filled(numbers).sample[:, 0])) == 50
    assert (filled(seed=1).sample != filled().sample).any()


def test_every_image_is_as_likely_to_be_kept():
    numbers = np.arange(20.0)[:, None]
    kept = [filled(numbers, None, capacity=5, seed=seed).sample[:, 0].astype(int) for seed in range(4000)]
    counts = np.bincount(np.concatenate(kept), minlength=20)  # variance 4000 / 4 * 3 / 4 each, of the mean 1000
    assert np.abs(counts - 1000).max() < 4 * np.sqrt(750)


def test_a_file_has_it_all_and_goes_on(tmp_path):
    path = tmp_path / "set.npz"
    filled().save(path)
    assert [p.name for p in tmp_path.iterdir()] == ["set.npz"]
    assert_same(FeatureSet.load(path), filled())
    filled(ROWS[:123], LOGITS[:123]).save(path)
    assert_same(filled(ROWS[123:], LOGITS[123:], into=FeatureSet.load(path)), filled(), rtol=1e-12)
    filled(logits=None).save(path)
    assert FeatureSet.load(path).inception_score is None and FeatureSet.load(path).made_by is None
    filled(made_by=("name", "", "a rule")).save(path)
    assert FeatureSet.load(path).made_by == ("name", "", "a rule")


def test_a_file_goes_on_in_the_midst_of_a_shuffle(tmp_path, monkeypatch):
    monkeypatch.setattr(StreamedScore, "SHUFFLED", 64)
    filled(ROWS[:223], LOGITS[:223]).save(tmp_path / "set.npz")
    loaded = FeatureSet.load(tmp_path / "set.npz")
    assert filled(ROWS[223:], LOGITS[223:], into=loaded).inception_score == filled().inception_score


def changed(path, **arrays):
    with np.load(path) as file:
        np.savez(path, **{name: array for name, array in {**file, **arrays}.items() if array is not None})


@pytest.mark.parametrize(
    "change",
    [
        {"seed": None},
        {"seed": -1},
        {"seed": "five"},
        {"more": np.ones(3)},
        {"format": 1},
        {"format": None},
        {"made_by": ["a name", "a digest"]},
        {"made_by": 3},
        {"capacity": [50, 50]},
        {"capacity": 49},
        {"counts": 500},
        {"counts": [168, 166, 166]},
        {"counts": [167, 167]},
        {"means": np.zeros(3)},
        {"means": np.zeros((3, 5)), "scatters": np.zeros((3, 5, 5))},
        {"scatters": np.zeros((3, 4, 3))},
        {"scatters": np.full((3, 4, 4), np.nan)},
        {"sample": np.zeros((51, 4))},
        {"sample": np.zeros((49, 4))},
        {"split_logits": None},
        {"split_logits": np.zeros((499, 3), "float32")},
        {"split_logits": np.zeros(500, "float32")},
        {"split_p": np.zeros((10, 2))},
        {"split_counts": np.ones(10, "int64")},
        {"sample": np.array([{}], dtype=object)},
    ],
)
def test_a_file_that_does_not_fit_together_is_refused(tmp_path, change):
    path = tmp_path / "set.npz"
    filled().save(path)
    changed(path, **change)
    with pytest.raises(ValueError, match="set.npz is not a whole file that FeatureSet.save wrote"):
        FeatureSet.load(path)


def test_other_files_are_refused(tmp_path):
    path = tmp_path / "set.npz"
    filled().save(path)
    whole = path.read_bytes()
    bitten = whole.replace(ROWS[:1].mean(0).tobytes()[:1], b"?", 1)
    for content in (b"", b"text", whole[:-100], whole[: len(whole) // 2], bitten):
        path.write_bytes(content)
        with pytest.raises(ValueError, match="set.npz is not a whole file"):
            FeatureSet.load(path)
    np.save(tmp_path / "one.npy", ROWS)
    with pytest.raises(ValueError, match="one.npy is not a whole file"):
        FeatureSet.load(tmp_path / "one.npy")
    with pytest.raises(FileNotFoundError):
        FeatureSet.load(tmp_path / "none.npz")


@pytest.mark.parametrize("bad", [{"groups": 0}, {"capacity": -1}, {"seed": -1}, {"seed": 2**32}])
def test_arguments_it_refuses(bad):
    with pytest.raises(ValueError, match="at least 1 group"):
        FeatureSet(**bad)


def test_batches_it_refuses_change_nothing():
    kept = filled()
    for features, logits, message in (
        (ROWS[:, :3], LOGITS, "had 4 features and 3 logits an image, this one has 3 and 3"),
        (ROWS, None, "this one has 4 and no"),
        (ROWS, LOGITS[:5], "of the same images, got 500 and 5"),
        (ROWS * np.nan, LOGITS, "Features must be finite"),
        (ROWS, LOGITS * np.nan, "Logits must be finite"),
        (ROWS[0], LOGITS, "Features must be finite, of shape"),
    ):
        with pytest.raises(ValueError, match=message):
            kept.add(features, logits)
    kept.add(ROWS[:0], LOGITS[:0])
    assert_same(kept, filled())


def test_an_empty_set_has_nothing(tmp_path):
    empty = FeatureSet()
    assert empty.count == 0 and empty.width is None and empty.inception_score is None
    for read in (lambda: empty.groups, lambda: empty.statistics, lambda: empty.save(tmp_path / "set.npz")):
        with pytest.raises(ValueError, match="no statistics: add some first"):
            read()
    with pytest.raises(ValueError, match="no sample: add some first"):
        _ = empty.sample
    assert not list(tmp_path.iterdir())
