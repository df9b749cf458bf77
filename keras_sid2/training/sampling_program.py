"""The compiled side of sampling: one program for each kind of request, run with any weights, labels and settings.

A program advances a batch from one step to another, both given when it runs. So the same one draws a batch at a go,
or in pieces where somebody watches the progress or keeps the trajectory.
"""

import dataclasses
import functools
from collections.abc import Callable

import numpy as np
from keras import ops

from keras_sid2 import backend
from keras_sid2.sampling import SamplingLoop, clipped, denoiser, guided, guided_in_one_batch, thresholded


def program(drawing) -> "Program":
    """The program of a Drawing with its settings, kept on the model: made at the first request of its kind."""
    programs = drawing.model.sampling_programs
    kind = _Kind.of(drawing)
    if "start" not in programs:  # it is the same for all of them
        shape = drawing.model.image_shape
        start = functools.partial(_start, shape)
        programs["start"] = backend.compiled(start, [], jit_compile=_jit_compile(drawing.model))
    if kind not in programs:
        _forget_other_weaker_models(programs, kind.weaker)
        programs[kind] = _Compiled(drawing.model, kind)
    return Program(programs["start"], programs[kind], drawing)


def _forget_other_weaker_models(programs: dict, weaker):
    """One at a time is kept: programs hold their models, and whoever tries one after another has no room for all."""
    for kind in [k for k in programs if isinstance(k, _Kind) and k.weaker not in (None, weaker)]:
        del programs[kind]


def _start(image_shape: tuple[int, ...], batch: dict, shared: dict):
    """The state before step 0."""
    return SamplingLoop(denoise=None, sampler=None, image_shape=image_shape, **_given(batch, shared)).start()


def _given(batch: dict, shared: dict) -> dict:
    """The arguments of a SamplingLoop that are tensors."""
    known = (batch["known"], batch["mask"]) if "known" in batch else None
    return {"logsnr": shared["logsnr"], "keys": batch["keys"], "init": batch.get("init"), "known": known}


def _jit_compile(model) -> bool:
    return bool(model.compiled and model.jit_compile)


@dataclasses.dataclass(frozen=True)
class _Kind:
    """What a program is compiled for."""

    sampler: Callable
    acts: bool
    one_batch: bool
    curve: Callable | None
    threshold: float | None
    weaker: object
    resamplings: int

    @classmethod
    def of(cls, drawing) -> "_Kind":
        guidance = drawing.guidance
        curve = guidance.scale if callable(guidance.scale) else None
        guiding = (guidance.acts, guidance.one_batch, curve)
        return cls(drawing.sampler, *guiding, drawing.dynamic_threshold, drawing.weaker, drawing.resamplings)


class _Compiled:
    """The compiled steps of one kind of request; their number is a shape, all else is given when they run."""

    def __init__(self, model, kind: _Kind):
        self.model, self.kind = model, kind
        threshold = kind.threshold
        self._limited = clipped if threshold is None else lambda denoise: thresholded(denoise, threshold)
        self._limited(lambda z_t, logsnr_t: z_t)  # refuses a quantile that is none
        self.advance = backend.compiled(self._advance, self._variables(), jit_compile=_jit_compile(model))

    def _models(self) -> list:
        return [self.model] if self.kind.weaker is None else [self.model, self.kind.weaker]

    def _variables(self) -> list:
        return [v for model in self._models() for v in _variables(model)]

    def values(self, use_ema: bool) -> list:
        """Of the variables that the program reads: the weights of now, or their averages."""
        pairs = [pair for model in self._models() for pair in model.network_values(use_ema=use_ema)]
        return [ops.convert_to_tensor(value) for _, value in pairs]

    def _advance(self, state, batch: dict, shared: dict, first, last):
        return self._loop(batch, shared).advance(state, first, last)

    def _loop(self, batch: dict, shared: dict) -> SamplingLoop:
        labels, kind = batch["labels"], self.kind
        scale = kind.curve or shared["scale"]
        return SamplingLoop(
            denoise=self._limited(_estimate(self.model, labels)),
            denoise_guided=self._limited(self._guided(labels, scale)) if kind.acts else None,
            guided_steps=(shared["guided_steps"][0], shared["guided_steps"][1]) if kind.acts else (0, 0),
            sampler=kind.sampler,
            image_shape=self.model.image_shape,
            resamplings=kind.resamplings,
            **_given(batch, shared),
        )

    def _guided(self, labels, scale):
        if self.kind.weaker is not None:
            return guided(_estimate(self.model, labels), _estimate(self.kind.weaker, labels), scale)
        no_class = ops.full_like(labels, self.model.num_classes or 0)
        if self.kind.one_batch:
            return guided_in_one_batch(_estimate(self.model, ops.concatenate([labels, no_class])), scale)
        return guided(_estimate(self.model, labels), _estimate(self.model, no_class), scale)


def _estimate(model, labels):
    """x_hat of a model's network for labels int32 [B]."""
    given, network = () if model.num_classes is None else (labels,), _network(model)
    return denoiser(lambda z_t, logsnr_t: network(z_t, logsnr_t, *given), model.prediction)


def _network(model) -> Callable:
    """network(z_t, logsnr_t, label, where there are classes) -> its output, kept on the model."""
    programs = model.sampling_programs
    if "network" not in programs:

        def predict(z_t, logsnr_t, label=None):
            return model.network((z_t, logsnr_t, label), training=False)

        programs["network"] = backend.recorded(predict, _variables(model))
    return programs["network"]


def _variables(model) -> list:
    return list(model.network.variables)


class Program:
    """Compiled functions with the settings of one Drawing."""

    def __init__(self, start: Callable, compiled: _Compiled, drawing):
        self._start, self._compiled, guidance = start, compiled, drawing.guidance
        settings = {
            "logsnr": drawing.logsnr,
            "guided_steps": np.asarray(guidance.steps(drawing.logsnr[:-1]), "int32"),
            "scale": np.float32(0.0 if callable(guidance.scale) else guidance.scale),
        }
        self._shared = {name: ops.convert_to_tensor(value) for name, value in settings.items()}

    def run(self, batch: dict[str, np.ndarray], use_ema: bool) -> "Run":
        """A batch at its first state; `batch` holds keys int32 [B, 2], labels int32 [B], and init, known, mask."""
        batch = {name: backend.on_batch_shards(values) for name, values in batch.items()}
        return Run(self._compiled, self._start([], batch, self._shared), batch, self._shared, use_ema)


class Run:
    """A batch on its way; `state` is that of a SamplingLoop."""

    def __init__(self, compiled: _Compiled, state, batch: dict, shared: dict, use_ema: bool):
        self.state, self._batch, self._shared = state, batch, shared
        self._advance, self._values = compiled.advance, compiled.values(use_ema)

    def advance(self, first: int, last: int):
        """Does the steps first <= i < last."""
        edges = (ops.convert_to_tensor(np.int32(edge)) for edge in (first, last))
        self.state = self._advance(self._values, self.state, self._batch, self._shared, *edges)

    def result(self):
        """x_hat float32 [B, H, W, C], with what is known in its place."""
        x_hat = self.state[1]
        if "known" not in self._batch:
            return x_hat
        return ops.where(self._batch["mask"], self._batch["known"], x_hat)
