"""Pictures that come to the page and go from it: uploads as files of our own making, drawn images as PNG."""

import base64
import io
import pathlib
import re
import threading

import numpy as np
from PIL import Image, ImageOps

from keras_sid2.generation.provenance import array_digest
from keras_sid2.io.image_files import write_png
from keras_sid2.io.image_reading import decode_picture

MOST_BYTES = 20 * 2**20  # of an upload
MOST_PIXELS = 40_000_000  # a phone's photographs have 12 to 24 million
_FILES = 128  # that are kept


def fitted(picture: np.ndarray, shape: tuple[int, int, int]) -> np.ndarray:
    """uint8 [h, w, 1 or 3] as [H, W, C] of `shape`: the largest part in the middle that has its sides' ratio, resized;
    grey is the luma of colours."""
    height, width, channels = shape
    image = Image.fromarray(picture[..., 0] if picture.shape[-1] == 1 else picture)
    image = image.convert("L" if channels == 1 else "RGB")
    if image.size != (width, height):
        image = ImageOps.fit(image, (width, height), Image.Resampling.LANCZOS)
    return np.asarray(image).reshape(shape)


def png(image: np.ndarray) -> str:
    """uint8 [(F,) H, W, 1 or 3] as a PNG in base64, the frames of a clip side by side."""
    image = np.concatenate(list(image), axis=1) if image.ndim == 4 else image
    file = io.BytesIO()
    Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).save(file, "PNG", compress_level=1)
    return base64.b64encode(file.getvalue()).decode()


def _written(path: pathlib.Path) -> float:
    """When; of a file that somebody else has removed just now, long ago."""
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return 0.0


class Kept:
    """The folder in which pictures to inpaint, and masks, lie, so that a shown command finds them.

    Only what was decoded and drawn anew is written, under names made of its digest; the newest files are kept.
    """

    def __init__(self, folder: str):
        self.folder = pathlib.Path(folder)
        self._decoding = threading.Lock()  # one at a time: large ones take memory

    def keep_picture(self, data: bytes, shape: tuple[int, ...]) -> tuple[str, np.ndarray]:
        """(name, uint8 [H, W, C]) of an upload, fitted to `shape`; ValueError for what cannot be read."""
        if len(shape) != 3:
            raise ValueError("Clips are not inpainted on this page.")
        with self._decoding:
            picture = fitted(decode_picture(data, MOST_PIXELS), shape)
        return self._write("known", picture).name, picture

    def keep_mask(self, painted: np.ndarray) -> str:
        """The path of a picture that is white where bool [H, W] `painted` is false."""
        return str(self._write("mask", np.where(painted, 0, 255).astype("uint8")[..., None]))

    def known(self, name) -> str:
        """The path of a picture that was kept; ValueError for any other name."""
        path = self.folder / name if isinstance(name, str) and re.fullmatch(r"known-[0-9a-f]{16}\.png", name) else None
        if path is None or not path.is_file():
            raise ValueError("The picture to inpaint is not there any more: choose it anew.")
        return str(path)

    def _write(self, kind: str, picture: np.ndarray) -> pathlib.Path:
        path = self.folder / f"{kind}-{array_digest(picture)}.png"
        write_png(path, picture)
        ours = [p for p in self.folder.iterdir() if re.fullmatch(r"(known|mask)-[0-9a-f]{16}\.png", p.name)]
        for old in sorted(ours, key=_written)[:-_FILES]:
            old.unlink(missing_ok=True)
        return path
