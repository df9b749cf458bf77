"""A preset for data that no preset is for: a network of a named size, and what the paper's numbers become at its shape.

All of it is our choice (grade O), made so that at 256 and 512 pixels size "large" is the paper's network:

    patches      1 up to 32 pixels, then as many as leave 128 positions a side: 2 at 256, 4 at 512
    levels       halved until 16 x 16 positions or fewer are left in the middle; two at least from 8 x 8 on
    transformer  the middle, and of four levels or more the one above it
    widths       halved from the middle up
    schedule     from 32 pixels on the paper's interpolated cosine, else the plain cosine
    texts        whitened
    bias         between the paper's (128 to 1024 pixels) straight in the logarithm of the side; 2 at 64 and below

The side of what is not square is the geometric mean of height and width.
"""

import dataclasses
import itertools
import math
import pprint
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from keras_sid2.channels import Channels
from keras_sid2.conditions import Frames, TextEmbedding
from keras_sid2.diffusion import CosineInterpolatedSchedule, CosineSchedule, DiffusionObjective, SigmoidWeighting
from keras_sid2.diffusion.weighting import PAPER_BIAS
from keras_sid2.models import Level
from keras_sid2.shapes import as_image_shape
from keras_sid2.training.optimizer import AdamRecipe
from keras_sid2.training.preset import Preset

_MIDDLE, _MOST = 16 * 16, 32 * 32  # positions in the middle: wanted at most, and at most
_WHOLE_CLIP = 1024  # positions of all frames up to which attention is over all of them
_BIAS = {64: 2.0, **PAPER_BIAS}


class Size(NamedTuple):
    """Width, blocks and head_dim of the middle, blocks elsewhere, dropout, and how it is trained."""

    width: int
    middle: int
    blocks: int
    head_dim: int
    dropout: float
    learning_rate: float
    warmup_steps: int
    ema_decay: float
    batch_size: int


SIZES = {
    "tiny": Size(128, 4, 1, 32, 0.0, 5e-4, 500, 0.999, 64),
    "small": Size(256, 6, 2, 64, 0.1, 3e-4, 1000, 0.999, 64),
    "base": Size(512, 12, 2, 64, 0.1, 2e-4, 5000, 0.9999, 128),
    "large": Size(1024, 16, 3, 128, 0.1, 1e-4, 10_000, 0.9999, 256),
}
_UP_TO = {64: "tiny", 128: "small", 256: "base"}  # pixels along a side; large above


