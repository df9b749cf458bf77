"""The flags of sid2-sample."""

import dataclasses

from keras_sid2.bin.flag_table import IN_UNIT_INTERVAL, at_least, flag
from keras_sid2.bin.tables.shared import CacheFlags, ProcessFlags, SamplingFlags

ANIMATIONS = ("gif", "webp", "mp4")
FORMATS = ("grid", "npz", "pngs", *ANIMATIONS, "nc")
SHOWN = 400  # images in the grid, at most
ANIMATED = 16


@dataclasses.dataclass(frozen=True, kw_only=True)
class PromptFlags:
    text: tuple = flag((), "what to draw; any number of times, and the images have them in turn")
    text_file: str | None = flag(None, "a file with such a text in each line")
    negative_text: str | None = flag(None, "what guidance leads away from; with --guidance_scale")
    text_encoder: str | None = flag(None, "minilm, transformers:PATH_OR_NAME, ...; the one that the model names")


@dataclasses.dataclass(frozen=True, kw_only=True)
class SampleFlags(SamplingFlags, PromptFlags, ProcessFlags, CacheFlags):
    out: str = flag("samples", "path of the files, without suffix, or X.nc; a finished .npz of the same request stays")
    format: list = flag(
        ("grid", "npz"), f"{', '.join(FORMATS)}; a grid has the first {SHOWN} images, an animation {ANIMATED}"
    )
    num_images: int | None = flag(None, "how many; with classes and no --labels, the classes in turn", at_least(1))
    labels: list | None = flag(None, "a class for each image, as 0,1,2; or none, for images of no class")
    first_image: int = flag(0, "number of the first image, and of its class, to continue a request", at_least(0))
    init: str | None = flag(None, "start from these images: a PNG for all, or an .npz; with --t_start")
    t_start: float | None = flag(None, "in (0, 1], how much of the noise is put on --init", IN_UNIT_INTERVAL)
    known: str | None = flag(None, "keep a part of these images: a PNG for all, or an .npz; with --mask")
    mask: str | None = flag(None, "a PNG, white where --known is kept")
    resamplings: int = flag(1, "times each step is done: more fit --known better, and cost", at_least(1), needs="known")
    frames: int = flag(32, "of an animation of how images come about; never more than --num_steps", at_least(1))
    condition: tuple = flag((), "name=FILE: .npy or .npz, values one a sample or one for all; of fields a .nc or .zarr")
    ensemble_size: int | None = flag(None, "members drawn for each sample", at_least(1))
    clip: list | None = flag(None, "of fields, lowest,highest in their units, as 0,none; no limits if not given")
    num_frames: int | None = flag(None, "of clips, which then go on from the last frames; the model's", at_least(1))
