"""What a Drawing is given, as plain numbers and numpy arrays, or one sentence that says what is wrong with it."""

import numbers

import numpy as np

from keras_sid2.training.data_checks import check_labels


def integer(name: str, value, least: int) -> int:
    """ValueError unless it is an integer of at least `least`; numpy's are."""
    if isinstance(value, bool | np.bool_) or not isinstance(value, int | np.integer) or value < least:
        raise ValueError(f"{name} must be an integer >= {least}, got {value!r}.")
    return int(value)


def optional_float(value):
    """A number as Python's float, so that records of it are plain; anything else as it is, for others to refuse."""
    return float(value) if isinstance(value, numbers.Real) and not isinstance(value, bool) else value


def as_array(name: str, values) -> np.ndarray:
    """Lists, arrays, and tensors of any backend, on any device, as numpy; ValueError for what is none of these."""
    if hasattr(values, "detach"):  # torch's, which may be on a device, and in types that numpy has not
        values = values.detach().cpu()
        values = values.float() if values.is_floating_point() else values
    try:
        array = np.asarray(values)
    except (TypeError, ValueError, RuntimeError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise ValueError(
            f"{name} must be an array of numbers, and a {type(values).__name__} is none: {reason}"
        ) from error
    return array.astype("float32") if "float" in str(array.dtype) else array


def labels_of(model, labels, num_images: int | None) -> np.ndarray:
    """int32 [N] labels, the null class (0 without classes) where none is asked for."""
    if labels is None:
        if isinstance(num_images, bool) or not isinstance(num_images, int | np.integer) or num_images < 1:
            raise ValueError(f"Without labels, num_images must be an integer >= 1, got {num_images!r}.")
        return np.full(num_images, model.num_classes or 0, "int32")
    if model.num_classes is None:
        raise ValueError("This model has no classes: pass num_images and no labels.")
    labels = np.atleast_1d(as_array("labels", labels))
    if num_images not in (None, len(labels)) or not len(labels):
        raise ValueError(f"labels must be one an image, at least one; got {len(labels)} and num_images={num_images}.")
    check_labels(labels, model.num_classes)
    return labels.astype("int32")


def scaled_images(name: str, images, shape: tuple[int, ...]) -> np.ndarray:
    """uint8 or float images as float32 in [-1, 1]."""
    images = as_array(name, images)
    floats = np.issubdtype(images.dtype, np.floating)
    if images.shape != shape or not (images.dtype == np.uint8 or floats):
        raise ValueError(
            f"{name} must be images {list(shape)}, uint8 or float in [-1, 1]; got {images.dtype} {list(images.shape)}."
        )
    if not floats:
        return images.astype("float32") / 127.5 - 1.0
    if not np.isfinite(images).all():
        raise ValueError(f"{name} must be float in [-1, 1], and has values that are NaN or infinite.")
    if not (np.abs(images) <= 1.0).all():
        raise ValueError(f"{name} must be float in [-1, 1], and reaches from {images.min()} to {images.max()}.")
    return images


def mask_of(mask, shape: tuple[int, ...]) -> np.ndarray:
    """bool, of an axis less than `shape` or as many, that broadcasts to it; of numbers, 0 is false, 1 or 255 true."""
    mask = as_array("mask", mask)
    fits = mask.ndim in (len(shape) - 1, len(shape)) and _broadcasts(mask.shape, shape)
    found = np.unique(mask) if mask.dtype.kind in "buif" else None
    if not fits or found is None:
        raise ValueError(
            f"mask must be bool and broadcast to the images {list(shape)}, true where they are kept; got "
            f"{mask.dtype} {list(mask.shape)}."
        )
    if not set(found.tolist()) <= {0, 1} and not set(found.tolist()) <= {0, 255}:
        raise ValueError(
            f"mask must be bool, 0 and 1, or 0 and 255, and has {len(found)} values from {found[0]:.4g} to "
            f"{found[-1]:.4g}: give mask > {(found[0] + found[-1]) / 2:.4g}, or another threshold, true where images "
            "are kept."
        )
    return mask.astype(bool)


def _broadcasts(shape: tuple[int, ...], to: tuple[int, ...]) -> bool:
    return all(size in (1, wanted) for size, wanted in zip(shape[::-1], to[::-1], strict=False))
