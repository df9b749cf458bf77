"""What the programs that measure share: the real images that are named, and the features that are asked for."""

import dataclasses
import pathlib
from collections.abc import Callable, Iterator

import numpy as np

import pipelines
from keras_sid2.bin.common import named
from keras_sid2.bin.signals import looking_between
from keras_sid2.evaluation import Features, ImageClassifier, Reference, i3d_features, inception_features, reference_of
from keras_sid2.evaluation.i3d import MEASURED
from keras_sid2.evaluation.inception import CACHE as INCEPTION_CACHE
from keras_sid2.evaluation.inception_weights import download_weights
from keras_sid2.io.image_reading import iterate_npz, iterate_pngs, png_paths
from keras_sid2.parallel import processes
from keras_sid2.parallel.mesh import on_no_mesh

FEATURES = ("inception", "classifier", "i3d", "clip")
_RESIZING = {"inception": "Inception", "i3d": "I3D", "clip": "CLIP"}  # features that resize what they look at
_BATCH = 64
_MOST_IN_MEMORY = 100_000  # images that a classifier is fitted on


@dataclasses.dataclass(frozen=True)
class Images:
    """Images, or clips, on disk."""

    name: str
    fingerprint: list  # changes when they do, and where they lie elsewhere
    shape: tuple  # ((F,) H, W, C), None where that is not known
    batches: Callable[[], Iterator[np.ndarray]]  # uint8 [B, (F,) H, W, C], the same images at every call
    labels: Callable[[], np.ndarray] | None = None  # int [N]; None where there are no classes
    values: Callable[[str], Iterator[np.ndarray]] | None = None  # of examples, by name; None where there are no others
    names: tuple[str, ...] = ()  # of these
    config: str | None = None  # how a data set was made, in a word


def check_kind(what: str, of_clips: bool, features: str):
    """ValueError where `features` are not of clips, or are of them alone; those of your own are of what they are."""
    if of_clips and features in ("inception", "classifier", "clip"):
        raise ValueError(f"{what} holds clips, and --features={features} are of images: give --features=i3d.")
    if not of_clips and features == "i3d":
        raise ValueError(f"{what} holds images, and --features=i3d are of clips.")


def check_no_fields(what: str, channels, features: str):
    """ValueError where samples have `channels` in physical units, and features are of pictures."""
    if channels is not None and features in FEATURES:
        told = f"{what} is of fields ({', '.join(channels.names)}), and --features={features} are of pictures"
        raise ValueError(f"{told}: keras_sid2.evaluation has metrics of fields (docs/guides/field_metrics.md).")


def open_images(
    path: str, *, split: str = "train", data_dir: str | None = None, features: str = "inception", **options
) -> Images:
    """The images in an .npz, a folder of PNG files, or a prepared data set, of which `split` may name several as "a,b";
    clips, if `features` are of them.

    `options`: image_size, crop and max_bad_records of `pipelines.make_dataset`; for a data set, as all but the path.
    A signal may end the program between two batches. ValueError or FileNotFoundError for what is none of these.
    """
    if not are_files(path):
        return _data_set(path, split.split(","), data_dir, features, options)
    folder = pathlib.Path(path)
    iterate, paths = (iterate_npz, [folder]) if folder.suffix == ".npz" else (iterate_pngs, png_paths(folder))
    shape = next(iterate(folder, 1)).shape[1:]
    check_kind(path, len(shape) == 4, features)
    return Images(folder.name, pipelines.file_stamps(paths), shape, lambda: looking_between(iterate(folder, _BATCH)))


def are_files(path: str) -> bool:
    """Whether it names an .npz or a folder of PNG files, and not a data set."""
    return pathlib.Path(path).suffix == ".npz" or bool(png_paths(path))


def _data_set(path: str, splits: list[str], data_dir: str | None, features: str, reading: dict) -> Images:
    described = [pipelines.describe(path, split=split, data_dir=data_dir) for split in splits]
    first = described[0]
    check_no_fields(path, first.sample_channels, features)
    check_kind(path, bool(first.num_frames), features)

    def batches(key: str) -> Iterator[np.ndarray]:
        for split in splits:
            options = {"split": split, "data_dir": data_dir, "training": False, "batch_size": _BATCH, **reading}
            for batch in looking_between(pipelines.make_dataset(path, **options).as_numpy_iterator()):
                yield batch[key]

    labelled = all(d.num_classes for d in described)
    shards = [pipelines.fingerprint(path, split=split, data_dir=data_dir) for split in splits]
    *frames, height, width, channels = first.sample_shape
    return Images(
        f"{first.name}:{'+'.join(splits)}",
        [[reading.get("image_size"), reading.get("crop")], *shards],
        (*frames, *(reading.get("image_size") or (height, width)), channels),
        lambda: batches("video" if first.num_frames else "image"),
        (lambda: np.concatenate(list(batches("label")))) if labelled else None,
        batches,
        tuple(first.values),
        first.config,
    )


