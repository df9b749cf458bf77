"""What a signature quotes: a function from images to features, with its name and hash; the hash of a set of images."""

import dataclasses
import hashlib
from collections.abc import Callable, Iterable, Iterator

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
            wanted = f"[{len(images)}, D] for {len(images)} images"
            raise ValueError(f"The features function {self.name!r} must give {wanted}, got {list(features.shape)}.")
        logits = None if logits is None else np.asarray(logits)
        for what, values in (("features", features), ("logits", logits)):
            if values is not None:
                self._check_finite(what, values)
        return features, logits

    def _check_finite(self, what: str, values: np.ndarray):
        bad = np.flatnonzero(~np.isfinite(values.reshape(len(values), -1)).all(axis=1))
        if len(bad):
            raise FloatingPointError(
                f"The features function {self.name!r} gave {what} that are NaN or infinite for {len(bad)} of "
                f"{len(values)} images, the first of them number {bad[0]} of its batch."
            )


class ImagesDigest:
    """A hash of images that come batch by batch, however they are cut into batches.

    Its text has two parts, as 0123456789abcdef-01234567: of the images whatever their order (the sum of every image's
    SHA-256), and of their order, on which metrics depend a little: it settles subsets and splits.
    """

    def __init__(self):
        self._sum, self._chain = 0, hashlib.sha256()

    @staticmethod
    def hashes(images: np.ndarray) -> np.ndarray:
        """Of each of uint8 [N, ...], uint8 [N, 32]: what is added of it."""
        texts = (str(image.shape).encode() + np.ascontiguousarray(image).tobytes() for image in images)
        return np.frombuffer(b"".join(hashlib.sha256(text).digest() for text in texts), "uint8").reshape(-1, 32)

    def add(self, images: np.ndarray):
        """uint8 [N, ...]."""
        self.add_hashes(self.hashes(images))

    def add_hashes(self, hashes: np.ndarray):
        """Those of the next images."""
        for digest in map(bytes, hashes):
            self._sum = (self._sum + int.from_bytes(digest, "big")) % 2**256
            self._chain.update(digest)

    def passing(self, batches: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        """The same batches, added."""
        for images in batches:
            self.add(images)
            yield images

    def hexdigest(self) -> str:
        """16 hexadecimal digits of the images, a hyphen and 8 of their order."""
        return f"{self._sum:064x}"[:16] + "-" + self._chain.hexdigest()[:8]
