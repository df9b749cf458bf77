"""sid2-sample: draws images from a trained model, as a PNG grid, an .npz in the ADM layout, single PNGs, an animation.

    sid2-sample --workdir=runs/digits --labels=0,1,2,3,4,5,6,7,8,9 --out=digits
    sid2-sample --preset=sid2_digits --weights=mine.weights.h5 --num_images=50000 --format=npz --out=digits
    sid2-sample --workdir=runs/digits --format=gif --sampler=dpmpp_2m --num_steps=64 --out=digits
    sid2-sample --workdir=runs/digits --known=four.png --mask=keep.png --out=digits
    sid2-sample --workdir=runs/clips --condition=given=first.npz --num_frames=64 --format=mp4 --out=clips
    sid2-sample --workdir=runs/photos --text="a red heart" --guidance_scale=2 --negative_text="blue" --out=heart
    sid2-sample --workdir=runs/wind --condition=coarse.nc --ensemble_size=10 --out=wind.nc

writes digits.png and digits.npz (arr_0 uint8 [N, H, W, C]; arr_1 int [N], where there are classes), or what --format
says. The .npz is written in pieces, in digits.npz.pieces: when it is interrupted, the same command goes on. How its
images were drawn, and their digest, are in digits.npz.json (of single PNGs in digits/images.json), where
sid2-evaluate --samples looks. A finished .npz of the same request is not drawn again. Files of another one are
overwritten, but pieces and a folder with PNGs, which two requests could mix in, are refused.

Several processes (flags or environment as of sid2-train) each draw a part of the images, with all the same flags; the
first one then writes the files. --mesh=data:8 spreads each batch over devices (jax).
"""

import contextlib
import functools
import pathlib
from collections.abc import Iterator

import numpy as np
from rich.console import Console

from keras_sid2.bin import sampling_flags, signals
from keras_sid2.bin.common import SamplingProgress, print_line, run_program
from keras_sid2.bin.compilation_cache import keep_compiled
from keras_sid2.bin.device_flags import together
from keras_sid2.bin.field_files import check_writable, write_fields
from keras_sid2.bin.flag_table import check
from keras_sid2.bin.prompts import with_encoder
from keras_sid2.bin.sample_files import (
    check_channels,
    check_folder,
    check_inputs,
    check_out,
    check_share,
    finish_npz,
    open_npz,
    paths,
)
from keras_sid2.bin.sample_request import Request, checked_conditions, given_files, read_flags, take_in_fields
from keras_sid2.bin.tables.sample import ANIMATED, ANIMATIONS, FORMATS, SHOWN, SampleFlags
from keras_sid2.evaluation import ImagesDigest
from keras_sid2.generation.provenance import write_provenance
from keras_sid2.io.image_files import field_pictures, image_grid, pyav, write_animation, write_png, write_pngs
from keras_sid2.parallel import processes

_SECONDS = 4.0  # that an animation of how images come about takes
_FRAMES_A_SECOND = 8  # of clips


def _take_suffix(values):
    """--out=X.nc is --out=X --format=nc, beside other formats that are given."""
    if values.out.endswith(".nc"):
        values.format = list(dict.fromkeys([*(values.format if values["format"].present else ()), "nc"]))
        values.out = values.out.removesuffix(".nc")


def _check_formats(values):
    if not values.format or not set(values.format) <= set(FORMATS):
        got = ",".join(values.format)
        raise ValueError(f"--format must be among {', '.join(FORMATS)}, with commas between, got {got!r}.")
    if values["frames"].present and not set(ANIMATIONS).intersection(values.format):
        raise ValueError(f"--frames goes with --format={' or '.join(ANIMATIONS)}.")
    if "mp4" in values.format:
        pyav()  # raises where it is not installed
    if values["frames"].present and values.frames > (values.num_steps or values.frames):
        raise ValueError(f"--frames must be at most --num_steps ({values.num_steps}), got {values.frames}.")


def main(values, console: Console | None = None) -> int:
    """All of it but the start of several processes; the exit code."""
    console = console or Console(stderr=True, quiet=processes.index() > 0)
    check(SampleFlags, values)
    _take_suffix(values)
    _check_formats(values)
    sampling_flags.check_width_flags(values)
    sampling_flags.check_width(values, values.ema_width)
    with sampling_flags.drawing_devices(values):
        return _draw(values, console)


