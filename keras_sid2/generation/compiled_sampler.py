"""Compiled samplers: one for each kind of request, run with any weights, labels and settings.

It advances a batch from one step to another, both given when it runs: at a go, or in pieces where somebody watches the
progress or keeps the trajectory.
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
from keras_sid2.conditions import call_network, known_of
from keras_sid2.generation.finite import non_finite_images
from keras_sid2.sampling import (
    Sampler,
    SamplingLoop,
    clipped,
    clipped_between,
    denoiser,
    guided,
    guided_in_one_batch,
    scale_between,
    thresholded,
)

_SAMPLE = 2  # stream of a seed, beside those of sid2_model
_MEMBER = 2**31 - 3  # no step has this number: keys of members are apart from all noise
_MOST = 12  # compiled samplers that a model keeps; the one that was not used for longest goes


def compiled_sampler(request) -> Callable[..., "Run"]:
    """begin(request, batch, count) -> Run, of a SampleRequest; what is compiled is kept on the model for its kind.

    `batch` holds numbers int32 [B], of ensembles also members, given/NAME, negative/NAME, init, known and mask; the
    first `count` are asked for.
    """
    model, other, guidance = request.model, request.guidance_network, request.guidance
    shape = (request.images_at_once, request.num_steps, request.init is not None, request.known is not None)
    shape = (*shape, request.ensemble_size is not None)
    kind = {
        "source": _Source.of(model),
        "other": None if other is None else _Source.of(other),
        "acts": guidance.acts,
        "one_batch": guidance.one_batch,
        "curve": callable(guidance.scale),
        "threshold": request.dynamic_threshold,
        "resamplings": request.resamplings,
        "limits": request.clip,
    }
    kept, jit_compile = model.sampling_programs, bool(model.compiled and model.jit_compile)
    # The ends are the same for all kinds with these shapes.
    given = {"dtype": request.dtype, "limits": request.clip}
    ends = _kept(kept, ("ends", *given.values(), *shape), lambda: _Ends(model, jit_compile, **given))
    key = (_told_apart(request.sampler), *kind.values(), shape)
    steps = _kept(kept, key, lambda: _Steps(request.sampler, jit_compile, **kind))
    settings = {
        "key": threefry.key(request.seed, _SAMPLE),
        "logsnr": request.logsnr,
        "guided_steps": np.asarray(guidance.steps(request.logsnr[:-1]), "int32"),
        "scale": request.scale,
    }
    return functools.partial(Run, ends, steps, {name: ops.convert_to_tensor(v) for name, v in settings.items()})


def _kept(kept: dict, key, make: Callable):
    """kept[key], made if it is not there; the newest is the last one, and the oldest goes where there are many."""
    kept[key] = kept.pop(key, None) or make()
    if len(kept) > _MOST:
        del kept[next(name for name in kept if not isinstance(name, str))]
    return kept[key]


class _Ends:
    """What is done before the first step and after the last, compiled: else each operation is compiled by itself."""

    def __init__(self, model, jit_compile: bool, dtype: str, limits: tuple | None):
        image_shape, channels = model.sample_shape, model.channels

        def start(batch: dict, shared: dict):
            keys = threefry.fold_in(shared["key"], batch["numbers"])
            if "members" in batch:
                keys = threefry.fold_in(keys, _MEMBER, batch["members"])
            batch = {**batch, "keys": keys}
            loop = SamplingLoop(denoise=None, sampler=Sampler(), image_shape=image_shape, **_given(batch, shared))
            return loop.start()[:2], batch["keys"]

        def store(x):
            finite = ops.all(ops.isfinite(x), axis=tuple(range(1, len(x.shape))))
            if channels is not None:
                return _in_units(x, channels, limits), finite
            x = ops.clip(x, -1.0, 1.0)
            return (x if dtype == "float32" else ops.cast(ops.round((x + 1.0) * 127.5), "uint8")), finite

        self.start, self.store = (backend.compiled(f, [], jit_compile=jit_compile) for f in (start, store))


def _in_units(x, channels, limits: tuple | None):
    """x as people get it; within the limits again, as rounding may pass them."""
    x = channels.restore(x)
    if limits is None:
        return x
    low, high = (ops.convert_to_tensor(np.float32(end)) for end in limits)
    return ops.minimum(ops.maximum(x, low), high)


def _given(batch: dict, shared: dict) -> dict:
    """The arguments of a SamplingLoop that are tensors."""
    known = (batch["known"], batch["mask"]) if "known" in batch else None
    return {"logsnr": shared["logsnr"], "keys": batch["keys"], "init": batch.get("init"), "known": known}


class _Source:
    """What compiled samplers read of a model, one for as long as it stays the same; it keeps no model alive.

    So those with a guidance network do not hold its weights, and none is left for a network or a variable that was
    exchanged (LoRA adds some).
    """

    def __init__(self, model):
        self._refer = weakref.ref(model)
        self._network, self._prediction = weakref.ref(model.network), model.prediction
        self._variables = [weakref.ref(v) for v in model.network.variables]

    @classmethod
    def of(cls, model) -> "_Source":
        """The model's; where the model has changed it is made anew, and all that was compiled goes."""
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


