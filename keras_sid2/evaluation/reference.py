"""Statistics of real images, computed once: they are kept in a folder, under a hash of what they were made of."""

import hashlib
import json
import os
import pathlib
from collections.abc import Callable, Iterable

import numpy as np

from keras_sid2.evaluation.feature_set import FeatureSet
from keras_sid2.evaluation.features import Features
from keras_sid2.evaluation.signature import METHOD, Reference, collect
from keras_sid2.files import written_whole


def reference_of(
    batches: Callable[[], Iterable[np.ndarray]],
    features: Features,
    *,
    name: str,
    fingerprint: object = None,
    cache: str | os.PathLike | None = None,
    capacity: int = 10_000,
) -> Reference:
    """The Reference of real images, read only if it is not kept from an earlier time.

    Args:
        batches: gives uint8 batches [B, H, W, C].
        features: what to measure with.
        name: of the images, for people.
        fingerprint: plain values that change when the images do (names, sizes and times of files).
        cache: folder to keep it in; None, or a fingerprint of None: it is not kept.
        capacity: most features kept as a sample.
    """
    if cache is None or fingerprint is None:
        return _measured(batches, features, name, capacity)
    made_of = [METHOD, features.name, features.digest, features.rule, fingerprint, capacity]
    key = hashlib.sha256(json.dumps(made_of, sort_keys=True).encode()).hexdigest()[:32]
    path = pathlib.Path(cache) / f"{key}.npz"
    kept = _kept(path)
    if kept is not None:
        return Reference(name=name, digest=kept[0], features=kept[1])
    reference = _measured(batches, features, name, capacity)
    reference.features.save(path)
    with written_whole(path.with_suffix(".json")) as temporary:
        about = {"name": name, "digest": reference.digest, "file": _sha256(path)}
        temporary.write_text(json.dumps(about, indent=2) + "\n")
    return reference


def _measured(batches, features: Features, name: str, capacity: int) -> Reference:
    collected, digest = collect(features, batches(), groups=1, capacity=capacity)
    return Reference(name=name, digest=digest, features=collected)


def _kept(path: pathlib.Path) -> tuple[str, FeatureSet] | None:
    """(digest of the images, their features) if both files are there and whole; a damaged one is made anew."""
    try:
        about = json.loads(path.with_suffix(".json").read_text())
        return (about["digest"], FeatureSet.load(path)) if about["file"] == _sha256(path) else None
    except (OSError, ValueError, KeyError):
        return None


def _sha256(path: pathlib.Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
