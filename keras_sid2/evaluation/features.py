"""What a measurement looks at: a function from images to features, with the name and hash that a signature quotes."""

import dataclasses
from collections.abc import Callable

import numpy as np


@dataclasses.dataclass(frozen=True, kw_only=True)
class Features:
    """A features function that says what it is.

    Args:
        name: as "inception-v3-fid".
        digest: hexadecimal hash of whatever defines the function (its weights); "" where nothing does.
        rule: how it resizes, scales and rounds images, in words.
        extract: uint8 [B, H, W, C] (or clips [B, F, H, W, C]) -> float [B, D]; or a pair of these and class logits
            [B, K], which the inception score needs.
    """

    name: str
    digest: str
    rule: str
    extract: Callable

    @property
    def identity(self) -> tuple[str, str, str]:
        """(name, digest, rule): features of equal ones compare."""
        return self.name, self.digest, self.rule

    def __call__(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        """(features [B, D], logits [B, K] or None).

        ValueError for images that are not uint8, or wrong features; FloatingPointError for values that are not finite.
        """
        if images.dtype != np.uint8:
            raise ValueError(f"Images to be measured must be uint8, as they are stored and shown; got {images.dtype}.")
        result = self.extract(images)
        features, logits = result if isinstance(result, tuple) else (result, None)
        features = np.asarray(features)
        if features.ndim != 2 or len(features) != len(images):
            raise ValueError(
                f"The features function {self.name!r} must give [{len(images)}, D] for {len(images)} images, "
                f"got {list(features.shape)}."
            )
        logits = None if logits is None else np.asarray(logits)
        self._check_finite("features", features)
        self._check_finite("logits", logits)
        return features, logits

    def _check_finite(self, what: str, values: np.ndarray | None):
        sound = True if values is None else np.isfinite(values.reshape(len(values), -1)).all(axis=1)
        if not np.all(sound):
            bad = np.flatnonzero(~sound)
            raise FloatingPointError(
                f"The features function {self.name!r} gave {what} that are NaN or infinite for {len(bad)} of "
                f"{len(sound)} images, the first of them number {bad[0]} of its batch."
            )
