"""What data sets of arrays by name have in common, wherever the arrays lie."""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Protocol

import numpy as np
import tensorflow_datasets as tfds

from pipelines import images
from pipelines.datasets.local_builder import BadSource, Item, LocalBuilder, Made, digest_of, feature_of
from pipelines.values import SAMPLES, ValueSpec, fault_in


class Rows(Protocol):
    """An array [N, ...], of which `rows[i]` is read when it is asked for."""

    shape: tuple[int, ...]
    dtype: np.dtype

    def __getitem__(self, index: int) -> np.ndarray: ...


class Arrays(LocalBuilder):
    """A builder whose `builder_config` has `files()`, {split: path}, `opened(path)`, the arrays of one by name, the
    sample first, all with as many rows, and `channel_names`."""

    def values(self) -> dict[str, tfds.features.FeatureConnector]:
        encodings = dict.fromkeys(SAMPLES, self.builder_config.encoding)
        features = {name: feature_of(spec, encodings.get(name, "png")) for name, spec in self._specs.items()}
        if "label" in features:
            features["label"] = tfds.features.ClassLabel(num_classes=self._specs["label"].num_classes)
        return features

    @functools.cached_property
    def _specs(self) -> dict[str, ValueSpec]:
        """What is stored of each value, over all files, the sample first."""
        specs, files = {}, self.builder_config.files()
        for split, path in files.items():
            arrays = self._arrays(path)
            if odd := sorted(set(arrays) ^ set(specs or arrays)):
                have = "labels" if odd == ["label"] else ", ".join(odd)
                raise ValueError(f"some of the files in {self.builder_config.source} have {have} and some have not")
            size = next(iter(arrays.values())).shape[-3:-1]
            for name, array in arrays.items():
                spec = self._spec(name, array, size)
                before = specs.setdefault(name, spec)
                if name == "label":
                    specs[name] = max(before, spec, key=lambda label: label.num_classes)
                elif spec != before and name in SAMPLES and _of_any_size(spec) == _of_any_size(before):
                    specs[name] = _of_any_size(spec)
                elif spec != before:
                    raise ValueError(f"{name!r} is {before} in {next(iter(files))} and {spec} in {split}")
        return specs

    def _spec(self, name: str, array: np.ndarray, size: tuple[int, int]) -> ValueSpec:
        """What is stored of a value in one file, whose samples have `size`."""
        config, shape = self.builder_config, array.shape[1:]
        if name == "label":
            return ValueSpec((), "int32", num_classes=config.num_classes or int(array.max(initial=0)) + 1)
        encoded = array.dtype == np.uint8 and len(shape) in (3, 4) and shape[-1] in images.MODES
        spec, cropped = ValueSpec(shape, array.dtype, encoded), (config.image_size,) * 2
        if config.image_size and spec.lies_over and not encoded:
            raise ValueError(
                f"image_size={config.image_size} crops pictures of uint8, and {name!r} is {spec}: give no image_size, "
                "and crop when reading"
            )
        if name in SAMPLES and encoded:
            shape = (*shape[:-3], *(cropped if config.image_size else size), config.channels)
        elif config.image_size and spec.lies_over:
            shape = spec.following(name, size, cropped)
        return dataclasses.replace(spec, shape=shape)

    def _arrays(self, path: str) -> Mapping[str, Rows]:
        return self.builder_config.opened(path)

    def channel_names(self) -> dict[str, tuple[str, ...]]:
        """Those of the sample as they are given; of other floats, vectors and what lies over it, by their values."""
        given, (sample, spec) = self.builder_config.channel_names, next(iter(self._specs.items()))
        if given is None:
            return {}
        names, has = tuple(given.split(",")), f"{len(given.split(','))} names, {given}, and the samples are {spec}"
        if len(names) != spec.shape[-1] or not np.issubdtype(spec.dtype, np.floating):
            raise ValueError(f"channel_names must be one for each channel of float samples: there are {has}")
        if "train" not in self.builder_config.files():
            raise ValueError(f"{self.builder_config.source} has no split named train, of which channels are measured")
        return {sample: names} | {
            name: _numbered(name, spec) for name, spec in self._specs.items() if name != sample and _is_measured(spec)
        }

    def listed(self) -> tuple[dict[str, list[Item]], list[str]]:
        self.channel_names()  # refuses what is wrong
        splits, most = {}, self.builder_config.num_classes or 2**31
        for split, path in self.builder_config.files().items():
            arrays = self._arrays(path)
            labels = arrays["label"].tolist() if "label" in arrays else [None] * next(iter(arrays.values())).shape[0]
            for index, label in enumerate(labels):
                if label is not None and not 0 <= label < most:
                    raise ValueError(f"label {label} of image {index} in {path} is outside 0..{most - 1}")
            splits[split] = [Item(f"{index:09d}", label, (path, index)) for index, label in enumerate(labels)]
        return splits, []

    def example(self, item: Item) -> Made:
        path, index = item.source
        features, changes, arrays = {}, (), self._arrays(path)
        sample = next(iter(arrays))
        for name, spec in self._specs.items():
            value, where = np.array(arrays[name][index], order="C"), f"{name} {index} of {path}"
            if not spec.encoded:
                if reason := fault_in(name, value, of_any_range=self.builder_config.channel_names is not None):
                    raise BadSource(f"{where} {reason}")
                features[name] = value
                continue
            frames = list(value) if value.ndim == 4 else [value]
            try:
                if name == sample:
                    made = [self.builder_config.stored(images.from_pixels(frame), upright=False) for frame in frames]
                    frames, changes = [image for image, _ in made], made[0][1]
                else:
                    frames = [_beside(frame, spec) for frame in frames]
            except images.BadImage as error:
                raise BadSource(f"{where} {error}") from None
            features[name] = frames if value.ndim == 4 else frames[0]
        if item.label is not None:
            features["label"] = item.label
        return Made(features, digest_of(arrays[sample][index].tobytes()), changes)


def _is_measured(spec: ValueSpec) -> bool:
    return np.issubdtype(spec.dtype, np.floating) and len(spec.shape) in (1, 3, 4)


def _numbered(name: str, spec: ValueSpec) -> tuple[str, ...]:
    """Names for the channels of a value."""
    return (name,) if spec.shape[-1] == 1 else tuple(f"{name}_{i}" for i in range(spec.shape[-1]))


def _of_any_size(spec: ValueSpec) -> ValueSpec:
    return dataclasses.replace(spec, shape=(*spec.shape[:-3], None, None, spec.shape[-1]))


def _beside(pixels: np.ndarray, spec: ValueSpec) -> bytes:
    """A picture beside the sample, with ADM's crop where that made it smaller, as PNG."""
    picture = images.from_array(pixels)
    if pixels.shape != spec.shape[-3:]:
        picture = images.adm_center_crop(picture, spec.shape[-2])
    return images.encode(picture, "png")
