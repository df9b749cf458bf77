"""The compiled side of sampling: one program for each kind of request, run with any weights, labels and settings.

A program advances a batch from one step to another, both given when it runs. So the same one draws a batch at a go,
or in pieces where somebody watches the progress or keeps the trajectory.
"""

import contextlib
import dataclasses
import functools
import weakref
from collections.abc import Callable

import keras
import numpy as np
from keras import ops

from keras_sid2 import backend, threefry
from keras_sid2.conditions import call_network
from keras_sid2.sampling import (
    Sampler,
    SamplingLoop,
    clipped,
    denoiser,
    guided,
    guided_in_one_batch,
    scale_between,
    thresholded,
)

_SAMPLE = 2  # stream of a seed, beside those of sid2_model
_MOST = 12  # programs that a model keeps; the one that was not used for longest goes


def program(request) -> "Program":
    """The program of a SampleRequest with its settings, kept on the model: made at the first request of its kind."""
    kind = _Kind.of(request)
    model, programs = request.model, request.model.sampling_programs
    jit_compile = bool(model.compiled and model.jit_compile)
    of_ends = ("ends", request.dtype, *kind.shape)  # the same for all kinds with these shapes
    ends = _kept(programs, of_ends, lambda: _Ends(model.sample_shape, request.dtype, jit_compile))
    return Program(ends, _kept(programs, kind, lambda: _Compiled(kind, request.sampler, jit_compile)), request)


def _kept(programs: dict, key, make: Callable):
    """programs[key], made if it is not there; the newest is the last one, and the oldest goes where there are many."""
    found = programs.pop(key, None)
    programs[key] = make() if found is None else found
    if len(programs) > _MOST:
        del programs[next(name for name in programs if not isinstance(name, str))]
    return programs[key]


class _Ends:
    """What is done before the first step and after the last one, compiled: operations one by one are programs, too."""

    def __init__(self, image_shape: tuple[int, ...], dtype: str, jit_compile: bool):
        def start(batch: dict, shared: dict):
            batch = {**batch, "keys": threefry.fold_in(shared["key"], batch["numbers"])}
            loop = SamplingLoop(denoise=None, sampler=Sampler(), image_shape=image_shape, **_given(batch, shared))
            return loop.start()[:2], batch["keys"]

        def store(x):
            sound = ops.all(ops.isfinite(x), axis=tuple(range(1, len(x.shape))))
            x = ops.clip(x, -1.0, 1.0)
            return (x if dtype == "float32" else ops.cast(ops.round((x + 1.0) * 127.5), "uint8")), sound

        self.start, self.store = (backend.compiled(f, [], jit_compile=jit_compile) for f in (start, store))


def _given(batch: dict, shared: dict) -> dict:
    """The arguments of a SamplingLoop that are tensors."""
    known = (batch["known"], batch["mask"]) if "known" in batch else None
    return {"logsnr": shared["logsnr"], "keys": batch["keys"], "init": batch.get("init"), "known": known}


class _Source:
    """What programs read of a model, one for as long as it stays the same; it keeps no model alive.

    So programs of a guidance network do not hold its weights, and of a network or a variable that was exchanged (LoRA
    adds some) there is no program left that would draw from what it was.
    """

    def __init__(self, model):
        self._refer = weakref.ref(model)
        self._network, self._prediction = weakref.ref(model.network), model.prediction
        self._variables = [weakref.ref(v) for v in model.network.variables]

    @classmethod
    def of(cls, model) -> "_Source":
        """The model's, which is made anew, with all its programs, where the model has changed."""
        found = model.sampling_programs.get("source")
        if found is None or not found._fits(model):
            model.sampling_programs.clear()
            found = model.sampling_programs["source"] = cls(model)
        return found

    def _fits(self, model) -> bool:
        before, now = self.variables, model.network.variables
        same = len(before) == len(now) and all(a is b for a, b in zip(before, now, strict=True))
        return same and self._network() is model.network and self._prediction == model.prediction

    @property
    def model(self):
        return self._refer()

    @property
    def variables(self) -> list:
        """In an order that freezing a layer does not change."""
        return [v() for v in self._variables]

    def values(self, use_ema: bool) -> list:
        """Of the variables: the weights of now, or their averages."""
        return [ops.convert_to_tensor(value) for _, value in self.model.network_values(use_ema=use_ema)]


