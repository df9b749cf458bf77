"""All metrics of generated images beside real ones, from what two feature sets kept."""

from collections.abc import Callable

import numpy as np
from scipy import special

from keras_sid2.evaluation.distances import frechet_distance, kernel_distance, precision_recall
from keras_sid2.evaluation.feature_set import FeatureSet

_FEWEST = 100
_SUBSETS, _SUBSET_SIZE = 100, 1000


def measure(
    samples: FeatureSet, reference: FeatureSet, *, progress: Callable[[int, int], None] | None = None
) -> dict[str, float]:
    """The quality of generated images beside real ones.

    From all images:

        frechet                     the Frechet distance
        frechet_low, frechet_high   its 95 % interval
        inception_score, inception_score_std    over ten splits, of at least 100 samples that have logits

    and from the images that were kept, where both sets kept at least 100, as fewer say next to nothing:

        kid, kid_std                the kernel distance over random subsets of 1000, or of all where fewer were kept;
                                    no kid_std where every subset would be all images of both sets
        precision, recall           of three nearest neighbours

    With d_g the distance of the samples less group g of G and t the quantile of Student's t with G - 1 degrees of
    freedom (2.26 for ten groups), the interval is frechet +- t ((G - 1) / G  sum_g (d_g - mean d)^2)^1/2, the
    delete-a-group jackknife (Efron and Stein, "The jackknife estimate of variance", 1981): how much the distance would
    move if as many images were drawn anew from the same model. In simulations it held the mean of such draws 95 to 98
    times of 100; of ten groups, its width is good to about a quarter, near a perfect model up to 2^1/2 too large. It
    does not cover the choice of the real images, nor the bias of finite sets, which is upwards, falls like 1 / N and is
    not quite the same for all models (Chong and Forsyth 1911.07023).

    `progress` is called with (Frechet distances done, in all) after each of the G + 1, which are most of the work.
    Raises ValueError for fewer than 2 groups, 2 samples a group or 2 real images, or sets of different features.
    """
    result = _frechet(samples, reference, progress or (lambda done, total: None))
    if min(samples.count, samples.capacity, reference.count, reference.capacity) >= _FEWEST:
        result |= _of_sample(samples.sample, reference.sample)
    score = samples.inception_score if samples.count >= _FEWEST else None
    return result | ({} if score is None else {"inception_score": score.mean, "inception_score_std": score.std})


def _frechet(samples: FeatureSet, reference: FeatureSet, progress: Callable[[int, int], None]) -> dict[str, float]:
    groups, real = samples.groups, reference.statistics
    count, fewest = len(groups), 2 * len(groups)
    if count < 2:
        raise ValueError("The interval of the Frechet distance needs samples in at least 2 groups, got 1.")
    if samples.count < fewest:
        needed = f"at least {fewest} samples, got {samples.count}"
        raise ValueError(f"The Frechet distance of samples in {count} groups needs {needed}.")
    sets, distances = [groups, *(groups[:g] + groups[g + 1 :] for g in range(count))], []
    for parts in sets:
        distances.append(frechet_distance(parts[0].merged(*parts[1:]), real))
        progress(len(distances), len(sets))
    distance, *without = distances
    margin = special.stdtrit(count - 1, 0.975) * np.sqrt((count - 1) * np.var(without))
    return {"frechet": distance, "frechet_low": float(distance - margin), "frechet_high": float(distance + margin)}


def _of_sample(ours: np.ndarray, real: np.ndarray) -> dict[str, float]:
    size = min(_SUBSET_SIZE, len(ours), len(real))
    only_one = size == len(ours) == len(real)  # then all subsets are the same, and differ by rounding
    kernel = kernel_distance(ours, real, subsets=1 if only_one else _SUBSETS, subset_size=size)
    near = precision_recall(ours, real)
    spread = {} if only_one else {"kid_std": kernel.std}
    return {"kid": kernel.mean, **spread, "precision": near.precision, "recall": near.recall}
