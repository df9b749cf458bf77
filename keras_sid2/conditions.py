"""What a network gets beside z_t and logsnr: values by name, each a frozen configuration with a null value.

    ClassLabel(num_classes)        int32 [B]                     null: num_classes
    Vector(size)                   float32 [B, size]             null: zeros
    Image((height, width, C))      float32 [B, height, width, C] null: zeros, the middle of [-1, 1]; any rank
    TextEmbedding(length, width)   float32 [B, length, width]    null: zeros, no tokens; a row of zeros is padding
    Frames((F, H, W, C), given)    float32 [B, F, H, W, C + 1]   null: zeros; the clip's own first frames

Vector, Image and Frames may have `channels=Channels(...)`: then their values are given in physical units, of any range,
and networks get them standardised, so that null is the mean.

The null value takes a condition's place where training drops it and in the second estimate of guidance. A network says
which it takes, `network.conditions = {"label": ClassLabel(1000)}`, and is called as

    network({"z_t": ..., "logsnr": ..., "label": ...}, training=None, seed=None)

A network of version 0.1, which has `num_classes` and no `conditions`, is called network((z_t, logsnr, label)).
"""

import dataclasses
import inspect
from collections.abc import Mapping

import keras
import numpy as np
from keras import ops

from keras_sid2.channels import Channels, check_channels
from keras_sid2.config import later, settings
from keras_sid2.shapes import as_shape, rate, whole_number


class Condition:
    """What all kinds have: `shape` of one example's value, `dtype`, and the methods below."""

    dtype = "float32"
    from_samples = False  # whether training takes the values from the samples: data hold none
    channels = None  # Channels of values in physical units

    def __post_init__(self):
        for field in dataclasses.fields(self):
            if field.name not in ("channels", "encoder", "whitened"):
                object.__setattr__(self, field.name, whole_number(field.name, getattr(self, field.name)))

    @property
    def null(self) -> np.ndarray:
        """The value of an example that has none, of `shape`, as networks get it."""
        return np.zeros(self.shape, self.dtype)

    @property
    def given_null(self) -> np.ndarray:
        """The same as people give it: with channels their means."""
        return self.null if self.channels is None else self.channels.restore(self.null)

    def standard(self, values):
        """What networks get of values that were checked, numpy or of the backend."""
        return values if self.channels is None else self.channels.standardize(values)

    def check(self, name: str, values, missing=None) -> np.ndarray:
        """`values` [N, *shape] as people give them as an array of `dtype`; ValueError, naming them, for others. What
        it returns may be checked again. `missing` is allowed."""
        values = np.asarray(values)
        if values.shape[1:] != self.shape or not np.issubdtype(values.dtype, np.number):
            raise ValueError(f"{name} must be numbers of shape {['batch', *self.shape]}, got {_kind_of(values)}.")
        if self.channels is not None:
            return self.channels.check(name, values)
        values = self._scaled(values)
        if not np.isfinite(values).all():
            raise ValueError(self.fault(name, np.nan))
        return values.astype(self.dtype)

    def _scaled(self, values):
        return values

    def in_step(self, values, missing=None) -> tuple:
        """(values as networks get them, wrong bool [B], shown float32 [B]) within a step: what is wrong is null."""
        values = self.standard(ops.cast(self._scaled(values), self.dtype))
        finite = ops.all(ops.isfinite(values), axis=tuple(range(1, len(values.shape))))
        clean = ops.where(expand(finite, values), values, ops.convert_to_tensor(self.null))
        return clean, ops.logical_not(finite), ops.zeros_like(finite, "float32")

    def fault(self, name: str, shown: float) -> str:
        """What was wrong with a value that `in_step` found wrong."""
        return f"{name} must be finite, and has values that are NaN or infinite."


