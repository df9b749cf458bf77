"""Clips of more frames than the model's: each window goes on from the last frames of the one before it."""

import dataclasses
from collections.abc import Callable

import numpy as np

from keras_sid2.conditions import Frames
from keras_sid2.shapes import whole_number

_APART = 0x9E3779B1  # between the seeds of windows: odd, so that no two of 2^32 are the same


def checked_num_frames(request) -> int:
    """`request.num_frames`; ValueError unless its model can go on from frames, and has no more of them."""
    frames, name = request.model.sample_shape[0], _name_of_frames(request.model)
    if name is None:
        raise ValueError("num_frames= is for models with the condition keras_sid2.conditions.Frames, to go on from.")
    if name in request.negative_conditions:
        raise ValueError(f"num_frames= goes without {name} in negative_conditions, which would be of one window.")
    if request.init is not None or request.known is not None:
        raise ValueError("num_frames= goes without init and known, which are of one window.")
    if request.ensemble_size is not None:
        raise ValueError("num_frames= goes without ensemble_size: give each condition as often as there are members.")
    return whole_number(f"num_frames, of a model of {frames} frames,", request.num_frames, least=frames)


def windows_of(request) -> int:
    """How many windows each sample is drawn in."""
    if request.num_frames is None:
        return 1
    frames, given = request.model.sample_shape[0], request.model.conditions[_name_of_frames(request.model)].counts[1]
    return 1 + -(-(request.num_frames - frames) // (frames - given))


def continued(request, clips: np.ndarray, start: int, report: Callable[[int, int], None] | None = None) -> np.ndarray:
    """[n, num_frames, H, W, C]: `clips` [n, F, H, W, C], the first window of samples from number `start` on, and on.
    `report` is called with (window, steps done in it).

    The noise of window w is of the seed (seed + w * 2654435761) mod 2^32: our choice.
    """
    name, rows = _name_of_frames(request.model), slice(start, start + len(clips))
    given = request.model.conditions[name].counts[1]
    alike = {"labels": None, "num_images": len(clips), "num_frames": None}
    negative = {key: values[rows] for key, values in request.negative_conditions.items()}
    # A class that nobody may give.
    nulls = {key: condition.given_null for key, condition in request.model.conditions.items()}
    same = {key: values[rows] for key, values in request.conditions.items() if (values != nulls[key]).any()}
    window = 0
    while clips.shape[1] < request.num_frames:
        window += 1
        changes = alike | {
            "conditions": same | {name: clips[:, -given:]},
            "negative_conditions": negative,
            "first_image": request.first_image + start,
            "seed": (request.seed + window * _APART) % 2**32,
            "progress": report and (lambda done, _, window=window: report(window, done)),
        }
        made = dataclasses.replace(request, **changes).images()
        clips = np.concatenate([clips, made[:, given:]], axis=1)
    return clips[:, : request.num_frames]


def _name_of_frames(model) -> str | None:
    return next((name for name, c in model.conditions.items() if isinstance(c, Frames)), None)
