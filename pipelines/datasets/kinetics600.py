"""tfds builder for Kinetics-600 from clips and the official CSV files of annotations."""

import collections
import csv
import dataclasses
import functools
import hashlib
import itertools
import os
import posixpath
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

import tensorflow_datasets as tfds

from pipelines import images
from pipelines.datasets.local_builder import BadSource, Item, LocalBuilder, Made, SourceConfig, walked
from pipelines.extras import check_choice, check_count, require

SUFFIXES = (".mp4", ".webm", ".mkv")
COLUMNS = ("youtube_id", "time_start", "time_end", "split")  # and label, which some test sets lack
SPLIT_NAMES = {"validate": "validation", "val": "validation"}
# An id has 11 characters, so an underscore in it is not taken for one that separates.
CLIP_NAME = re.compile(r"([A-Za-z0-9_-]{11})(?:_(\d+)_(\d+))?")
NAMED = 5  # clips that a note names
_ACCEPTED = (
    "give the official CSV files, with the columns label, youtube_id, time_start, time_end, split, "
    "as annotations=FILE, FILE,FILE or FOLDER, or put them into source"
)
# What a clip may be, whatever its name. Not a playlist: it would lead to other files, or to the network.
CONTAINERS = {"format_whitelist": "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm", "protocol_whitelist": "file"}
MICROSECONDS = 1_000_000  # in which FFmpeg measures whole files


@dataclasses.dataclass(eq=False, kw_only=True)
class Kinetics600Config(SourceConfig):
    """`source`: a folder of clips, at any depth. `image_size` must be given a side, and `encoding` is jpeg or png.

    Attributes:
        annotations: a CSV file, several joined by commas, or a folder of them; None: those in `source` itself.
        num_frames: T, of each example.
        stride: every how many frames of a clip are taken; 1: all.
        windows: examples that are made of each clip, from the middles of so many equal parts of it.
        crops: 1, the middle, or 3: both ends of the longer side too; each is an example.
    """

    image_size: int | None = 128
    encoding: str = "jpeg"
    annotations: str | None = None
    num_frames: int = 16
    stride: int = 1
    windows: int = 1
    crops: int = 1

    ENCODINGS = images.ENCODINGS

    def __post_init__(self) -> None:
        for name in ("image_size", "num_frames", "stride", "windows"):
            check_count(name, getattr(self, name), none=False)
        check_choice("crops", self.crops, (1, 3))
        super().__post_init__()
        if not os.path.isdir(self.source):
            raise ValueError(f"source must be a folder of clips ({', '.join(SUFFIXES)}), and {self.source} is a file")
        if self.annotations is not None:
            self.annotations = _absolute_paths(self.annotations)
        self.annotation_files()

    def default_name(self) -> str:
        """ "clips-128-jpeg-16x2" for 16 frames at stride 2 from the folder clips, and "-2w3c" of windows and crops."""
        several = f"-{self.windows}w{self.crops}c" * (self.of_each > 1)
        return f"{super().default_name()}-{self.num_frames}x{self.stride}{several}"

    @property
    def of_each(self) -> int:
        """Examples that are made of each clip."""
        return self.windows * self.crops

    def annotation_files(self) -> list[str]:
        return _csv_files(self.annotations or self.source)


