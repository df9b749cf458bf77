"""Checks of data: wrong data gets a sentence, and not a loss that never falls.

The first batch is checked on the host, before work starts. Later ones within the step, where it costs a comparison a
label and, of float images, one maximum: an example that is wrong is left out of the loss, what was wrong with it goes
into `DataFaults`, and the logged loss is NaN, which stops fit a step later with a sentence.
"""

import itertools
import types
import warnings
from collections.abc import Mapping

import keras
import numpy as np
from keras import ops

from keras_sid2.conditions import check_all, expand, in_data
from keras_sid2.parallel import replicas

_OUTSIDE = 1.001  # float images may pass 1 by rounding
_FINITE = float(np.finfo("float32").max)
_SAMPLES = ("image", "video")  # keys of a batch


def unpack(data, conditions: Mapping | None = None):
    """(samples, values by the conditions' names) of a batch.

    A batch is {"image" or "video", conditions...}, (such a dict or samples, y), or samples; y is a dict, too, or the
    only condition, or the label; other values are ignored. ValueError for sample weights and a dict without samples.
    """
    x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
    if sample_weight is not None:
        raise ValueError("SiD2Model takes no sample_weight or class_weight: its loss weights noise levels only.")
    conditions = in_data(conditions)
    given = dict(y) if isinstance(y, Mapping) else {}
    if y is not None and not isinstance(y, Mapping) and conditions:
        given["label" if "label" in conditions else next(iter(conditions))] = y
    if isinstance(x, Mapping):
        given |= x
        x = next((x[key] for key in _SAMPLES if key in x), None)
        if x is None:
            raise ValueError(f'A batch that is a dict needs the key "image", got {", ".join(map(repr, given))}.')
    return x, {name: given[name] for name in conditions if name in given}


def check_sample_spec(shape, dtype, sample_shape: tuple[int, ...], channels=None):
    """ValueError unless samples of `shape` [B, ...] and `dtype` fit a model of `sample_shape` and `channels`."""
    kind, axes = ("Images", "height, width") if len(sample_shape) == 3 else ("Videos", "frames, height, width")
    if tuple(shape)[1:] != tuple(sample_shape):
        wanted = ", ".join(map(str, sample_shape))
        raise ValueError(f"{kind} must be [batch, {wanted}] ({axes}, channels last), got {list(shape)}.")
    dtype = keras.backend.standardize_dtype(dtype)
    if channels is not None and "float" not in dtype:
        raise ValueError(channels.wrong_dtype(kind, dtype))
    if dtype != "uint8" and "float" not in dtype:
        raise ValueError(f"{kind} must be uint8 in [0, 255] or float in [-1, 1], got {dtype}.")


def check_batch(data, sample_shape: tuple[int, ...], conditions: Mapping, no_label: int | None, channels=None):
    """ValueError, in one sentence, unless a batch fits the model in shape, dtype, range and conditions; the range of
    samples that have `channels` is any.

    A warning for float images that are all above 0, and so have hardly been scaled to [-1, 1].
    """
    images, given = unpack(data, conditions)
    check_sample_spec(images.shape, images.dtype, sample_shape, channels)
    check_all(conditions, {name: ops.convert_to_numpy(values) for name, values in given.items()}, missing=no_label)
    if "float" not in keras.backend.standardize_dtype(images.dtype):
        return
    if channels is not None:
        channels.check("Samples", ops.convert_to_numpy(images))
        return
    images = ops.convert_to_numpy(images).astype("float32")
    low, high = float(np.min(images)), float(np.max(images))
    if not -_OUTSIDE <= low <= high <= _OUTSIDE:
        raise ValueError(f"Float images must be in [-1, 1], got values from {low:.4g} to {high:.4g}.")
    if low >= 0.0:
        found = f"those of the first batch go from {low:.4g} to {high:.4g}"
        advice = "if they are in [0, 1], pass images * 2 - 1, or uint8 in [0, 255]"
        warnings.warn(f"Float images are taken to be in [-1, 1], and {found}: {advice}.", stacklevel=4)


