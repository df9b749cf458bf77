"""sid2-sample: draws images from a trained model, as a PNG grid, an .npz in the ADM layout, single PNGs, an animation.

    sid2-sample --workdir=runs/digits --labels=0,1,2,3,4,5,6,7,8,9 --out=digits
    sid2-sample --preset=sid2_digits --weights=mine.weights.h5 --num_images=50000 --format=npz --out=digits
    sid2-sample --workdir=runs/digits --format=gif --sampler=dpmpp_2m --num_steps=64 --out=digits
    sid2-sample --workdir=runs/digits --known=four.png --mask=keep.png --out=digits

writes digits.png and digits.npz (arr_0 uint8 [N, H, W, C]; arr_1 int [N], where there are classes), or what --format
says. The .npz is written in pieces, in digits.npz.pieces: when it is interrupted, the same command goes on. How its
images were drawn, and their digest, are in digits.npz.json (of single PNGs in digits/images.json), where
sid2-evaluate --samples looks. A finished .npz of the same request is not drawn again. Files of another one are
overwritten, but pieces and a folder with PNGs, which two requests could mix in, are refused.

Several processes (flags or environment as of sid2-train) each draw a part of the images, with all the same flags; the
first one then writes the files. --mesh=data:8 spreads each batch over devices (jax).
"""

import contextlib
import dataclasses
import functools
import pathlib
from collections.abc import Iterator

import numpy as np
from rich.console import Console

from keras_sid2 import SampleRequest, SiD2Model
from keras_sid2.bin import sampling_flags, signals
from keras_sid2.bin.common import SamplingProgress, run_program
from keras_sid2.bin.compilation_cache import CacheFlags, keep_compiled
from keras_sid2.bin.device_flags import ProcessFlags, together
from keras_sid2.bin.flag_table import IN_UNIT_INTERVAL, at_least, check, flag, parsed
from keras_sid2.bin.sample_files import (
    FORMATS,
    check_channels,
    check_folder,
    check_out,
    check_share,
    finish_npz,
    open_npz,
    paths,
)
from keras_sid2.evaluation import ImagesDigest
from keras_sid2.generation.provenance import write_provenance
from keras_sid2.generation.request import array_digest
from keras_sid2.io.image_files import image_grid, write_animation, write_png, write_pngs
from keras_sid2.io.image_reading import read_images
from keras_sid2.parallel import processes

_SHOWN = 400  # images in the grid, at most
_ANIMATED = 16
_SECONDS = 4.0  # that an animation takes
_SPAN = 1024  # images, about, that one SampleRequest is made of: it holds what is given for them in float32


@dataclasses.dataclass(frozen=True, kw_only=True)
class SampleFlags(sampling_flags.SamplingFlags, ProcessFlags, CacheFlags):
    out: str = flag("samples", "path of the files, without suffix; a finished .npz of the same request stays")
    format: list = flag(
        ("grid", "npz"), f"{', '.join(FORMATS)}; a grid has the first {_SHOWN} images, an animation {_ANIMATED}"
    )
    num_images: int | None = flag(None, "how many; with classes and no --labels, the classes in turn", at_least(1))
    labels: list | None = flag(None, "a class for each image, as 0,1,2; or none, for images of no class")
    first_image: int = flag(0, "number of the first image, and of its class, to continue a request", at_least(0))
    init: str | None = flag(None, "start from these images: a PNG for all, or an .npz; with --t_start")
    t_start: float | None = flag(None, "in (0, 1], how much of the noise is put on --init", IN_UNIT_INTERVAL)
    known: str | None = flag(None, "keep a part of these images: a PNG for all, or an .npz; with --mask")
    mask: str | None = flag(None, "a PNG, white where --known is kept")
    resamplings: int = flag(1, "times each step is done: more fit --known better, and cost", at_least(1), needs="known")
    frames: int = flag(32, "of the animation; never more than --num_steps", at_least(1))


