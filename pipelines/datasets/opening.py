"""Opening image files of any kind that people have: as 8-bit grey, RGB or RGBA, saying what was done to them."""

import contextlib
import pathlib
import re
import struct
import threading
import warnings
import zlib
from collections.abc import Iterator

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError
from PIL.TiffImagePlugin import BITSPERSAMPLE, PHOTOMETRIC_INTERPRETATION, PLANAR_CONFIGURATION

from pipelines import images
from pipelines.images import BadImage

# Not all that Pillow knows: some formats make it start other programs.
_OPENED = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF")
ANIMATED = ("first", "skip")
_TRANSPOSITIONS = "FLIP_LEFT_RIGHT ROTATE_180 FLIP_TOP_BOTTOM TRANSPOSE ROTATE_270 TRANSVERSE ROTATE_90".split()
_TURNS = {orientation: Image.Transpose[name] for orientation, name in enumerate(_TRANSPOSITIONS, 2)}  # of EXIF


class BadSource(ValueError):
    """A source that no example can be made of; the message names it."""


class Skipped(Exception):
    """An image that the settings leave out; the message says why, as in "shorter than min_size=64"."""


def open_source(
    data: bytes,
    *,
    channels: int,
    upright: bool,
    background: str = "white",
    animated: str = "first",
    min_size: int | None = None,
) -> tuple[Image.Image, tuple[str, ...], str]:
    """Opens an image file as 8-bit grey, RGB or RGBA; 16 bits become round(v / 257). Returns it, what was done to it in
    phrases like "grey converted to RGB", and what is to be told of a colour profile that was not applied, or "".

    `channels` and `background` are as in `images.in_mode`; `upright` turns it as its EXIF orientation says; of several
    frames or pages the "first" is taken (`animated`), or "skip"; `min_size` is the least height and width. Raises
    BadImage: no image, damaged, or with numbers whose range is not known; Skipped: it is to be left out.
    """
    if not data:
        raise BadImage("is empty")
    changes = []
    try:
        image = images.open_image(data, _OPENED)
        if min_size is not None and min(image.size) < min_size:
            raise Skipped(f"with a side shorter than min_size={min_size}")
        if _has_frames(image):
            if animated == "skip":
                raise Skipped("with several frames or pages")
            changes.append("first of several frames or pages taken")
        opened = _loaded(image, data)
        if opened is not image:
            changes.append("16 bits a channel scaled to 8")
        profile = _unconverted_profile(image)
        turn = _TURNS.get(image.getexif().get(ExifTags.Base.Orientation)) if upright else None
    except (BadImage, Skipped):
        raise
    except UnidentifiedImageError:
        what = images.format_name(data)
        unknown = f"is {what} of a kind that Pillow does not read" if what else "is no image that Pillow knows"
        raise BadImage(unknown) from None
    except Exception as error:
        raise images.undecodable(error) from None
    opened, converted = images.in_mode(opened, channels, background)
    changes += [converted] * bool(converted)
    if turn is not None:
        opened = opened.transpose(turn)
        changes.append("turned upright")
    return opened, tuple(changes), profile


def _unconverted_profile(image: Image.Image) -> str:
    """What the report says of a colour profile that changes what the numbers mean. No reader applies it."""
    profile = image.info.get("icc_profile") or b""
    named = b"sRGB" in profile or b"s\0R\0G\0B" in profile or profile[16:20] == b"GRAY"
    return "" if named or not profile else "colour profile other than sRGB not applied"


def _has_frames(image: Image.Image) -> bool:
    # A photograph with a small preview behind it is a JPEG of several frames to Pillow (MPO), and not animated.
    if image.format == "MPO":
        return False
    return image.is_animated if image.format == "GIF" else getattr(image, "n_frames", 1) > 1


def _loaded(image: Image.Image, data: bytes) -> Image.Image:
    """Loads an image; another one where it had to be scaled to 8 bits."""
    raw = image.tile[0][3] if image.tile else ""
    raw = str(raw[0] if isinstance(raw, tuple) else raw)  # how its pixels are stored, in Pillow's words
    if image.format == "TIFF":
        tags = image.tag_v2
        if tags.get(PLANAR_CONFIGURATION, 1) == 2 and max(tags.get(BITSPERSAMPLE, (1,))) > 8:  # Pillow would read noise
            raise BadImage("has 16 bits a channel in separate planes, which are not read")
    image.load()
    if image.mode.startswith("I;16") or (image.mode, image.format) == ("I", "PNG"):
        return _grey_of_16_bits(image)
    if image.mode in ("I", "F"):
        what = "whole numbers of unknown range" if image.mode == "I" else "floating-point numbers"
        raise BadImage(f"holds {what}, where 8 or unsigned 16 bits a channel are expected")
    return _colour_of_16_bits(image, data, raw) if re.fullmatch(r"[A-Za-z]+;16[LBN]", raw) else image


