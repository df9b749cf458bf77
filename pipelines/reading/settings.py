"""What the user asks of a reader, checked before anything is opened, and the shapes that then come out."""

import dataclasses
import operator
from typing import Any

from pipelines.values import Schema, ValueSpec

LAST = 2**63 - 1  # positions end here
CROPS = (None, "center", "random")
_LEAST = {"batch_size": 1, "seed": 0, "start_step": 0, "process_index": 0, "process_count": 1}


@dataclasses.dataclass(frozen=True, kw_only=True)
class ReadSettings:
    """How a data set is read: the arguments of `make_dataset` that do not say which.

    Attributes:
        batch_size: B, at least 1; of this process.
        image_size: H = W, or (H, W), of the images that come out; None: as stored, if all are alike.
        training: an endless shuffled stream, or one pass.
        seed: of order, windows and flips, in 0..2**63-1.
        start_step: number of batches to leave out at the start; only with `training`.
        flip: mirror half of the images, left to right; only with `training`.
        crop: "center" cuts the largest window of the wanted shape from the middle, "random" (only with `training`) one
            between `min_crop` of it and the whole, anywhere; both are then resized to image_size (without aliasing).
            Not ADM's crop, which FID is measured with: that is made in preparing. None: "center" where the stored
            images differ in size, and else they must have the wanted size.
        min_crop: in (0, 1], for crop="random".
        drop_remainder: without `training`, leave out a last batch that is not full (default: no).
        process_index, process_count: which of how many processes this is.
    """

    batch_size: int
    image_size: int | tuple[int, int] | None = None
    training: bool = True
    seed: int = 0
    start_step: int = 0
    flip: bool = False
    crop: str | None = None
    min_crop: float = 0.8
    drop_remainder: bool | None = None
    process_index: int = 0
    process_count: int = 1

    def __post_init__(self) -> None:
        for name, least in _LEAST.items():
            object.__setattr__(self, name, integer(name, getattr(self, name), at_least=least))
        if self.process_index >= self.process_count:
            count = self.process_count
            raise ValueError(f"process_index must be below process_count={count}, got {self.process_index}")
        if self.start_step * self.batch_size * self.process_count > LAST:
            raise ValueError(f"start_step={self.start_step} with batch_size={self.batch_size} is beyond example 2**63")
        for name in ("training", "flip"):
            if not isinstance(getattr(self, name), bool):
                raise ValueError(f"{name} must be True or False, got {getattr(self, name)!r}")
        if self.drop_remainder is not None and not isinstance(self.drop_remainder, bool):
            raise ValueError(f"drop_remainder must be True, False or None, got {self.drop_remainder!r}")
        if self.crop not in CROPS:
            raise ValueError(f"crop must be None, 'center' or 'random', got {self.crop!r}")
        if not isinstance(self.min_crop, (int, float)) or not 0 < self.min_crop <= 1:
            raise ValueError(f"min_crop must be in (0, 1], got {self.min_crop!r}")
        if not self.training and (self.start_step or self.flip or self.crop == "random"):
            got = f"start_step={self.start_step}, flip={self.flip}, crop={self.crop!r}"
            raise ValueError(f"start_step, flip and crop='random' are for training=True, got {got}")
        if self.image_size is not None:
            object.__setattr__(self, "image_size", _size(self.image_size))

    def outputs(self, schema: Schema, name: str) -> dict[str, ValueSpec]:
        """The values as they come out, of a data set of that name. Raises ValueError: the sample cannot be given in the
        size, or a value cannot follow crop or flip."""
        stored = schema.sample.shape[-3:-1]
        size = self.image_size or stored
        if None in size:
            shape = schema.sample.shape[-3:]
            raise ValueError(f"the images of {name} may differ in size (stored as {shape}): give image_size")
        if self.crop is None and None not in stored and size != stored:
            raise ValueError(
                f"image_size {size[0]}x{size[1]} was asked for and the images of {name} are {stored[0]}x{stored[1]}: "
                "give crop='center' or crop='random' to cut and resize them"
            )
        came_out = {}
        for key, spec in schema.values.items():
            shape = spec.shape
            if key == schema.sample_name:
                shape = (*shape[:-3], *size, shape[-1])
            elif self.flip or self.crop or size != stored:
                shape = spec.following(key, stored, size)
            dtype = spec.dtype if spec.encoder is None else "float32"
            came_out[key] = dataclasses.replace(spec, shape=shape, dtype=dtype)
        return came_out


def integer(name: str, value: Any, *, at_least: int) -> int:
    """`value` as an int; ValueError if it is none, too small, or beyond 2**63 - 1."""
    try:
        number = None if isinstance(value, bool) else operator.index(value)
    except TypeError:
        number = None
    if number is None or not at_least <= number <= LAST:
        raise ValueError(f"{name} must be an integer of at least {at_least} (and below 2**63), got {value!r}")
    return number


def _size(image_size: Any) -> tuple[int, int]:
    size = tuple(image_size) if isinstance(image_size, (tuple, list)) else (image_size, image_size)
    if len(size) != 2:
        raise ValueError(f"image_size must be one integer or (height, width), got {image_size!r}")
    return integer("image_size", size[0], at_least=1), integer("image_size", size[1], at_least=1)
