"""Images from disk, a block at a time: the ADM layout (arr_0 of an .npz), and folders of PNG files."""

import contextlib
import io
import math
import os
import pathlib
import struct
import zipfile
import zlib
from collections.abc import Iterator

import numpy as np

from keras_sid2.shapes import whole_number

_HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}


def read_images(path: str | os.PathLike) -> np.ndarray:
    """All images or clips of an .npz, uint8 [N, (F,) H, W, C]; or the one of a PNG file, with N = 1. Raises
    FileNotFoundError, and ValueError for a file that is neither."""
    path = pathlib.Path(path)
    if path.suffix == ".npz":
        return np.concatenate(list(iterate_npz(path, npz_shape(path)[0])))
    return _read_png(path)[None]


def npz_shape(path: str | os.PathLike, dtype=np.uint8) -> tuple[int, ...]:
    """(N, (F,) H, W, C) of the images or clips in an .npz in the ADM layout; errors as `read_images`."""
    with _npz_images(path, dtype) as (_, shape):
        return shape


def iterate_npz(path: str | os.PathLike, batch_size: int, dtype=np.uint8) -> Iterator[np.ndarray]:
    """The images of an .npz in the ADM layout in order, uint8 [at most batch_size, (F,) H, W, C] at a time, or float32
    fields, if that is the `dtype`. What is wrong with the file is told before the first block, as by `read_images`;
    damage inside, when it is met."""
    batch_size = whole_number("batch_size", batch_size)
    npz_shape(path, dtype)
    return _npz_blocks(path, batch_size, dtype)


def _npz_blocks(path, batch_size: int, dtype) -> Iterator[np.ndarray]:
    with _npz_images(path, dtype) as (member, (count, *shape)):
        for start in range(0, count, batch_size):
            size = min(batch_size, count - start)
            wanted = size * math.prod(shape) * np.dtype(dtype).itemsize
            data = bytearray(member.read(wanted))
            if len(data) < wanted:
                raise ValueError(f"arr_0 of {path} ends before its {count} images do.")
            yield np.frombuffer(data, dtype).reshape(size, *shape)


@contextlib.contextmanager
def _npz_images(path, wanted) -> Iterator[tuple]:
    """Of those of the dtype `wanted`: (the file inside at its first image, the images' shape)."""
    if not pathlib.Path(path).is_file():
        raise FileNotFoundError(f"{path} is no file.")
    try:
        with zipfile.ZipFile(path) as archive:
            if "arr_0.npy" not in archive.namelist():
                held = ", ".join(archive.namelist()) or "nothing"
                raise ValueError(f"{path} must hold images as arr_0, the ADM layout; it holds {held}.")
            with archive.open("arr_0.npy") as member:
                try:
                    shape, fortran_order, dtype = _HEADERS[np.lib.format.read_magic(member)](member)
                except (KeyError, ValueError) as error:
                    raise ValueError(f"arr_0 of {path} is no array of numpy's format 1 or 2.") from error
                few = (4, 5) if dtype == np.uint8 else (4, 5, 6)  # of ensembles, too
                if dtype != wanted or len(shape) not in few or not all(shape) or fortran_order:
                    found = f"{dtype} {list(shape)}" + " in Fortran's order" * fortran_order
                    must = f"{np.dtype(wanted)} [N, H, W, C] or [N, F, H, W, C]"
                    raise ValueError(f"arr_0 of {path} must be {must}, got {found}.")
                yield member, shape
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError) as error:
        raise ValueError(f"{path} is no .npz file that can be read: {error}") from error


def iterate_pngs(folder: str | os.PathLike, batch_size: int) -> Iterator[np.ndarray]:
    """The PNG files of a folder in the order of their names, uint8 [at most batch_size, H, W, 1 or 3] at a time. Raises
    ValueError if there are none; and, when they are met, for a file that is none, or of another size."""
    batch_size, paths = whole_number("batch_size", batch_size), png_paths(folder)
    if not paths:
        raise ValueError(f"{folder} must be a folder with .png files, and there are none.")
    return _png_blocks(paths, batch_size)


