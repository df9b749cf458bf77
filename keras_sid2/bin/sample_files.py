"""Where sid2-sample writes: whether it can, and what lies there already."""

import json
import pathlib
from collections.abc import Iterator

import numpy as np

from keras_sid2.bin import device_flags
from keras_sid2.bin.common import make_folders
from keras_sid2.evaluation import ImagesDigest
from keras_sid2.generation.provenance import custom_in, read_provenance, write_provenance
from keras_sid2.io.image_files import NpzPieces, changes
from keras_sid2.io.image_reading import iterate_npz, npz_shape, png_paths
from keras_sid2.parallel import processes

OF_FIELDS = ("npz", "nc", "grid")
_BLOCK = 256  # images that are read at once


def paths(out: str, formats: list[str]) -> dict[str, pathlib.Path]:
    """What is written by format: files, and a folder for pngs."""
    named = {"grid": f"{out}.png", "pngs": out}
    return {name: pathlib.Path(named.get(name, f"{out}.{name}")) for name in formats}


def check_out(out: str, formats: list[str]):
    """ValueError, in one sentence, unless --out can be written; makes the folder that the files are to lie in."""
    path = pathlib.Path(out)
    if not path.name or out.endswith("/"):
        raise ValueError(f"--out must be a path of files, without suffix, as runs/digits, got {out!r}.")
    for name, target in paths(out, formats).items():
        if target.exists() and target.is_dir() != (name == "pngs"):
            raise ValueError(f"--out={out} cannot be written: {target} is {'a' if target.is_dir() else 'no'} folder.")
    make_folders("out", out, path.parent, *([path] if "pngs" in formats and path.exists() else []))


def check_inputs(given: list[str], out: str, formats: list[str]):
    """ValueError where a file that is read, of those `given`, would be written over."""
    written = {path.resolve() for path in paths(out, formats).values()}
    for path in given:
        if pathlib.Path(path).resolve() in written:
            raise ValueError(f"--out={out} would write over {path}, which is read: give another --out.")


def check_channels(channels: int, formats: list[str], fields: bool = False):
    """ValueError for pictures of a model whose images are none: four channels may be a mask's or anything."""
    if fields and not set(formats) <= set(OF_FIELDS):
        raise ValueError(f"--format={','.join(formats)}: fields are written as {', '.join(OF_FIELDS)}.")
    if not fields and "nc" in formats:
        raise ValueError("--format=nc is of models with channels, of fields: give --format=npz.")
    if fields:
        return
    pictures = ",".join(name for name in formats if name != "npz")
    if pictures and channels not in (1, 3):
        raise ValueError(f"--format={pictures} takes 1 or 3 channels, and the model has {channels}: give --format=npz.")


def check_folder(folder: pathlib.Path, settings: dict):
    """ValueError for a folder with PNG files of another request, which would lie among the new ones."""
    if not png_paths(folder):
        return
    before, now = _told(folder), json.loads(json.dumps(settings))
    if before != now:
        of = "and does not say of what" if before is None else f"of another request: {changes(before, now)}"
        raise ValueError(f"{folder} holds pictures {of}: remove it, or give another --out.")


def check_share(formats: list[str], count: int):
    """ValueError for what several processes cannot share out."""
    if processes.count() > 1 and "npz" not in formats:
        raise ValueError(f"{processes.count()} processes put their images into an .npz: add npz to --format.")
    processes.check_enough(count)


def open_npz(path: pathlib.Path, settings: dict) -> "NpzPieces | FinishedNpz":
    """What the images of this process go into; where all are there already, what they come from. Errors as `NpzPieces`,
    and ValueError if another process was asked for others, or writes elsewhere."""
    first, folder = processes.index() == 0, pathlib.Path(f"{path}.pieces")
    if processes.from_first(int(first and not folder.exists() and _is_finished(path, settings))):
        return FinishedNpz(path)
    pieces = NpzPieces(path, settings=settings, share=(processes.index(), processes.count()))
    if processes.count() > 1:
        device_flags.check_same(settings, folder / f"0_of_{processes.count()}")
    return pieces


def finish_npz(pieces: "NpzPieces | FinishedNpz", digest: ImagesDigest, settings: dict):
    """Makes one file of the pieces, whose provenance comes first: no end in between leaves images without it."""
    write_provenance(pieces.path, digest.hexdigest(), settings)
    pieces.finish()


class FinishedNpz:
    """An .npz with all images of a request, as an `NpzPieces` to which nothing is to be added."""

    def __init__(self, path: pathlib.Path):
        self.path = self.folder = path
        self._dtype = np.float32 if (told := _told(path)) and "channels" in told else np.uint8
        self.done = npz_shape(path, self._dtype)[0]

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def batches(self) -> Iterator[np.ndarray]:
        return iterate_npz(self.path, _BLOCK, self._dtype)

    def finish(self):
        pass


def _is_finished(path: pathlib.Path, settings: dict) -> bool:
    """Whether an .npz holds the images, all of them read, that its provenance says, and that is of these settings.

    Never with custom ones, of which that cannot be told.
    """
    digest = ImagesDigest()
    try:
        if custom_in(settings) or _told(path) != json.loads(json.dumps(settings)):
            return False
        for images in FinishedNpz(path).batches():
            digest.add(images)
    except (FileNotFoundError, ValueError):  # no .npz, or a damaged one
        return False
    return digest.hexdigest() == read_provenance(path)["images_digest"]


def _told(images: pathlib.Path) -> dict | None:
    """How images were drawn, if it is known."""
    told = read_provenance(images)
    return None if told is None else {name: value for name, value in told.items() if name != "images_digest"}
