"""What the programs that measure share: the real images that are named, and the features that are asked for."""

import dataclasses
import importlib
import pathlib
from collections.abc import Callable, Iterator

import numpy as np

import pipelines
from keras_sid2.bin.signals import looking_between
from keras_sid2.evaluation import Features, ImageClassifier, Reference, inception_features, reference_of
from keras_sid2.evaluation.inception import CACHE as INCEPTION_CACHE
from keras_sid2.evaluation.inception_weights import download_weights
from keras_sid2.io.image_reading import iterate_npz, iterate_pngs, png_paths
from keras_sid2.parallel import processes
from keras_sid2.parallel.mesh import on_no_mesh

FEATURES = ("inception", "classifier")
CACHE = "~/.cache/keras_sid2/references"
CACHE_TEXT = "folder that keeps the statistics of real images"
FEATURES_TEXT = "inception; classifier, fitted on real images with labels; or MODULE:FUNCTION that returns Features"
WEIGHTS_TEXT = "the FID's Inception-v3, a .pth or .npz file; downloaded if not given"
_BATCH = 64
_MOST_IN_MEMORY = 100_000  # images that a classifier is fitted on


@dataclasses.dataclass(frozen=True)
class Images:
    """Images on disk."""

    name: str
    fingerprint: list  # changes when they do, and where they lie elsewhere
    shape: tuple[int | None, int | None, int]  # (H, W, C), None where that is not known
    batches: Callable[[], Iterator[np.ndarray]]  # uint8 [B, H, W, C], the same images at every call
    labels: Callable[[], np.ndarray] | None = None  # int [N]; None where there are no classes


_OF_CLIPS = "{} holds clips; the programs measure images, `keras_sid2.evaluation` takes clips too."


def open_images(path: str, *, split: str = "train", data_dir: str | None = None, **options) -> Images:
    """The images in an .npz, a folder of PNG files, or a prepared data set, of which `split` may name several as "a,b".

    `options`: image_size, crop and max_bad_records of `pipelines.make_dataset`; for a data set, as all but the path.
    A signal may end the program between two batches. ValueError or FileNotFoundError for what is none of these.
    """
    if not are_files(path):
        return _data_set(path, split.split(","), data_dir, options)
    folder = pathlib.Path(path)
    iterate, paths = (iterate_npz, [folder]) if folder.suffix == ".npz" else (iterate_pngs, png_paths(folder))
    shape = next(iterate(folder, 1)).shape[1:]
    if len(shape) == 4:
        raise ValueError(_OF_CLIPS.format(path))
    return Images(folder.name, pipelines.file_stamps(paths), shape, lambda: looking_between(iterate(folder, _BATCH)))


def are_files(path: str) -> bool:
    """Whether it names an .npz or a folder of PNG files, and not a data set."""
    return pathlib.Path(path).suffix == ".npz" or bool(png_paths(path))


def _data_set(path: str, splits: list[str], data_dir: str | None, reading: dict) -> Images:
    described = [pipelines.describe(path, split=split, data_dir=data_dir) for split in splits]
    if any(d.num_frames for d in described):
        raise ValueError(_OF_CLIPS.format(path))

    def batches(key: str) -> Iterator[np.ndarray]:
        for split in splits:
            options = {"split": split, "data_dir": data_dir, "training": False, "batch_size": _BATCH, **reading}
            for batch in looking_between(pipelines.make_dataset(path, **options).as_numpy_iterator()):
                yield batch[key]

    labelled = all(d.num_classes for d in described)
    shards = [pipelines.fingerprint(path, split=split, data_dir=data_dir) for split in splits]
    *stored, channels = described[0].image_shape
    return Images(
        f"{described[0].name}:{'+'.join(splits)}",
        [[reading.get("image_size"), reading.get("crop")], *shards],
        (*(reading.get("image_size") or stored), channels),
        lambda: batches("image"),
        (lambda: np.concatenate(list(batches("label")))) if labelled else None,
    )


def check_alike(shape: tuple, real: Images, features: str) -> str | None:
    """What is to be said of images of one `shape` (H, W, C) beside real ones of another; None if they are alike.

    ValueError for them with `features` other than "inception", which resizes both.
    """
    if not any(here and there and here != there for here, there in zip(shape, real.shape, strict=True)):
        return None
    ours, theirs = ("x".join("?" if size is None else str(size) for size in sizes) for sizes in (shape, real.shape))
    unlike = f"the images are {ours} and those of {real.name} are {theirs}"
    if features != "inception":
        raise ValueError(f"Images are measured beside real ones of their shape, and {unlike}: resize one of them.")
    return f"{unlike[0].upper()}{unlike[1:]}: Inception resizes both, which metrics of others do not compare with."


def check_features(kind: str):
    """ValueError unless `kind` can be asked of `make_features`."""
    module, _, name = kind.partition(":")
    if kind not in FEATURES and not (module and name):
        raise ValueError(f"Features must be {', '.join(FEATURES)}, or MODULE:FUNCTION of your own; got {kind!r}.")


def measured_by(real: Images, kind: str, inception_weights: str | None, cache: str) -> dict:
    """`evaluate`'s features, "inception", "classifier" or "package.module:function", and its reference, of real images.

    The reference comes from the folder `cache` if it was made before; of several processes the first one alone has it.
    ValueError for features that cannot be made.
    """
    check_features(kind)
    first = processes.index() == 0
    if kind == "inception" and inception_weights is None:
        if first:
            download_weights(INCEPTION_CACHE)
        processes.wait_for_all()  # else all would download
    with on_no_mesh():
        features = _features(real, kind, inception_weights)
    reference = _reference(real, features, cache) if first else None
    processes.wait_for_all()
    return {"features": features, "reference": reference}


def _features(real: Images, kind: str, inception_weights: str | None) -> Features:
    if kind == "inception":
        return inception_features(inception_weights)
    return _classifier(real) if kind == "classifier" else _own(kind)


def _reference(real: Images, features: Features, cache: str) -> Reference:
    folder, about = pathlib.Path(cache).expanduser(), {"name": real.name, "fingerprint": real.fingerprint}
    return reference_of(real.batches, features, **about, cache=folder)


def _own(kind: str) -> Features:
    module, _, name = kind.partition(":")
    try:
        function = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"The features {kind!r} cannot be imported: {error}.") from error
    features = function()
    if not isinstance(features, Features):
        raise ValueError(f"{kind} must return a keras_sid2.evaluation.Features, got a {type(features).__name__}.")
    return features


def _classifier(real: Images) -> Features:
    if real.labels is None:
        raise ValueError(f"A classifier is fitted on real images with labels, and {real.name} has none.")
    labels = real.labels()
    if len(labels) > _MOST_IN_MEMORY:
        raise ValueError(f"A classifier is fitted on at most {_MOST_IN_MEMORY} images, and {real.name} has more.")
    return ImageClassifier(np.concatenate(list(real.batches())), labels).as_features()