@dataclasses.dataclass(frozen=True)
class _Kind:
    """What a program is compiled for."""

    source: _Source
    guidance_network: _Source | None
    sampler: object
    acts: bool
    one_batch: bool
    curve: bool
    threshold: float | None
    resamplings: int
    shape: tuple

    @classmethod
    def of(cls, request) -> "_Kind":
        guidance, guidance_network = request.guidance, request.guidance_network
        return cls(
            source=_Source.of(request.model),
            guidance_network=None if guidance_network is None else _Source.of(guidance_network),
            sampler=_told_apart(request.sampler),
            acts=guidance.acts,
            one_batch=guidance.one_batch,
            curve=callable(guidance.scale),
            threshold=request.dynamic_threshold,
            resamplings=request.resamplings,
            shape=(request.images_at_once, request.num_steps, request.init is not None, request.known is not None),
        )


def _told_apart(sampler):
    """Itself where equal ones do the same; else which object it is and what it holds now, as it may be changed."""
    if dataclasses.is_dataclass(sampler) and sampler.__dataclass_params__.frozen:
        with contextlib.suppress(TypeError):  # where it holds lists
            hash(sampler)
            return sampler
    sampler = getattr(sampler, "function", sampler)  # of version 0.1
    owner = getattr(sampler, "__self__", sampler)  # of a bound method
    return id(owner), getattr(sampler, "__func__", None), str(getattr(owner, "__dict__", ""))


class _Compiled:
    """The compiled steps of one kind of request; what is no shape is given when they run."""

    def __init__(self, kind: _Kind, sampler: Callable, jit_compile: bool):
        self.kind, self.sampler = kind, sampler
        self._sources = [kind.source] if kind.guidance_network is None else [kind.source, kind.guidance_network]
        threshold = kind.threshold
        self._limited = clipped if threshold is None else lambda denoise: thresholded(denoise, threshold)
        self._limited(lambda z_t, logsnr_t: z_t)  # refuses a quantile that is none
        self.advance = functools.partial(backend.compiled(self._advance, [], jit_compile=jit_compile), [])

    @property
    def variables(self) -> list:
        return [v for source in self._sources for v in source.variables]

    def values(self, use_ema: bool) -> list:
        """Of the variables that the program reads."""
        return [value for source in self._sources for value in source.values(use_ema)]

    def _advance(self, values: list, state, batch: dict, shared: dict, first, last):
        with keras.StatelessScope(list(zip(self.variables, values, strict=True))):
            return self._loop(batch, shared).advance(state, first, last)

    def _loop(self, batch: dict, shared: dict) -> SamplingLoop:
        given, kind = _under("given", batch), self.kind
        scale = scale_between(shared["logsnr"], shared["scale"]) if kind.curve else shared["scale"]
        return SamplingLoop(
            denoise=self._limited(_estimate(kind.source.model, given)),
            denoise_guided=self._limited(self._guided(given, _under("negative", batch), scale)) if kind.acts else None,
            guided_steps=(shared["guided_steps"][0], shared["guided_steps"][1]) if kind.acts else (0, 0),
            sampler=self.sampler,
            image_shape=kind.source.model.sample_shape,
            resamplings=kind.resamplings,
            **_given(batch, shared),
        )

    def _guided(self, given: dict, negative: dict, scale):
        model, guidance_network = self.kind.source.model, self.kind.guidance_network
        if guidance_network is not None:
            return guided(_estimate(model, given), _estimate(guidance_network.model, given), scale)
        base = {**given, **{name: _null(model, name, given[name]) for name in model.guided_conditions}, **negative}
        if self.kind.one_batch:
            both = {name: ops.concatenate([values, base[name]]) for name, values in given.items()}
            return guided_in_one_batch(_estimate(model, both), scale)
        return guided(_estimate(model, given), _estimate(model, base), scale)


def _null(model, name: str, values):
    return ops.broadcast_to(ops.convert_to_tensor(model.conditions[name].null), ops.shape(values))