@settings
class ClassLabel(Condition):
    """One class of `num_classes`, an integer >= 1."""

    num_classes: int
    dtype = "int32"
    shape = ()

    @property
    def null(self):
        return np.int32(self.num_classes)

    def check(self, name, values, missing=None):
        values = np.asarray(values)
        if values.ndim != 1 or not np.issubdtype(values.dtype, np.integer):
            raise ValueError(f"{_label(name)} must be integers of shape [batch], got {_kind_of(values)}.")
        outside = (values < 0) | (values >= self.num_classes)
        wrong = values[outside if missing is None else outside & (values != missing)]
        if wrong.size:
            raise ValueError(self.fault(name, wrong[0]))
        return values.astype("int32")

    def in_step(self, values, missing=None):
        values = ops.cast(values, "int32")
        no_class = ops.logical_or(values < 0, values >= self.num_classes)
        wrong = no_class if missing is None else ops.logical_and(no_class, ops.not_equal(values, missing))
        shown = ops.where(wrong, ops.cast(values, "float32"), -np.float32(np.inf))
        return ops.where(no_class, self.num_classes, values), wrong, shown

    def fault(self, name, shown):
        advice = f": SiD2Model(no_label={int(shown)}) takes it for an image of no class." if shown < 0 else "."
        return f"{_label(name)} must be in [0, {self.num_classes - 1}], got {int(shown)}{advice}"


@settings
class Vector(Condition):
    """`size` numbers, an integer >= 1, of order one: scale them before, or give `channels`, `size` of them."""

    size: int
    channels: Channels | None = later()

    def __post_init__(self):
        super().__post_init__()
        check_channels("A Vector", self.channels, self.size)

    @property
    def shape(self):
        return (self.size,)


@settings
class Image(Condition):
    """Another image, or clip, of `shape`, such as (height, width, channels); uint8, or float of order one, or with
    `channels` float of any range. A ResidualUViT takes also those of 1/2, 1/3, ... of its samples' height and width."""

    shape: tuple[int, ...]
    channels: Channels | None = later()

    def __post_init__(self):
        object.__setattr__(self, "shape", as_shape("An Image's shape", self.shape))
        check_channels(f"An Image {self.shape}", self.channels, self.shape[-1])

    def _scaled(self, values):
        if self.channels is not None or keras.backend.standardize_dtype(values.dtype) != "uint8":
            return values
        floats = values.astype("float32") if isinstance(values, np.ndarray) else ops.cast(values, "float32")
        return floats / 127.5 - 1.0


@settings
class TextEmbedding(Condition):
    """Up to `length` tokens of `width` numbers, as a text encoder makes them; a row of zeros is padding, anywhere.

    `encoder` is the signature of that encoder, "NAME#HASH", and "" says that any may be: `generate(text=)` refuses
    another. What order the tokens have is for the encoder to tell. `whitened`: a ResidualUViT takes the mean of the
    data's tokens away and scales their principal directions alike, once its `adapt_text(values)` has seen some: what
    tells captions of one kind from each other is a small part of what encoders make of them.
    """

    length: int
    width: int
    encoder: str = later("")
    whitened: bool = later(False)

    def __post_init__(self):
        super().__post_init__()
        if not isinstance(self.encoder, str):
            raise ValueError(f'encoder must be a signature as "NAME#HASH", or "" for any, got {self.encoder!r}.')
        if not isinstance(self.whitened, bool):
            raise ValueError(f"whitened must be True or False, got {self.whitened!r}.")

    @property
    def shape(self):
        return (self.length, self.width)