def proposed_preset(
    sample_shape,
    num_classes: int | None,
    *,
    size: str | None = None,
    examples=None,
    given_frames: int | None = None,
    channels: Channels | None = None,
    conditions: Mapping | None = None,
) -> Preset:
    """A preset for samples (H, W, C) or (F, H, W, C) of `num_classes`, or of none.

    `size` is one of SIZES, None by the samples' side. Of few `examples` the batch is no larger than they are. Of clips
    the first `given_frames` are a condition, "given"; None: no frames are. `channels` are of fields, `conditions` what
    else the network is conditioned on, texts whitened. Raises ValueError for another size or shape,
    and for one that patches and halving do not divide, with a crop that they do.
    """
    *frames, height, width, _ = shape = as_image_shape(sample_shape)
    side = math.sqrt(height * width)
    if size is None:
        size = next((name for most, name in _UP_TO.items() if side <= most), "large")
    if size not in SIZES:
        raise ValueError(f"--size must be one of {', '.join(SIZES)}, got {size!r}.")
    chosen, patch = SIZES[size], _patch_and_depth(height, width)
    if patch is None:
        advice = "give --crop=center --image_size={}x{}, or prepare such images".format(*_nearest_crop(height, width))
        wrong = f"No network is proposed for {height} x {width}, which patches and halving do not divide"
        raise ValueError(f"{wrong}: {advice}.")
    patch_size, depth = patch
    if given_frames is not None and not frames:
        raise ValueError(f"--given_frames={given_frames} is of clips, and the data are images.")
    beside = {} if given_frames is None else {"given": Frames(shape, given_frames, channels)}
    for name, condition in (conditions or {}).items():
        of_text = isinstance(condition, TextEmbedding)
        beside[name] = dataclasses.replace(condition, whitened=True) if of_text else condition
    given = {"conditions": beside} if beside else {}
    kind = "clips" if frames else "fields" if channels else "images"
    return Preset(
        name="_".join([size, "x".join(map(str, shape)), *([str(num_classes)] if num_classes else [])]),
        description=f"proposed for {kind} {shape} of {num_classes or 'no'} classes: {size}",
        network={
            "image_shape": shape,
            "patch_size": patch_size,
            "num_classes": num_classes,
            "embedding_dim": chosen.width,
            "levels": _levels(chosen, depth, frames, (height // patch_size) * (width // patch_size)),
            **given,
        },
        objective=proposed_objective(shape),
        label_dropout=0.1 if num_classes or given else 0.0,
        recipe=AdamRecipe(chosen.learning_rate, chosen.warmup_steps, ema_decay=chosen.ema_decay, ema_warmup=True),
        batch_size=min(chosen.batch_size, 2 ** int(math.log2(examples)) if examples else chosen.batch_size),
        num_steps=256,
        channels=channels,
    )


def proposed_objective(sample_shape) -> DiffusionObjective:
    """The schedule and the bias for samples (H, W, C) or (F, H, W, C), and v-prediction."""
    *_, height, width, _ = as_image_shape(sample_shape)
    side = math.sqrt(height * width)
    schedule = CosineSchedule() if side < 32 else CosineInterpolatedSchedule(round(side, 2), low=32.0)
    bias = round(float(np.interp(math.log2(side), np.log2(list(_BIAS)), list(_BIAS.values()))), 2)
    return DiffusionObjective(schedule, SigmoidWeighting(bias))


def _patch_and_depth(height: int, width: int) -> tuple[int, int] | None:
    """(patch_size, number of levels), or None where nothing divides."""
    side = math.sqrt(height * width)
    wanted = 1 if side <= 32 else max(2, 2 ** math.ceil(math.log2(side / 128)))
    for patch in sorted(range(1, 2 * wanted + 1), key=lambda patch: abs(math.log(patch / wanted))):
        if height % patch or width % patch:
            continue
        rows, columns, depth = height // patch, width // patch, 1
        while rows * columns > (_MIDDLE if depth > 1 else 63) and not rows % 2 and not columns % 2:
            rows, columns, depth = rows // 2, columns // 2, depth + 1
        if rows * columns <= _MOST:
            return patch, depth
    return None


def _nearest_crop(height: int, width: int) -> tuple[int, int]:
    """The largest smaller size that something divides."""
    sizes = itertools.product(range(height, max(0, height - 32), -1), range(width, max(0, width - 32), -1))
    return next(size for size in sorted(sizes, key=math.prod, reverse=True) if _patch_and_depth(*size))


def _levels(size: Size, depth: int, frames: list[int], positions: int) -> tuple[Level, ...]:
    found = []
    for i in range(depth):
        width = max(32, size.width // 2 ** (depth - 1 - i))
        blocks = size.middle if i == depth - 1 else size.blocks
        if i == depth - 1 or (depth >= 4 and i == depth - 2):
            whole = math.prod(frames) * positions // 4**i <= _WHOLE_CLIP
            over = {"attention": "alternate"} if frames and not whole else {}
            head_dim = min(size.head_dim, width)
            found.append(Level("transformer", width, blocks, dropout=size.dropout, head_dim=head_dim, **over))
        else:
            found.append(Level("res", width, blocks))
    return tuple(found)


def config_text(preset: Preset) -> str:
    """A file for --config that defines a preset of a ResidualUViT, to be edited."""
    of_diffusion = {type(part).__name__ for part in (preset.schedule, preset.objective, preset.weighting)}
    others = ", ".join(sorted({type(c).__name__ for c in preset.network.get("conditions", {}).values()}))
    text = pprint.pformat(preset, width=110, sort_dicts=False)
    return (
        f'"""{preset.description.capitalize()}, by sid2-train. Edit it, and give it to --config."""\n\n'
        + ("from keras_sid2 import Channels\n" if "Channels(" in text else "")
        + (f"from keras_sid2.conditions import {others}\n" if others else "")
        + f"from keras_sid2.diffusion import {', '.join(sorted(of_diffusion))}\n"
        "from keras_sid2.models import Level\n"
        "from keras_sid2.training import AdamRecipe, Preset\n\n"
        f"preset = {text}\n"
    )
