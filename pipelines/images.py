"""Encoded images: what their headers say, and decoding and encoding them with Pillow.

A stored image is a JPEG or PNG of 8 bits with 1 (grey), 3 (RGB) or 4 (RGBA) channels. Everything else is converted when
a data set is prepared (datasets/opening.py), or refused. Records of others may hold grey, CMYK or transparent images
among RGB ones: they are converted when they are read, by the same rule as in preparing (`in_mode`).
"""

import io
import math
import struct
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageColor

MODES = {1: "L", 3: "RGB", 4: "RGBA"}
KEEP = "keep"  # the background of those who want transparency itself, as a fourth channel
ENCODINGS = ("png", "jpeg")
_MODE_NAMES = {"L": "grey", "1": "black and white", "P": "palette", "LA": "grey with alpha", "PA": "palette with alpha"}
_LARGEST_RESIZED = 2**26  # pixels
_SIGNATURES = {b"GIF8": "a GIF", b"BM": "a BMP", b"RIFF": "a WebP", b"II*\0": "a TIFF", b"MM\0*": "a TIFF"}
_PNG = b"\x89PNG\r\n\x1a\n"
_PNG_CHANNELS = {0: 1, 2: 3, 3: 3, 4: 2, 6: 4}  # by colour type; a palette is decoded to RGB
_JPEG_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # start-of-frame markers; these three are others
_JPEG_ALONE = frozenset({0x01, *range(0xD0, 0xD8)})  # markers without a segment


class BadImage(ValueError):
    """Bytes that are no usable image; the message says why and begins with a verb, as in "is animated"."""


class Header(NamedTuple):
    """What the first bytes of an image say: `format` "jpeg" or "png"; `channels` 1 (grey), 2 (grey and transparency),
    3 (RGB) or 4 (RGBA, or CMYK in a JPEG)."""

    format: str
    height: int
    width: int
    channels: int


def read_header(data: bytes) -> Header:
    """Reads the header of an encoded image, in a tenth of the time that Pillow takes. Raises BadImage: neither JPEG nor
    PNG, more than 8 bits a channel, animated, or without a size."""
    if not data:
        raise BadImage("is empty")
    try:
        if data[:2] == b"\xff\xd8":
            return _jpeg_header(data)
        if data[:8] == _PNG:
            return _png_header(data)
    except (IndexError, struct.error):
        raise BadImage(f"ends inside its header, after {len(data)} bytes") from None
    what = format_name(data)
    raise BadImage(f"is {what} image: only JPEG and PNG are read" if what else "is no image")


def format_name(data: bytes) -> str | None:
    """ "a GIF" and the like, by the first bytes; None if they are of no known format but JPEG and PNG."""
    return next((name for start, name in _SIGNATURES.items() if data.startswith(start)), None)


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
            return _checked(Header("jpeg", height, width, channels), bits)
        at += length


def _png_header(data: bytes) -> Header:
    width, height, bits, colour = struct.unpack_from(">IIBB", data, 16)
    if data[12:16] != b"IHDR" or colour not in _PNG_CHANNELS:
        raise BadImage("is a damaged PNG: its header is wrong")
    at = 33
    while (kind := data[at + 4 : at + 8]) not in (b"IDAT", b""):
        if kind == b"acTL":
            raise BadImage("is an animated PNG")
        if kind == b"tRNS" and colour in (0, 2, 3):
            colour = 4 if colour == 0 else 6  # transparent colours are decoded to a channel more
        at += 12 + struct.unpack_from(">I", data, at)[0]
    return _checked(Header("png", height, width, _PNG_CHANNELS[colour]), bits)


def _checked(header: Header, bits: int) -> Header:
    if bits > 8:
        raise BadImage(f"has {bits} bits a channel: only 8 are read")
    if not header.height or not header.width:
        raise BadImage(f"has no pixels ({header.height}x{header.width})")
    return header


def name_of_channels(channels: int, format: str = "png") -> str:
    """ "grey" for 1, and so on."""
    names = {1: "grey", 2: "grey with alpha", 3: "RGB", 4: "RGBA" if format == "png" else "CMYK"}
    return names.get(channels, f"of {channels} channels")


def converts(found: int, wanted: int) -> bool:
    """Whether `decode` gives images of `found` channels as `wanted` ones; colours are not made grey in silence."""
    return found in ((1, 2) if wanted == 1 else (1, 2, 3, 4))


