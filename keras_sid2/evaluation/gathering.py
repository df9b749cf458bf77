"""What is measured of images, and how that of a part which another process draws comes to process 0.

All features travel, of Inception 12 kB an image, and no sums of them: so the order of summing, the sample and the
splits are those of one process, and of the same images the metrics are the same to the last bit.
"""

import io
import itertools
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np

from keras_sid2.evaluation.features import Features, ImagesDigest
from keras_sid2.parallel import processes

_AT_ONCE = 4096  # images in a message, about


class Found(NamedTuple):
    """Of a batch: features [B, D], logits [B, K] or None, and hashes of the images, uint8 [B, 32]."""

    features: np.ndarray
    logits: np.ndarray | None
    hashes: np.ndarray


def found_in(features: Features, batches: Iterable[np.ndarray]) -> Iterator[Found]:
    """Of each batch uint8 [B, H, W, C]; errors of `features`."""
    for images in batches:
        yield Found(*features(images), ImagesDigest.hashes(images))


def agreed(own: Iterable[Found]) -> list[Found]:
    """All of its own, once every process has its part: where one fails every one raises, and may then go on."""
    kept, error = [], None
    try:
        kept.extend(own)
    except Exception as caught:  # whatever it was: the others would wait
        error = caught
    if processes.summed(int(error is not None)):
        raise error or RuntimeError("another process could not measure its images")
    return kept


def with_others(own: Iterable[Found]) -> Iterator[Found]:
    """In process 0: its own as they come, then those that the others `send`, in their order."""
    yield from own
    for sender in range(1, processes.count()):
        yield from _received(sender)


def send(own: Iterable[Found]):
    """In every other process: all of its own, kept until process 0 takes them; it waits for the end of all."""
    messages = [_packed(part) for part in _pieces(own)]
    for sender in range(1, processes.count()):
        for _ in _received(sender, messages if sender == processes.index() else ()):
            pass


def _pieces(found: Iterable[Found]) -> Iterator[list[Found]]:
    """Batches that are sent together."""
    kept = []
    for part in found:
        kept.append(part)
        if sum(len(one.hashes) for one in kept) >= _AT_ONCE:
            yield kept
            kept = []
    if kept:
        yield kept


def _packed(parts: list[Found]) -> bytes:
    columns = zip(Found._fields, zip(*parts, strict=True), strict=True)
    arrays = {name: np.concatenate(values) for name, values in columns if values[0] is not None}
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


def _received(sender: int, messages: Iterable[bytes] = ()) -> Iterator[Found]:
    """What `sender` gives; every process must take all of it."""
    given = list(messages)
    count = processes.summed(len(given))
    for data in itertools.islice(itertools.chain(given, itertools.repeat(b"")), count):
        with np.load(io.BytesIO(processes.bytes_from(sender, data)), allow_pickle=False) as arrays:
            yield Found(arrays["features"], arrays.get("logits"), arrays["hashes"])
