"""A hash by which a set of images is known again."""

import hashlib
from collections.abc import Iterable, Iterator

import numpy as np


class ImagesDigest:
    """Of images that come batch by batch, however they are cut into batches.

    Its text has two parts, as 0123456789abcdef-01234567: of the images whatever their order (the sum of every image's
    SHA-256), and of their order. Order is a part of it because figures depend on it a little: it settles which images
    are kept, which subsets and splits they are in, and which are left out for the interval.
    """

    def __init__(self):
        self._sum, self._chain = 0, hashlib.sha256()

    def add(self, images: np.ndarray):
        """uint8 [N, ...]."""
        for image in images:
            shape = str(image.shape).encode()
            digest = hashlib.sha256(shape + np.ascontiguousarray(image).tobytes()).digest()
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