def without_faults(x, given: Mapping, *, conditions: Mapping, no_label: int | None, most: float | None):
    """(x, given, share, faults) of a batch within a step: what is wrong is 0, or the null value.

    x float32 [B, ...] of size `most`, None if it was uint8 and so cannot be wrong; given are values by the conditions'
    names. share float32 [B] is 1, or 0 for a wrong example; faults float32 [B, 3] are the number, from 1, of the
    condition that is wrong (0: none), what its sentence shows (else -inf), and the largest |x| if beyond (else 0).
    """
    wrong = far = ops.zeros(ops.shape(x)[:1], "float32")
    found, clean = wrong - np.float32(np.inf), {}
    for number, (name, condition) in enumerate(conditions.items(), 1):
        if condition.from_samples:
            continue
        if name not in given:
            check_all(conditions, given)
        clean[name], outside, shown = condition.in_step(given[name], no_label)
        found = ops.where(outside, shown, found)
        wrong = ops.where(outside, np.float32(number), wrong)
    if most is not None:
        far = ops.max(ops.abs(x), axis=tuple(range(1, len(x.shape))))
        far = ops.where(ops.isnan(far), np.float32(np.inf), ops.where(far <= most, 0.0, far))
        x = ops.where(expand(far > 0.0, x), 0.0, x)
    return x, clean, ops.cast(wrong + far == 0.0, "float32"), ops.stack([wrong, found, far], axis=1)


class DataFaults(keras.metrics.Metric):
    """The first faults since the last reset; it shows in no log, as its result is empty."""

    def __init__(self, name: str = "data_faults"):
        super().__init__(name=name)
        only = {"trainable": False, "aggregation": "only_first_replica"}
        self.first = keras.Variable(np.zeros(3, "float32"), name="first", **only)

    def update_state(self, faults, sample_weight=None):
        """Takes the `faults` [b, 3] of this replica's part of a batch; by maxima alone, which devices share cheaply."""
        now = ops.max(ops.reshape(replicas.gathered(ops.max(faults, axis=0)), (-1, 3)), axis=0)
        replicas.update([self.first], [ops.where(self.found(), self.first.value, now)])

    def found(self):
        """Whether there are any, a scalar."""
        return self.first.value[0] + self.first.value[2] > 0.0

    def result(self):
        return {}

    def sentence(self, conditions: Mapping, channels=None) -> str | None:
        """What is wrong with data of a model with these, or None."""
        wrong, shown, far = (float(value) for value in self.first.numpy())
        if wrong:
            name, condition = list(conditions.items())[int(wrong) - 1]
            return condition.fault(name, shown)
        value = "NaN or an infinite value" if np.isinf(far) else f"values of up to {far:.4g} in size"
        if far and channels is not None:
            return "Samples must be finite, and have values that are NaN or infinite."
        return f"Float images must be in [-1, 1], got {value}." if far else None


def most_of(dtype, channels) -> float | None:
    """The size that samples of `dtype` may have in a step; None: they cannot have another."""
    if keras.backend.standardize_dtype(dtype) == "uint8":
        return None
    return _OUTSIDE if channels is None else _FINITE


def peek(x, y=None) -> tuple[object, object]:
    """(x as it must be used from now on, its first batch or None), without losing a batch.

    Data sets that can be iterated again are; of a generator the batch is put back in front; of arrays it is the whole.
    """
    if x is None:
        return None, None
    if hasattr(x, "shape") or isinstance(x, dict | list | tuple):
        return x, (x, y)
    if isinstance(x, keras.utils.PyDataset):
        return x, x[0]
    first = next(iter(x), None)
    if isinstance(x, types.GeneratorType) and first is not None:
        x = (batch for batch in itertools.chain([first], x))  # keras wants a generator
    return x, first
