"""All measurements of one set beside another, and the interval of the Frechet distance against repeated draws."""

import numpy as np
import pytest
from scipy import stats

from keras_sid2.evaluation import (
    FeatureSet,
    frechet_distance,
    inception_score,
    kernel_distance,
    measure,
    precision_recall,
)

pytestmark = pytest.mark.backend_free

FRECHET = {"frechet", "frechet_low", "frechet_high"}
OF_SAMPLE = {"kid", "precision", "recall"}


def draw(count, shift=0.0, seed=0, width=6):
    return (np.random.default_rng(seed).normal(size=(count, width)) + shift).astype("float32")


def set_of(features, logits=None, **kwargs):
    result = FeatureSet(**kwargs)
    result.add(features, logits)
    return result


def test_every_value_is_the_one_of_its_function():
    ours, real, logits = draw(300, 0.3), draw(200, seed=1), draw(300, seed=2)
    result = measure(set_of(ours, logits), set_of(real, groups=1))
    kernel, near = kernel_distance(ours, real, subset_size=200), precision_recall(ours, real)
    score = inception_score(logits)
    assert result == pytest.approx(
        {
            "frechet": frechet_distance(ours, real),
            "frechet_low": result["frechet_low"],
            "frechet_high": result["frechet_high"],
            "kid": kernel.mean,
            "kid_std": kernel.std,
            "precision": near.precision,
            "recall": near.recall,
            "inception_score": score.mean,
            "inception_score_std": score.std,
        },
        rel=1e-10,
    )
    assert all(type(value) is float for value in result.values())


def test_the_interval_is_the_jackknife_s():
    ours, real = draw(53, 0.3), draw(200, seed=1)
    result = measure(set_of(ours, groups=4), set_of(real, groups=1))
    members = [group.mean > 0 for group in set_of(np.eye(53), groups=4).groups]  # each image has a feature of its own
    without = [frechet_distance(ours[~member], real) for member in members]
    margin = stats.t.ppf(0.975, 3) * np.sqrt(3 / 4 * np.sum((without - np.mean(without)) ** 2))
    assert result["frechet_low"] == pytest.approx(result["frechet"] - margin, rel=1e-9)
    assert result["frechet_high"] == pytest.approx(result["frechet"] + margin, rel=1e-9)


@pytest.mark.parametrize("shift, widest", [(0.5, 1.15), (0.0, 1.5)])
def test_the_interval_is_as_wide_as_repeated_draws_differ(shift, widest):
    """Of a model unlike the real images, and of one like them: all of the distance is bias, the interval too wide."""
    real = set_of(draw(20_000, seed=999), groups=1, capacity=0)  # that is, the Frechet distance alone
    results = [measure(set_of(draw(200, shift, seed)), real) for seed in range(400)]
    spread = np.std([r["frechet"] for r in results])
    errors = [(r["frechet_high"] - r["frechet_low"]) / (2 * stats.t.ppf(0.975, 9)) for r in results]
    assert 0.9 * spread < np.sqrt(np.mean(np.square(errors))) < widest * spread


@pytest.mark.parametrize("shift", [0.5, 0.1])
def test_the_interval_covers_the_mean_of_repeated_draws_as_often_as_it_says(shift):
    """95 % but for the chance of 1000 draws, 0.7 %, or more often; with 1.96 in the place of t it is 93 %."""
    real = set_of(draw(5000, seed=999, width=4), groups=1, capacity=0)
    results = [measure(set_of(draw(400, shift, seed, width=4)), real) for seed in range(1000)]
    mean = np.mean([r["frechet"] for r in results])
    covered = np.mean([r["frechet_low"] <= mean <= r["frechet_high"] for r in results])
    assert 0.94 < covered < 0.985


@pytest.mark.parametrize("counts", [(99, 100), (100, 99)])
def test_too_few_images_have_only_the_frechet_distance(counts):
    ours, real = (draw(count, seed=count) for count in counts)
    assert set(measure(set_of(ours), set_of(real))) == FRECHET
    many = draw(100)
    assert set(measure(set_of(many, capacity=99), set_of(many))) == FRECHET
    assert set(measure(set_of(many), set_of(many))) == FRECHET | OF_SAMPLE


@pytest.mark.parametrize("count, scored", [(99, False), (100, True)])
def test_the_inception_score_needs_images_and_no_real_ones(count, scored):
    logits = draw(count, seed=1)
    assert ("inception_score" in measure(set_of(draw(count), logits, capacity=0), set_of(draw(5)))) is scored


def test_the_inception_score_is_of_all_images_though_few_were_kept():
    features, logits = draw(900), 3 * draw(900, seed=1, width=20)
    metrics = measure(set_of(features, logits, capacity=200), set_of(draw(200, seed=2)))
    score = inception_score(logits)
    found = metrics["inception_score"], metrics["inception_score_std"]
    assert found == pytest.approx((score.mean, score.std), rel=1e-12)


def test_the_kernel_distance_has_no_spread_where_all_subsets_are_the_same():
    ours, real = draw(300), draw(300, seed=1)
    alike = measure(set_of(ours), set_of(real))
    assert "kid_std" not in alike
    assert alike["kid"] == pytest.approx(kernel_distance(ours, real, subset_size=300).mean, rel=1e-9)
    assert measure(set_of(ours), set_of(real[:299]))["kid_std"] > 1e-6


def test_sets_it_refuses():
    ours, real = draw(40), set_of(draw(40, seed=1))
    with pytest.raises(ValueError, match="in 10 groups needs at least 20 samples, got 19"):
        measure(set_of(ours[:19]), real)
    assert set(measure(set_of(ours[:20]), real)) == FRECHET
    with pytest.raises(ValueError, match="at least 2 groups, got 1"):
        measure(set_of(ours, groups=1), real)
    with pytest.raises(ValueError, match="as many features, got 6 and 5"):
        measure(set_of(ours), set_of(draw(40, width=5)))
    with pytest.raises(ValueError, match="at least 2 images, got 1"):
        measure(set_of(ours), set_of(ours[:1]))
    with pytest.raises(ValueError, match="add some first"):
        measure(FeatureSet(), real)