def _under(kind: str, batch: dict) -> dict:
    """{"label": ...} of {"given/label": ...}."""
    return {name.removeprefix(f"{kind}/"): values for name, values in batch.items() if name.startswith(f"{kind}/")}


def _estimate(model, given: dict):
    """x_hat of a model's network for conditions [B, ...] by name."""
    values, network = [given[name] for name in model.conditions], _network(model)
    return denoiser(lambda z_t, logsnr_t: network(z_t, logsnr_t, *values), model.prediction)


def _network(model) -> Callable:
    """network(z_t, logsnr_t, *conditions in their order) -> its output, kept on the model."""
    programs = model.sampling_programs
    if "network" not in programs:

        def predict(z_t, logsnr_t, *values):
            given = dict(zip(model.conditions, values, strict=True))
            return call_network(model.network, {"z_t": z_t, "logsnr": logsnr_t, **given}, training=False)

        programs["network"] = backend.recorded(predict, model.network.variables)
    return programs["network"]


class Program:
    """Compiled functions with the settings of one SampleRequest."""

    def __init__(self, ends: _Ends, compiled: _Compiled, request):
        self._ends, self._compiled = ends, compiled
        settings = {
            "key": threefry.key(request.seed, _SAMPLE),
            "logsnr": request.logsnr,
            "guided_steps": np.asarray(request.guidance.steps(request.logsnr[:-1]), "int32"),
            "scale": request.scale,
        }
        self._shared = {name: ops.convert_to_tensor(value) for name, value in settings.items()}

    def run(self, batch: dict[str, np.ndarray], use_ema: bool) -> "Run":
        """A batch at its first state; `batch` holds numbers int32 [B], given/NAME, negative/NAME, init, known, mask."""
        batch = {name: backend.on_batch_shards(values) for name, values in batch.items()}
        return Run(self._ends, self._compiled, batch, self._shared, use_ema)


class Run:
    """A batch on its way; `state` is that of a SamplingLoop."""

    def __init__(self, ends: _Ends, compiled: _Compiled, batch: dict, shared: dict, use_ema: bool):
        begin, keys = ends.start([], batch, shared)
        self._begin = (*begin, compiled.sampler.carry(begin[0]))
        self.state, self._batch, self._shared = self._begin, {**batch, "keys": keys}, shared
        self._store, self._compiled, self._values = ends.store, compiled, compiled.values(use_ema)

    def advance(self, first: int, last: int):
        """Does the steps first <= i < last."""
        edges = (ops.convert_to_tensor(np.int32(edge)) for edge in (first, last))
        self.state = self._compiled.advance(self._values, self.state, self._batch, self._shared, *edges)

    def result(self) -> tuple[np.ndarray, np.ndarray]:
        """(images of the request's dtype [B, H, W, C]: x_hat with what is known in its place; bool [B]: finite)."""
        x_hat = self.state[1]
        if "known" in self._batch:
            x_hat = ops.where(self._batch["mask"], self._batch["known"], x_hat)
        return self._stored(x_hat)

    def noisy(self) -> tuple[np.ndarray, np.ndarray]:
        """The same of z_t."""
        return self._stored(self.state[0])

    def _stored(self, x) -> tuple[np.ndarray, np.ndarray]:
        stored, sound = self._store([], x)
        return backend.gathered(stored), backend.gathered(sound)

    def first_bad_step(self, num_steps: int) -> int:
        """Of a run that ended in values that are not finite: the step, from 0, that they come from.

        The batch is drawn once more, in ever smaller pieces: what is not finite stays so to the end.
        """
        sound, bad, state = 0, num_steps, self._begin
        while bad - sound > 1:
            middle = (sound + bad) // 2
            self.state = state
            self.advance(sound, middle)
            if all(_finite(part) for part in self.state[:2]):
                sound, state = middle, self.state
            else:
                bad = middle
        return sound

    def bad_weights(self) -> list[str]:
        """Paths of the weights, or averages of them, that are not finite."""
        pairs = zip(self._compiled.variables, self._values, strict=True)
        return [v.path for v, value in pairs if "float" in v.dtype and not _finite(value)]


def _finite(tensor) -> bool:
    return bool(backend.gathered(ops.all(ops.isfinite(tensor))))