def _told_apart(sampler):
    """Itself where equal ones do the same; else which object it is and what it holds now, as it may be changed."""
    if dataclasses.is_dataclass(sampler) and sampler.__dataclass_params__.frozen:
        with contextlib.suppress(TypeError):  # where it holds lists
            hash(sampler)
            return sampler
    sampler = getattr(sampler, "function", sampler)  # of version 0.1
    owner = getattr(sampler, "__self__", sampler)  # of a bound method
    return id(owner), getattr(sampler, "__func__", None), str(getattr(owner, "__dict__", ""))


@dataclasses.dataclass(eq=False)
class _Steps:
    """The compiled steps of one kind of request; what is no shape is given when they run."""

    sampler: Callable
    jit_compile: dataclasses.InitVar[bool]
    source: _Source
    other: _Source | None  # of the guidance network
    acts: bool
    one_batch: bool
    curve: bool
    threshold: float | None
    resamplings: int
    limits: tuple | None  # of the channels, in their units

    def __post_init__(self, jit_compile: bool):
        self._sources = [self.source] if self.other is None else [self.source, self.other]
        self._limited = self._within_limits()
        self._limited(lambda z_t, logsnr_t: z_t)  # refuses a quantile that is none
        self.advance = functools.partial(backend.compiled(self._advance, [], jit_compile=jit_compile), [])

    def _within_limits(self) -> Callable:
        """What is done to denoise functions."""
        channels = self.source.model.channels
        if self.threshold is not None:
            return lambda denoise: thresholded(denoise, self.threshold)
        if channels is None:
            return clipped
        if self.limits is None:
            return lambda denoise: denoise
        low, high = (channels.standardize(np.float32(end)) for end in self.limits)
        return lambda denoise: clipped_between(denoise, low, high)

    @property
    def variables(self) -> list:
        return [v for source in self._sources for v in source.variables]

    def values(self, use_ema: bool) -> list:
        return [value for source in self._sources for value in source.values(use_ema)]

    def _advance(self, values: list, state, batch: dict, shared: dict, first, last):
        with keras.StatelessScope(list(zip(self.variables, values, strict=True))):
            return self._loop(batch, shared).advance(state, first, last)

    def _loop(self, batch: dict, shared: dict) -> SamplingLoop:
        given, negative, model = _under("given", batch), _under("negative", batch), self.source.model
        scale = scale_between(shared["logsnr"], shared["scale"]) if self.curve else shared["scale"]
        return SamplingLoop(
            denoise=self._finished(_estimate(model, given), given),
            denoise_guided=self._finished(self._guided(given, negative, scale), given) if self.acts else None,
            guided_steps=(shared["guided_steps"][0], shared["guided_steps"][1]) if self.acts else (0, 0),
            sampler=self.sampler,
            image_shape=model.sample_shape,
            resamplings=self.resamplings,
            **_given(batch, shared),
        )

    def _finished(self, denoise: Callable, given: dict) -> Callable:
        """x_hat within its limits, and as it is where the conditions tell it: the network need not learn that."""
        known = known_of(self.source.model.conditions, given)

        def denoise_rest(z_t, logsnr_t):
            x_hat = limited(z_t, logsnr_t)
            for x, mask in known:
                x_hat = ops.where(mask, x, x_hat)
            return x_hat

        limited = self._limited(denoise)
        return denoise_rest if known else limited

    def _guided(self, given: dict, negative: dict, scale):
        model = self.source.model
        if self.other is not None:
            return guided(_estimate(model, given), _estimate(self.other.model, given), scale)
        base = {**given, **{name: _null(model, name, given[name]) for name in model.guided_conditions}, **negative}
        if self.one_batch:
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
    """network(z_t, logsnr_t, *conditions in their order) -> its output, kept on the model unless that runs eagerly."""

    def predict(z_t, logsnr_t, *values):
        given = dict(zip(model.conditions, values, strict=True))
        return call_network(model.network, {"z_t": z_t, "logsnr": logsnr_t, **given}, training=False)

    if getattr(model.network, "run_eagerly", False):
        return predict
    kept = model.sampling_programs
    if "network" not in kept:
        kept["network"] = backend.recorded(predict, model.network.variables)
    return kept["network"]


