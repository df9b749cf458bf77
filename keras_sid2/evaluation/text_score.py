"""How well images fit their texts, where the features of both lie in one space."""

import hashlib
from collections.abc import Iterable, Iterator

import numpy as np

from keras_sid2.evaluation.gathering import Found


class TextScore:
    """The CLIP score of images whose features pass, in their order, beside `texts` float [N, D]. `digest` is of these,
    rounded: machines differ in the last bits."""

    def __init__(self, texts: np.ndarray):
        self._texts = _unit(texts)
        self._scores: list[np.ndarray] = []
        self.digest = hashlib.sha256(np.round(self._texts, 3).astype("float32").tobytes()).hexdigest()[:16]

    def passing(self, found: Iterable[Found]) -> Iterator[Found]:
        """The same, whose images are scored; ValueError for more or other features than texts have."""
        for part in found:
            first = sum(map(len, self._scores))
            texts = self._texts[first : first + len(part.features)]
            if texts.shape != part.features.shape:
                told = f"{list(self._texts.shape)} and {[first + len(part.features), part.features.shape[1]]}"
                raise ValueError(f"Texts must be one an image, as wide as its features: got {told}.")
            self._scores.append(100 * np.maximum((_unit(part.features) * texts).sum(axis=1), 0))
            yield part

    def metrics(self) -> dict[str, float]:
        """The mean, and its 95 % interval over images and texts like these."""
        scores = np.concatenate(self._scores)
        if len(scores) != len(self._texts):
            raise ValueError(f"There are {len(self._texts)} texts for {len(scores)} images.")
        mean, margin = scores.mean(), 1.96 * scores.std(ddof=1) / np.sqrt(len(scores))
        low, high = mean - margin, mean + margin
        return {"clip_score": float(mean), "clip_score_low": float(low), "clip_score_high": float(high)}


def _unit(values: np.ndarray) -> np.ndarray:
    values = np.asarray(values, "float64")
    return values / np.linalg.norm(values, axis=1, keepdims=True)
