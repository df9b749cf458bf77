"""Every distance of generated images from real ones that there is, from what two feature sets kept."""

import numpy as np

from keras_sid2.evaluation.feature_set import FeatureSet
from keras_sid2.evaluation.frechet import frechet_distance
from keras_sid2.evaluation.inception_score import inception_score
from keras_sid2.evaluation.kernel_distance import kernel_distance
from keras_sid2.evaluation.precision_recall import precision_recall
from keras_sid2.evaluation.statistics import FeatureStatistics

_FEWEST = 100
_SUBSET_SIZE = 1000


def measure(samples: FeatureSet, reference: FeatureSet) -> dict[str, float]:
    """What generated images are worth beside real ones.

    From the statistics of all images:

        frechet                     the Frechet distance
        frechet_low, frechet_high   its 95 % interval

    and from the images that were kept, where both sets kept at least 100, as fewer say next to nothing:

        kid, kid_std                the kernel distance over random subsets of 1000, or of all where fewer were kept
        precision, recall           of three nearest neighbours
        inception_score, inception_score_std    over ten splits, where the samples have logits

    With S the samples, G the number of their groups and d_g the distance of S less group g, the interval is

        frechet +- 1.96 ((G - 1) / G  sum_g (d_g - mean d)^2)^1/2

    the delete-a-group jackknife (Efron and Stein, "The jackknife estimate of variance", 1981). It tells how much the
    distance would move if as many images were drawn anew from the same model: two models differ if their intervals lie
    apart. It does not cover the choice of the real images, nor the bias of finite sets, which is upwards, falls like
    1 / N and is not quite the same for all models (Chong and Forsyth 1911.07023): frechet_low of a perfect model may
    be above 0. Of ten groups, the width is good to about a quarter; near a perfect model it is up to 2^1/2 too large.

    Raises:
        ValueError: fewer than 2 groups, fewer than 2 samples a group, fewer than 2 real images, or sets of different
            features.
    """
    result = _frechet(samples, reference)
    if min(samples.count, samples.capacity, reference.count, reference.capacity) < _FEWEST:
        return result
    return result | _of_sample(samples, reference)


def _frechet(samples: FeatureSet, reference: FeatureSet) -> dict[str, float]:
    groups, real = samples.groups, reference.statistics
    if len(groups) < 2:
        raise ValueError("The interval of the Frechet distance needs samples in at least 2 groups, got 1.")
    if samples.count < 2 * len(groups):
        raise ValueError(
            f"The Frechet distance of samples in {len(groups)} groups needs at least {2 * len(groups)} samples, "
            f"got {samples.count}."
        )
    distance = frechet_distance(_merged(groups), real)
    without = [frechet_distance(_merged(groups[:g] + groups[g + 1 :]), real) for g in range(len(groups))]
    margin = 1.96 * np.sqrt((len(groups) - 1) * np.var(without))
    return {"frechet": distance, "frechet_low": float(distance - margin), "frechet_high": float(distance + margin)}


def _merged(groups: list[FeatureStatistics]) -> FeatureStatistics:
    return groups[0].merged(*groups[1:])


def _of_sample(samples: FeatureSet, reference: FeatureSet) -> dict[str, float]:
    ours, real, logits = samples.sample, reference.sample, samples.logits
    kernel = kernel_distance(ours, real, subset_size=min(_SUBSET_SIZE, len(ours), len(real)))
    near = precision_recall(ours, real)
    result = {"kid": kernel.mean, "kid_std": kernel.std, "precision": near.precision, "recall": near.recall}
    if logits is not None:
        score = inception_score(logits)
        result |= {"inception_score": score.mean, "inception_score_std": score.std}
    return result