@settings
class Frames(Condition):
    """The first frames of the clip itself, without noise: a network makes the rest.

    `shape_of_clip` is (F, H, W, C); `given` is how many frames there are, 1 <= given < F, or the (least, most) of
    them: training draws one for each example. People give clips [N, given, H, W, C], or whole ones, of which the first
    (most) frames are taken, uint8 or float in [-1, 1], or, with the `channels` of their model, float of any range;
    networks get values [B, F, H, W, C + 1], the clip with zeros
    behind what is given, and a last channel that is 1 where it is. The loss is of the other frames, and in what is
    drawn the given ones are as they were. Frames that keep no noise and carry a mark are the way of diffusion forcing's
    video networks; Kinetics-600 has 5 of 16.
    """

    shape_of_clip: tuple[int, ...]
    given: int | tuple[int, int] = 5
    channels: Channels | None = later()
    from_samples = True

    def __post_init__(self):
        clip = as_shape("A clip's shape", self.shape_of_clip)
        counts = self.given if isinstance(self.given, tuple | list) else (self.given, self.given)
        counts = tuple(whole_number("The number of given frames", count) for count in counts)
        if len(clip) != 4 or len(counts) != 2 or not counts[0] <= counts[1] < clip[0]:
            wanted = "(frames, height, width, channels), and fewer given frames than those, as 3 or as (least, most)"
            raise ValueError(f"Frames has a clip's shape {wanted}; got {self.shape_of_clip!r} and {self.given!r}.")
        check_channels("A clip", self.channels, clip[-1])
        object.__setattr__(self, "shape_of_clip", clip)
        object.__setattr__(self, "given", counts[0] if counts[0] == counts[1] else counts)

    @property
    def counts(self) -> tuple[int, int]:
        """The least and the most frames."""
        return self.given if isinstance(self.given, tuple) else (self.given, self.given)

    @property
    def shape(self):
        return (*self.shape_of_clip[:-1], self.shape_of_clip[-1] + 1)

    def check(self, name, values, missing=None):
        values, (least, most) = np.asarray(values), self.counts
        if values.shape[1:] == self.shape:  # as networks get them
            return super().check(name, values)
        if values.shape[1:] == self.shape_of_clip:
            values = values[:, :most]
        frames, wanted = values.shape[1] if values.ndim > 1 else 0, self.shape_of_clip[1:]
        if not least <= frames <= most or values.shape[2:] != wanted:
            counts = least if least == most else f"{least} to {most}"
            raise ValueError(f"{name} must be {counts} frames, {['batch', 'frames', *wanted]}, got {_kind_of(values)}.")
        floats = as_samples(name, values, self.channels)
        marked = np.concatenate([floats, np.ones((*floats.shape[:-1], 1), "float32")], axis=-1)
        return np.pad(marked, [(0, 0), (0, self.shape_of_clip[0] - frames), *[(0, 0)] * 3])

    def standard(self, values):
        if self.channels is None:
            return values
        lib = np if isinstance(values, np.ndarray) else ops
        x, mask = self.known(values)
        x = lib.where(mask, self.channels.standardize(x), lib.zeros_like(x))
        return lib.concatenate([x, values[..., -1:]], axis=-1)

    @property
    def given_null(self):
        return self.null

    def of_samples(self, x, draw):
        """Values of clips x float32 [B, F, H, W, C], as networks get them, for draws float32 [B] in (0, 1] of how many
        frames are given."""
        least, most = self.counts
        count = least + ops.minimum(ops.floor(draw * (most - least + 1)), most - least)
        frames = ops.arange(self.shape_of_clip[0], dtype="float32")
        mask = ops.cast(frames[None] < ops.cast(count, "float32")[:, None], "float32")[:, :, None, None, None]
        return ops.concatenate([x * mask, ops.ones_like(x[..., :1]) * mask], axis=-1)

    def known(self, values):
        """(x, mask bool) of values: what they say of the sample, [B, F, H, W, C] and [B, F, H, W, 1]."""
        return values[..., :-1], values[..., -1:] > 0.5


def check_clips(conditions: Mapping, sample_shape: tuple[int, ...]):
    """ValueError for given frames of other clips than the samples are."""
    for name, condition in conditions.items():
        if isinstance(condition, Frames) and condition.shape_of_clip != sample_shape:
            found = f"{name} is of clips {list(condition.shape_of_clip)}"
            raise ValueError(f"Given frames must be of the samples' shape, {list(sample_shape)}; {found}.")


def check_channels_of_clips(conditions: Mapping, channels: Channels | None):
    """ValueError for given frames of other channels than their model's."""
    for name, condition in conditions.items():
        if isinstance(condition, Frames) and condition.channels != channels:
            found = f"{name} has {condition.channels}, and the model {channels}"
            raise ValueError(f"Given frames must have the channels of their model: {found}.")


def as_images(name: str, values: np.ndarray) -> np.ndarray:
    """uint8 or float images as float32 in [-1, 1]; ValueError, which begins with `name`, for others."""
    if values.dtype == np.uint8:
        return values.astype("float32") / 127.5 - 1.0
    if not np.issubdtype(values.dtype, np.floating):
        raise ValueError(f"{name} must be uint8 or float in [-1, 1], got {values.dtype}.")
    if not np.isfinite(values).all():
        raise ValueError(f"{name} must be float in [-1, 1], and has values that are NaN or infinite.")
    if not (np.abs(values) <= 1.0).all():
        raise ValueError(f"{name} must be float in [-1, 1], and reaches from {values.min()} to {values.max()}.")
    return values.astype("float32")


def as_samples(name: str, values: np.ndarray, channels: Channels | None) -> np.ndarray:
    """Samples as float32: in physical units where a model has channels, else `as_images`; ValueError for others."""
    return as_images(name, values) if channels is None else channels.check(name, values)