def _grey_of_16_bits(image: Image.Image) -> Image.Image:
    values, most = np.asarray(image).astype(np.int64), 65535
    if image.format == "TIFF":
        most = 4095 if image.tag_v2.get(BITSPERSAMPLE) == (12,) else most
        values = most - values if image.tag_v2.get(PHOTOMETRIC_INTERPRETATION) == 0 else values  # where white is 0
    grey = Image.fromarray(_scaled(values, most))
    key = image.info.get("transparency")
    return grey if key is None else Image.merge("LA", (grey, _opaque(values != key)))


def _colour_of_16_bits(image: Image.Image, data: bytes, raw: str) -> Image.Image:
    """Pillow decodes the upper half of each number alone, so the lower halves are decoded by themselves."""
    kind, order = raw.split(";16")
    if kind == "LA":
        both = np.asarray(images.open_image(_relabelled(data), _OPENED))
        values = both[..., ::2].astype(np.int64) << 8 | both[..., 1::2]
    else:
        stored = "RGBA" if kind == "RGBa" else kind
        first, second = (_decoded_as(data, f"{stored};16{half}").astype(np.int64) for half in "BL")
        values = first << 8 | second if order == "B" else second << 8 | first
    if kind == "RGBa":  # colours were multiplied by alpha
        alpha = np.maximum(values[..., 3:], 1)
        values[..., :3] = np.minimum((values[..., :3] * 65535 + alpha // 2) // alpha, 65535)
    mode = {2: "LA", 3: "RGB"}.get(values.shape[2], image.mode)
    scaled = Image.frombytes(mode, image.size, _scaled(values, 65535).tobytes())
    key = image.info.get("transparency")
    if key is not None:
        scaled.putalpha(_opaque((values != key).any(-1)))
    return scaled


def _scaled(values: np.ndarray, most: int) -> np.ndarray:
    """Whole numbers in 0..most as uint8, rounded."""
    return ((values * 255 + most // 2) // most).astype(np.uint8)


def _opaque(where: np.ndarray) -> Image.Image:
    return Image.fromarray(where.astype(np.uint8) * 255)


def _decoded_as(data: bytes, raw: str) -> np.ndarray:
    """The pixels of an image, taken for stored in another way."""
    image = images.open_image(data, _OPENED)
    image.tile = [
        (codec, extents, offset, (raw, *rest[1:]) if isinstance(rest, tuple) else raw)
        for codec, extents, offset, rest in image.tile
    ]
    return np.asarray(image)


def _relabelled(data: bytes) -> bytes:
    """A PNG of grey and alpha in 16 bits as one of RGBA in 8: four bytes a pixel either way, and the same filters."""
    header = data[12:24] + b"\x08\x06" + data[26:29]
    return data[:12] + header + struct.pack(">I", zlib.crc32(header)) + data[33:]


_LISTS: dict[int, list[str]] = {}  # by thread
_LOCK = threading.Lock()
_REDIRECTION = contextlib.ExitStack()


@contextlib.contextmanager
def heard_from_pillow() -> Iterator[list[str]]:
    """Fills a list with phrases for the report, one for each kind of warning of Pillow's in this thread."""
    # Python keeps one list of filters for all threads: the first one changes it, the last one restores it.
    with _LOCK:
        if not _LISTS:
            _REDIRECTION.enter_context(_redirected())
        heard = _LISTS[threading.get_ident()] = []
    try:
        yield heard
    finally:
        with _LOCK:
            del _LISTS[threading.get_ident()]
            if not _LISTS:
                _REDIRECTION.close()


@contextlib.contextmanager
def _redirected() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.filterwarnings("always", module=r"PIL\.")
        shown = warnings.showwarning

        def hear(message, category, filename, *where) -> None:
            heard = _LISTS.get(threading.get_ident())
            if heard is None or "PIL" not in pathlib.PurePath(filename).parts:
                shown(message, category, filename, *where)
            elif (kind := _kind(str(message), category)) not in heard:
                heard.append(kind)

        warnings.showwarning = hear
        yield


def _kind(message: str, category: type[Warning]) -> str:
    """One phrase for all files that Pillow says the same of."""
    if issubclass(category, Image.DecompressionBombWarning):
        return f"of more than {Image.MAX_IMAGE_PIXELS} pixels"
    return "Pillow warned: " + re.sub(r"\d+", "N", " ".join(message.split()))
