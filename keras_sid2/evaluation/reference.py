"""Statistics of real images, computed once: they are kept in a folder, under a hash of what they were made of."""

import hashlib
import itertools
import json
import os
import pathlib
import warnings
from collections.abc import Callable, Iterable

import numpy as np

from keras_sid2.evaluation.feature_set import FeatureSet
from keras_sid2.evaluation.features import Features, ImagesDigest
from keras_sid2.evaluation.signature import METHOD, Reference, collect
from keras_sid2.io.atomic import file_sha256, read_json, write_json

_MOST = 1e-3  # by which means of features may differ, as a share of them or of all of them


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
        batches: gives uint8 batches [B, H, W, C]. The first is read in any case: if its images or features are others
            than those of the reference that is kept, that is made anew.
        features: what to measure with.
        name: of the images, for people.
        fingerprint: plain values that change when the images do (names, sizes and times of files).
        cache: folder to keep it in, with a warning where it cannot be written. None, or without fingerprint: not kept.
        capacity: most features kept as a sample.
    """
    remaining, first, found, path = iter(batches()), [], None, None
    if cache is not None and fingerprint is not None:
        first = list(itertools.islice(remaining, 1))
        look = _look(first, features)
        made_of = json.dumps([METHOD, *features.identity, fingerprint, capacity], sort_keys=True)
        path = pathlib.Path(cache) / f"{hashlib.sha256(made_of.encode()).hexdigest()[:32]}.npz"
        found = _kept(path, look)
    if found is None:
        found = collect(features, itertools.chain(first, remaining), groups=1, capacity=capacity, logits=False)
        if path is not None:
            _keep(path, name, *found, look)
    return Reference(name=name, digest=found[1], features=found[0])


def _look(first: list[np.ndarray], features: Features) -> dict:
    """By what the first batch, if there is one, is known again; plain values."""
    digest = ImagesDigest()
    means = [features(images)[0].astype("float64").mean(axis=0).tolist() for images in digest.passing(first)]
    return {"images": digest.hexdigest(), "means": means}


def _same(look: dict, kept: dict) -> bool:
    """Whether the images are the same, and the means of their features nearly: devices do not repeat themselves."""
    means, before = np.array(look["means"]), np.array(kept["means"], "float64")
    if look["images"] != kept["images"] or means.shape != before.shape:
        return False
    size = np.maximum(abs(before), np.sqrt(np.mean(before**2)))
    return bool((abs(means - before) <= _MOST * size).all())


def _keep(path: pathlib.Path, name: str, features: FeatureSet, digest: str, look: dict):
    """Beside the FeatureSet a file that says of what it is; a warning where that cannot be."""
    try:
        features.save(path)
        about = {"name": name, "digest": digest, "file": file_sha256(path), "first": look}
        write_json(path.with_suffix(".json"), about)
    except OSError as error:
        warnings.warn(f"The statistics of {name} are not kept in {path.parent}: {error}.", stacklevel=3)


def _kept(path: pathlib.Path, look: dict) -> tuple[FeatureSet, str] | None:
    """What `collect` gave, if both files are there, whole, and of what looks the same."""
    try:
        about = read_json(path.with_suffix(".json"))
        if about["file"] != file_sha256(path) or not _same(look, about["first"]):
            return None
        return FeatureSet.load(path), str(about["digest"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