class Kinetics600(LocalBuilder):
    """Kinetics-600 (Carreira et al., "A Short Note about Kinetics-600", arXiv 1808.01340): clips of T frames, uint8 RGB
    [T, S, S, 3] in 0..255, and the class of what is done in them.

    Source: the user's own clips, <youtube_id>_<start>_<end>.mp4 or <youtube_id>.mp4 (or .webm, .mkv) at any depth, and
    the official CSV files (label, youtube_id, time_start, time_end, split). This package cannot download Kinetics: the
    clips are videos of YouTube, and every year fewer of them are left. Names of folders mean nothing. Classes are
    numbered by the sorted labels of all annotations, so give all the CSV files even if you have clips of one split
    only. Clips without an annotation or a label are left out; "validate" and "val" are the split "validation".

    Each example is T frames at the stride from the middle of the clip, each with ADM's centre crop. windows=2 and
    crops=3 make six of each clip, always the same: of the validation split they are what Frechet video distances are
    measured beside (MAGVIT, arXiv 2212.05199); where in time the two begin is our choice. Broken clips, and those too
    short, are left out and listed in the report. Frames are counted by the packets of the file, so the middle
    is off by one or two in the few files where some packets show nothing. Rotation that the file asks players for is
    ignored.
    """

    CONFIG = Kinetics600Config
    MAX_BAD_SOURCES = None
    HOMEPAGE = "https://arxiv.org/abs/1808.01340"

    def values(self) -> dict[str, tfds.features.FeatureConnector]:
        config = self.builder_config
        files = tuple((path, os.stat(path).st_mtime_ns) for path in config.annotation_files())
        label = tfds.features.ClassLabel(names=_class_names(files))
        return {"video": config.feature(config.num_frames), "label": label}

    def listed(self) -> tuple[dict[str, list[Item]], list[str]]:
        config = self.builder_config
        splits, notes = _matched(config.source, config.annotation_files(), self.info.features["label"].names)
        if config.of_each > 1:
            which = list(itertools.product(range(config.windows), range(config.crops)))
            for split, items in splits.items():
                splits[split] = [Item(f"{key} {w} {c}", n, (*at, w, c)) for key, n, at in items for w, c in which]
        return splits, notes

    def example(self, item: Item) -> Made:
        av = require("av", extra="video")
        path, *which = item.source  # of several windows and crops
        told = " ".join(map(str, which)).encode()  # by which those of one file differ
        full = os.path.join(self.builder_config.source, path)
        try:
            frames = self._frames(full, *which)
            with open(full, "rb") as file:
                hashed = hashlib.file_digest(file, lambda: hashlib.blake2b(told, digest_size=16))
        except (av.error.FFmpegError, OSError, ValueError) as error:
            raise BadSource(f"{path}: {getattr(error, 'strerror', None) or error}") from None
        return Made({"video": frames, "label": item.label}, hashed.digest())

    def _frames(self, path: str, window: int = 0, crop: int = 0) -> list[bytes]:
        """The T frames of a window of a clip, encoded."""
        config = self.builder_config
        num_frames, stride, windows = config.num_frames, config.stride, config.windows
        span, count = (num_frames - 1) * stride + 1, _count(path)
        needed = span + windows - 1  # else two of them would begin at the same frame
        place = crop / (config.crops - 1) if config.crops > 1 else 0.5
        while count >= needed:
            start = (2 * window + 1) * (count - span) // (2 * windows)
            frames, seen = self._decoded(path, range(start, start + span, stride), place)
            if len(frames) == num_frames:
                return frames
            count = seen  # the file ended sooner than its packets had promised, and is now known to the end
        at_stride = f" at stride {stride}" * (stride > 1)
        several = f"{windows} windows of " * (windows > 1)
        raise ValueError(f"has {count} frames, and {several}{num_frames}{at_stride} need {needed}")

    def _decoded(self, path: str, chosen: range, place: float) -> tuple[list[bytes], int]:
        """Decodes a clip up to the last of the chosen frames: those, encoded, and how many were decoded."""
        config, frames, seen = self.builder_config, [], 0
        with _opened(path) as container:
            stream = container.streams.video[0]
            # Each worker has its core; and with several threads a fault would be found some frames late.
            stream.codec_context.thread_count = 1
            for seen, frame in enumerate(itertools.islice(container.decode(stream), chosen[-1] + 1), 1):
                if seen - 1 not in chosen:
                    continue
                if frame.is_corrupt:
                    raise ValueError(f"frame {seen - 1} is damaged")
                image = images.adm_center_crop(frame.to_image(), config.image_size, place)
                image = image.convert(images.MODES[config.channels])
                frames.append(images.encode(image, config.encoding, config.quality))
        return frames, seen


def _opened(path: str) -> Any:
    """The av.container.InputContainer of a clip. Raises ValueError, av.error.FFmpegError: it has no video."""
    # Titles in a strange character set are no reason to refuse a clip.
    container = require("av", extra="video").open(path, options=CONTAINERS, metadata_errors="replace")
    if not container.streams.video or container.streams.video[0].codec_context is None:
        found = "video that can be decoded" if container.streams.video else "video stream"
        container.close()
        raise ValueError(f"has no {found}")
    return container


def _count(path: str) -> int:
    """How many frames a clip has, by its packets and without decoding them. Raises ValueError: it is truncated."""
    count, end = 0, 0.0
    with _opened(path) as container:
        video = container.streams.video[0].index
        start, duration = (container.start_time or 0) / MICROSECONDS, (container.duration or 0) / MICROSECONDS
        for packet in container.demux():  # the sound too, which may be what is cut
            if packet.is_corrupt:
                raise ValueError(f"is truncated or damaged after {count} frames")
            count += packet.stream.index == video and packet.size > 0 and not packet.is_discard
            if packet.pts is not None:
                end = max(end, float((packet.pts + (packet.duration or 0)) * packet.time_base) - start)
    # MP4 marks the packet that is cut, WebM just ends. The last packet's own duration is not always known.
    if end < 0.9 * duration:
        raise ValueError(f"is truncated: ends after {end:.1f} s of {duration:.1f} s")
    return count


class _Row(NamedTuple):
    youtube_id: str
    times: tuple[int, int]  # start and end in seconds
    label: str  # may be empty
    split: str