def conditions_of_real(conditions: dict, real: Images, count: int) -> dict[str, np.ndarray]:
    """Values [count, ...] of `conditions` by name, labels too, as the first real examples have them, and again from the
    first where these are fewer: what samples are drawn for. ValueError for one that they do not have."""
    found = {}
    for name, condition in conditions.items():
        if condition.from_samples:
            values = (clips[:, : condition.counts[1]] for clips in real.batches())
        elif name in real.names:
            values = real.values(name)
        else:
            raise ValueError(f"The model is conditioned on {name}, which {real.name} does not hold.")
        found[name] = _first(values, count)
    return found


def _first(batches: Iterator[np.ndarray], count: int) -> np.ndarray:
    kept, there = [], 0
    for batch in batches:
        kept.append(batch[: count - there])
        there += len(kept[-1])
        if there == count:
            break
    values = np.concatenate(kept)
    return np.resize(values, (count, *values.shape[1:]))


def check_alike(shape: tuple, real: Images, features: str) -> str | None:
    """What is to be said of images of one `shape` ((F,) H, W, C) beside real ones of another; None if they are alike.

    ValueError for them with `features` that do not resize, and for other numbers of frames.
    """
    if len(shape) != len(real.shape) or shape[:-3] != real.shape[:-3]:
        ours, theirs = (f"{shape[0]} frames" if len(shape) == 4 else "images" for shape in (shape, real.shape))
        told = f"got {ours}, and {real.name} has {theirs}"
        raise ValueError(f"Clips are measured beside clips of as many frames: {told}.")
    if not any(here and there and here != there for here, there in zip(shape, real.shape, strict=True)):
        return None
    ours, theirs = ("x".join("?" if size is None else str(size) for size in sizes) for sizes in (shape, real.shape))
    unlike = f"the images are {ours} and those of {real.name} are {theirs}"
    if features not in _RESIZING:
        raise ValueError(f"Images are measured beside real ones of their shape, and {unlike}: resize one of them.")
    both = f"{_RESIZING[features]} resizes both, which metrics of others do not compare with."
    return f"{unlike[0].upper()}{unlike[1:]}: {both}"


def check_features(kind: str):
    """ValueError unless `kind` can be asked of `make_features`."""
    module, _, name = kind.partition(":")
    if kind not in FEATURES and not (module and name):
        raise ValueError(f"Features must be {', '.join(FEATURES)}, or MODULE:FUNCTION of your own; got {kind!r}.")


def measured_by(real: Images, kind: str, weights: str | None, cache: str, clip_size: int = MEASURED) -> dict:
    """`evaluate`'s features, one of FEATURES or "package.module:function", and its reference, of real images; `weights`
    are a file of Inception's, None: downloaded, or of I3D's, which brings clips to `clip_size` first, if that is not 0,
    or a folder, or name, of CLIP's.

    The reference comes from the folder `cache` if it was made before; of several processes the first one alone has it.
    ValueError for features that cannot be made.
    """
    check_features(kind)
    first = processes.index() == 0
    if kind == "inception" and weights is None:
        if first:
            download_weights(INCEPTION_CACHE)
        processes.wait_for_all()  # else all would download
    with on_no_mesh():
        features = _features(real, kind, weights, clip_size or None)
    reference = _reference(real, features, cache) if first else None
    processes.wait_for_all()
    return {"features": features, "reference": reference}


def _features(real: Images, kind: str, weights: str | None, clip_size: int | None) -> Features:
    if kind == "clip":
        from keras_sid2.bin.clip import clip_features

        return clip_features(weights)
    if kind in ("inception", "i3d"):
        return inception_features(weights) if kind == "inception" else i3d_features(weights, clip_size)
    return _classifier(real) if kind == "classifier" else _own(kind)


def _reference(real: Images, features: Features, cache: str) -> Reference:
    folder, about = pathlib.Path(cache).expanduser(), {"name": real.name, "fingerprint": real.fingerprint}
    return reference_of(real.batches, features, **about, cache=folder)


def _own(kind: str) -> Features:
    try:
        function = named(kind)
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
