"""Square crops: the one that FID on ImageNet is measured with, and windows for cropping while decoding."""

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from PIL import Image

_WHOLE = 2**26  # pixels of a resized image


def adm_center_crop(image: "Image.Image", size: int) -> "Image.Image":
    """The centre crop of ADM (Dhariwal & Nichol, arXiv 2105.05233), which ImageNet's FIDs are measured with.

    Halve with a box filter as long as the short side is at least twice `size`, resize bicubically so that the short
    side is `size`, cut the middle out. Small images are enlarged.

    Args:
        image: a Pillow image of 8 bits a channel, any size. Colours of RGBA are weighted by alpha when it is resized.
        size: side of the square, in pixels.
    """
    from PIL import Image

    while min(image.size) >= 2 * size:
        image = image.resize((image.width // 2, image.height // 2), Image.Resampling.BOX)
    scale = size / min(image.size)
    width, height = round(image.width * scale), round(image.height * scale)
    left, top = (width - size) // 2, (height - size) // 2
    if width * height <= _WHOLE:
        image = image.resize((width, height), Image.Resampling.BICUBIC)
        return image.crop((left, top, left + size, top + size))
    # A line of one pixel would need gigabytes; the same up to rounding, without what is cut off.
    across, down = image.width / width, image.height / height
    box = (left * across, top * down, (left + size) * across, (top + size) * down)
    return image.resize((size, size), Image.Resampling.BICUBIC, box=box)


def center_windows(heights: np.ndarray, widths: np.ndarray, aspect: float = 1.0) -> np.ndarray:
    """The largest centred windows of `aspect` = height / width: int32 [N, 4] of (top, left, height, width)."""
    h, w = _sides(heights, widths, aspect, 1.0)
    return np.stack([(heights - h) // 2, (widths - w) // 2, h, w], axis=1).astype(np.int32)


def random_windows(
    heights: np.ndarray, widths: np.ndarray, uniforms: np.ndarray, min_crop: float, aspect: float = 1.0
) -> np.ndarray:
    """Windows of `aspect`, uniform in side between `min_crop` of the largest and the largest, and uniform in place.

    Args:
        heights, widths: int [N], of the images.
        uniforms: float [N, 3] in [0, 1): side, row, column.
        min_crop: in (0, 1], a fraction of the sides of the largest window.
        aspect: height / width.

    Returns:
        int32 [N, 4] of (top, left, height, width).
    """
    h, w = _sides(heights, widths, aspect, min_crop + (1 - min_crop) * uniforms[:, 0])
    top, left = np.floor(uniforms[:, 1] * (heights - h + 1)), np.floor(uniforms[:, 2] * (widths - w + 1))
    return np.stack([top, left, h, w], axis=1).astype(np.int32)


def _sides(heights, widths, aspect, fraction) -> tuple[np.ndarray, np.ndarray]:
    """Sides, in whole pixels, of `fraction` of the largest windows of `aspect`."""
    width = np.minimum(widths, heights / aspect) * fraction
    h = np.clip(np.rint(width * aspect), 1, heights).astype(np.int64)
    return h, np.clip(np.rint(width), 1, widths).astype(np.int64)
