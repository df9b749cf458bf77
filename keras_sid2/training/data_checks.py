"""One look at the first batch before training starts: wrong data gets a sentence, not a loss that never falls."""

import types

import keras
import numpy as np
from keras import ops


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


def check_labels(labels, num_classes: int | None):
    """ValueError unless integer `labels` fit a model of `num_classes` (None: without labels)."""
    if num_classes is None:
        return
    if labels is None:
        raise ValueError(f"This model has {num_classes} classes and needs labels, got images alone.")
    labels = np.asarray(labels)
    if labels.ndim != 1 or not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(f"Labels must be integers of shape [batch], got {labels.dtype} of shape {labels.shape}.")
    if labels.size and (labels.min() < 0 or labels.max() >= num_classes):
        wrong = labels[(labels < 0) | (labels >= num_classes)][0]
        raise ValueError(f"Labels must be in [0, {num_classes - 1}], got {wrong}.")


def check_batch(data, *, image_shape: tuple[int, int, int], num_classes: int | None):
    """ValueError, in one sentence, unless a batch fits the model in shape, dtype, range and labels."""
    images, labels = unpack(data)
    check_image_spec(images.shape, images.dtype, image_shape)
    check_labels(None if labels is None else ops.convert_to_numpy(labels), num_classes)
    if "float" in keras.backend.standardize_dtype(images.dtype):
        images = ops.convert_to_numpy(images)
        low, high = float(np.min(images)), float(np.max(images))
        if not (low >= -1.001 and high <= 1.001):
            raise ValueError(f"Float images must be in [-1, 1], got values from {low:.4g} to {high:.4g}.")


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
