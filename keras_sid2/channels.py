"""Fields: float samples whose channels have names, and physical units that the network does not see."""

import dataclasses
import math
from collections.abc import Iterable

import numpy as np
from keras import ops

from keras_sid2.config import settings
from keras_sid2.shapes import is_number

_MOST = float(np.finfo("float32").max)


@settings
class Channels:
    """Names, means and deviations of the channels of fields, such as ("u", "v"), (0.1, -2.0), (3.5, 4.0).

    A model with channels takes and gives x, float32 in physical units; within, it is (x - mean) / std.

    Args:
        names: one a channel, all different.
        mean, std: numbers, one a name; std is above 0. Where all values lie within what float32 resolves at the mean,
            such as 1e-3 about 1e5, nothing can be told apart: subtract a constant from the data before.

    Raises ValueError, in one sentence, for others.
    """

    names: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __post_init__(self):
        names = (self.names,) if isinstance(self.names, str) else _listed(self.names)
        if not names or not all(isinstance(name, str) and name for name in names) or len(set(names)) < len(names):
            raise ValueError(f"Channels need names, all different, such as ('u', 'v'); got {names}.")
        object.__setattr__(self, "names", names)
        for field in dataclasses.fields(self)[1:]:
            values = getattr(self, field.name)
            values = (values,) if is_number(values) else _listed(values)
            if len(values) != len(names):
                few = f"{len(names)} channels ({', '.join(names)}) and {len(values)} of {field.name}"
                raise ValueError(f"A channel without statistics, or the other way round: there are {few}.")
            if not all(is_number(value) and math.isfinite(value) and abs(value) <= _MOST for value in values):
                raise ValueError(f"The {field.name} of channels must be finite numbers of float32, got {values}.")
            object.__setattr__(self, field.name, tuple(map(float, values)))
        for name, mean, std in zip(names, self.mean, self.std, strict=True):
            if not std > 0.0:
                raise ValueError(f"The channel {name} is constant, or was not measured: its std is {std}.")
            if std < np.spacing(np.float32(abs(mean))):
                wrong = f"The channel {name} varies by {std:.3g} about {mean:.6g}, less than float32 resolves there"
                raise ValueError(f"{wrong}: subtract a constant from the data.")

    def __len__(self):
        return len(self.names)

    def standardize(self, x):
        """(x - mean) / std of physical float32 [..., C], of numpy or of the backend."""
        mean, std = self._numbers(x)
        return (x - mean) / std

    def restore(self, x):
        """x std + mean, what `standardize` had."""
        mean, std = self._numbers(x)
        return x * std + mean

    def _numbers(self, x) -> tuple:
        mean, std = np.float32(self.mean), np.float32(self.std)
        return (mean, std) if isinstance(x, np.ndarray) else (ops.convert_to_tensor(mean), ops.convert_to_tensor(std))

    def check(self, what: str, values) -> np.ndarray:
        """`values` [..., C] as float32; ValueError, which begins with `what`, for bytes and what is not finite."""
        values = np.asarray(values)
        if values.dtype == np.uint8 or not np.issubdtype(values.dtype, np.number):
            raise ValueError(self.wrong_dtype(what, values.dtype))
        with np.errstate(over="ignore"):
            values = values.astype("float32")
        if not np.isfinite(values).all():
            raise ValueError(f"{what} must be finite, and has values that are NaN or infinite.")
        return values

    def wrong_dtype(self, what: str, dtype) -> str:
        """The sentence for values that are no floats."""
        return f"{what} must be float, in the units of the channels {', '.join(self.names)}, got {dtype}."


def _listed(values) -> tuple:
    if values is None:
        return ()
    return tuple(values) if isinstance(values, Iterable) else (values,)


def check_channels(what: str, channels: Channels | None, count: int):
    """ValueError, which begins with `what`, unless `channels` are None or of `count` names."""
    if not isinstance(channels, Channels | None):
        raise ValueError(f"{what} needs keras_sid2.Channels(names, mean, std) as channels, got {channels!r}.")
    if channels is not None and len(channels) != count:
        names = ", ".join(channels.names)
        raise ValueError(f"{what} has {count} channels, and {len(channels)} are named: {names}.")
