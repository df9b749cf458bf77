"""Numbers and shapes as people give them: Python's or numpy's, in tuples, lists or arrays."""

import contextlib
import numbers
import operator


def whole_number(what: str, value, least: int = 1) -> int:
    """`value` as an int; ValueError, which begins with `what`, for one below `least` and for what is no integer."""
    with contextlib.suppress(TypeError):
        if not _is_truth_value(value) and operator.index(value) >= least:
            return operator.index(value)
    raise ValueError(f"{what} must be an integer >= {least}, got {value!r}.")


def _is_truth_value(value) -> bool:
    return isinstance(value, bool) or getattr(getattr(value, "dtype", None), "kind", None) == "b"


def is_number(value) -> bool:
    """Whether `value` is a real number, and not True or False."""
    return isinstance(value, numbers.Real) and not _is_truth_value(value)


def rate(what: str, value) -> float:
    """`value` as a float; ValueError, which begins with `what`, for what is no number in [0, 1)."""
    if not is_number(value) or not 0.0 <= value < 1.0:
        raise ValueError(f"{what} must be in [0, 1), got {value!r}.")
    return float(value)


def as_shape(what: str, value) -> tuple[int, ...]:
    """`value` as a tuple of ints; ValueError, which begins with `what`, unless it is integers >= 1."""
    with contextlib.suppress(TypeError, ValueError):
        if sizes := tuple(whole_number("a side", size) for size in value):
            return sizes
    raise ValueError(f"{what} must be integers >= 1, got {value!r}.")


def as_image_shape(value) -> tuple[int, ...]:
    """(H, W, C), or (F, H, W, C) of clips, as ints; ValueError for anything else."""
    with contextlib.suppress(ValueError):
        if len(shape := as_shape("", value)) in (3, 4):
            return shape
    raise ValueError(
        "image_shape must be (height, width, channels), three integers >= 1, or (frames, height, width, channels) "
        f"of clips, got {value!r}."
    )


def square_side(image_shape) -> tuple[int | None, str]:
    """(side, for people) of a shape: 64 and "64 x 64"; None where it is no square, or no (..., H, W, C)."""
    try:
        *_, height, width, _ = as_image_shape(image_shape)
    except ValueError:
        return None, f"of shape {image_shape!r}"
    return height if height == width else None, f"{height} x {width}"