def decode(
    data: bytes,
    window: np.ndarray | None = None,
    size: tuple[int, int] | None = None,
    *,
    channels: int | None = None,
    background: str = "white",
) -> np.ndarray:
    """Decodes a JPEG or PNG that `read_header` accepts: uint8 [H, W, C]. Raises BadImage: it cannot be decoded.

    `window` (top, left, height, width) is cut out and resized to `size` (height, width); None: all of it, as it is.
    `channels` None: that of `read_header`, with 3 for CMYK, and for transparency, which is composited on `background`.
    """
    try:
        with open_image(data, ("JPEG", "PNG")) as image:
            width, height = image.size
            window = (0, 0, height, width) if window is None else tuple(window)
            size = size or tuple(map(int, window[2:]))
            # A JPEG that is to be much smaller is decoded at a half, a quarter or an eighth, which is faster: the whole
            # of it, so that the window has still as many pixels as are wanted.
            image.draft(None, (math.ceil(width * size[1] / window[3]), math.ceil(height * size[0] / window[2])))
            image.load()
            channels = channels or (1 if image.mode in ("1", "L") else 3)
            image, _ = in_mode(image, channels, background)
            return _resized(image, window, size, (image.height / height, image.width / width))
    except Exception as error:  # Pillow raises OSError, SyntaxError, ValueError, struct.error, zlib.error...
        raise undecodable(error) from None


def undecodable(error: Exception) -> BadImage:
    """What Pillow could not decode, in one line."""
    return BadImage(f"cannot be decoded ({' '.join(str(error).split()) or type(error).__name__})")


