"""What one level of the Residual U-ViT consists of."""

from collections.abc import Iterable, Mapping

from keras_sid2.config import settings
from keras_sid2.layers.convolutions import AXES
from keras_sid2.shapes import as_image_shape, rate, whole_number

KINDS, ATTENTIONS = ("res", "transformer"), ("all", "alternate")


@settings
class Level:
    """One resolution of the network.

    Args:
        kind: "res" (ResBlock) or "transformer" (TransformerBlock).
        channels: width, >= 1.
        blocks: on the way down and again on the way up; of the last level, the middle, their whole number. >= 1.
        dropout: rate inside the blocks, in [0, 1).
        head_dim: width of an attention head, a divisor of channels; None is min(128, channels), our choice (4 heads or
            128 wide, the same at the paper's 512 channels).
        attention: of clips, "all" positions of all frames; or "alternate": within frames and along time in turn.
        remat: in training, keep only the input of each block and compute the rest again in the backward pass: less
            memory for about a third more arithmetic, and the same numbers.

    Raises ValueError, naming the field, for anything else.
    """

    kind: str
    channels: int
    blocks: int
    dropout: float = 0.0
    head_dim: int | None = None
    remat: bool = False
    attention: str = "all"

    def __post_init__(self):
        if self.kind not in KINDS:
            raise ValueError(f"A level's kind is one of {KINDS}, got {self.kind!r}.")
        for field in ("channels", "blocks", "head_dim"):
            if field != "head_dim" or self.head_dim is not None:
                object.__setattr__(self, field, whole_number(f"A level's {field}", getattr(self, field)))
        object.__setattr__(self, "dropout", rate("A level's dropout", self.dropout))
        if not isinstance(self.remat, bool):
            raise ValueError(f"A level's remat must be True or False, got {self.remat!r}.")
        if self.attention not in ATTENTIONS:
            raise ValueError(f"A level's attention is one of {ATTENTIONS}, got {self.attention!r}.")
        if self.kind == "transformer" and self.channels % self.attention_head_dim:
            sizes = f"head_dim={self.attention_head_dim} and channels={self.channels}"
            raise ValueError(f"A level's head_dim must divide its channels, got {sizes}.")

    @property
    def attention_head_dim(self) -> int:
        return self.head_dim or min(128, self.channels)

    @classmethod
    def of(cls, value: "Level | Mapping") -> "Level":
        """`value` if it is a Level, else one from a mapping of the fields."""
        if isinstance(value, cls):
            return value
        if not isinstance(value, Mapping):
            raise ValueError(f"A level is a keras_sid2.Level or a dict of its fields, got {value!r}.")
        known = cls.__dataclass_fields__
        if unknown := sorted(set(value) - set(known)):
            raise ValueError(f"A level has the fields {', '.join(known)}; got also {', '.join(unknown)}.")
        if missing := {"kind", "channels", "blocks"} - set(value):
            raise ValueError(f"A level needs {', '.join(sorted(missing))}, got only {', '.join(value)}.")
        return cls(**value)


def as_levels(levels) -> tuple[Level, ...]:
    """`Level`s or dicts of their fields, at least one; ValueError for anything else."""
    if isinstance(levels, Level | Mapping | str) or not isinstance(levels, Iterable):
        raise ValueError(f"levels must be a list of levels, highest resolution first, got {levels!r}.")
    if found := tuple(map(Level.of, levels)):
        return found
    raise ValueError("levels must name at least one level, got none.")


def check_image_shape(image_shape, patch_size: int, num_levels: int) -> tuple[int, ...]:
    """`image_shape` as ints, (H, W, C) or (F, H, W, C), if the patch and the levels divide it; ValueError otherwise."""
    shape, patch_size = as_image_shape(image_shape), whole_number("patch_size", patch_size)
    divisor = patch_size * 2 ** (num_levels - 1)
    if shape[-3] % divisor or shape[-2] % divisor:
        raise ValueError(
            f"image_shape {shape} must have a height and a width that {divisor} divides "
            f"(patch_size {patch_size} times 2 for each of {num_levels - 1} poolings)."
        )
    return shape


def as_axes(periodic, levels: Iterable[Level]) -> tuple[str, ...]:
    """`periodic`, one name or several, as a tuple in the order of AXES; ValueError for another axis, one named twice,
    and levels whose attention cannot be periodic."""
    named = tuple(periodic) if isinstance(periodic, Iterable) and not isinstance(periodic, str) else (periodic,)
    if not all(axis in AXES for axis in named):
        raise ValueError(f"periodic names axes, of {AXES}, or none, as (); got {periodic!r}.")
    if len({*named}) < len(named):
        raise ValueError(f"periodic names each axis once, got {periodic!r}.")
    for i, level in enumerate(levels if named else ()):
        if level.kind == "transformer" and level.attention_head_dim % 4:
            told = f"that of level {i} is {level.attention_head_dim}"
            raise ValueError(f"A network with periodic edges needs head_dims that 4 divides, and {told}: set head_dim.")
    return tuple(axis for axis in AXES if axis in named)
