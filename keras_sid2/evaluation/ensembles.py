"""Scores of ensembles beside the truth, for each channel, in float64 and gathered piece by piece.

E members x_i of an ensemble and the truth y, at each pixel and for each channel, then means over pixels (weighted, if
that is asked for) and examples:

    (1) crps   = mean_i |x_i - y| - 1/2 mean_(i != j) |x_i - x_j|              fair: on average the score of the
                                                                               distribution that members are drawn from
    (2) mae    = mean |m - y|,    rmse^2 = mean (m - y)^2,    m = mean_i x_i
    (3) spread^2 = mean of 1 / (E - 1) sum_i (x_i - m)^2
    (4) spread_skill = ((E + 1) / E)^1/2 spread / rmse                         1 where the truth is as the members are

Sources: (1) Ferro, "Fair scores for ensemble forecasts", 2014, by the package scoringrules; (4) Fortin et al., "Why
should ensemble spread match the RMSE of the ensemble mean?", 2014.
"""

from collections.abc import Sequence

import numpy as np


def fair_crps(ensembles: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Eq. (1) of [N, E, ...] beside [N, ...], float64 [N, ...]; ValueError for E below 2 or other shapes, ImportError
    without scoringrules."""
    ensembles, truth = _pair(ensembles, truth)
    try:
        import scoringrules
    except ImportError as error:
        raise ImportError("The CRPS needs scoringrules: pip install 'keras_sid2[fields]'.") from error
    # Its "pwm" sorts members, and is Eq. (1) to rounding; its "fair" compares all pairs, in E times the memory.
    return scoringrules.crps_ensemble(truth, ensembles, 1, estimator="pwm", backend="numpy")


class EnsembleScores:
    """Sums of `add`ed ensembles; `weights` are `pixel_weights`', None: all pixels count the same."""

    def __init__(self, weights: np.ndarray | None = None):
        self._weights, self._sums, self._members, self.count = weights, 0.0, None, 0

    def add(self, ensembles: np.ndarray, truth: np.ndarray):
        """[N, E, H, W, C] beside [N, H, W, C]; ValueError for E below 2, another E than before, or other shapes."""
        ensembles, truth = _pair(ensembles, truth)
        members = ensembles.shape[1]
        if self._members not in (None, members):
            raise ValueError(f"Ensembles must be of one size, got {self._members} members and then {members}.")
        mean, variance = ensembles.mean(1), ensembles.var(1, ddof=1)
        parts = (fair_crps(ensembles, truth), np.abs(mean - truth), np.square(mean - truth), variance)
        found = [_mean_over_pixels(part, self._weights).sum(0) for part in parts]
        self._members, self._sums, self.count = members, self._sums + np.stack(found), self.count + len(truth)

    def scores(self) -> dict[str, np.ndarray]:
        """(1) to (4) by name, float64 [C]; ValueError if nothing was added."""
        if not self.count:
            raise ValueError("There are no ensembles to score.")
        crps, mae, square, variance = self._sums / self.count
        rmse, spread = np.sqrt(square), np.sqrt(variance)
        wider = np.sqrt((self._members + 1) / self._members)
        ratio = wider * np.divide(spread, rmse, out=np.full_like(spread, np.nan), where=rmse > 0.0)
        return {"crps": crps, "mae": mae, "rmse": rmse, "spread": spread, "spread_skill": ratio}


def pixel_weights(weights, height: int, width: int) -> np.ndarray | None:
    """float64 [H, W] with mean 1, of weights [H], of rows, or [H, W], such as the cosine of latitude; None of None.
    ValueError for others, negative ones, or all zeros."""
    if weights is None:
        return None
    given = np.asarray(weights, "float64")
    if given.shape not in ((height,), (height, width)) or not (given >= 0.0).all() or not 0.0 < given.sum() < np.inf:
        wanted = f"[{height}] (of rows) or [{height}, {width}] that are not below 0, nor all 0"
        raise ValueError(f"Weights must be finite numbers {wanted}; got shape {list(given.shape)}.")
    given = np.broadcast_to(given.reshape(height, -1), (height, width))
    return given / given.mean()


def _mean_over_pixels(values: np.ndarray, weights: np.ndarray | None) -> np.ndarray:
    """[N, H, W, C] -> [N, C]."""
    return (values if weights is None else values * weights[..., None]).mean((1, 2))


def _pair(ensembles, truth) -> tuple[np.ndarray, np.ndarray]:
    ensembles, truth = np.asarray(ensembles, "float64"), np.asarray(truth, "float64")
    if ensembles.ndim != truth.ndim + 1 or (ensembles.shape[0], *ensembles.shape[2:]) != truth.shape:
        shapes = f"{list(ensembles.shape)} and {list(truth.shape)}"
        raise ValueError(f"Ensembles [N, E, ...] are scored beside a truth [N, ...] of the same shape, got {shapes}.")
    if ensembles.shape[1] < 2:
        raise ValueError(
            "CRPS and spread are of ensembles of at least 2 members, got 1: generate(..., ensemble_size=16)."
        )
    return ensembles, truth


def names_of(channels: Sequence[str] | None, count: int) -> tuple[str, ...]:
    """The channels' names, "0", "1", ... of None; ValueError for another number of them, or one twice."""
    names = tuple(map(str, range(count))) if channels is None else tuple(channels)
    if len(names) != count or len({*names}) < count:
        raise ValueError(f"Fields of {count} channels need as many different names, got {', '.join(names) or 'none'}.")
    return names
