"""Means and deviations of channels, in float64, one example after another, and of parts that processes have seen."""

import math
from typing import Any

import numpy as np

Moments = dict[str, list]  # by name of a value: [count, means, sums of squared distances from them], as JSON has them


def add(moments: Moments, name: str, value: np.ndarray) -> None:
    """Takes an example's value [..., C] in."""
    flat = value.reshape(-1, value.shape[-1]).astype(np.float64)
    mean = flat.mean(0)
    squares = np.square(flat - mean).sum(0)
    moments[name] = merged(moments.get(name), [len(flat), mean.tolist(), squares.tolist()])


def merged(first: list | None, second: list) -> list:
    """Of two parts, by Chan, Golub and LeVeque 1979: without the large sums of squares whose difference is nothing."""
    if first is None:
        return second
    (few, mean, squares), (more, other, others) = first, second
    mean, squares, other, others = map(np.asarray, (mean, squares, other, others))
    count, apart = few + more, other - mean
    found = mean + apart * (more / count), squares + others + np.square(apart) * (few * more / count)
    return [count, *(values.tolist() for values in found)]


def statistics(found: list, names: tuple[str, ...], *, of_sample: bool) -> dict[str, Any]:
    """Names, mean and std, as reports have them. A constant channel beside the sample has the deviation 1. Raises
    ValueError: one of the sample is constant, or varies by less than float32 resolves."""
    count, mean, squares = found
    std = [math.sqrt(square / count) for square in squares]
    for number, name in enumerate(names):
        least = float(np.spacing(np.float32(abs(mean[number]))))
        if std[number] >= least:
            continue
        if of_sample:
            wrong = f"varies by {std[number]:.3g} about {mean[number]:.6g}" if std[number] else "is constant"
            raise ValueError(
                f"the channel {name!r} {wrong}, which float32 cannot tell apart: leave it out, or subtract a constant"
            )
        std[number] = max(1.0, least) if not std[number] else least
    return {"names": list(names), "mean": mean, "std": std}
