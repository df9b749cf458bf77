"""What a SampleRequest is given, as plain numbers and numpy arrays, or one sentence that says what is wrong with it."""

import numbers
import warnings
from collections.abc import Mapping, Sequence

import numpy as np

from keras_sid2.conditions import as_samples
from keras_sid2.shapes import whole_number


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
        kind, reason = type(values).__name__, str(error).strip().partition("\n")[0]
        raise ValueError(f"{name} must be an array of numbers, and a {kind} is none: {reason}") from error
    return array.astype("float32") if "float" in str(array.dtype) else array


def given_to(model, labels, conditions, num_images: int | None) -> tuple[int, dict[str, np.ndarray]]:
    """(N, arrays [N, *shape] of all conditions by name), null where none are given; one value serves all samples.

    ValueError for values that do not fit, and where nothing says how many samples are wanted.
    """
    given = _named(model, "conditions", conditions)
    if labels is not None:
        if "label" not in model.conditions:
            raise ValueError("This model has no classes: pass num_images and no labels.")
        given["label"] = np.atleast_1d(as_array("labels", labels))
    sizes = {name: len(v) for name, v in given.items() if v.ndim > len(model.conditions[name].shape)}
    if not sizes:
        num_images = whole_number("Without labels, num_images", num_images)
    counts = set(sizes.values()) or {num_images}
    count = counts.pop()
    if counts or num_images not in (None, count) or not count:
        sizes = ", ".join(f"{size} {name}" for name, size in sizes.items())
        raise ValueError(f"labels must be one an image, at least one; got {sizes} and num_images={num_images}.")
    warn_of_null("Samples are drawn for", [name for name in model.always_given if name not in given])
    return count, {name: _values(name, c, given.get(name), count) for name, c in model.conditions.items()}


def negatives_of(model, negative, count: int) -> dict[str, np.ndarray]:
    """Arrays [N, *shape] of what guidance leads away from, by name; one value serves all samples."""
    given = _named(model, "negative_conditions", negative)
    return {name: _values(name, model.conditions[name], values, count) for name, values in given.items()}


def warn_of_null(what: str, names: Sequence[str]):
    """UserWarning for conditions whose null value is used and was never trained."""
    if names:
        told = f"{what} the null value of {', '.join(names)}, which training always gave"
        warnings.warn(f"{told} (label_dropout is 0 there): the network has not learnt it.", stacklevel=2)


def _named(model, what: str, values) -> dict[str, np.ndarray]:
    if not isinstance(values, Mapping | None):
        raise ValueError(f"{what} must be a dict of values by name, got a {type(values).__name__}.")
    unknown = [name for name in values or () if name not in model.conditions]
    if unknown:
        known = ", ".join(model.conditions) or "none"
        raise ValueError(f"{what} names {', '.join(unknown)}, and this model's conditions are {known}.")
    return {name: as_array(name, found) for name, found in (values or {}).items()}


def _values(name: str, condition, values, count: int) -> np.ndarray:
    if values is None:
        return np.broadcast_to(condition.given_null, (count, *condition.shape)).copy()
    if values.ndim == len(condition.shape):
        values = np.broadcast_to(values, (count, *values.shape))
    found = condition.check(name, values)
    if len(found) != count:
        raise ValueError(f"{name} must be one a sample, {count}, or one for all of them, got {len(found)}.")
    return found


def scaled_images(name: str, images, shape: tuple[int, ...], channels=None) -> np.ndarray:
    """uint8 or float images as float32 in [-1, 1]; with channels, samples in their units."""
    images = as_array(name, images)
    floats = np.issubdtype(images.dtype, np.floating)
    if images.shape != shape or not (images.dtype == np.uint8 or floats):
        found = f"{images.dtype} {list(images.shape)}"
        wanted = "uint8 or float in [-1, 1]" if channels is None else "float in the channels' units"
        raise ValueError(f"{name} must be images {list(shape)}, {wanted}; got {found}.")
    return as_samples(name, images, channels)


def limits_of(clip, channels) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
    """(lowest, highest) of each channel in its units, infinite where there is none; None for no limits at all."""
    if clip is None:
        return None
    if channels is None:
        raise ValueError("clip= is for models with channels: images are clipped to [-1, 1].")
    try:
        low, high = (
            np.broadcast_to([default if end is None else end for end in np.atleast_1d(given)], len(channels))
            for given, default in zip(clip, (-np.inf, np.inf), strict=True)
        )
        low, high = (tuple(map(float, values)) for values in (low, high))
    except (TypeError, ValueError):
        low = high = (np.nan,)
    if not all(a < b for a, b in zip(low, high, strict=True)):
        raise ValueError(
            "clip must be (lowest, highest), each None, a number, or one a channel "
            f"({', '.join(channels.names)}), the lowest below the highest; got {clip!r}."
        )
    return low, high


def mask_of(mask, shape: tuple[int, ...]) -> np.ndarray:
    """bool, of an axis less than `shape` or as many, that broadcasts to it; of numbers, 0 is false, 1 or 255 true."""
    mask = as_array("mask", mask)
    fits = mask.ndim in (len(shape) - 1, len(shape))
    fits = fits and all(size in (1, wanted) for size, wanted in zip(mask.shape[::-1], shape[::-1], strict=False))
    found = np.unique(mask) if mask.dtype.kind in "buif" else None
    if not fits or found is None:
        wanted, given = f"the images {list(shape)}, true where they are kept", f"{mask.dtype} {list(mask.shape)}"
        raise ValueError(f"mask must be bool and broadcast to {wanted}; got {given}.")
    if not set(found.tolist()) <= {0, 1} and not set(found.tolist()) <= {0, 255}:
        low, high = found[0], found[-1]
        raise ValueError(
            f"mask must be bool, 0 and 1, or 0 and 255, and has {len(found)} values from {low:.4g} to {high:.4g}: give "
            f"mask > {(low + high) / 2:.4g}, or another threshold, true where images are kept."
        )
    return mask.astype(bool)