def _draw(values, console: Console) -> int:
    request = Request(model=None, **read_flags(values))
    check_share(values.format, request.count)
    check_inputs(given_files(values), values.out, values.format)
    check_out(values.out, values.format)
    keep_compiled(values.compilation_cache, values.compile)
    request.model = model = sampling_flags.load_model_from_flags(values)
    sampling_flags.take_width(model, values, values.ema_width)
    check_channels(model.sample_shape[-1], values.format, model.channels is not None)
    if "nc" in values.format:
        check_writable(model)
    take_in_fields(request, values.condition, values.num_images is not None or values.labels is not None)
    if request.options["ensemble_size"] is not None and model.channels is None:
        raise ValueError("--ensemble_size is of models with channels; of others give each condition several times.")
    request.prompts = with_encoder(request.prompts, model, values.text_encoder, request.conditions)
    request.conditions = checked_conditions(request.conditions, model, request.count)
    if request.of_clips and values["frames"].present:
        raise ValueError("--frames is of animations of images; clips show their own frames (--num_frames).")
    if values.labels is None:
        request.take_classes_in_turn()
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
            print_line(console, f"sid2-sample: interrupted; {there}: the same command goes on.")
            return signals.exit_code(error)
    print_line(console, _summary(values.out, values.format, request))
    return 0


def _draw_share(request: Request, pieces, console: Console):
    """Draws this process's share and waits for the others; then the first one has the pieces of all."""
    mine = request.part(*processes.share(request.count, request.options["batch_size"]))
    for _ in drawn(mine, mine.count, pieces, console):
        pass
    processes.wait_for_all()
    if processes.index() == 0:
        pieces.join()


def _summary(out: str, formats: list[str], request: Request) -> str:
    """How many images were drawn, and where they are."""
    count = request.count
    drawn = max(_needed(formats, request), min(count, ANIMATED) if set(ANIMATIONS).intersection(formats) else 0)
    notes = {"grid": f" (the first {SHOWN})" if drawn > SHOWN else "", "pngs": "/"}
    written = [f"{path}{notes.get(name, '')}" for name, path in paths(out, formats).items()]
    kind = "clips" if request.of_clips else "images"
    return f"{count if drawn == count else f'{drawn} of {count}'} {kind}: {', '.join(written)}"


def _needed(formats: list[str], request: Request) -> int:
    """How many images the files hold; an animation of images draws its own."""
    if {"npz", "pngs", "nc"}.intersection(formats):
        return request.count
    animated = ANIMATED if request.of_clips and set(ANIMATIONS).intersection(formats) else 0
    return min(request.count, SHOWN if "grid" in formats else animated)


def _write(values, request: Request, settings: dict, pieces, console: Console):
    """Draws and writes everything."""
    out, formats, shown, done, digest, made = values.out, values.format, [], 0, ImagesDigest(), []
    animations = [f"{out}.{name}" for name in ANIMATIONS if name in formats]
    for images in digest.passing(drawn(request, _needed(formats, request), pieces, console)):
        if "grid" in formats or (animations and request.of_clips):
            shown.extend(images[: SHOWN - len(shown)])
        if "pngs" in formats:
            if not done:  # says whose pictures an interrupted program leaves
                write_provenance(out, ImagesDigest().hexdigest(), settings)
            write_pngs(out, images, start=request.first_image + done)
        if "nc" in formats:
            made.append(images)
        done += len(images)
    if "grid" in formats:
        write_png(f"{out}.png", _grid(request, np.stack(shown)))
    if "nc" in formats:
        write_fields(f"{out}.nc", request.model, np.concatenate(made), request.conditions, request.truth, settings)
    _write_animations(animations, request, shown, values.frames, console)
    if "pngs" in formats:
        write_provenance(out, digest.hexdigest(), settings)
    if pieces is not None:
        finish_npz(pieces, digest, settings)


def _grid(request: Request, images: np.ndarray) -> np.ndarray:
    """The picture of some images, of each channel of fields."""
    channels = request.model.channels
    if channels is None:
        return image_grid(images, request.captions(len(images)))
    single = images.reshape(-1, *images.shape[-len(request.model.sample_shape) :])[:SHOWN]
    return image_grid(field_pictures(single, channels))


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


def _write_animations(paths: list[str], request: Request, shown: list, frames: int, console: Console):
    """The first clips as they move, or how the first images come about."""
    if not paths:
        return
    if request.of_clips:
        clips = np.stack(shown[:ANIMATED])
        pictures = [image_grid(frame, request.captions(len(clips))) for frame in np.moveaxis(clips, 1, 0)]
        shape = {"seconds": len(pictures) / _FRAMES_A_SECOND, "hold": 0.0}
    else:
        pictures, shape = _frames(request, frames, console), {"seconds": _SECONDS}
    for path in paths:
        write_animation(path, pictures, **shape)


def _frames(request: Request, frames: int, console: Console) -> list[np.ndarray]:
    """How the first images come about: x_hat to the left, z_t to the right."""
    count = min(request.count, ANIMATED)
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
