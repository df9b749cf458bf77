"""Metrics of generated fields beside true ones, with a signature: what stands in for the Frechet distance there."""

from collections.abc import Iterable, Sequence

import numpy as np

from keras_sid2.evaluation.ensembles import EnsembleScores, names_of, pixel_weights
from keras_sid2.evaluation.features import ImagesDigest
from keras_sid2.evaluation.signature import Measurement
from keras_sid2.evaluation.spectra import FieldStatistics, power_spectrum

METHOD = "keras_sid2.evaluation.measure_fields 1"  # counted up whenever a figure would come out differently


class FieldScores:
    """Gathers fields batch by batch; none are kept but `FieldStatistics`' choice of pixels.

    Args:
        names: of the channels; None: their numbers.
        periodic: of "height" and "width", the axes that are.
        weights: of rows [H] or pixels [H, W], for all but spectra; for rows at latitudes, np.cos(np.deg2rad(latitude)).
        capacity: pixels that the histogram distance keeps of either set.

    Raises ValueError for other axes.
    """

    def __init__(
        self,
        names: Sequence[str] | None = None,
        *,
        periodic: Sequence[str] = (),
        weights=None,
        capacity: int = 200_000,
    ):
        self._names, self._periodic = names, (periodic,) if isinstance(periodic, str) else tuple(periodic)
        self._given_weights, self._capacity, self._shape = weights, capacity, None
        self._digests = ImagesDigest(), ImagesDigest()
        power_spectrum(np.zeros((2, 2, 1)), self._periodic)  # refuses what are no axes

    def add(self, samples: np.ndarray, truth: np.ndarray):
        """Ensembles [N, E, H, W, C] with the truth [N, H, W, C] of each; or samples [N, H, W, C], one a truth, or of no
        certain one. ValueError for other shapes than those before, other channels, values that are not finite."""
        samples, truth = np.asarray(samples), np.asarray(truth)
        if samples.ndim not in (4, 5) or truth.ndim != 4 or samples.shape[-3:] != truth.shape[1:]:
            wanted = "[N, E, H, W, C] or [N, H, W, C], and the truth [N, H, W, C] with as many pixels and channels"
            raise ValueError(f"Fields are {wanted}; got {list(samples.shape)} and {list(truth.shape)}.")
        shape = (samples.ndim == 5, *truth.shape[1:])
        if self._shape is None:
            self._begin(shape)
        if shape != self._shape:
            told = f"got [.., {', '.join(map(str, shape[1:]))}] after [.., {', '.join(map(str, self._shape[1:]))}]"
            raise ValueError(f"All fields must be of one shape, and all ensembles or none: {told}.")
        if self._ensembles is not None:
            self._ensembles.add(samples, truth)
        members = samples.reshape(-1, *samples.shape[-3:])
        for kept, digest, fields in zip((self.samples, self.truth), self._digests, (members, truth), strict=True):
            kept.add(fields)
            digest.add(fields)

    def _begin(self, shape: tuple):
        ensembles, height, width, channels = shape
        self._names, self._shape = names_of(self._names, channels), shape
        self._weights = pixel_weights(self._given_weights, height, width)
        self._ensembles = EnsembleScores(self._weights) if ensembles else None
        options = {"periodic": self._periodic, "weights": self._weights, "capacity": self._capacity}
        self.samples, self.truth = FieldStatistics(**options), FieldStatistics(**options)

    def metrics(self) -> dict[str, float]:
        """crps_NAME, mae_, rmse_, spread_ and spread_skill_ (of ensembles), log_spectral_distance_ and wasserstein_ of
        every channel; ValueError if nothing was added."""
        if self._shape is None:
            raise ValueError("There are no fields to measure.")
        found = self.samples.distances(self.truth)
        if self._ensembles is not None:
            found = self._ensembles.scores() | found
        return {f"{k}_{name}": float(v) for k, of in found.items() for name, v in zip(self._names, of, strict=True)}

    def measurement(self, drawn: dict | None = None) -> Measurement:
        """`metrics` and how they were made; `drawn` is what is known of the samples, as of `SampleRequest.describe`."""
        metrics = self.metrics()
        samples, truth = (digest.hexdigest() for digest in self._digests)
        weights = None if self._weights is None else ImagesDigest()
        if weights is not None:
            weights.add(self._weights[None])
        measured = {
            "method": METHOD,
            "channels": list(self._names),
            "periodic": list(self._periodic),
            "weights": weights and weights.hexdigest(),
            "reference": truth,
            "reference_images": self.truth.count,
            "images": self.samples.count,
            "ensemble_size": self.samples.count // self.truth.count if self._ensembles else None,
            "kept_pixels": self._capacity,
        }
        return Measurement(metrics=metrics, measured=measured, drawn={"images_digest": samples, **(drawn or {})})


def measure_fields(
    batches: Iterable[tuple[np.ndarray, np.ndarray]],
    names: Sequence[str] | None = None,
    *,
    drawn: dict | None = None,
    **options,
) -> Measurement:
    """The metrics of fields in batches (samples, truth), as `FieldScores.add` takes them; its other arguments too."""
    scores = FieldScores(names, **options)
    for samples, truth in batches:
        scores.add(samples, truth)
    return scores.measurement(drawn)
