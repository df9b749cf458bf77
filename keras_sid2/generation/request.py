"""A request for images: everything that decides what is generated, checked before anything is computed."""

import dataclasses
import functools
import inspect
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence

import keras
import numpy as np

from keras_sid2 import backend, renamed, threefry
from keras_sid2.backend import steps_done
from keras_sid2.diffusion import Guidance
from keras_sid2.generation.compiled_sampler import Run, compiled_sampler
from keras_sid2.generation.continuing import checked_num_frames, continued, windows_of
from keras_sid2.generation.inputs import (
    given_to,
    limits_of,
    mask_of,
    negatives_of,
    optional_float,
    scaled_images,
    warn_of_null,
)
from keras_sid2.generation.provenance import array_digest, config_digest, named, named_guidance
from keras_sid2.generation.students import steps_and_sampler
from keras_sid2.generation.texts import take_texts
from keras_sid2.sampling import evaluations, get_sampler, logsnr_of
from keras_sid2.shapes import whole_number

_NUMBERS = 2**31  # of images: they are folded into keys as int32
_REPORTS = 20  # pieces that a batch's steps are cut into where somebody watches


@dataclasses.dataclass
class SampleRequest:
    """Images to generate with `model`, and how.

    Image i depends on (seed, first_image + i, its label, the settings) and, up to rounding, on nothing else: not on
    batch_size, the other images, the number of devices, or the backend. Labels, images and masks may be lists, arrays,
    or tensors of any backend.

    Args:
        model: a SiD2Model.
        labels: int [N], one class an image: the condition "label". None: no classes, or images of no class.
        num_images: N, needed where there are neither labels nor conditions.
        conditions: values [N, ...], or one for all samples, by the model's names; those not named are null.
        num_frames: of clips, at least the model's, which then are continued from their last frames, window by window;
            for a model with the condition `Frames`. None: as many as the model's.
        negative_conditions: the same of what guidance leads away from; None: the null values of what training drops.
        text: texts, one a sample, or one for all, for the model's TextEmbedding; "" is no text.
        negative_text: the same of what guidance leads away from, in place of no text.
        text_encoder: callable that made the embeddings the model was trained on; None: `model.text_encoder`.
        num_steps: steps of the sampler; None is 512, as the paper takes, and of a student those that it was made for.
        guidance: a `Guidance`; it needs labels, or `guidance_network`. None: none.
        guidance_network: a SiD2Model of the same images and classes to be guided away from (autoguidance), smaller or
            an earlier checkpoint. None: guidance goes away from the estimate without a class.
        sampler: "ddpm", "ddim", "heun", "dpmpp_2m", "edm_heun" or a sampler of `keras_sid2.sampling`; None is "ddpm",
            and of a student DDPMSampler(0.0), the steps that it was trained for.
        noise_levels: "uniform_t", "uniform_logsnr", "edm_rho" or a function as those of `sampling.noise_levels`.
        ensemble_size: E, members of each sample, which differ in their noise alone: samples are then [N, E, ...].
            Member e of sample i depends on (seed, first_image + i, e) and the settings, and not on E. None: [N, ...].
        dynamic_threshold: quantile in (0, 1] of `sampling.thresholded`; None clips x_hat to [-1, 1].
        clip: with the model's channels, which are else not clipped: (lowest, highest) in their units, each None for no
            limit, a number, or one a channel.
        init: images [N, H, W, C] to start from, uint8 or float in [-1, 1], or in the channels' units (image to image);
            needs t_start.
        t_start: in (0, 1], how much of the noise is put on them: 1 leaves nothing of them.
        known: images [N, H, W, C] of which a part is to be kept (inpainting); needs `mask`.
        mask: bool, or numbers 0 and 1, or 0 and 255, [N, H, W, C] or 3 or 4 axes that broadcast to it: true is kept.
        resamplings: how often each step is done, >= 1: with `known`, more make the rest fit it better, at their cost;
            a sampler that goes by the step before, as dpmpp_2m, then takes each step without it, as ddim.
        seed: an integer in [0, 2^32).
        first_image: the number of the first image, for a request that continues another.
        use_ema: take the averaged weights, where there are any.
        batch_size: images at once; on several devices rounded up to a multiple of them.
        dtype: "uint8", or "float32" for values in [-1, 1]; with channels "float32", in their units. None: the first
            that the model has.
        progress: True for a bar that counts images, or called with (steps done, steps in all), about 20 times a batch,
            and a window of longer clips.

    Raises ValueError for what does not fit the model or its range; for guidance without labels, text or guidance
    network; and for a text for a model without one, by another encoder than its data's, or too long.
    """

    model: object
    labels: object = None
    _: dataclasses.KW_ONLY
    num_images: int | None = None
    conditions: Mapping | None = None
    negative_conditions: Mapping | None = None
    text: str | Sequence[str] | None = None
    negative_text: str | Sequence[str] | None = None
    text_encoder: Callable | None = None
    num_frames: int | None = None
    ensemble_size: int | None = None
    num_steps: int | None = None
    guidance: Guidance | None = None
    guidance_network: object = None
    sampler: str | Callable | None = None
    noise_levels: str | Callable = "uniform_t"
    dynamic_threshold: float | None = None
    clip: tuple | None = None
    init: object = None
    t_start: float | None = None
    known: object = None
    mask: object = None
    resamplings: int = 1
    seed: int = 0
    first_image: int = 0
    use_ema: bool = True
    batch_size: int = 64
    dtype: str | None = None
    progress: bool | Callable[[int, int], None] | None = None

    def __post_init__(self):
        take_texts(self)
        self.num_images, self.conditions = given_to(self.model, self.labels, self.conditions, self.num_images)
        self.negative_conditions = negatives_of(self.model, self.negative_conditions, self.num_images)
        self.labels = self.conditions.get("label", np.zeros(self.num_images, "int32"))
        if not isinstance(self.guidance, Guidance | None):
            raise ValueError(f"guidance must be a Guidance, as Guidance(1.5, (-3, 5)), or None; got {self.guidance!r}.")
        self.guidance = self.guidance or Guidance()
        self.num_steps, sampler = steps_and_sampler(self)
        self.sampler = get_sampler(sampler)
        self._check_guidance()
        self._check_numbers()
        self._check_images()
        if self.num_frames is not None:
            self.num_frames = checked_num_frames(self)
        if self.ensemble_size is not None:
            self.ensemble_size = whole_number("ensemble_size", self.ensemble_size)
        t_start = 1.0 if self.t_start is None else self.t_start
        self.logsnr = logsnr_of(self.noise_levels, self.model.schedule, self.num_steps, t_start)
        self.num_steps = int(self.num_steps)
        curve, ends = callable(self.guidance.scale), evaluations(self.sampler) > 1
        # As compiled samplers take it: one a level [num_steps + 1], or a float32 scalar.
        self.scale = self.guidance.scales(self.logsnr, ends=ends) if curve else np.float32(self.guidance.scale)
        self._begin = compiled_sampler(self)

    def _check_guidance(self):
        model, other = self.model, self.guidance_network
        if other is not None:
            fields = any(getattr(m, "channels", None) is not None for m in (model, other))
            if not (hasattr(other, "sample_shape") and hasattr(other, "network")):
                raise ValueError(f"guidance_network must be a SiD2Model, got {other!r}: load it with load_model.")
            if not self.guidance.acts:
                raise ValueError("guidance_network= does nothing without guidance: pass guidance=Guidance(scale) too.")
            here, there = ((m.sample_shape, m.conditions, *([m.channels] * fields)) for m in (model, other))
            if here != there:
                raise ValueError(f"The guidance network must have the images and classes {here}, got {there}.")
        elif self.guidance.acts and not self._is_guided():
            found = f"guidance scale {self.guidance.scale} and no labels"
            raise ValueError(f"Guidance needs labels to be guided by, or a guidance network; got {found}.")
        if self.negative_conditions and (other is not None or not self.guidance.acts):
            raise ValueError("negative_conditions are for guidance=Guidance(scale) without a guidance network.")
        if other is None and self.guidance.acts:
            away = [name for name in model.guided_conditions if name not in self.negative_conditions]
            warn_of_null("Guidance leads away from", [name for name in away if name in model.always_given])

    def _is_guided(self) -> bool:
        """Whether any sample is conditioned on anything that guidance can lead to."""
        pairs = ((name, self.model.conditions[name].given_null) for name in self.model.guided_conditions)
        return bool(self.negative_conditions) or any((self.conditions[name] != null).any() for name, null in pairs)

    def _check_numbers(self):
        threefry.key(self.seed)  # refuses what is no seed
        self.seed = int(self.seed)
        if not isinstance(self.first_image, int | np.integer) or not 0 <= self.first_image < _NUMBERS - self.num_images:
            most = f"and with {self.num_images} images below {_NUMBERS}"
            raise ValueError(f"first_image must be an integer >= 0, {most}, got {self.first_image!r}.")
        self.first_image = int(self.first_image)
        for name in ("batch_size", "resamplings"):
            setattr(self, name, whole_number(name, getattr(self, name)))
        for name in ("t_start", "dynamic_threshold"):
            setattr(self, name, optional_float(getattr(self, name)))
        if not isinstance(self.use_ema, bool | np.bool_):
            raise ValueError(f"use_ema must be True or False, got {self.use_ema!r}.")
        if not (self.progress is None or isinstance(self.progress, bool) or callable(self.progress)):
            raise ValueError(f"progress must be True or a function (steps done, steps in all), got {self.progress!r}.")
        self._check_range()
        for first, second in (("init", "t_start"), ("known", "mask")):
            if (getattr(self, first) is None) != (getattr(self, second) is None):
                raise ValueError(f"{first} and {second} go together: give both or neither.")

    def _check_range(self):
        channels = self.model.channels
        self.clip = limits_of(self.clip, channels)
        dtypes = ("uint8", "float32") if channels is None else ("float32",)
        self.dtype = dtypes[0] if self.dtype is None else self.dtype
        if self.dtype not in dtypes:
            wanted = " or ".join(map(repr, dtypes))
            raise ValueError(f"dtype must be {wanted}{' for fields' if channels else ''}, got {self.dtype!r}.")
        if channels is not None and self.dynamic_threshold is not None:
            raise ValueError("dynamic_threshold is for images in [-1, 1]; for fields there is clip=(lowest, highest).")

    def _check_images(self):
        shape = (self.num_images, *self.model.sample_shape)
        for name in ("init", "known"):
            if getattr(self, name) is not None:
                setattr(self, name, scaled_images(name, getattr(self, name), shape, self.model.channels))
        if self.mask is not None:
            self.mask = mask_of(self.mask, shape)

    def batches(self) -> Iterator[np.ndarray]:
        """The images in order, [at most `images_at_once`, H, W, C], of ensembles member by member of each sample;
        NonFiniteImages for a batch that is not finite."""
        step = -(-self.num_steps // (_REPORTS if self.progress else 1))
        start, report = 0, self._report()
        for done, run in self._runs([*range(0, self.num_steps, step), self.num_steps], report):
            if done == self.num_steps:
                images, told = run.images(), report and functools.partial(report, start // self.images_at_once)
                yield images if self.num_frames is None else continued(self, images, start, told)
                start += len(images)

    def images(self) -> np.ndarray:
        """All of them, [N, H, W, C], or [N, E, H, W, C] of ensembles."""
        return self._by_members(np.concatenate(list(self.batches())), 0)

    def _by_members(self, values: np.ndarray, axis: int) -> np.ndarray:
        """[N, E, ...] of [N E, ...], at `axis`."""
        if self.ensemble_size is None:
            return values
        return values.reshape(*values.shape[:axis], -1, self.ensemble_size, *values.shape[axis + 1 :])

    def trajectory(self, frames: int) -> tuple[np.ndarray, np.ndarray]:
        """(z_t, x_hat), each [frames, N, (E,) H, W, C], after evenly many steps; the last x_hat are `images()`."""
        kept = [pair for _, *pair in self.coming_about(frames)]  # of the first batch, then of the next
        z_t, x_hat = (
            self._by_members(np.stack([np.concatenate(of_batches[i::frames]) for i in range(frames)]), 1)
            for of_batches in zip(*kept, strict=True)
        )
        return z_t, x_hat

    def coming_about(self, frames: int) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
        """(steps done, z_t, x_hat) of a batch, `frames` times while it is drawn, and of the next; see `trajectory`."""
        if self.num_frames is not None:
            raise ValueError("A trajectory is of one window: it takes no num_frames.")
        if not isinstance(frames, int | np.integer) or not 1 <= frames <= self.num_steps:
            raise ValueError(f"frames must be an integer from 1 to num_steps ({self.num_steps}), got {frames!r}.")
        edges = np.linspace(0, self.num_steps, frames + 1).round().astype(int).tolist()
        for done, run in self._runs(edges, self._report()):
            yield done, *run.frame()

    def _report(self) -> Callable[[int, int, int], None] | None:
        """What is called with (batch, window, steps done in it), where somebody watches."""
        progress = _bar(self.num_drawn) if self.progress is True else self.progress
        if not progress:
            return None
        steps, windows = self.num_steps, windows_of(self)
        total = steps * windows * -(-self.num_drawn // self.images_at_once)
        return lambda batch, window, done: progress((batch * windows + window) * steps + done, total)

    def _runs(self, edges: list[int], report: Callable | None) -> Iterator[tuple[int, Run]]:
        """(steps done, Run) of every batch at each of `edges` but the first, 0."""
        for number, (count, batch) in enumerate(self._parts()):
            run = self._begin(self, batch, count)
            for first, last in itertools.pairwise(edges):
                run.advance(first, last)
                if report:
                    run.wait()
                    report(number, 0, last)
                yield last, run

    @property
    def num_drawn(self) -> int:
        """N, or N E of ensembles."""
        return self.num_images * (self.ensemble_size or 1)

    @property
    def images_at_once(self) -> int:
        """batch_size, or all images if these are fewer, such that the devices divide it."""
        shards = backend.batch_shards()
        return -(-min(self.batch_size, self.num_drawn) // shards) * shards

    def _parts(self) -> Iterator[tuple[int, dict]]:
        """(images in it, what each example has) of every batch; the last one is filled up with its last image."""
        size, members, channels = self.images_at_once, self.ensemble_size or 1, self.model.channels
        numbers = np.arange(self.num_images) + self.first_image
        whole = {"numbers": numbers.astype("int32"), "init": self.init, "known": self.known}
        whole = {name: values for name, values in whole.items() if values is not None}
        if channels is not None:
            whole |= {name: channels.standardize(whole[name]) for name in ("init", "known") if name in whole}
        for kind, given in (("given", self.conditions), ("negative", self.negative_conditions)):
            whole |= {f"{kind}/{k}": self.model.conditions[k].standard(values) for k, values in given.items()}
        if self.mask is not None:
            whole["mask"] = np.broadcast_to(self.mask, (self.num_images, *self.model.sample_shape))
        for start in range(0, self.num_drawn, size):
            drawn = np.minimum(np.arange(start, start + size), self.num_drawn - 1)
            batch = {name: values[drawn // members] for name, values in whole.items()}
            if self.ensemble_size is not None:
                batch["members"] = (drawn % members).astype("int32")
            yield min(size, self.num_drawn - start), batch

    @property
    def step(self) -> int:
        """Training steps behind the weights; 0 where they are not known to have been trained here."""
        return steps_done(self.model)

    def describe(self) -> dict:
        """All that decides the images, for their provenance: plain values and hashes."""
        model, other = self.model, self.guidance_network
        parts = {
            "images": self.num_images,
            "first_image": self.first_image,
            "seed": self.seed,
            "labels": array_digest(self.labels),
            "network": config_digest(model.network),
            "prediction": model.prediction,
            "schedule": named(model.schedule),
            "sampler": named(getattr(self.sampler, "function", self.sampler)),
            "noise_levels": named(self.noise_levels),
            "num_steps": self.num_steps,
            "guidance": named_guidance(self.guidance),
            "dynamic_threshold": self.dynamic_threshold,
            "t_start": self.t_start,
            "resamplings": self.resamplings,
            "averaged_weights": self.use_ema and model.averages() is not None,
            "training_step": self.step,
            "weights": model.weights_digest(use_ema=self.use_ema),
        }
        for name in ("num_frames", "ensemble_size"):
            if getattr(self, name) is not None:
                parts[name] = getattr(self, name)
        if model.channels is not None:
            parts |= {"channels": named(model.channels), "clip": self.clip and repr(self.clip)}
        if self.use_ema and model.reconstructed is not None:
            parts["ema_width"] = model.reconstructed
        if other is not None:
            weights = other.weights_digest(use_ema=self.use_ema)
            parts["guidance_network"] = f"{weights} {config_digest(other.network)} {other.prediction}"
        given = {name: getattr(self, name) for name in ("init", "known", "mask")}
        given |= {name: values for name, values in self.conditions.items() if name != "label"}
        given |= {f"negative {name}": values for name, values in self.negative_conditions.items()}
        return parts | {name: array_digest(values) for name, values in given.items() if values is not None}


def generate(model, labels=None, **options) -> np.ndarray:
    """Images uint8 [N, H, W, C], or fields float32 in their units, of ensembles [N, E, ...]; the arguments are those of
    `SampleRequest`, which says what they mean."""
    return SampleRequest(model, labels, **options).images()


SampleRequest.__init__ = renamed.arguments(grid="noise_levels", weaker="guidance_network")(SampleRequest.__init__)
# So that help() and editors show the arguments.
generate.__signature__ = inspect.signature(SampleRequest).replace(return_annotation=np.ndarray)


def trajectory(model, labels=None, *, frames: int = 32, **options) -> tuple[np.ndarray, np.ndarray]:
    """How images come about: (z_t, x_hat), each [frames, N, H, W, C] of `generate`'s dtype; others as there."""
    return SampleRequest(model, labels, **options).trajectory(frames)


def _bar(num_images: int) -> Callable[[int, int], None]:
    """Images, time an image and time left; part of a batch counts as so many images."""
    bar = keras.utils.Progbar(num_images, unit_name="image")
    return lambda done, total: bar.update(num_images * done // total)
