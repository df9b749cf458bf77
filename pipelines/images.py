"""Encoded images: what their headers say, and decoding and encoding them with Pillow.

A stored image is a JPEG or PNG of 8 bits with 1 (grey) or 3 (RGB) channels. Everything else is converted when a data
set is prepared, or refused.
"""

import dataclasses
import io
import math
import struct
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from PIL import Image

MODES = {1: "L", 3: "RGB"}
_MODE_NAMES = {"L": "grey", "RGB": "RGB", "1": "black and white", "P": "palette", "LA": "grey with alpha"}
ENCODINGS = ("png", "jpeg")
_SIGNATURES = {
    b"GIF8": "a GIF",
    b"BM": "a BMP",
    b"RIFF": "a WebP",
    b"II*\0": "a TIFF",
    b"MM\0*": "a TIFF",
}
# Not all that Pillow knows: some formats make it start other programs.
_OPENED = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF")
_ORIENTATION = 0x0112  # tag of EXIF
_PNG = b"\x89PNG\r\n\x1a\n"
_PNG_CHANNELS = {0: 1, 2: 3, 3: 3, 4: 2, 6: 4}  # by colour type; a palette is decoded to RGB
# Start-of-frame markers of JPEG: C4, C8 and CC are others.
_JPEG_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_JPEG_ALONE = frozenset({0x01, *range(0xD0, 0xD8)})


class BadImage(ValueError):
    """Bytes that are no usable image; the message says why and begins with a verb, as in "is animated"."""


@dataclasses.dataclass(frozen=True)
class Header:
    """What the first bytes of a JPEG or PNG say, without decoding it. `format` is "jpeg" or "png"."""

    format: str
    height: int
    width: int
    channels: int


def read_header(data: bytes) -> Header:
    """Reads the header of an encoded image.

    Raises:
        BadImage: empty, no image, neither JPEG nor PNG, more than 8 bits a channel, animated, or without a size.
    """
    if not data:
        raise BadImage("is empty")
    try:
        if data[:2] == b"\xff\xd8":
            return _jpeg_header(data)
        if data[:8] == _PNG:
            return _png_header(data)
    except (IndexError, struct.error):
        raise BadImage(f"ends inside its header, after {len(data)} bytes") from None
    what = next((name for start, name in _SIGNATURES.items() if data.startswith(start)), None)
    raise BadImage(f"is {what} image: only JPEG and PNG are read" if what else "is no image")


def _jpeg_header(data: bytes) -> Header:
    at = 2
    while True:
        while data[at] != 0xFF:  # stray bytes before a marker are skipped, as by every decoder
            at += 1
        while data[at] == 0xFF:  # and so are fill bytes
            at += 1
        marker = data[at]
        at += 1
        if marker in _JPEG_ALONE:
            continue
        if marker in (0xD9, 0xDA):
            raise BadImage("is a damaged JPEG: its data begin before its size is said")
        (length,) = struct.unpack_from(">H", data, at)
        if marker in _JPEG_FRAMES:
            bits, height, width, channels = struct.unpack_from(">BHHB", data, at + 2)
            return _checked("jpeg", bits, height, width, channels)
        at += length


def _png_header(data: bytes) -> Header:
    width, height, bits, colour = struct.unpack_from(">IIBB", data, 16)
    if data[12:16] != b"IHDR" or colour not in _PNG_CHANNELS:
        raise BadImage("is a damaged PNG: its header is wrong")
    at = 33
    while (kind := data[at + 4 : at + 8]) not in (b"IDAT", b""):
        if kind == b"acTL":
            raise BadImage("is an animated PNG")
        if kind == b"tRNS" and colour == 3:
            colour = 6  # a palette with transparent colours is decoded to RGBA
        at += 12 + struct.unpack_from(">I", data, at)[0]
    return _checked("png", bits, height, width, _PNG_CHANNELS[colour])


def _checked(format: str, bits: int, height: int, width: int, channels: int) -> Header:
    if bits > 8:
        raise BadImage(f"has {bits} bits a channel: only 8 are read")
    if not height or not width:
        raise BadImage(f"has no pixels ({height}x{width})")
    return Header(format, height, width, channels)


def name_of_channels(channels: int) -> str:
    """ "grey" for 1, and so on."""
    return {1: "grey", 2: "grey with alpha", 3: "RGB", 4: "RGBA or CMYK"}.get(channels, f"of {channels} channels")


def decode(data: bytes, window: "np.ndarray | None" = None, size: tuple[int, int] | None = None) -> "np.ndarray":
    """Decodes a JPEG or PNG that `read_header` accepts: uint8 [H, W, 1 or 3].

    Args:
        data: the encoded image.
        window: (top, left, height, width) of what is cut out; None: all of it.
        size: (height, width) to which that is resized; None: as it is.

    A JPEG that is to be made much smaller is decoded at a half, a quarter or an eighth, which takes less time.

    Raises:
        BadImage: it cannot be decoded.
    """
    from PIL import Image

    try:
        with Image.open(io.BytesIO(data), formats=("JPEG", "PNG")) as image:
            width, height = image.size
            window = (0, 0, height, width) if window is None else tuple(map(int, window))
            size = size or window[2:]
            # Of the whole image, so that the window has still as many pixels as are wanted.
            image.draft(None, (math.ceil(width * size[1] / window[3]), math.ceil(height * size[0] / window[2])))
            image.load()
            if image.mode not in MODES.values():
                image = image.convert("L" if image.mode == "1" else "RGB")
            return _resized(image, window, size, (image.height / height, image.width / width))
    except Exception as error:  # Pillow raises OSError, SyntaxError, ValueError, struct.error, zlib.error...
        raise BadImage(f"cannot be decoded ({_one_line(error)})") from None


