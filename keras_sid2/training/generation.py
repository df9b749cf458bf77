"""Images from a SiD2Model: noise in, uint8 out, in batches of one shape so that one compiled loop serves them all."""

import keras
import numpy as np
from keras import ops

from keras_sid2 import backend, random
from keras_sid2.diffusion import Guidance, guide, to_x
from keras_sid2.sampling import clipped, get_sampler, sample, uniform_t
from keras_sid2.training.data_checks import check_labels

_SAMPLE = 2  # stream of a seed, beside those of sid2_model


def generate(
    model,
    labels=None,
    *,
    num_images: int | None = None,
    num_steps: int = 512,
    guidance: Guidance | None = None,
    sampler="ddpm",
    seed: int = 0,
    use_ema: bool = True,
    batch_size: int = 64,
    progress=None,
) -> np.ndarray:
    """Draws images, uint8 [N, H, W, C].

    Image i depends on (seed, i, its label, the settings) and, up to rounding, on nothing else: not on batch_size, the
    other images, or the backend.

    Args:
        labels: int [N], one class an image; None for a model without classes, or for images of no class.
        num_images: N, needed where labels is None.
        num_steps: steps of the sampler, uniform in t; the paper takes 512.
        guidance: a `Guidance`; it needs labels. None: none.
        sampler: "ddpm", "ddim" or a sampler of `keras_sid2.sampling`.
        seed: an integer >= 0.
        use_ema: draw from the averaged weights, where there are any.
        batch_size: images drawn at once.
        progress: True for a bar, or called with (network steps done, network steps in all); after each step on torch,
            elsewhere after each batch, whose loop is one compiled program.

    Raises ValueError for labels outside the classes, labels for a model without classes, guidance without labels, and
    settings outside their range.
    """
    labels = _request(model, labels, num_images)
    guidance = guidance or Guidance()
    if guidance.scale != 1.0 and (labels is None or (labels == model.num_classes).all()):
        raise ValueError(f"Guidance needs labels to be guided by; got guidance scale {guidance.scale} and no labels.")
    if not isinstance(batch_size, int) or batch_size < 1:
        raise ValueError(f"batch_size must be an integer >= 1, got {batch_size!r}.")
    sampler = get_sampler(sampler)
    logsnr = uniform_t(model.schedule, num_steps)
    keys = ops.convert_to_numpy(random.fold_in(random.key(seed, _SAMPLE), np.arange(len(labels))))
    batch_size = min(batch_size, len(labels))
    ticks = _Ticks(progress, num_steps, -(-len(labels) // batch_size))
    program = _program(model, sampler, guidance.scale != 1.0)
    program.on_step = ticks.step_done
    settings = (logsnr, np.asarray(guidance.steps(logsnr[:-1]), "int32"), np.float32(guidance.scale))
    images = []
    for start in range(0, len(labels), batch_size):
        part = (_padded(values[start : start + batch_size], batch_size) for values in (keys, labels))
        images.append(program.draw(*part, *settings, use_ema=use_ema))
        ticks.batch_done()
    return np.concatenate(images)[: len(labels)]


def _request(model, labels, num_images: int | None) -> np.ndarray:
    """int32 [N] labels, the null class (0 without classes) where none is asked for."""
    if labels is None:
        if not isinstance(num_images, int | np.integer) or num_images < 1:
            raise ValueError(f"Without labels, num_images must be an integer >= 1, got {num_images!r}.")
        return np.full(num_images, model.num_classes or 0, "int32")
    if model.num_classes is None:
        raise ValueError("This model has no classes: pass num_images and no labels.")
    labels = np.atleast_1d(np.asarray(labels))
    if num_images not in (None, len(labels)) or not len(labels):
        raise ValueError(f"labels must be one an image, at least one; got {len(labels)} and num_images={num_images}.")
    check_labels(labels, model.num_classes)
    return labels.astype("int32")


def _padded(values: np.ndarray, size: int) -> np.ndarray:
    return np.concatenate([values, np.repeat(values[-1:], size - len(values), axis=0)])


class _Ticks:
    """Counts network steps for `progress`, from a Python loop step by step, else a batch at a time."""

    def __init__(self, progress, num_steps: int, num_batches: int):
        self.num_steps, self.total = num_steps, num_steps * num_batches
        bar = keras.utils.Progbar(self.total, unit_name="network step") if progress is True else None
        self.progress = progress if bar is None else lambda done, total: bar.update(done)
        self.done, self.batches = 0, 0

    def step_done(self):
        self._report(self.done + 1)

    def batch_done(self):
        self.batches += 1
        if self.done < self.batches * self.num_steps:
            self._report(self.batches * self.num_steps)

    def _report(self, done: int):
        self.done = done
        if self.progress:
            self.progress(done, self.total)


def _program(model, sampler, guided: bool) -> "_Program":
    """The model's program for these settings, made at the first call."""
    if (sampler, guided) not in model.sampling_programs:
        model.sampling_programs[sampler, guided] = _Program(model, sampler, guided)
    return model.sampling_programs[sampler, guided]


class _Program:
    """The sampling loop of one sampler, with or without guidance: compiled once, run with any weights and settings."""

    def __init__(self, model, sampler, guided: bool):
        self.model, self.sampler, self.guided = model, sampler, guided
        self.on_step = lambda: None
        jit_compile = bool(model.compiled and model.jit_compile)
        self.run = backend.compiled(self._images, self._variables(), jit_compile=jit_compile)

    def _variables(self) -> list:
        return [*self.model.trainable_variables, *self.model.non_trainable_variables]

    def draw(self, keys, labels, *settings, use_ema: bool) -> np.ndarray:
        """uint8 [B, H, W, C] from keys int32 [B, 2], labels int32 [B] and the settings of `_images`."""
        backend.sync_variables(self.model)
        trained = (use_ema and self.model.averages()) or self.model.trainable_variables
        values = [ops.convert_to_tensor(v.value) for v in [*trained, *self.model.non_trainable_variables]]
        return ops.convert_to_numpy(self.run(values, *map(ops.convert_to_tensor, (keys, labels, *settings))))

    def _images(self, keys, labels, logsnr, guided_steps, scale):
        x = sample(
            denoise=clipped(self._denoise(labels)),
            denoise_guided=clipped(self._denoise_guided(labels, scale)) if self.guided else None,
            guided_steps=(guided_steps[0], guided_steps[1]),
            sampler=self.sampler,
            logsnr=logsnr,
            keys=keys,
            image_shape=self.model.image_shape,
            on_step=lambda: self.on_step(),
        )
        return ops.cast(ops.round((x + 1.0) * 127.5), "uint8")

    def _denoise(self, labels):
        labels = None if self.model.num_classes is None else labels

        def denoise(z_t, logsnr_t):
            v_hat = self.model.network((z_t, logsnr_t, labels), training=False)
            return to_x(ops.cast(v_hat, "float32"), "v", z_t=z_t, logsnr=logsnr_t)

        return denoise

    def _denoise_guided(self, labels, scale):
        both = self._denoise(ops.concatenate([labels, ops.full_like(labels, self.model.num_classes or 0)]))

        def denoise(z_t, logsnr_t):
            z_t, logsnr_t = ops.concatenate([z_t, z_t]), ops.concatenate([logsnr_t, logsnr_t])
            return guide(*ops.split(both(z_t, logsnr_t), 2), scale)

        return denoise