def known_of(conditions: Mapping, given: Mapping):
    """[(x, mask)] of the values that tell a part of the sample itself; see `Frames.known`."""
    return [c.known(given[name]) for name, c in conditions.items() if c.from_samples and name in given]


def expand(values, like):
    """[B] -> [B, 1, ..., 1] with the rank of `like`."""
    return ops.reshape(values, (-1, *[1] * (len(like.shape) - 1)))


def _label(name: str) -> str:
    return "Labels" if name == "label" else name


def _kind_of(values: np.ndarray) -> str:
    return f"{values.dtype} of shape {values.shape}"


# Of batches, and of a step's inputs.
RESERVED = {"z_t", "logsnr", "seed", "example_seeds", "weight", "unknown", "target", "faults", "image", "video"}


def as_conditions(conditions: Mapping | None, num_classes: int | None = None) -> dict[str, Condition]:
    """Conditions by name, with {"label": ClassLabel(num_classes)} where that is not None; ValueError for others."""
    found = {} if num_classes is None else {"label": ClassLabel(num_classes)}
    if not isinstance(conditions, Mapping | None):
        raise ValueError(f"conditions must be a dict of name and condition, got {conditions!r}.")
    for name, condition in (conditions or {}).items():
        if not isinstance(condition, Condition):
            raise ValueError(f"conditions[{name!r}] must be one of keras_sid2.conditions, got {condition!r}.")
        if name in RESERVED or found.setdefault(name, condition) != condition:
            raise ValueError(f"A condition cannot be named {name!r}: that name is taken.")
    return found


# -- the contract of networks ----------------------------------------------------------------------------------------


def conditions_of(network) -> dict[str, Condition]:
    """What `network` is conditioned on."""
    told = getattr(network, "conditions", None)
    return as_conditions(told) if told is not None else as_conditions(None, getattr(network, "num_classes", None))


def sample_shape_of(network) -> tuple[int, ...]:
    """(H, W, C), or (F, H, W, C) of clips."""
    shape = getattr(network, "sample_shape", None) or getattr(network, "image_shape", None)
    return as_shape("A network's sample_shape", shape)


def call_network(network, inputs: Mapping, *, training=None, seed=None):
    """`network` on {"z_t", "logsnr", conditions...}, by the contract that it has; other keys are left out."""
    kwargs = {"seed": seed} if seed is not None and "seed" in inspect.signature(network.call).parameters else {}
    if getattr(network, "conditions", None) is None:
        given = (inputs["z_t"], inputs["logsnr"], inputs.get("label"))
    else:
        given = {name: inputs[name] for name in ("z_t", "logsnr", *network.conditions) if name in inputs}
    return network(given, training=training, **kwargs)


def in_data(conditions: Mapping | None) -> dict[str, Condition]:
    """Those whose values data hold."""
    return {name: condition for name, condition in (conditions or {}).items() if not condition.from_samples}


def null_like(conditions: Mapping[str, Condition], batch) -> dict:
    """The null values of `conditions` as tensors [batch, *shape]."""
    return {name: ops.broadcast_to(ops.convert_to_tensor(c.null), (batch, *c.shape)) for name, c in conditions.items()}


def check_all(conditions: Mapping[str, Condition], given: Mapping, *, missing=None) -> dict[str, np.ndarray]:
    """Arrays by name, each as its condition wants it; ValueError for one that lacks, or is none of them. Those that
    come from the samples are in no data."""
    conditions = in_data(conditions)
    lacking = [name for name in conditions if given.get(name) is None]
    if lacking and lacking[0] == "label" and isinstance(conditions["label"], ClassLabel):
        count = conditions["label"].num_classes
        raise ValueError(f"This model has {count} classes and needs labels, got images alone.")
    if lacking:
        names = ", ".join(conditions)
        raise ValueError(f"This model is conditioned on {names}, and got no {' and no '.join(lacking)}.")
    return {name: condition.check(name, given[name], missing) for name, condition in conditions.items()}


def dropout_shares(share, conditions: Mapping) -> dict[str, float]:
    """The share of examples without it, of each condition; `share` is one for all of them, or by name."""
    if not isinstance(share, Mapping):
        return dict.fromkeys(conditions, rate("label_dropout", share))
    if unknown := [name for name in share if name not in conditions]:
        known = ", ".join(conditions) or "none"
        raise ValueError(f"label_dropout names {', '.join(unknown)}, and the network's conditions are {known}.")
    return {name: rate("label_dropout", share.get(name, 0.0)) for name in conditions}
