"""Metrics with their provenance: how they were measured, and of what images.

Two metrics compare only if everything in `measured` agrees: features, resizing, the real images and their order, the
number of images, and the method. What was drawn (sampler, guidance, weights, seed) may differ: that is compared.
"""

import dataclasses
import hashlib
import json
import os
import pathlib
from collections.abc import Callable, Iterable, Sequence

import numpy as np

from keras_sid2 import renamed
from keras_sid2.evaluation.feature_set import FeatureSet
from keras_sid2.evaluation.features import Features, ImagesDigest
from keras_sid2.evaluation.gathering import Found, agreed, found_in, send, with_others
from keras_sid2.evaluation.measure import measure
from keras_sid2.evaluation.statistics import check_widths
from keras_sid2.evaluation.text_score import TextScore
from keras_sid2.generation.provenance import custom_in
from keras_sid2.io.atomic import read_json, write_json
from keras_sid2.parallel import processes

METHOD = "keras_sid2.evaluation.measure 2"  # counted up whenever a figure of the same sets would come out differently


@dataclasses.dataclass(frozen=True, kw_only=True)
class Reference:
    """Real images as a measurement sees them: a name for people, and what `collect` gives: digest and FeatureSet."""

    name: str
    digest: str
    features: FeatureSet


@dataclasses.dataclass(frozen=True, kw_only=True)
class Measurement:
    """`metrics`; `measured`: how, and `drawn`: of what; plain values, as in its JSON file."""

    metrics: dict[str, float]
    measured: dict
    drawn: dict

    def signature(self) -> str:
        """One line that says all of it, for tables and papers."""
        parts = self.measured | self.drawn  # both say how many images there are
        many = {name: f"{len(value)} texts" for name, value in parts.items() if name == "prompts" and len(value) > 4}
        return "  ".join(f"{name}={value}" for name, value in (parts | many).items() if value is not None)

    def digest(self) -> str:
        """8 hexadecimal digits of a hash of how and of what, for names of files."""
        parts = json.dumps([self.measured, self.drawn], sort_keys=True)
        return hashlib.sha256(parts.encode()).hexdigest()[:8]

    def write(self, path: str | os.PathLike):
        """As an atomic file of JSON."""
        write_json(path, dataclasses.asdict(self))

    @classmethod
    def read(cls, path: str | os.PathLike) -> "Measurement":
        """What `write` wrote; FileNotFoundError, or ValueError for a file that it did not write."""
        path = pathlib.Path(path)
        if not path.is_file():
            raise FileNotFoundError(f"{path} is no file.")
        try:
            return cls.from_json(read_json(path))
        except ValueError as error:
            raise ValueError(f"{path} is no measurement of sid2-evaluate.") from error

    @classmethod
    def from_json(cls, values) -> "Measurement":
        """The measurement that JSON says; ValueError if it says none."""
        values = renamed.recorded(values) if isinstance(values, dict) else {}
        fields = [field.name for field in dataclasses.fields(cls)]
        if set(values) != set(fields) or not all(isinstance(value, dict) for value in values.values()):
            raise ValueError(f"A measurement has {', '.join(fields)}, got {', '.join(map(str, values))}.")
        return cls(**values | {"drawn": renamed.recorded(values["drawn"])})

    figures = property(lambda self: self.metrics, doc="Version 0.3's name of `metrics`.")


def check_comparable(measurements: Sequence[Measurement], names: Sequence[str] | None = None):
    """ValueError, naming the first difference, unless all were measured alike."""
    names = names or [f"measurement {i}" for i in range(len(measurements))]
    first = measurements[0].measured
    for name, other in zip(names[1:], measurements[1:], strict=True):
        for key in {**first, **other.measured}:
            here, there = first.get(key), other.measured.get(key)
            if here != there:
                difference = f"{key} is {here!r} in the one and {there!r} in the other"
                raise ValueError(f"The metrics of {names[0]} and {name} do not compare: {difference}.")


_OF_ONE = ("_low", "_high", "_std")  # names of what tells how far a single drawing is to be trusted


def folded(parts: Sequence[Measurement]) -> Measurement:
    """Measurements of one model that was drawn at least twice, with other seeds, as one: NAME, the mean of a metric,
    NAME_deviation over the drawings (of a sample, by N - 1), and frechet_1, frechet_2, ..., that of each.

    What was drawn is told of the first, but for the images. ValueError unless all were measured alike.
    """
    check_comparable(parts)
    first, metrics = parts[0], {}
    for name in first.metrics:
        if not name.endswith(_OF_ONE):
            values = [part.metrics[name] for part in parts]
            metrics |= {name: float(np.mean(values)), f"{name}_deviation": float(np.std(values, ddof=1))}
    metrics |= {f"frechet_{fold}": part.metrics["frechet"] for fold, part in enumerate(parts, 1)}
    drawn = dict(first.drawn)
    if "images_digest" in drawn:
        digests = " ".join(part.drawn["images_digest"] for part in parts)
        drawn["images_digest"] = hashlib.sha256(digests.encode()).hexdigest()
    return Measurement(metrics=metrics, measured={**first.measured, "folds": len(parts)}, drawn=drawn)


