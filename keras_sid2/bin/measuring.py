"""What the programs that measure share: the real images that are named, and the features that are asked for."""

import dataclasses
import importlib
import pathlib
from collections.abc import Callable, Iterator

import numpy as np

import pipelines
from keras_sid2.image_reading import iterate_npz, iterate_pngs

FEATURES = ("inception", "classifier")
CACHE = "~/.cache/keras_sid2/references"
_BATCH = 64
_MOST_IN_MEMORY = 100_000  # images that a classifier is fitted on


@dataclasses.dataclass(frozen=True)
class Images:
    """Images on disk.

    Args:
        name: for people.
        fingerprint: changes when they do.
        batches: gives uint8 [B, H, W, C], the same images at every call.
        labels: gives their classes int [N], or None where they have none.
    """

    name: str
    fingerprint: list
    batches: Callable[[], Iterator[np.ndarray]]
    labels: Callable[[], np.ndarray] | None = None


def open_images(path: str, *, split: str = "train", data_dir: str | None = None, **options) -> Images:
    """The images in an .npz, a folder of PNG files, or a prepared data set, of which `split` may name several as "a,b".

    `options` are image_size, crop and max_bad_records of `pipelines.make_dataset`, for a data set.

    Raises ValueError or FileNotFoundError, in one sentence, for what is none of these.
    """
    folder = pathlib.Path(path)
    if folder.suffix == ".npz":
        next(iterate_npz(folder, 1))
        return Images(folder.name, _stamps([folder]), lambda: iterate_npz(folder, _BATCH))
    if folder.is_dir() and any(folder.glob("*.png")):
        return Images(folder.name, _stamps(sorted(folder.glob("*.png"))), lambda: iterate_pngs(folder, _BATCH))
    return _data_set(path, split.split(","), data_dir, options)


def _stamps(paths: list[pathlib.Path]) -> list:
    return [[path.name, path.stat().st_size, path.stat().st_mtime] for path in paths]


def _data_set(path: str, splits: list[str], data_dir: str | None, reading: dict) -> Images:
    described = [pipelines.describe(path, split=split, data_dir=data_dir) for split in splits]
    if any(d.num_frames for d in described):
        raise ValueError(f"{path} holds clips; the programs measure images, `keras_sid2.evaluation` takes clips too.")

    def batches(key: str) -> Iterator[np.ndarray]:
        for split in splits:
            options = {"split": split, "data_dir": data_dir, "training": False, "batch_size": _BATCH, **reading}
            for batch in pipelines.make_dataset(path, **options).as_numpy_iterator():
                yield batch[key]

    labelled = all(d.num_classes for d in described)
    shards = [pipelines.fingerprint(path, split=split, data_dir=data_dir) for split in splits]
    return Images(
        f"{described[0].name}:{'+'.join(splits)}",
        [[reading.get("image_size"), reading.get("crop")], *shards],
        lambda: batches("image"),
        (lambda: np.concatenate(list(batches("label")))) if labelled else None,
    )


def check_features(kind: str):
    """ValueError unless `kind` can be asked of `make_features`."""
    module, _, name = kind.partition(":")
    if kind not in FEATURES and not (module and name):
        raise ValueError(f"Features must be {', '.join(FEATURES)}, or MODULE:FUNCTION of your own; got {kind!r}.")


def make_features(kind: str, real: Images, inception_weights: str | None = None):
    """The Features that a flag names.

    "inception" is the network of the FID; "classifier" a small one fitted on the real images, which need labels;
    "package.module:function" a function of your own that returns a `keras_sid2.evaluation.Features`.

    Raises ValueError, in one sentence, where that cannot be had.
    """
    from keras_sid2.evaluation import Features, inception_features

    check_features(kind)
    if kind == "inception":
        return inception_features(inception_weights)
    if kind == "classifier":
        return _classifier(real)
    module, _, name = kind.partition(":")
    try:
        function = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"The features {kind!r} cannot be imported: {error}.") from error
    features = function()
    if not isinstance(features, Features):
        raise ValueError(f"{kind} must return a keras_sid2.evaluation.Features, got a {type(features).__name__}.")
    return features


def _classifier(real: Images):
    from keras_sid2.evaluation import ImageClassifier

    if real.labels is None:
        raise ValueError(f"A classifier is fitted on real images with labels, and {real.name} has none.")
    labels = real.labels()
    if len(labels) > _MOST_IN_MEMORY:
        raise ValueError(f"A classifier is fitted on at most {_MOST_IN_MEMORY} images, and {real.name} has more.")
    return ImageClassifier(np.concatenate(list(real.batches())), labels).as_features()


def make_reference(real: Images, features, cache: str | None):
    """The Reference of real images, from `cache` if it was made before."""
    from keras_sid2.evaluation import reference_of

    folder = None if cache is None else pathlib.Path(cache).expanduser()
    return reference_of(real.batches, features, name=real.name, fingerprint=real.fingerprint, cache=folder)