def _resized(
    image: "Image.Image", window: tuple[int, ...], size: tuple[int, int], scale: tuple[float, float]
) -> "np.ndarray":
    """A window of an image, in pixels of which it has `scale`, in `size`; without aliasing."""
    import numpy as np
    from PIL import Image

    top, left, height, width = window
    box = (left * scale[1], top * scale[0], (left + width) * scale[1], (top + height) * scale[0])
    if (box[3] - box[1], box[2] - box[0]) == size and all(edge == int(edge) for edge in box):
        image = image if image.size == size[::-1] else image.crop(tuple(map(int, box)))
    else:
        # Hamming's window is as good as bicubic for shrinking, with less work; it does not serve for enlarging.
        shrinks = height * scale[0] >= size[0] and width * scale[1] >= size[1]
        method = Image.Resampling.HAMMING if shrinks else Image.Resampling.BICUBIC
        image = image.resize(size[::-1], method, box=box)
    pixels = np.asarray(image)
    return pixels[..., None] if pixels.ndim == 2 else pixels


def open_source(data: bytes, *, channels: int, upright: bool) -> "tuple[Image.Image, str]":
    """Opens an image file of any format that Pillow reads, as 8-bit grey or RGB.

    Args:
        data: the bytes of the file.
        channels: 1 for grey, 3 for RGB; other colour modes are converted.
        upright: turn it as its EXIF orientation says.

    Returns:
        the image, and what was changed beside that ("grey converted to RGB"), or the empty string.

    Raises:
        BadImage: no image, damaged, animated, or of more than 8 bits a channel.
    """
    from PIL import Image, ImageOps, UnidentifiedImageError

    if not data:
        raise BadImage("is empty")
    if data[:8] == _PNG:
        read_header(data)  # Pillow cuts colours of 16 bits down to 8 without a word
    try:
        image = Image.open(io.BytesIO(data), formats=_OPENED)
        frames = getattr(image, "n_frames", 1)
        if frames == 1:  # else there is no need to decode it, and a thousand frames take their time
            image.load()
        turn = upright and image.getexif().get(_ORIENTATION, 1) != 1
    except UnidentifiedImageError:
        raise BadImage("is no image that Pillow knows") from None
    except Exception as error:
        raise BadImage(f"cannot be decoded ({_one_line(error)})") from None
    # A photograph with a small preview behind it is a JPEG of several frames to Pillow (MPO), and not animated.
    if frames > 1 and image.format != "MPO":
        raise BadImage(f"is animated ({frames} frames)")
    if image.mode.startswith(("I", "F")):
        raise BadImage(f"has more than 8 bits a channel (mode {image.mode})")
    mode, changes = MODES[channels], []
    if turn:
        image = ImageOps.exif_transpose(image)
        changes.append("turned upright")
    if image.mode != mode:
        changes.append(f"{_MODE_NAMES.get(image.mode, image.mode)} converted to {_MODE_NAMES[mode]}")
        image = image.convert(mode)
    return image, " and ".join(changes)


def encode(image: "Image.Image", encoding: str, quality: int) -> bytes:
    """Encodes an image as "png", or as "jpeg" of the given quality without chroma subsampling at 90 and above."""
    file = io.BytesIO()
    if encoding == "png":
        image.save(file, format="PNG")
    else:
        image.save(file, format="JPEG", quality=quality, subsampling=0 if quality >= 90 else 2)
    return file.getvalue()


def from_pixels(pixels: "np.ndarray") -> bytes:
    """Encodes uint8 [H, W, 1 or 3] as PNG."""
    from PIL import Image

    return encode(Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels), "png", 100)


def grid(pixels: "np.ndarray") -> "np.ndarray":
    """uint8 [N, H, W, 1 or 3] side by side as one picture, uint8 [H', W', 3]; small images are enlarged."""
    import numpy as np

    count, height, width, _ = pixels.shape
    scale, columns = max(1, 64 // max(height, width)), math.ceil(math.sqrt(count))
    large = np.repeat(np.repeat(np.broadcast_to(pixels, (*pixels.shape[:3], 3)), scale, 1), scale, 2)
    cells = np.full((-(-count // columns) * columns, height * scale + 2, width * scale + 2, 3), 255, np.uint8)
    cells[:count, 1:-1, 1:-1] = large
    rows = cells.reshape(-1, columns, *cells.shape[1:]).transpose(0, 2, 1, 3, 4)
    return rows.reshape(rows.shape[0] * rows.shape[1], -1, 3)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
