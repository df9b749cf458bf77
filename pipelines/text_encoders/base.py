"""What all text encoders have in common."""

import hashlib
from collections.abc import Iterator, Sequence

import numpy as np

BATCH = 32  # texts that a network gets at once
LENGTH = 77  # the most tokens where neither the name nor the model says fewer


class TextEncoder:
    """What all have in common: a callable on texts.

    Attributes:
        name: by which `text_encoder` makes it again; of a folder its last part alone.
        length, width: the most tokens of a text, and the numbers of one.
        signature: "NAME#HASH", the hash over the weights and all else that decides what a text becomes: equal in all
            processes and on all machines.
    """

    def __init__(self, name: str, length: int, width: int, digest: str) -> None:
        self.name, self.length, self.width = name, length, width
        self.signature = f"{name}#{digest[:16]}"

    def __call__(self, texts: Sequence[str]) -> np.ndarray:
        """float32 [N, length, width], padded with rows of zeros, rounded to float16 as prepared data are; an empty
        text is zeros alone. Raises ValueError: one has more tokens than `length`, or none."""
        texts = [_plain(text) for text in _as_texts(texts)]
        self.check(texts)
        kinds = list(dict.fromkeys(text for text in texts if text))
        places = {text: number for number, text in enumerate(kinds)}
        found = np.zeros((len(kinds) + 1, self.length, self.width), np.float16)  # the last one: of empty texts
        for start in range(0, len(kinds), BATCH):
            for number, rows in enumerate(self._encoded(kinds[start : start + BATCH]), start):
                found[number, : len(rows)] = rows
        return found[[places.get(text, -1) for text in texts]].astype(np.float32)

    def check(self, texts: Sequence[str], model_length: int | None = None) -> None:
        """Raises ValueError: a text has more tokens than `length`, or than a model reads that they are for, or none."""
        for text, reason in zip(texts, self.faults(texts, model_length), strict=True):
            if reason:
                shown = text if len(text) <= 60 else f"{text[:60]}..."
                raise ValueError(f"the text {shown!r} {reason}")

    def faults(self, texts: Sequence[str], model_length: int | None = None) -> list[str]:
        """What is wrong with each text, in words that follow on it; "" with none. See `check`."""
        plain = [_plain(text) for text in _as_texts(texts)]
        counts = self._counts(plain) if texts else []
        longer = "shorten it" if self.length == self._most else "shorten it, or give another @LENGTH behind the name"
        told, most = f"tokens, and {self.name} takes {self.length}: {longer}", self.length
        if model_length is not None and model_length < most:
            told, most = f"tokens, and this model reads {model_length}: shorten it", model_length
        unread = f"has nothing that {self.name} reads: say it in words"  # it would be taken for no text
        long = [f"has {count} {told}" if count > most else "" for count in counts]
        return [unread if text and not count else fault for text, count, fault in zip(plain, counts, long, strict=True)]

    _most: int | None = None  # tokens that the network itself takes

    def _counts(self, texts: list[str]) -> list[int]:
        """Tokens of each text."""
        raise NotImplementedError

    def _encoded(self, texts: list[str]) -> Iterator[np.ndarray]:
        """[tokens, width] of each of at most BATCH texts, none of them empty or too long."""
        raise NotImplementedError


def checked_length(name: str, length: int | None, most: int | None) -> int:
    """The tokens of a text: those asked for, else LENGTH or what the model takes. Raises ValueError: it takes fewer."""
    if length is not None and not 1 <= length <= (most or length):
        raise ValueError(f"{name} takes from 1 to {most or 'any number of'} tokens, got @{length}")
    return length or min(LENGTH, most or LENGTH)


def weights_digest(paths: dict[str, str]) -> str:
    """SHA-256 over names and contents of files {name: path}."""
    digest = hashlib.sha256()
    for name, path in sorted(paths.items()):
        with open(path, "rb") as file:
            digest.update(f"{name} {hashlib.file_digest(file, 'sha256').hexdigest()}\n".encode())
    return digest.hexdigest()


def not_here(name: str) -> str:
    return f"the text encoder {name} is not on this machine: give its name or folder (--text_encoder=)"


def _as_texts(texts: Sequence[str]) -> list[str]:
    if isinstance(texts, str) or not all(isinstance(text, str) for text in texts):
        raise ValueError(f"a text encoder takes a list of texts, got {texts!r}")
    for text in texts:
        if not is_unicode(text):
            raise ValueError(f"the text {text!r} is no Unicode: it has half a character, or bytes that are not UTF-8")
    return list(texts)


def is_unicode(text: str) -> bool:
    """Whether UTF-8 can hold it, as not what JSON has as "\\ud83d", or the name of a file in another encoding."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _plain(text: str) -> str:
    return " ".join(text.split())
