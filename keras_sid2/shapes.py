"""Whole numbers and shapes as people give them: Python's or numpy's, in tuples, lists or arrays."""

import numbers
import operator


def whole_number(what: str, value, least: int = 1) -> int:
    """`value` as an int; ValueError, which begins with `what`, for one below `least` and for what is no integer."""
    number = None
    if not _is_truth_value(value):
        try:
            number = operator.index(value)
        except TypeError:
            pass
    if number is None or number < least:
        raise ValueError(f"{what} must be an integer >= {least}, got {value!r}.")
    return number


def _is_truth_value(value) -> bool:
    return isinstance(value, bool) or getattr(getattr(value, "dtype", None), "kind", None) == "b"


def rate(what: str, value) -> float:
    """`value` as a float; ValueError, which begins with `what`, for what is no number in [0, 1)."""
    if _is_truth_value(value) or not isinstance(value, numbers.Real) or not 0.0 <= value < 1.0:
        raise ValueError(f"{what} must be in [0, 1), got {value!r}.")
    return float(value)


def as_shape(what: str, value) -> tuple[int, ...]:
    """`value` as a tuple of ints; ValueError, which begins with `what`, unless it is integers >= 1."""
    try:
        sizes = tuple(whole_number("a side", size) for size in value)
    except (TypeError, ValueError):
        sizes = ()
    if not sizes:
        raise ValueError(f"{what} must be integers >= 1, got {value!r}.")
    return sizes


def as_image_shape(value) -> tuple[int, ...]:
    """(H, W, C), or (F, H, W, C) of clips, as ints; ValueError for anything else."""
    try:
        shape = as_shape("", value)
    except ValueError:
        shape = ()
    if len(shape) not in (3, 4):
        raise ValueError(
            "image_shape must be (height, width, channels), three integers >= 1, or (frames, height, width, channels) "
            f"of clips, got {value!r}."
        )
    return shape


def square_side(image_shape) -> tuple[int | None, str]:
    """(side, for people) of a shape: 64 and "64 x 64"; None where it is no square, or no (..., H, W, C)."""
    try:
        *_, height, width, _ = as_image_shape(image_shape)
    except ValueError:
        return None, f"of shape {image_shape!r}"
    return height if height == width else None, f"{height} x {width}"
