"""What a record holds, described once for whatever writes, reads or checks it."""

import dataclasses

from pipelines.images import KEEP, MODES, parse_background


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