def png_paths(folder: str | os.PathLike) -> list[pathlib.Path]:
    """The PNG files in a folder, by name; not those that are just being written."""
    return sorted(path for path in pathlib.Path(folder).glob("*.png") if not path.name.startswith("."))


def _png_blocks(paths: list[pathlib.Path], batch_size: int) -> Iterator[np.ndarray]:
    shape = None
    for start in range(0, len(paths), batch_size):
        images = [_read_png(path) for path in paths[start : start + batch_size]]
        shape = shape or images[0].shape
        for path, image in zip(paths[start:], images, strict=False):
            if image.shape != shape:
                sizes = f"{paths[0].name} is {list(shape)}, and {path.name} is {list(image.shape)}"
                raise ValueError(f"The images in {path.parent} must be alike: {sizes}.")
        yield np.stack(images)


def _read_png(path: pathlib.Path) -> np.ndarray:
    """uint8 [H, W, 1] of a grey or black-and-white file, [H, W, 3] of one in colour."""
    from PIL import Image

    if not path.is_file():
        raise FileNotFoundError(f"{path} is no file.")
    channels = {"1": "L", "L": "L", "P": "RGB", "RGB": "RGB"}
    try:
        with Image.open(path, formats=["PNG"]) as picture:
            mode = f"{picture.mode} with transparency" if "transparency" in picture.info else picture.mode
            pixels = np.array(picture.convert(channels.get(mode)))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(f"{path} is no PNG file that can be read.") from error
    if mode not in channels:
        raise ValueError(f"{path} must be grey or in colour, of 8 bits and without transparency, got {mode}.")
    return pixels if pixels.ndim == 3 else pixels[..., None]


def decode_picture(data: bytes, most_pixels: int) -> np.ndarray:
    """uint8 [H, W, 1] of a grey PNG or JPEG, [H, W, 3] of one in colour, from bytes that a stranger sent: turned
    upright, and what is transparent on white. ValueError, in one sentence, for what is neither, is damaged, has more
    than 8 bits, or more pixels than `most_pixels`, which are not decoded."""
    from PIL import Image, ImageOps

    modes = {"1": "L", "L": "L", "LA": "RGBA", "P": "RGBA", "RGB": "RGB", "RGBA": "RGBA"}
    no_picture = "The picture is no PNG or JPEG that can be read."
    try:
        picture = Image.open(io.BytesIO(data), formats=["PNG", "JPEG"])  # its header alone
    except Image.DecompressionBombError as error:  # Pillow's own limit
        raise ValueError(f"The picture has more than the {most_pixels} pixels that are taken.") from error
    except (OSError, SyntaxError, ValueError, struct.error) as error:
        raise ValueError(no_picture) from error
    width, height = picture.size
    if width * height > most_pixels:
        raise ValueError(f"The picture has {width} x {height} pixels, more than the {most_pixels} that are taken.")
    if picture.mode not in modes:
        raise ValueError(f"The picture must be grey or in colour, of 8 bits, got {picture.mode}.")
    mode = "RGBA" if "transparency" in picture.info else modes[picture.mode]
    try:
        pixels = ImageOps.exif_transpose(picture).convert(mode)
    except Exception as error:  # Pillow raises many kinds for damaged bytes
        raise ValueError(no_picture) from error
    if mode == "RGBA":
        pixels = Image.alpha_composite(Image.new("RGBA", pixels.size, "white"), pixels).convert("RGB")
    found = np.array(pixels)
    return found if found.ndim == 3 else found[..., None]


def read_array(path: str | os.PathLike) -> np.ndarray:
    """The numbers in an .npy file, or under arr_0, or alone, in an .npz. Raises FileNotFoundError, and ValueError for
    what is neither."""
    path = pathlib.Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path} is no file.")
    try:
        loaded = np.load(path, allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            return loaded
        with loaded:
            names = loaded.files
            if "arr_0" in names or len(names) == 1:
                return loaded["arr_0" if "arr_0" in names else names[0]]
    except (ValueError, OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(f"{path} is no .npy or .npz file of numbers that can be read: {error}") from error
    raise ValueError(f"{path} must hold an array arr_0, or one array alone; it holds {', '.join(names) or 'nothing'}.")