@dataclasses.dataclass
class Request:
    """What to draw; a SampleRequest of all of it would hold what is given for each image, so it is drawn in spans.

    Args:
        options: arguments of `SampleRequest` that are the same for all images.
        labels: int [count], or None for a model without classes.
        given: "init" and "known", where they are, as uint8 [1 or count, H, W, C].
    """

    model: SiD2Model
    count: int
    first_image: int
    labels: np.ndarray | None
    options: dict
    given: dict[str, np.ndarray]

    def sample_request(self, first: int, last: int, progress=None) -> SampleRequest:
        """Of images first <= i < last."""
        given = {
            name: np.broadcast_to(images, (self.count, *images.shape[1:]))[first:last]
            for name, images in self.given.items()
        }
        labels = None if self.labels is None else self.labels[first:last]
        numbers = {"num_images": last - first, "first_image": self.first_image + first}
        return SampleRequest(self.model, labels, progress=progress, **numbers, **given, **self.options)

    def part(self, first: int, last: int) -> "Request":
        """Of images first <= i < last."""
        given = {name: images if len(images) == 1 else images[first:last] for name, images in self.given.items()}
        labels = None if self.labels is None else self.labels[first:last]
        own = {"count": last - first, "first_image": self.first_image + first, "labels": labels, "given": given}
        return dataclasses.replace(self, **own)

    def describe(self) -> dict:
        """As SampleRequest's, of all images; raises what that raises."""
        if self.labels is not None and self.model.num_classes:
            self.model.conditions["label"].check("label", self.labels)
        labels = np.full(self.count, self.model.num_classes or 0) if self.labels is None else self.labels
        whole = {"images": self.count, "labels": array_digest(labels.astype("int32"))}  # as one SampleRequest would
        whole |= {name: array_digest(images) for name, images in self.given.items()}
        return self.sample_request(0, min(self.count, self.options["batch_size"])).describe() | whole

    def captions(self, count: int) -> list[str] | None:
        """The classes of the first images, for people."""
        return None if self.labels is None else [str(label) for label in self.labels[:count]]

    def batches(self, start: int, stop: int, line: SamplingProgress) -> Iterator[np.ndarray]:
        """Images start <= i < stop, uint8 [at most batch_size, H, W, C] at a time."""
        size = self.options["batch_size"] * max(1, _SPAN // self.options["batch_size"])
        while start < stop:
            last = stop if stop - start < 2 * size else start + size  # so that no batch is of a size of its own
            yield from self.sample_request(start, last, line.part(start, last - start)).batches()
            start = last


def _read_flags(values) -> dict:
    """Arguments of `Request` beside the model, whose labels may yet be missing; raises for all that is wrong in it."""
    labels = None if values.labels == ["none"] else parsed("labels", values.labels, int)
    if labels is not None and values.num_images not in (None, len(labels)):
        raise ValueError(f"--labels are {len(labels)} and --num_images={values.num_images}: give one of them.")
    for first, second in (("init", "t_start"), ("known", "mask")):
        if (values[first].value is None) != (values[second].value is None):
            raise ValueError(f"--{first} and --{second} go together: give both or neither.")
    count = len(labels) if labels is not None else values.num_images or 16
    given = {name: read_images(values[name].value) for name in ("init", "known") if values[name].value is not None}
    for name, images in given.items():
        if len(images) not in (1, count):
            raise ValueError(f"--{name} must hold one image, or one for each of the {count}, got {len(images)}.")
    alike = {"t_start": values.t_start, "mask": _mask(values.mask), "resamplings": values.resamplings}
    return {
        "count": count,
        "first_image": values.first_image,
        "labels": None if labels is None else np.array(labels),
        "given": given,
        "options": alike | sampling_flags.sampling_options(values),
    }


def _mask(path: str | None) -> np.ndarray | None:
    """bool [H, W, 1], true where the file is white, or 1 where it holds nothing but 0 and 1."""
    if path is None:
        return None
    pictures = read_images(path)
    if len(pictures) > 1:
        raise ValueError(f"--mask={path} must be one picture, got {len(pictures)}.")
    kept = pictures[0].mean(axis=-1, keepdims=True) > (0.5 if pictures.max() <= 1 else 127.5)
    if not kept.any():
        raise ValueError(f"--mask={path} is white nowhere, so that nothing of --known would be kept.")
    return kept


def _check_formats(values):
    if not values.format or not set(values.format) <= set(FORMATS):
        got = ",".join(values.format)
        raise ValueError(f"--format must be among {', '.join(FORMATS)}, with commas between, got {got!r}.")
    if values["frames"].present and not {"gif", "webp"}.intersection(values.format):
        raise ValueError("--frames goes with --format=gif or webp.")
    if values["frames"].present and values.frames > values.num_steps:
        raise ValueError(f"--frames must be at most --num_steps ({values.num_steps}), got {values.frames}.")


def main(values, console: Console | None = None) -> int:
    """All of it but the start of several processes; the exit code."""
    console = console or Console(stderr=True, quiet=processes.index() > 0)
    check(SampleFlags, values)
    _check_formats(values)
    with sampling_flags.drawing_devices(values):
        return _draw(values, console)


def _draw(values, console: Console) -> int:
    request = Request(model=None, **_read_flags(values))
    check_share(values.format, request.count)
    check_out(values.out, values.format)
    keep_compiled(values.compilation_cache)
    request.model = model = sampling_flags.load_model_from_flags(values)
    check_channels(model.sample_shape[-1], values.format)
    if values.labels is None and model.num_classes is not None:
        request.labels = (request.first_image + np.arange(request.count)) % model.num_classes
    settings = request.describe()
    if "pngs" in values.format:
        check_folder(pathlib.Path(values.out), settings)
    wants_npz = "npz" in values.format
    npz = open_npz(pathlib.Path(f"{values.out}.npz"), settings) if wants_npz else contextlib.nullcontext()
    with npz as pieces:
        try:
            if processes.count() > 1 and pieces.done < request.count:
                _draw_share(request, pieces, console)
            if processes.index() == 0:
                _write(values, request, settings, pieces, console)
            processes.wait_for_all()  # which on jax end together
        except KeyboardInterrupt as error:
            if pieces is None:
                raise
            there = f"{pieces.done} of {request.count} images are in {pieces.folder}"
            console.print(f"sid2-sample: interrupted; {there}: the same command goes on.", soft_wrap=True)
            return signals.exit_code(error)
    console.print(_summary(values.out, values.format, request.count), highlight=False, soft_wrap=True)
    return 0


def _draw_share(request: Request, pieces, console: Console):
    """Draws this process's share and waits for the others; then the first one has the pieces of all."""
    mine = request.part(*processes.share(request.count, request.options["batch_size"]))
    for _ in drawn(mine, mine.count, pieces, console):
        pass
    processes.wait_for_all()
    if processes.index() == 0:
        pieces.join()


def _summary(out: str, formats: list[str], count: int) -> str:
    """How many images were drawn, and where they are."""
    drawn = max(_needed(formats, count), min(count, _ANIMATED) if {"gif", "webp"}.intersection(formats) else 0)
    notes = {"grid": f" (the first {_SHOWN})" if drawn > _SHOWN else "", "pngs": "/"}
    written = [f"{path}{notes.get(name, '')}" for name, path in paths(out, formats).items()]
    return f"{count if drawn == count else f'{drawn} of {count}'} images: {', '.join(written)}"


def _needed(formats: list[str], count: int) -> int:
    """How many images the files hold; an animation draws its own."""
    if {"npz", "pngs"}.intersection(formats):
        return count
    return min(count, _SHOWN) if "grid" in formats else 0


def _write(values, request: Request, settings: dict, pieces, console: Console):
    """Draws and writes everything."""
    out, formats, shown, done, digest = values.out, values.format, [], 0, ImagesDigest()
    for images in digest.passing(drawn(request, _needed(formats, request.count), pieces, console)):
        if "grid" in formats:
            shown.extend(images[: _SHOWN - len(shown)])
        if "pngs" in formats:
            if not done:  # says whose pictures an interrupted program leaves
                write_provenance(out, ImagesDigest().hexdigest(), settings)
            write_pngs(out, images, start=request.first_image + done)
        done += len(images)
    if "grid" in formats:
        write_png(f"{out}.png", image_grid(np.stack(shown), request.captions(len(shown))))
    animations = [f"{out}.{name}" for name in ("gif", "webp") if name in formats]
    pictures = _frames(request, values.frames, console) if animations else []
    for path in animations:
        write_animation(path, pictures, _SECONDS)
    if "pngs" in formats:
        write_provenance(out, digest.hexdigest(), settings)
    if pieces is not None:
        finish_npz(pieces, digest, settings)


def drawn(request: Request, stop: int, pieces, console: Console) -> Iterator[np.ndarray]:
    """Images before `stop` in order, those in the pieces first; new ones go into the pieces, unless these are None."""
    done = 0 if pieces is None else pieces.done
    if done:
        console.print(f"{done} of {stop} images are there already.", highlight=False)
        yield from signals.looking_between(pieces.batches())
    if done == stop:
        return
    with SamplingProgress(console, stop, done) as line:
        for images in request.batches(done, stop, line):
            if pieces is not None:
                pieces.add(images, None if request.labels is None else request.labels[done : done + len(images)])
            done += len(images)
            yield images
            signals.look()  # what is drawn is written


def _frames(request: Request, frames: int, console: Console) -> list[np.ndarray]:
    """How the first images come about: x_hat to the left, z_t to the right."""
    count = min(request.count, _ANIMATED)
    with SamplingProgress(console, count, title="animation") as line:
        asked = request.sample_request(0, count, line.part(0, count))
        z_t, x_hat = asked.trajectory(min(frames, asked.num_steps))
    captions = request.captions(count)
    pairs = zip(x_hat, z_t, strict=True)
    return [np.concatenate([image_grid(images, captions) for images in pair], axis=1) for pair in pairs]


def _main_of_one(values) -> int:
    """The program in this process, which may be one of several; its exit code."""
    check(SampleFlags, values)
    code = together("sid2-sample", values, lambda: main(values))
    if code:
        processes.leave(code)
    return code


run = functools.partial(run_program, _main_of_one, "sid2-sample", SampleFlags, looks=True)

if __name__ == "__main__":
    run()