def open_image(data: bytes, formats: tuple[str, ...]) -> Image.Image:
    """Pillow's Image.open, with the transparent colour of a grey PNG of 1, 2 or 4 bits in the range of its pixels."""
    image = Image.open(io.BytesIO(data), formats=formats)
    if image.format == "PNG" and data[25] == 0 and data[24] < 8 and "transparency" in image.info:
        (stored,) = struct.unpack_from(">H", data, data.index(b"tRNS", 33) + 4)
        image.info["transparency"] = stored * (255 // (2 ** data[24] - 1))
    return image


def parse_background(value: object) -> str:
    """A background in the form that is recorded: "white", "black", "#rrggbb" or "keep". Raises ValueError: Pillow knows
    no such colour, or it is transparent itself."""
    if value == KEEP:
        return KEEP
    try:
        colour = ImageColor.getrgb(value)
    except (ValueError, AttributeError, TypeError):
        colour = ()
    if len(colour) != 3:
        raise ValueError(f"background must be white, black, a colour (#rrggbb or a CSS name) or keep, got {value!r}")
    named = {(255, 255, 255): "white", (0, 0, 0): "black"}
    return named.get(colour) or "#{:02x}{:02x}{:02x}".format(*colour)


def in_mode(image: Image.Image, channels: int, background: str) -> tuple[Image.Image, str]:
    """An image of 8 bits a channel, of any colour mode that Pillow converts, as grey (1), RGB (3) or RGBA (4), and what
    was changed ("CMYK converted to RGB", "RGBA composited on white"), or the empty string. Transparency is composited
    on `background`, and kept with 4 channels."""
    mode, name, transparent = MODES[channels], _MODE_NAMES.get(image.mode, image.mode), image.has_transparency_data
    if image.mode == mode and (mode == "RGBA" or not transparent):
        return image, ""
    of_colours = transparent and image.mode in ("1", "L", "P", "RGB")  # and not a channel
    change = f"{name} converted to {_MODE_NAMES.get(mode, mode)}" if image.mode != mode else ""
    name += " with transparency" * of_colours
    if transparent and mode == "RGBA":
        change = f"{name} converted to RGBA"
    elif transparent:
        image, composited = _flattened(image, background)
        change = f"{name} {composited}" if composited else "opaque " * (not of_colours) + change
    elif mode == "RGBA":
        image = image.convert("RGB")  # not every mode is converted to RGBA in one step
    image = image.convert(mode)
    for key in ("transparency", "icc_profile"):  # of the image as it was, and no more true
        image.info.pop(key, None)
    return image, change


def _flattened(image: Image.Image, background: str) -> tuple[Image.Image, str]:
    """An image on a background, RGB, and what is to be said of it; nothing if the image is opaque."""
    image = image.convert("RGBA")
    alpha = image.getchannel("A")
    if alpha.getextrema()[0] == 255:
        return image.convert("RGB"), ""
    canvas = Image.new("RGB", image.size, background)
    empty = canvas.getextrema()
    canvas.paste(image, mask=alpha)
    return canvas, f"composited on {background}" + ", where nothing of it is seen" * (canvas.getextrema() == empty)


def _resized(
    image: Image.Image, window: tuple[int, ...], size: tuple[int, int], scale: tuple[float, float]
) -> np.ndarray:
    """A window of an image, in pixels of which it has `scale`, in `size`; without aliasing."""
    top, left, height, width = window
    right, bottom = min((left + width) * scale[1], image.width), min((top + height) * scale[0], image.height)
    box = (left * scale[1], top * scale[0], right, bottom)
    if (box[3] - box[1], box[2] - box[0]) == size and all(edge == int(edge) for edge in box):
        image = image if image.size == size[::-1] else image.crop(tuple(map(int, box)))
    else:
        # Hamming's window is as good as bicubic for shrinking, with less work; it does not serve for enlarging.
        shrinks = height * scale[0] >= size[0] and width * scale[1] >= size[1]
        method = Image.Resampling.HAMMING if shrinks else Image.Resampling.BICUBIC
        image = image.resize(size[::-1], method, box=box)
    pixels = np.asarray(image)
    return pixels[..., None] if pixels.ndim == 2 else pixels


def resized(pixels: np.ndarray, window: tuple[float, ...], size: tuple[int, int]) -> np.ndarray:
    """A window (top, left, height, width) of numbers [H, W, C] in another size.

    Floats are resized as pictures are, and stay in their range; of whole numbers and booleans, as in maps of classes,
    the nearest are taken.
    """
    if (tuple(window), size) == ((0, 0, *pixels.shape[:2]), pixels.shape[:2]):
        return pixels
    top, left, height, width = map(float, window)
    if pixels.dtype.kind != "f":
        rows, columns = (
            (start + (np.arange(count) + 0.5) * (length / count)).astype(int)
            for start, length, count in ((top, height, size[0]), (left, width, size[1]))
        )
        return pixels[rows[:, None], columns]
    single = pixels.astype(np.float32)
    planes = (Image.fromarray(plane) for plane in np.moveaxis(single, -1, 0))
    whole = np.concatenate([_resized(plane, (top, left, height, width), size, (1.0, 1.0)) for plane in planes], -1)
    return np.clip(whole, single.min(), single.max()).astype(pixels.dtype)


def adm_center_crop(image: Image.Image, size: int, place: float = 0.5) -> Image.Image:
    """The centre crop of ADM (Dhariwal & Nichol, arXiv 2105.05233), which ImageNet's FIDs are measured with: halve with
    a box filter as long as the short side is at least twice `size`, resize bicubically so that the short side is
    `size`, cut the middle out, or another `place` along the longer side, from 0 to 1. Small images are enlarged;
    colours of RGBA are weighted by alpha."""
    while min(image.size) >= 2 * size:
        image = image.resize((image.width // 2, image.height // 2), Image.Resampling.BOX)
    scale = size / min(image.size)
    width, height = round(image.width * scale), round(image.height * scale)
    left, top = int((width - size) * place), int((height - size) * place)
    box = (left, top, left + size, top + size)
    if width * height <= _LARGEST_RESIZED:
        return image.resize((width, height), Image.Resampling.BICUBIC).crop(box)
    # A line of one pixel would need gigabytes; the same up to rounding, without what is cut off.
    across, down = image.width / width, image.height / height
    box = (box[0] * across, box[1] * down, box[2] * across, box[3] * down)
    return image.resize((size, size), Image.Resampling.BICUBIC, box=box)


def encode(image: Image.Image, encoding: str, quality: int = 95) -> bytes:
    """Encodes an image as "png", or as "jpeg" of the given quality without chroma subsampling at 90 and above."""
    file = io.BytesIO()
    options = {} if encoding == "png" else {"quality": quality, "subsampling": 0 if quality >= 90 else 2}
    image.save(file, format=encoding, **options)
    return file.getvalue()


def from_array(pixels: np.ndarray) -> Image.Image:
    """uint8 [H, W, 1, 3 or 4] as Pillow's image."""
    return Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)


def from_pixels(pixels: np.ndarray) -> bytes:
    """Encodes uint8 [H, W, 1, 3 or 4] as PNG."""
    return encode(from_array(pixels), "png")
