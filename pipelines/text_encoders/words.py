"""Text without a network: words as hashes."""

import functools
import hashlib
import re
import unicodedata
from collections.abc import Iterator

import numpy as np

from pipelines.text_encoders.base import TextEncoder


class Words(TextEncoder):
    """Each word, in lower case, becomes signs from its SHA-256 in three quarters of the width, and its place in the
    text in the last one: a unit vector. For small vocabularies: words that mean the same have nothing in common."""

    def __init__(self, length: int, width: int) -> None:
        definition = f"words 1 {length}x{width}"
        super().__init__(f"words:{length}x{width}", length, width, hashlib.sha256(definition.encode()).hexdigest())
        self._of_place = width // 4

    def _counts(self, texts: list[str]) -> list[int]:
        return [len(_words(text)) for text in texts]

    def _encoded(self, texts: list[str]) -> Iterator[np.ndarray]:
        for text in texts:
            rows = [
                _signs(word, self.width - self._of_place) + _signs(f"place {place}", self._of_place)
                for place, word in enumerate(_words(text))
            ]
            yield np.array(rows, np.float32).reshape(-1, self.width) / np.sqrt(np.float32(self.width))


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", unicodedata.normalize("NFKC", text).lower())


@functools.lru_cache(maxsize=2**16)
def _signs(word: str, count: int) -> tuple[int, ...]:
    """`count` times 1 or -1, from the hash of a word."""
    blocks = (hashlib.sha256(f"{block} {word}".encode()).digest() for block in range(-(-count // 256)))
    bits = np.unpackbits(np.frombuffer(b"".join(blocks), np.uint8))[:count]
    return tuple((bits.astype(int) * 2 - 1).tolist())
