"""Looks at data: wrong data gets a sentence, and not a loss that never falls.

The first batch is looked at on the host, before work starts. Later ones within the step, where it costs a comparison a
label and, of float images, one maximum: an example that is wrong is left out of the loss, what was wrong with it goes
into `DataFaults`, and the logged loss is NaN, which stops fit a step later with a sentence.
"""

import types
import warnings

import keras
import numpy as np
from keras import ops

from keras_sid2.parallel import replicas

_OUTSIDE = 1.001  # float images may pass 1 by rounding


def unpack(data):
    """(image, label or None) of a batch that is {"image", "label"}, (image, label) or image.

    Raises ValueError for sample weights, which SiD2's loss has no place for, and for a dict without "image".
    """
    x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
    if sample_weight is not None:
        raise ValueError("SiD2Model takes no sample_weight or class_weight: its loss weights noise levels only.")
    if not isinstance(x, dict):
        return x, y
    if "image" not in x:
        raise ValueError(f'A batch that is a dict needs the key "image", got {", ".join(map(repr, x))}.')
    return x["image"], x.get("label", y)


def check_image_spec(shape, dtype, image_shape: tuple[int, int, int]):
    """ValueError unless images of `shape` [B, H, W, C] and `dtype` fit a model of `image_shape`."""
    if tuple(shape)[1:] != tuple(image_shape):
        raise ValueError(
            f"Images must be [batch, {', '.join(map(str, image_shape))}] (height, width, channels last), "
            f"got {list(shape)}."
        )
    dtype = keras.backend.standardize_dtype(dtype)
    if dtype != "uint8" and "float" not in dtype:
        raise ValueError(f"Images must be uint8 in [0, 255] or float in [-1, 1], got {dtype}.")


def check_labels(labels, num_classes: int | None, no_label: int | None = None):
    """ValueError unless integer `labels` fit a model of `num_classes` (None: without labels), or are `no_label`."""
    if num_classes is None:
        return
    if labels is None:
        raise ValueError(f"This model has {num_classes} classes and needs labels, got images alone.")
    labels = np.asarray(labels)
    if labels.ndim != 1 or not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(f"Labels must be integers of shape [batch], got {labels.dtype} of shape {labels.shape}.")
    outside = (labels < 0) | (labels >= num_classes)
    wrong = labels[outside if no_label is None else outside & (labels != no_label)]
    if wrong.size:
        raise ValueError(_wrong_label(wrong[0], num_classes))


def _wrong_label(label: int, num_classes: int) -> str:
    most = f"Labels must be in [0, {num_classes - 1}], got {label}"
    return f"{most}: SiD2Model(no_label={label}) takes it for an image of no class." if label < 0 else f"{most}."


def check_batch(data, *, image_shape: tuple[int, int, int], num_classes: int | None, no_label: int | None = None):
    """ValueError, in one sentence, unless a batch fits the model in shape, dtype, range and labels.

    A warning for float images that are all above 0, and so have hardly been scaled to [-1, 1].
    """
    images, labels = unpack(data)
    check_image_spec(images.shape, images.dtype, image_shape)
    check_labels(None if labels is None else ops.convert_to_numpy(labels), num_classes, no_label)
    if "float" in keras.backend.standardize_dtype(images.dtype):
        images = ops.convert_to_numpy(images).astype("float32")
        low, high = float(np.min(images)), float(np.max(images))
        if not (low >= -_OUTSIDE and high <= _OUTSIDE):
            raise ValueError(f"Float images must be in [-1, 1], got values from {low:.4g} to {high:.4g}.")
        if low >= 0.0:
            warnings.warn(
                f"Float images are taken to be in [-1, 1], and those of the first batch go from {low:.4g} to "
                f"{high:.4g}: if they are in [0, 1], pass images * 2 - 1, or uint8 in [0, 255].",
                stacklevel=4,
            )


def without_faults(x, labels, *, num_classes: int | None, no_label: int | None, scaled: bool):
    """(x, labels, share, faults) of a batch within a step: what is wrong is 0, or the null class.

    x float32 [B, ...], `scaled` if it was uint8 and so cannot be wrong; labels int [B] or None. share float32 [B] is 1,
    or 0 for a wrong example; faults float32 [B, 3] say whether its label is wrong, the label if so (else -inf), and its
    largest |x| if that is beyond 1 (else 0).
    """
    wrong = far = ops.zeros(ops.shape(x)[:1], "float32")
    found = wrong - np.float32(np.inf)
    if num_classes is not None:
        labels = ops.cast(labels, "int32")
        no_class = ops.logical_or(labels < 0, labels >= num_classes)
        outside = no_class if no_label is None else ops.logical_and(no_class, ops.not_equal(labels, no_label))
        wrong = ops.cast(outside, "float32")
        found = ops.where(outside, ops.cast(labels, "float32"), found)
        labels = ops.where(no_class, num_classes, labels)
    if not scaled:
        far = ops.max(ops.abs(x), axis=tuple(range(1, len(x.shape))))
        far = ops.where(ops.isnan(far), np.float32(np.inf), ops.where(far <= _OUTSIDE, 0.0, far))
        x = ops.where(ops.reshape(far > 0.0, (-1, *[1] * (len(x.shape) - 1))), 0.0, x)
    return x, labels, ops.cast(wrong + far == 0.0, "float32"), ops.stack([wrong, found, far], axis=1)


class DataFaults(keras.metrics.Metric):
    """The first faults since the last reset; it shows in no log, as its result is empty."""

    def __init__(self, name: str = "data_faults"):
        super().__init__(name=name)
        self.first = keras.Variable(
            np.zeros(3, "float32"), trainable=False, aggregation="only_first_replica", name="first"
        )

    def update_state(self, faults, sample_weight=None):
        """Takes the `faults` [b, 3] of this copy's part of a batch; by maxima alone, which devices share cheaply."""
        now = ops.max(ops.reshape(replicas.gathered(ops.max(faults, axis=0)), (-1, 3)), axis=0)
        replicas.update([self.first], [ops.where(self.found(), self.first.value, now)])

    def found(self):
        """Whether there are any, a scalar."""
        return self.first.value[0] + self.first.value[2] > 0.0

    def result(self):
        return {}

    def sentence(self, num_classes: int | None) -> str | None:
        """What is wrong, or None."""
        wrong, label, far = (float(value) for value in self.first.numpy())
        if wrong:
            return _wrong_label(int(label), num_classes)
        if far:
            value = "NaN or an infinite value" if np.isinf(far) else f"values of up to {far:.4g} in size"
            return f"Float images must be in [-1, 1], got {value}."
        return None


def peek(x, y=None) -> tuple[object, object]:
    """(x as it must be used from now on, its first batch or None), without losing a batch.

    Data sets that can be iterated again are; of a generator the batch is put back in front; of arrays it is the whole.
    """
    if x is None:
        return None, None
    if hasattr(x, "shape") or isinstance(x, dict | list | tuple):
        return x, (x, y)
    if isinstance(x, types.GeneratorType):
        first = next(x, None)
        return (x if first is None else _put_back(first, x)), first
    if isinstance(x, keras.utils.PyDataset):
        return x, x[0]
    return x, next(iter(x), None)


def _put_back(first, rest):
    yield first
    yield from rest