def cannot_be_told(measurements: Sequence[Measurement], names: Sequence[str]) -> list[str]:
    """A sentence for each setting that reads alike in several of them and is recorded by its name only."""
    sentences, custom = [], [{key: m.drawn[key] for key in custom_in(m.drawn)} for m in measurements]
    if any(m.measured.get("features_digest") == "" for m in measurements):
        custom = [c | {"features": m.measured["features"]} for c, m in zip(custom, measurements, strict=True)]
    for key in {key: None for settings in custom for key in settings}:
        told = [settings.get(key) for settings in custom]
        for text in {text: None for text in told if told.count(text) > 1 and text is not None}:
            alike = f"{text!r} in " + " and ".join(n for n, other in zip(names, told, strict=True) if other == text)
            sentences.append(f"{key} is {alike}: that is a name only, so whether they are equal cannot be told.")
    return sentences


def collect(
    features: Features,
    batches: Iterable[np.ndarray],
    *,
    groups: int = 10,
    capacity: int = 10_000,
    logits: bool = True,
    width: int | None = None,
) -> tuple[FeatureSet, str]:
    """(the FeatureSet of uint8 batches [B, H, W, C], their `ImagesDigest` as text), one batch in memory at a time.

    Without `logits` there is no inception score. ValueError at the first batch for another `width`, the number of
    features, where it is given; and for what `features` does not take.
    """
    samples = FeatureSet(groups=groups, capacity=capacity, made_by=features.identity)
    return samples, _fill(samples, found_in(features, batches), logits=logits, width=width)


def _fill(samples: FeatureSet, found: Iterable[Found], *, logits: bool = True, width: int | None = None) -> str:
    """Adds what was found; the digest of the images, as text."""
    digest = ImagesDigest()
    for part in found:
        if width is not None:
            check_widths(part.features.shape[1], width)
        samples.add(part.features, part.logits if logits else None)
        digest.add_hashes(part.hashes)
    return digest.hexdigest()


def how_measured(
    features: Features, reference: Reference, *, images: int, groups: int = 10, capacity: int = 10_000
) -> dict:
    """`Measurement.measured` of so many images; ValueError for a reference of other features."""
    _check_made_by(features, reference)
    real = reference.features
    return {
        "method": METHOD,
        "features": features.name,
        "features_digest": features.digest,
        "rule": features.rule,
        "reference": reference.digest,
        "reference_images": real.count,
        "images": images,
        "groups": groups,
        "kept": [min(images, capacity), min(real.count, real.capacity)],
    }


def evaluate(
    batches: Iterable[np.ndarray],
    *,
    features: Features,
    reference: Reference | None,
    drawn: dict | None = None,
    groups: int = 10,
    capacity: int = 10_000,
    shared: bool = False,
    agree: bool = False,
    progress: Callable[[int, int], None] | None = None,
    texts: np.ndarray | None = None,
) -> Measurement | None:
    """The quality of images beside real ones, with a signature.

    `batches` are uint8 images [B, H, W, C] (clips, if `features` takes clips), as of `SampleRequest.batches`, and
    `drawn` what is known of them, as `SampleRequest.describe` says it. The reference is of `reference_of`, or made by
    hand of `collect`; `groups` and `capacity` are of the images' FeatureSet, `progress` is of `measure`.
    If `shared`, `batches` are this process's part of the images, as `parallel.processes.share` has it: process 0, which
    alone needs a reference, gets the metrics of all, and the others None. One that fails raises at once, for programs
    that end then; if they `agree`, all raise where one fails, after they have drawn.
    `texts` float [N, D] lie beside the features of the N images, as CLIP's do: metrics then have `clip_score`, the mean
    of 100 max(cosine, 0) of each image and its text, and its 95 % interval (Hessel et al., 2104.08718: 2.5 for 100).
    Raises ValueError for a reference of other features, before anything is drawn; then as `collect` and `measure`.
    """
    found, kept = found_in(features, batches), {"groups": groups, "capacity": capacity}
    found = agreed(found) if agree else found
    if shared and processes.index() > 0:
        send(found)
        return None
    _check_made_by(features, reference)
    real, samples = reference.features, FeatureSet(made_by=features.identity, **kept)
    score = None if texts is None else TextScore(texts)
    found = with_others(found) if shared else found
    digest = _fill(samples, found if score is None else score.passing(found), width=real.width)
    measured = how_measured(features, reference, images=samples.count, **kept)
    metrics = measure(samples, real, progress=progress)
    if score is not None:
        metrics, measured = metrics | score.metrics(), measured | {"texts": score.digest}
    return Measurement(metrics=metrics, measured=measured, drawn={"images_digest": digest, **(drawn or {})})


def _check_made_by(features: Features, reference: Reference):
    """ValueError, naming the first difference, unless `reference` is of `features`."""
    name, made_by = f"The reference {reference.name!r}", reference.features.made_by
    if made_by is None:
        raise ValueError(f"{name} does not tell what features it is of: make it by `collect`.")
    for part, ours, theirs in zip(("name", "digest", "rule"), features.identity, made_by, strict=True):
        if ours != theirs:
            difference = f"their {part} is {theirs!r}, and {ours!r} of those to measure with"
            raise ValueError(f"{name} is of other features: {difference}.")
