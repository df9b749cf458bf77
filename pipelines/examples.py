"""From a stored record (tf.train.Example) to encoded images and a label, each of them checked.

What is wrong is found here, by the headers of the images and without decoding them, for every reader alike.
"""

import dataclasses

from pipelines.extras import require
from pipelines.images import (
    KEEP,
    MODES,
    BadImage,
    Header,
    converts,
    name_of_channels,
    parse_background,
    read_header,
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class RecordFeatures:
    """Where the image and the label are in a record of tf.train.Example.

    Attributes:
        image: key of the encoded image (JPEG or PNG), or of the list of encoded frames of a clip.
        label: key of the label, one integer; None: the records have none, or none is wanted.
        channels: 1 (grey), 3 (RGB) or 4 (RGBA) of what is read; grey and CMYK images among RGB ones are converted. A
            prepared data set says this itself.
        num_classes: labels are in 0..num_classes-1; None: any label of 32 bits. A prepared data set says this itself.
        background: the colour on which transparent images are composited where fewer than 4 channels are read: a name
            or "#rrggbb". `prepare` has done so with what it has written; records of others may hold such images.
    """

    image: str = "image"
    label: str | None = "label"
    channels: int = 3
    num_classes: int | None = None
    background: str = "white"

    def __post_init__(self) -> None:
        if self.channels not in MODES:
            raise ValueError(f"channels must be 1, 3 or 4, got {self.channels!r}")
        object.__setattr__(self, "background", parse_background(self.background))
        if self.background == KEEP:
            raise ValueError("background must be a colour for reading, got 'keep': give channels=4 to read RGBA")
        if self.num_classes is not None and (not isinstance(self.num_classes, int) or self.num_classes < 1):
            raise ValueError(f"num_classes must be None or at least 1, got {self.num_classes!r}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Schema:
    """What each record of a split must hold.

    Attributes:
        features: where it is.
        image_shape: (H, W, C); H and W None if they differ.
        num_frames: T of clips of encoded frames, None for images.
    """

    features: RecordFeatures
    image_shape: tuple[int | None, int | None, int]
    num_frames: int | None = None


@dataclasses.dataclass(frozen=True)
class Example:
    """A checked record: encoded images (one, or T frames of one size), the header of the first, and the label."""

    images: tuple[bytes, ...]
    header: Header
    label: int | None


def parse(record: bytes, schema: Schema) -> Example:
    """Parses and checks a record.

    Raises:
        ValueError: no tf.train.Example, a feature that is absent or of another kind, an image whose header is not
            what the schema says, or a label out of range.
    """
    proto = require("tensorflow_datasets.proto", extra="data").tf_example_pb2
    try:
        stored = proto.Example.FromString(record).features.feature
    except Exception:  # google.protobuf.message.DecodeError, whose place has moved between versions
        raise ValueError("is no tf.train.Example") from None
    features = schema.features
    images = _images(stored, features.image, schema.num_frames)
    header = _header(images[0], features.image, schema.image_shape)
    for frame in images[1:]:
        _header(frame, features.image, (header.height, header.width, schema.image_shape[2]))
    return Example(images, header, None if features.label is None else _label(stored, features))


def _images(stored, key: str, num_frames: int | None) -> tuple[bytes, ...]:
    _check_present(stored, key)
    values = tuple(stored[key].bytes_list.value)
    if len(values) != (num_frames or 1):
        raise ValueError(f"the feature {key} has {len(values)} encoded images, expected {num_frames or 1}")
    return values


def _header(image: bytes, key: str, shape: tuple[int | None, int | None, int]) -> Header:
    try:
        header = read_header(image)
    except BadImage as error:
        raise ValueError(f"the feature {key} {error}") from None
    if not converts(header.channels, shape[2]):
        found, expected = name_of_channels(header.channels, header.format), name_of_channels(shape[2])
        raise ValueError(f"the feature {key} is {found}, expected {expected}")
    if (shape[0] or header.height, shape[1] or header.width) != (header.height, header.width):
        raise ValueError(
            f"the feature {key} is an image of {header.height}x{header.width}, expected {shape[0]}x{shape[1]}"
        )
    return header


def _label(stored, features: RecordFeatures) -> int:
    key = features.label
    _check_present(stored, key)
    values = stored[key].int64_list.value
    if len(values) != 1:
        raise ValueError(f"the feature {key} has {len(values)} integers, expected one")
    if not 0 <= values[0] < (features.num_classes or 2**31):
        known = f"0..{features.num_classes - 1}" if features.num_classes else "0..2**31-1"
        raise ValueError(f"the label {values[0]} is outside {known}")
    return values[0]


def _check_present(stored, key: str) -> None:
    if key not in stored:
        raise ValueError(f"there is no feature {key}, only {', '.join(sorted(stored)) or 'none at all'}")
