"""Files that are written whole or not at all, and the pictures and arrays in them."""

import contextlib
import os
import pathlib
import tempfile
from collections.abc import Iterator, Sequence

import numpy as np


@contextlib.contextmanager
def written_whole(path: str | os.PathLike) -> Iterator[pathlib.Path]:
    """A temporary path, of the same suffix, in the folder of `path`; it becomes `path` when the block ends well."""
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=".writing-", suffix=path.suffix, dir=path.parent)
    os.close(handle)
    try:
        yield pathlib.Path(name)
        os.chmod(name, 0o666 & ~_umask())
        os.replace(name, path)
    finally:
        pathlib.Path(name).unlink(missing_ok=True)


def _umask() -> int:
    """The process's umask, which mkstemp's files do not follow."""
    mask = os.umask(0)
    os.umask(mask)
    return mask


def image_grid(images: np.ndarray, captions: Sequence[str] | None = None, columns: int | None = None) -> np.ndarray:
    """uint8 [N, H, W, 1 or 3] images side by side as one uint8 [H', W', 3] picture.

    Small images are enlarged by whole pixels to about 64; `captions`, one an image, stand below them. `columns` None
    is about the square root of N.
    """
    from PIL import Image, ImageDraw

    images = _as_rgb(images)
    count, height, width, _ = images.shape
    columns = columns or int(np.ceil(np.sqrt(count)))
    scale = max(1, 64 // max(height, width))
    cell_width, cell_height = width * scale + 4, height * scale + 4 + (14 if captions else 0)
    rows = -(-count // columns)
    picture = Image.new("RGB", (columns * cell_width, rows * cell_height), "white")
    draw = ImageDraw.Draw(picture)
    for i, image in enumerate(images):
        x, y = (i % columns) * cell_width + 2, (i // columns) * cell_height + 2
        picture.paste(Image.fromarray(image).resize((width * scale, height * scale), Image.Resampling.NEAREST), (x, y))
        if captions:
            draw.text((x, y + height * scale), captions[i], fill="black")
    return np.asarray(picture)


def _as_rgb(images: np.ndarray) -> np.ndarray:
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[-1] not in (1, 3):
        raise ValueError(f"A grid needs uint8 [N, H, W, 1 or 3], got {images.dtype} {list(images.shape)}.")
    return np.repeat(images, 3, axis=-1) if images.shape[-1] == 1 else images


def write_png(path: str | os.PathLike, picture: np.ndarray):
    """uint8 [H, W, 3] as a PNG file, whole or not at all."""
    from PIL import Image

    with written_whole(path) as temporary:
        Image.fromarray(picture).save(temporary, format="PNG")


def write_npz(path: str | os.PathLike, images: np.ndarray, labels: np.ndarray | None = None):
    """The ADM layout, whole or not at all: arr_0 uint8 [N, H, W, C], arr_1 int [N] where there are labels."""
    arrays = (images,) if labels is None else (images, np.asarray(labels))
    with written_whole(path) as temporary, open(temporary, "wb") as file:
        np.savez(file, *arrays)
