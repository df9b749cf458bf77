"""What a record holds, described once for whatever writes, reads or checks it: values by name, the label is one.

A value of rank 3 [H,W,C] or 4 [F,H,W,C] lies over the sample, the image or clip itself: what crops, resizes and mirrors
that does the same to it. Others, a number or [L,D], pass as they are.
"""

import dataclasses
from collections.abc import Mapping

import numpy as np

from pipelines.extras import check_choice, check_count
from pipelines.images import KEEP, MODES, parse_background

SAMPLES = ("image", "video")
DTYPES = ("uint8", "int8", "uint16", "int16", "int32", "bool", "float16", "float32")
_OUTSIDE = 1.001  # float samples may pass 1 by rounding


@dataclasses.dataclass(frozen=True)
class ChannelStatistics:
    """Of values in physical units: name, mean and deviation of each channel, over all places of the training split."""

    names: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            object.__setattr__(self, field.name, tuple(getattr(self, field.name)))

    def __str__(self) -> str:
        each = zip(self.names, self.mean, self.std, strict=True)
        return ", ".join(f"{name} {mean:.6g} +- {std:.4g}" for name, mean, std in each)


@dataclasses.dataclass(frozen=True)
class ValueSpec:
    """One named value of an example.

    Attributes:
        shape: of one example; H and W are None where they differ from example to example.
        dtype: one of DTYPES.
        encoded: whether it is stored as a JPEG or PNG (of uint8 alone; a clip as one for each frame), not as numbers.
        num_classes: of a label, which is one integer in 0..num_classes-1; None: no label, or not known.
        key: of the feature in the record; None: its name.
        channels: of floats in physical units, of any range; None: of floats of order one.
        encoder: of an embedded text [length, width], the signature of the text encoder; it comes out as float32.
    """

    shape: tuple[int | None, ...]
    dtype: str = "float32"
    encoded: bool = False
    num_classes: int | None = None
    key: str | None = None
    channels: ChannelStatistics | None = None
    encoder: str | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "shape", tuple(self.shape))
        object.__setattr__(self, "dtype", np.dtype(self.dtype).name)
        check_choice("dtype", self.dtype, DTYPES)
        if self.encoded and (self.dtype != "uint8" or not self.lies_over or self.shape[-1] not in MODES):
            raise ValueError(f"an encoded value is uint8 [H,W,C] or [F,H,W,C] of 1, 3 or 4 channels, got {self}")

    def __str__(self) -> str:
        return f"{self.dtype} [{', '.join('?' if side is None else str(side) for side in self.shape)}]"

    @property
    def lies_over(self) -> bool:
        """Whether it has the sample's height and width, in its own resolution."""
        return len(self.shape) in (3, 4)

    def following(self, name: str, stored: tuple, size: tuple[int, int]) -> tuple[int | None, ...]:
        """The shape of the value `name` when the sample, of height and width `stored`, is cut, resized or mirrored to
        `size`. Raises ValueError: it cannot have the same done to it."""
        if not self.lies_over:
            if self.shape and self.shape == stored:
                raise ValueError(
                    f"{name!r} {self} looks like a map of the image without an axis of channels, and crop and flip "
                    "cannot follow: store it as [..., 1], or leave it out (values=...)"
                )
            return self.shape
        own, sides = self.shape[-3:-1], (None, None)
        if own == stored:
            sides = size
        elif None not in own and None not in stored and own[0] * stored[1] == own[1] * stored[0]:
            sides = [out * part / whole for out, part, whole in zip(size, own, stored, strict=True)]
        if None not in sides and all(side >= 1 and side == int(side) for side in sides):
            return (*self.shape[:-3], *map(int, sides), self.shape[-1])
        shown = ["x".join("?" if side is None else str(side) for side in pair) for pair in (own, stored, size)]
        raise ValueError(
            f"crop, flip and image_size cannot follow in {name!r}: it is {shown[0]} where the image is {shown[1]} and "
            f"comes out {shown[2]}; leave it out (values=...)"
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class RecordFeatures:
    """What is where in a record of tf.train.Example. A prepared data set says all of it but the keys itself.

    Attributes:
        image: key of the encoded image (JPEG or PNG), or of the list of encoded frames of a clip.
        label: key of the label, one integer; None: the records have none, or none is wanted.
        channels: 1 (grey), 3 (RGB) or 4 (RGBA) of what is read; grey and CMYK images among RGB ones are converted.
        num_classes: labels are in 0..num_classes-1; None: any label of 32 bits.
        background: the colour, a name or "#rrggbb", on which transparent images are composited where fewer than 4
            channels are read. `prepare` has done so with what it has written; records of others may hold such images.
        values: {name: ValueSpec} of what else plain files hold; one named "image" or "video" stands for `image`.
    """

    image: str = "image"
    label: str | None = "label"
    channels: int = 3
    num_classes: int | None = None
    background: str = "white"
    values: Mapping[str, ValueSpec] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        check_choice("channels", self.channels, MODES)
        object.__setattr__(self, "background", parse_background(self.background))
        if self.background == KEEP:
            raise ValueError("background must be a colour for reading, got 'keep': give channels=4 to read RGBA")
        check_count("num_classes", self.num_classes)
        if not all(isinstance(spec, ValueSpec) for spec in self.values.values()):
            raise ValueError(f"values must be {{name: pipelines.ValueSpec}}, got {self.values!r}")


@dataclasses.dataclass(frozen=True)
class Schema:
    """What each record of a split must hold: values by name, that of the sample first."""

    values: dict[str, ValueSpec]
    background: str = "white"

    @property
    def sample_name(self) -> str:
        return next(iter(self.values))

    @property
    def sample(self) -> ValueSpec:
        return self.values[self.sample_name]

    def key(self, name: str) -> str:
        return self.values[name].key or name


def fault_in(name: str, value: np.ndarray, *, of_any_range: bool = False) -> str:
    """What is wrong with the numbers of a value, in words that begin with a verb, or the empty string."""
    if value.dtype.kind != "f" or not value.size:
        return ""
    low, high = value.min(), value.max()  # NaN if there is one
    if not np.isfinite(low) or not np.isfinite(high):
        return "has numbers that are not finite"
    if name in SAMPLES and max(-low, high) > _OUTSIDE and not of_any_range:
        advice = "those in physical units are prepared with --channel_names=NAME,... (a name for each channel)"
        return f"is outside [-1, 1], where float samples must be: {low:.4g} to {high:.4g}; {advice}"
    return ""


def in_kept_dtype(name: str, array: np.ndarray) -> np.ndarray:
    """An array of one value of all examples in a dtype that is kept: whole numbers of 64 bits become int32. Raises
    ValueError: it has no such dtype."""
    native = array.dtype.newbyteorder("=")
    if native.name in DTYPES:
        return array.astype(native, copy=False)
    if native.kind not in "iu":
        raise ValueError(f"{name!r} is {native.name}, which is not kept: save it as one of {', '.join(DTYPES)}")
    limits = np.iinfo(np.int32)
    if array.size and (array.min() < limits.min or array.max() > limits.max):
        raise ValueError(f"{name!r} has numbers beyond 32 bits: save smaller ones, or floats")
    return array.astype(np.int32)