def _matched(source: str, files: list[str], names: list[str]) -> tuple[dict[str, list[Item]], list[str]]:
    """The clips in a folder by their annotations in CSV files, {split: items}, and notes on what was left out; `names`
    are those of the classes. Raises ValueError: there are no clips, or none with a labelled annotation."""
    paths = [posixpath.join(folder, name) for folder, _, clips in walked(source) for name in clips]
    paths = [path for path in paths if path.lower().endswith(SUFFIXES)]
    if not paths:
        raise ValueError(f"there are no clips ({', '.join(SUFFIXES)}) in {source}")
    rows = dict.fromkeys(row for path in files for row in _read_rows(path))  # each once
    of_video, splits, left_out = (collections.defaultdict(list) for _ in range(3))
    for row in rows:
        of_video[row.youtube_id].append(row)
    numbers, used = {name: number for number, name in enumerate(names)}, set()
    for path in paths:
        name = CLIP_NAME.fullmatch(os.path.splitext(os.path.basename(path))[0])
        found = of_video.get(name[1], []) if name else []
        if name and name[2]:  # another part of the same video may show something else
            found = [row for row in found if row.times == (int(name[2]), int(name[3]))]
        used.update(found)
        if not found:
            left_out["have no annotation"].append(path)
        elif len({(row.label, row.split) for row in found}) > 1:
            left_out["have several annotations that differ"].append(path)
        elif not found[0].label:
            left_out[f"have no label in the annotations of {found[0].split}"].append(path)
        else:
            splits[found[0].split].append(Item(path, numbers[found[0].label], (path,)))
    notes = [
        f"{len(clips)} clips {reason} and are left out: {', '.join(clips[:NAMED])}" + ", ..." * (len(clips) > NAMED)
        for reason, clips in sorted(left_out.items())
    ]
    absent = collections.Counter(row.split for row in rows if row not in used)
    if absent:
        each = ", ".join(f"{number} in {split}" for split, number in sorted(absent.items()))
        notes.append(f"annotations without a clip, as videos vanish from YouTube: {each}")
    unlabelled = collections.Counter(row.split for row in rows if not row.label)
    for split, number in sorted(unlabelled.items()):
        notes.append(f"{number} annotations of {split} have no label: what they describe is left out")
    if not splits:
        raise ValueError(f"no clip in {source} can be used: {'; '.join(notes)}")
    return splits, notes


@functools.lru_cache(maxsize=4)
def _class_names(files: tuple[tuple[str, int], ...]) -> list[str]:
    """The sorted labels in CSV files, each given with its time of change. Kept, as every shard asks for them."""
    names = sorted({row.label for path, _ in files for row in _read_rows(path)} - {""})
    if not names:
        raise ValueError(f"no annotation in {', '.join(path for path, _ in files)} has a label: {_ACCEPTED}")
    return names


def _read_rows(path: str) -> Iterator[_Row]:
    """The annotations in a CSV file. Raises ValueError: it is none, or empty, lacks a column, or has a wrong row."""
    row = None
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            missing = [column for column in COLUMNS if column not in (reader.fieldnames or ())]
            if missing:
                found = f"columns are {', '.join(reader.fieldnames)}" if reader.fieldnames else "it is empty"
                raise ValueError(f"{path} has no column {' or '.join(missing)} ({found}): {_ACCEPTED}")
            for fields in reader:
                row = _row(fields, f"line {reader.line_num} of {path}")
                yield row
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path} is no CSV file in UTF-8 ({error}): {_ACCEPTED}") from None
    if row is None:
        raise ValueError(f"{path} holds no annotations: {_ACCEPTED}")


def _row(fields: dict[str, str | None], where: str) -> _Row:
    youtube_id, start, end, split, label = ((fields.get(name) or "").strip() for name in (*COLUMNS, "label"))
    try:
        times = int(float(start)), int(float(end))
    except (ValueError, OverflowError):
        raise ValueError(f"time_start and time_end must be seconds in {where}, got {start!r} and {end!r}") from None
    if not youtube_id or not re.fullmatch(r"[A-Za-z]\w*", split):
        raise ValueError(f"youtube_id and split must be given in {where}, got {youtube_id!r} and {split!r}")
    return _Row(youtube_id, times, label, SPLIT_NAMES.get(split, split))


def _absolute_paths(given: Any) -> str:
    """Paths joined by commas, made absolute: the work may go on from another folder."""
    paths = _split(os.path.expanduser(os.fspath(given))) if isinstance(given, (str, os.PathLike)) else []
    paths = [os.path.abspath(os.path.expanduser(path.strip())) for path in paths if path.strip()]
    if not paths:
        raise ValueError(f"annotations must be a path, or several joined by commas, got {given!r}")
    return ",".join(paths)


def _split(given: str) -> list[str]:
    return [given] if os.path.exists(given) else given.split(",")


def _csv_files(given: str) -> list[str]:
    """The CSV files that paths joined by commas name, or that are in their folders."""
    files = []
    for path in _split(given):
        if not os.path.exists(path):
            raise FileNotFoundError(f"annotations {path} does not exist: {_ACCEPTED}")
        found = [path]
        if os.path.isdir(path):
            visible = sorted(name for name in os.listdir(path) if not name.startswith("."))
            found = [os.path.join(path, name) for name in visible if name.lower().endswith(".csv")]
        if not found:
            raise FileNotFoundError(f"there are no CSV files in {path}: {_ACCEPTED}")
        files += found
    return files