class Run:
    """A batch of a SampleRequest on its way, of which the first `count` are asked for; `state` is a SamplingLoop's."""

    def __init__(self, ends: _Ends, steps: _Steps, shared: dict, request, batch: dict[str, np.ndarray], count: int):
        self._request, self._numbers = request, batch["numbers"][:count]
        batch = {name: backend.on_batch_shards(values) for name, values in batch.items()}
        begin, keys = ends.start([], batch, shared)
        self._begin = self.state = (*begin, steps.sampler.carry(begin[0]))
        self._batch, self._shared = {**batch, "keys": keys}, shared
        self._store, self._steps, self._values = ends.store, steps, steps.values(request.use_ema)

    def advance(self, first: int, last: int):
        """Does the steps first <= i < last."""
        edges = (ops.convert_to_tensor(np.int32(edge)) for edge in (first, last))
        self.state = self._steps.advance(self._values, self.state, self._batch, self._shared, *edges)

    def wait(self):
        """Until the steps are done: jax runs ahead of the host."""
        backend.gathered(self.state[0][:1])

    def images(self) -> np.ndarray:
        """x_hat with what is known in its place, of the request's dtype, [count, H, W, C]; or NonFiniteImages."""
        return self._stored(self._x_hat())[0]

    def frame(self) -> list[np.ndarray]:
        """[z_t, images], both as `images`."""
        return self._stored(self.state[0], self._x_hat())

    def _x_hat(self):
        x_hat, batch = self.state[1], self._batch
        return ops.where(batch["mask"], batch["known"], x_hat) if "known" in batch else x_hat

    def _stored(self, *tensors) -> list[np.ndarray]:
        stored, count = [self._store([], x) for x in tensors], len(self._numbers)
        finite = np.all([backend.gathered(each) for _, each in stored], axis=0)[:count]
        if not finite.all():
            step = self._first_bad_step(self._request.num_steps)
            raise non_finite_images(self._request, self._numbers[~finite], step, self._bad_weights())
        return [backend.gathered(images)[:count] for images, _ in stored]

    def _first_bad_step(self, num_steps: int) -> int:
        """From 0. The batch runs once more, in ever smaller pieces: what is not finite stays so to the end."""
        finite, bad, state = 0, num_steps, self._begin
        while bad - finite > 1:
            middle = (finite + bad) // 2
            self.state = state
            self.advance(finite, middle)
            if all(_is_finite(part) for part in self.state[:2]):
                finite, state = middle, self.state
            else:
                bad = middle
        return finite

    def _bad_weights(self) -> list[str]:
        """Paths of the weights, or averages of them, that are not finite."""
        pairs = zip(self._steps.variables, self._values, strict=True)
        return [v.path for v, value in pairs if "float" in v.dtype and not _is_finite(value)]


def _is_finite(tensor) -> bool:
    return bool(backend.gathered(ops.all(ops.isfinite(tensor))))
