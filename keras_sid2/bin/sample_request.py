"""What sid2-sample was asked to draw: its flags as a request that is drawn in spans."""

import dataclasses
import os
from collections.abc import Iterator, Sequence

import numpy as np

from keras_sid2 import SampleRequest, SiD2Model
from keras_sid2.bin import sampling_flags
from keras_sid2.bin.common import SamplingProgress
from keras_sid2.bin.field_files import is_field_file, read_fields
from keras_sid2.bin.flag_table import parsed
from keras_sid2.bin.prompts import Prompts, read_prompts
from keras_sid2.conditions import TextEmbedding
from keras_sid2.generation.request import array_digest
from keras_sid2.io.image_reading import read_array, read_images

_SPAN = 1024  # images, about, that one SampleRequest is made of: it holds what is given for them in float32


@dataclasses.dataclass
class Request:
    """What to draw; a SampleRequest of all of it would hold what is given for each image, so it is drawn in spans.

    Args:
        options: arguments of `SampleRequest` that are the same for all images.
        labels: int [count], or None for a model without classes.
        given: "init" and "known", where they are, as uint8 [1 or count, H, W, C].
        conditions: of the model, but for labels, [1 or count, ...] by name.
        truth: of fields, what they should be, float32 [1 or count, ...], where it is known.
        prompts: of models of texts; image i has number first_image + i of them, in turn.
    """

    model: SiD2Model
    count: int
    first_image: int
    labels: np.ndarray | None
    options: dict
    given: dict[str, np.ndarray]
    conditions: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)
    truth: np.ndarray | None = None
    prompts: Prompts = Prompts()

    @property
    def of_clips(self) -> bool:
        return len(self.model.sample_shape) == 4

    def sample_request(self, first: int, last: int, progress=None) -> SampleRequest:
        """Of images first <= i < last."""
        given, conditions = (
            {name: np.broadcast_to(v, (self.count, *v.shape[1:]))[first:last] for name, v in values.items()}
            for values in (self.given, self.conditions)
        )
        given |= {"conditions": conditions} if conditions else {}
        labels = None if self.labels is None else self.labels[first:last]
        numbers = {"num_images": last - first, "first_image": self.first_image + first}
        given |= self.prompts.options(self.first_image + first, self.first_image + last)
        return SampleRequest(self.model, labels, progress=progress, **numbers, **given, **self.options)

    def part(self, first: int, last: int) -> "Request":
        """Of images first <= i < last."""
        given, conditions = (
            {name: v if len(v) == 1 else v[first:last] for name, v in values.items()}
            for values in (self.given, self.conditions)
        )
        labels = None if self.labels is None else self.labels[first:last]
        own = {"labels": labels, "given": given, "conditions": conditions}
        return dataclasses.replace(self, count=last - first, first_image=self.first_image + first, **own)

    def take_classes_in_turn(self):
        """For a model with classes, where none were given."""
        if self.model.num_classes is not None:
            self.labels = (self.first_image + np.arange(self.count)) % self.model.num_classes

    def describe(self) -> dict:
        """As SampleRequest's, of all images; raises what that raises."""
        if self.labels is not None and self.model.num_classes:
            self.model.conditions["label"].check("label", self.labels)
        labels = np.full(self.count, self.model.num_classes or 0) if self.labels is None else self.labels
        whole = {"images": self.count, "labels": array_digest(labels.astype("int32"))}  # as one SampleRequest would
        whole |= {name: array_digest(values) for name, values in (self.given | self.conditions).items()}
        asked = self.sample_request(0, min(self.count, self.options["batch_size"])).describe()
        told = self.prompts.described()
        if told:  # in place of what the first ones became
            asked = {key: value for key, value in asked.items() if key.removeprefix("negative ") not in self._texts}
        return asked | whole | told

    @property
    def _texts(self) -> set[str]:
        """The names of the model's texts that are not given as arrays."""
        kinds = self.model.conditions.items()
        return {key for key, kind in kinds if isinstance(kind, TextEmbedding) and key not in self.conditions}

    def captions(self, count: int) -> list[str] | None:
        """The texts, or else classes, of the first images, for people."""
        if self.prompts.texts:
            return self.prompts.of(self.first_image, self.first_image + count)
        return None if self.labels is None else [str(label) for label in self.labels[:count]]

    def batches(self, start: int, stop: int, line: SamplingProgress) -> Iterator[np.ndarray]:
        """Images start <= i < stop, [at most batch_size, H, W, C] at a time; of ensembles [some, E, H, W, C]."""
        members = self.options.get("ensemble_size")
        batch = self.options["batch_size"] if members is None else -(-self.options["batch_size"] // members)
        size = batch * max(1, _SPAN // (batch * (members or 1)))
        while start < stop:
            last = stop if stop - start < 2 * size else start + size  # so that no batch is of a size of its own
            asked = self.sample_request(start, last, line.part(start, last - start))
            yield from asked.batches() if members is None else [asked.images()]
            start = last


def read_flags(values) -> dict:
    """Arguments of `Request` beside the model, whose labels may yet be missing; raises for all that is wrong in it."""
    labels = None if values.labels == ["none"] else parsed("labels", values.labels, int)
    if labels is not None and values.num_images not in (None, len(labels)):
        raise ValueError(f"--labels are {len(labels)} and --num_images={values.num_images}: give one of them.")
    for first, second in (("init", "t_start"), ("known", "mask")):
        if (values[first].value is None) != (values[second].value is None):
            raise ValueError(f"--{first} and --{second} go together: give both or neither.")
    conditions = _conditions(values.condition)
    prompts = read_prompts(values)
    if values.num_images is not None and values.num_images < len(values.text):
        told = f"--text is given {len(values.text)} times and --num_images={values.num_images}"
        raise ValueError(f"{told}: leave it out, or give --num_images={len(values.text)} or more.")
    count = len(labels) if labels is not None else values.num_images or len(prompts.texts) or 16
    given = {name: read_images(values[name].value) for name in ("init", "known") if values[name].value is not None}
    for name, images in given.items():
        if len(images) not in (1, count):
            raise ValueError(f"--{name} must hold one image, or one for each of the {count}, got {len(images)}.")
    alike = {"t_start": values.t_start, "mask": _mask(values.mask), "resamplings": values.resamplings}
    alike |= {"num_frames": values.num_frames, "ensemble_size": values.ensemble_size, "clip": _clip(values.clip)}
    return {
        "count": count,
        "first_image": values.first_image,
        "labels": None if labels is None else np.array(labels),
        "given": given,
        "conditions": conditions,
        "prompts": prompts,
        "options": alike | sampling_flags.sampling_options(values),
    }


def given_files(values) -> list[str]:
    """What is read beside the model; of flags that `read_flags` took."""
    named = [values[name].value for name in ("init", "known", "mask") if values[name].value is not None]
    return [*named, *(text.partition("=")[2] or text for text in values.condition)]


def _conditions(texts: Sequence[str]) -> dict[str, np.ndarray]:
    """The arrays in the files of name=FILE, by name."""
    found = {}
    for text in texts:
        if is_field_file(text):  # read when the model is known
            continue
        name, equals, path = text.partition("=")
        if not (name and equals and path) or name in found:
            raise ValueError(f"--condition must be name=FILE, once a name, got {', '.join(texts)!r}.")
        found[name] = read_array(os.path.expanduser(path))  # which shells leave alone
    return found


def _clip(given: list | None) -> tuple | None:
    """(lowest, highest) of --clip, None for an end without a limit."""
    ends = parsed("clip", given, lambda end: None if end == "none" else float(end), "two numbers, or none, as 0,none")
    if ends is not None and len(ends) != 2:
        raise ValueError(f"--clip must be lowest,highest, none where there is no limit, as 0,none; got {given}.")
    return None if ends is None else tuple(ends)


def take_in_fields(request: "Request", texts: Sequence[str], counted: bool):
    """Adds what the files of fields among the --condition hold to a request that has its model; unless `counted`, as
    many samples as they have are drawn."""
    paths = [text for text in texts if is_field_file(text)]
    if len(paths) > 1:
        raise ValueError(f"--condition takes one file of fields, got {', '.join(paths)}.")
    for path in paths:
        conditions, request.truth = read_fields(path, request.model)
        request.conditions = {**conditions, **request.conditions}
        values = [*conditions.values(), *([] if request.truth is None else [request.truth])]
        there = max(map(len, values), default=request.count)
        request.count = request.count if counted else there
        if request.truth is not None and len(request.truth) not in (1, request.count):
            told = f"must hold one, or one for each of the {request.count}, got {len(request.truth)}"
            raise ValueError(f"--condition={path} {told}: give --num_images={len(request.truth)}.")


def checked_conditions(conditions: dict, model: SiD2Model, count: int) -> dict[str, np.ndarray]:
    """`conditions` as [1 or count, ...]; ValueError for what the model does not take. As they are given, they take less
    memory than as networks get them."""
    found = {}
    for name, values in conditions.items():
        if name not in model.conditions or name == "label":
            known = ", ".join(each for each in model.conditions if each != "label") or "none but --labels"
            raise ValueError(f"--condition names {name}, and this model's conditions are {known}.")
        condition = model.conditions[name]
        values = values[None] if values.ndim == len(condition.shape) else values
        for start in range(0, len(values), _SPAN):
            condition.check(name, values[start : start + _SPAN])
        found[name] = values
        if len(values) not in (1, count):
            given = f"got {len(values)}: give --num_images={len(values)}, or as many --labels"
            raise ValueError(f"--condition={name}=FILE must hold one, or one for each of the {count}, {given}.")
    return found


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
