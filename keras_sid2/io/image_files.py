"""Images on disk, in atomic files: pictures, animations, and arrays in the ADM layout."""

import contextlib
import fractions
import glob
import io
import itertools
import json
import math
import os
import pathlib
import shutil
import tempfile
import zipfile
from collections.abc import Iterator, Sequence

import numpy as np

from keras_sid2 import renamed
from keras_sid2.channels import Channels
from keras_sid2.io.atomic import atomic_write, locked, read_json, write_json

_HOLD = 2.0  # seconds that an animation's last frame stays
_LINES, _LINE = 4, 12  # of a caption, and pixels that another one takes


def image_grid(images: np.ndarray, captions: Sequence[str] | None = None, columns: int | None = None) -> np.ndarray:
    """uint8 [N, (F,) H, W, 1 or 3] side by side as one uint8 [H', W', 3] picture, with `captions` below them, which
    are broken into lines, and cut after four; what the font lacks is drawn as a box or "?". Small
    ones are enlarged by whole pixels to about 64; `columns` None is about the square root of N. The frames of a clip
    lie in a row, a pixel apart; `columns` None then makes the picture about square."""
    from PIL import Image, ImageDraw, ImageFont

    side = max(images.shape[-3:-1])
    if images.ndim == 5:
        frames, height, width = images.shape[1:4]
        columns = columns or max(1, round((len(images) * height / (frames * width)) ** 0.5))
        gap = ((0, 0),) * 3 + ((0, 1), (0, 0))
        images = np.pad(images, gap, constant_values=255)
    images = _checked(_strips(images))
    images = np.broadcast_to(images, (*images.shape[:-1], 3))
    count, height, width, _ = images.shape
    columns = columns or int(np.ceil(np.sqrt(count)))
    scale = max(1, 64 // side)
    font, cell_width = ImageFont.load_default(), width * scale + 4
    texts = [_broken(text, font, width * scale) for text in captions or ()]
    below = 14 + _LINE * (max(text.count("\n") for text in texts)) if captions else 0
    cell_height = height * scale + 4 + below
    rows = -(-count // columns)
    picture = Image.new("RGB", (columns * cell_width, rows * cell_height), "white")
    draw = ImageDraw.Draw(picture)
    for i, image in enumerate(images):
        x, y = (i % columns) * cell_width + 2, (i // columns) * cell_height + 2
        image = Image.fromarray(np.ascontiguousarray(image))
        picture.paste(image.resize((width * scale, height * scale), Image.Resampling.NEAREST), (x, y))
        if captions:
            draw.multiline_text((x, y + height * scale), texts[i], fill="black", font=font, spacing=2)
    return np.asarray(picture)


def _broken(text: str, font, width: int) -> str:
    """A caption in lines of at most so many pixels, cut after _LINES of them."""
    try:
        font.getlength(text)
    except UnicodeEncodeError:  # Pillow's own font where it has no FreeType
        text = text.encode("latin-1", "replace").decode("latin-1")
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if font.getlength(longer) <= width or not lines[-1]:
            lines[-1] = longer
        else:
            lines.append(word)
    if len(lines) > _LINES:
        lines = [*lines[: _LINES - 1], f"{lines[_LINES - 1]}..."]
    return "\n".join(_cut(line, font, width) for line in lines)


def _cut(line: str, font, width: int) -> str:
    """A line that fits; of one that does not, its beginning and "..."."""
    if font.getlength(line) <= width or len(line) <= 3:
        return line
    kept = line.removesuffix("...")
    while len(kept) > 1 and font.getlength(f"{kept}...") > width:
        kept = kept[:-1]
    return f"{kept}..."


def field_pictures(values: np.ndarray, channels: Channels) -> np.ndarray:
    """Fields float [N, (F,) H, W, C] as uint8 [N, (F,) H, C W, 1]: each channel by itself, side by side, black at mean
    - 3 std, white at mean + 3 std."""
    grey = np.clip(channels.standardize(values.astype("float32")) / 3.0, -1.0, 1.0)
    return np.concatenate(np.split(np.rint((grey + 1.0) * 127.5).astype("uint8"), len(channels), axis=-1), axis=-2)


def _are_images(images: np.ndarray) -> bool:
    return images.dtype == np.uint8 and images.ndim in (4, 5) and images.size > 0


def _are_fields(values: np.ndarray) -> bool:
    """Of channels in physical units, or ensembles of them."""
    return values.dtype == np.float32 and values.ndim >= 4 and values.size > 0


def _strips(images: np.ndarray) -> np.ndarray:
    """Clips [N, F, H, W, C] as images [N, H, F W, C], frame beside frame."""
    return np.concatenate(list(np.moveaxis(images, 1, 0)), axis=2) if images.ndim == 5 else images


def _checked(images: np.ndarray) -> np.ndarray:
    if images.ndim != 4 or not _are_images(images) or images.shape[-1] not in (1, 3):
        raise ValueError(f"Images must be uint8 [N, H, W, 1 or 3], got {images.dtype} {list(images.shape)}.")
    return images


def write_png(path: str | os.PathLike, picture: np.ndarray):
    """uint8 [H, W, 1 or 3] as a PNG file, grey or RGB."""
    from PIL import Image

    picture = _checked(picture[None])[0]
    with atomic_write(path) as temporary:
        Image.fromarray(picture[..., 0] if picture.shape[-1] == 1 else picture).save(temporary, format="PNG")


def write_pngs(folder: str | os.PathLike, images: np.ndarray, start: int = 0):
    """uint8 [N, (F,) H, W, 1 or 3] as PNG files in `folder`, named 000000.png and so on from number `start`."""
    for number, image in enumerate(_checked(_strips(images)), start):
        write_png(pathlib.Path(folder) / f"{number:06d}.png", image)


def write_animation(path: str | os.PathLike, frames: Sequence[np.ndarray], seconds: float, hold: float = _HOLD):
    """uint8 [H, W, 3] frames as an animation of `seconds`, and `hold` more of the last one: a .gif of 256 colours a
    frame, a .webp without loss, or an .mp4 (H.264, through PyAV, the extra `video`), to which odd sides get a line.
    ValueError for another suffix, and unless there are frames, all of one size."""
    suffix = pathlib.Path(path).suffix
    write = {".gif": _write_pictures, ".webp": _write_pictures, ".mp4": _write_video}.get(suffix)
    if write is None:
        raise ValueError(f"An animation is a .gif, .webp or .mp4 file, got {str(path)!r}.")
    shapes = {(str(frame.dtype), *frame.shape) for frame in frames}
    if len(shapes) != 1 or not all(len(shape) == 4 and (shape[0], shape[3]) == ("uint8", 3) for shape in shapes):
        raise ValueError(f"An animation needs frames uint8 [H, W, 3] of one size, got {sorted(shapes) or 'none'}.")
    durations = [max(20, round(1000 * seconds / len(frames)))] * len(frames)  # faster, browsers show it slower
    durations[-1] += round(1000 * hold)
    with atomic_write(path) as temporary:
        write(temporary, frames, durations)


def _write_pictures(path, frames: Sequence[np.ndarray], durations: list[int]):
    from PIL import Image

    options = {"lossless": True} if path.suffix == ".webp" else {}
    first, *others = [Image.fromarray(frame) for frame in frames]
    first.save(path, save_all=True, append_images=others, duration=durations, loop=0, **options)


def _write_video(path, frames: Sequence[np.ndarray], durations: list[int]):
    av = pyav()
    height, width = (side + side % 2 for side in frames[0].shape[:2])
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=fractions.Fraction(1000, durations[0]), options={"crf": "16"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for frame, duration in zip(frames, durations, strict=True):
            even = np.pad(frame, [(0, height - frame.shape[0]), (0, width - frame.shape[1]), (0, 0)], mode="edge")
            for _ in range(round(duration / durations[0])):
                container.mux(stream.encode(av.VideoFrame.from_ndarray(even, format="rgb24")))
        container.mux(stream.encode())


def pyav():
    """PyAV; ImportError, with the extra that brings it, where it is not installed."""
    try:
        import av
    except ImportError as error:
        raise ImportError("An .mp4 needs PyAV: pip install 'keras_sid2[video]', or take .gif or .webp.") from error
    return av


def write_npz(path: str | os.PathLike, images: np.ndarray, labels: np.ndarray | None = None):
    """The ADM layout: arr_0 uint8 [N, H, W, C], or float32 of fields, arr_1 int [N] where there are labels."""
    arrays = (images,) if labels is None else (images, np.asarray(labels))
    with atomic_write(path) as temporary, open(temporary, "wb") as file:
        np.savez(file, *arrays)


class NpzPieces(contextlib.AbstractContextManager):
    """An .npz as that of `write_npz`, of any number of images, written piece by piece; an interrupted one goes on.

    The pieces lie in `folder`, `<path>.pieces`, an .npz (which has checksums) of each call of `add`. `finish` makes one
    file of them, the same bytes whatever the pieces were, and removes the folder, which is locked until then or until
    `close`, which a `with` calls. Never more than a piece is held in memory. `done` images are there already; a damaged
    piece and those after it have been removed.

    Several processes share the images out: with `share` (k, P) these are part k of P, counted from 0, in a folder
    of its own within; when all parts are there, `join` takes in those of the others, and then `finish` makes the file.

    `settings`, plain values, define the images and lie beside the pieces. Raises ValueError if there are pieces of
    other settings or of another number of processes, and while another process holds the folder.
    """

    def __init__(self, path: str | os.PathLike, *, settings: dict, share: tuple[int, int] = (0, 1)):
        self.path, self._whole = pathlib.Path(path), pathlib.Path(f"{path}.pieces")
        self._folders = [self._whole / f"{k}_of_{share[1]}" if share[1] > 1 else self._whole for k in range(share[1])]
        self.folder = self._folders[share[0]]
        self._aside = f".{self._whole.name}-"  # how the names of folders that are being removed begin
        self._settings = json.loads(json.dumps(settings))
        self.done, self._kind, self._pieces = 0, None, []
        with contextlib.ExitStack() as lock:
            lock.enter_context(locked(self.folder, "wait for its end, or write to another path"))
            self._begin()
            self._lock = lock.pop_all()

    def __exit__(self, *_):
        self.close()

    def close(self):
        """Lets other processes have the folder; what is in it stays."""
        self._lock.close()

    def _begin(self):
        """Counts the valid pieces and removes all that is not one of them."""
        for path in self._whole.parent.glob(f"{glob.escape(self._aside)}*"):
            shutil.rmtree(path, ignore_errors=True)  # of an end in the midst of `finish`
        for path in self.folder.glob(".writing-*"):
            shutil.rmtree(path, ignore_errors=True)  # of an end in the midst of `add`
        self._check_shares()
        if any(self.folder.glob("[0-9]*.npz")):
            self._check_settings()
        else:
            write_json(self.folder / "settings.json", self._settings)
        self._take_in(self.folder)
        for path in set(self.folder.glob("*.npz")).difference(self._pieces):
            path.unlink()

    def _take_in(self, folder: pathlib.Path):
        """Counts the valid pieces of a folder, as far as they are alike."""
        before = self.done
        while (found := _piece(_name(folder, self.done - before))) and self._kind in (None, found[1:]):
            self._count(_name(folder, self.done - before), *found)

    def _check_shares(self):
        """Refuses the pieces of another number of processes."""
        # Not in folders below: a piece that is being written, or was when a process was killed, is in a temporary one.
        found = itertools.chain(*map(self._whole.glob, ("[0-9]*.npz", "[0-9]*_of_*/[0-9]*.npz")))
        other = next((path for path in found if path.parent not in self._folders), None)
        if other is not None:
            count = 1 if other.parent == self._whole else other.parent.name.rpartition("_of_")[2]
            told = f"{self._whole} holds pieces of {count} processes, and there are {len(self._folders)}"
            raise ValueError(f"{told}: start as many as then, or remove it to start anew.")

    def _check_settings(self):
        """Refuses the pieces of other settings."""
        path = self.folder / "settings.json"
        before = read_json(path) if path.exists() else None
        if before is None:
            raise ValueError(f"{self.folder} holds pieces and does not say of what: remove it to start anew.")
        before = renamed.recorded(before)
        if before != self._settings:
            told = changes(before, self._settings)
            raise ValueError(f"{self.folder} holds pieces of another request: {told}; remove it to start anew.")

    def _count(self, path: pathlib.Path, images: int, *kind):
        self._pieces.append(path)
        self.done, self._kind = self.done + images, kind

    def add(self, images: np.ndarray, labels: np.ndarray | None = None):
        """uint8 [N, H, W, C] images, or float32 fields, and their classes int [N] if they have any, behind those that
        are there. Raises ValueError for images of another size, and where some have labels and others none."""
        if not _are_images(images) and not _are_fields(images):
            raise ValueError(f"Images must be uint8 [N, H, W, C], got {images.dtype} {list(images.shape)}.")
        if labels is not None:
            labels = np.asarray(labels)
            if labels.shape != images.shape[:1] or not np.issubdtype(labels.dtype, np.integer):
                raise ValueError(f"Labels must be integers, one an image, got {labels.dtype} {list(labels.shape)}.")
            labels = labels.astype("int64")
        kind = (images.dtype.str, *images.shape[1:], labels is not None)
        if self._kind not in (None, kind):
            first, then = self._kind[1:], kind[1:]
            raise ValueError(f"Pieces must be alike: [height, width, channels, labelled] {first}, then {then}.")
        path = _name(self.folder, self.done)
        write_npz(path, images, labels)
        self._count(path, len(images), *kind)

    def join(self):
        """Part 0 takes in the pieces of all other parts, in their order; nothing may be added after it."""
        for folder in self._folders[1:]:
            self._take_in(folder)

    def batches(self, name: str = "arr_0") -> Iterator[np.ndarray]:
        """The images that are there (or their labels, "arr_1"), a piece at a time."""
        for path in self._pieces:
            with np.load(path, allow_pickle=False) as arrays:
                yield arrays[name]

    def finish(self):
        """Writes the .npz, removes the pieces and closes; ValueError if there are none, or other ones by now."""
        if not self.done:
            raise ValueError(f"{self.path} cannot be written: there are no images in {self.folder}.")
        self._check_settings()  # a network file system may know nothing of locks
        with atomic_write(self.path) as temporary, zipfile.ZipFile(temporary, "w") as archive:
            self._stream(archive, "arr_0", self._kind[0], self._kind[1:-1])
            if self._kind[-1]:
                self._stream(archive, "arr_1", "<i8", ())
        aside = tempfile.mkdtemp(prefix=self._aside, dir=self._whole.parent)
        os.rename(self._whole, aside)  # so that an end in the midst of removing leaves no half of the pieces
        self.close()
        shutil.rmtree(aside, ignore_errors=True)

    def _stream(self, archive: zipfile.ZipFile, name: str, dtype: str, shape: tuple[int, ...]):
        """One array, as np.savez stores it: not compressed, and without the time of day."""
        with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
            header = {"descr": dtype, "fortran_order": False, "shape": (self.done, *shape)}
            np.lib.format.write_array_header_1_0(member, header)
            missing = math.prod(header["shape"])
            for values in self.batches(name):
                member.write(values.astype(dtype).tobytes())
                missing -= values.size
        if missing:
            raise ValueError(f"The pieces in {self.folder} are others than were counted: run it again.")


def changes(before: dict, now: dict) -> str:
    """What differs between the settings of two requests, as the inside of a sentence."""
    names = [name for name in {**before, **now} if before.get(name) != now.get(name)]
    return ", ".join(f"{name} was {before.get(name)!r} and is {now.get(name)!r}" for name in names)


def _name(folder: pathlib.Path, number: int) -> pathlib.Path:
    """Of the piece that begins with an image."""
    return folder / f"{number:09d}.npz"


def _piece(path: pathlib.Path) -> tuple | None:
    """(images, dtype, height, width, channels, labelled) of a piece; None if there is none, or a damaged one. OSError
    if the disk does not answer, which says nothing of the piece."""
    if not path.is_file():
        return None
    data = io.BytesIO(path.read_bytes())
    try:
        with np.load(data, allow_pickle=False) as arrays:
            images, labels = arrays["arr_0"], arrays.get("arr_1")
        whole = (_are_images(images) or _are_fields(images)) and (labels is None or labels.shape == images.shape[:1])
    except Exception:  # of many kinds, from zipfile, struct and numpy: the bytes are wrong
        return None
    return (len(images), images.dtype.str, *images.shape[1:], labels is not None) if whole else None
