"""The same training step and the same sampling loop by hand in jax: what the library is measured against.

They share the network with the library (`network.stateless_call`) and nothing else: no keras trainer,
optimizer, metric or random number. Every equation is written out again here.
"""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np


class Recipe:
    """The numbers of a SiD2Model that the hand-written programs need: schedule, weighting, optimizer."""

    def __init__(self, model):
        schedule, recipe = model.schedule, model.recipe
        resolution = getattr(schedule, "image_resolution", 1.0)
        high = getattr(schedule, "high", None) or resolution
        low = getattr(schedule, "low", resolution)
        self.clean_shift, self.noisy_shift = (2.0 * math.log(r / resolution) for r in (high, low))
        self.start = math.atan(math.exp(-0.5 * schedule.logsnr_max))
        self.slope = math.atan(math.exp(-0.5 * schedule.logsnr_min)) - self.start
        self.bias = model.weighting.bias
        self.rate, self.warmup, self.decay = recipe.learning_rate, recipe.warmup_steps, recipe.ema_decay
        self.beta_1, self.beta_2, self.epsilon = recipe.beta_1, recipe.beta_2, recipe.epsilon
        self.clip = recipe.clip_norm or math.inf

    def logsnr(self, t):
        cosine = -2.0 * jnp.log(jnp.tan(self.slope * t + self.start))
        return cosine + (1.0 - t) * self.clean_shift + t * self.noisy_shift

    def dlogsnr_dt(self, t):
        cosine = -4.0 * self.slope / jnp.sin(2.0 * (self.slope * t + self.start))
        return cosine + self.noisy_shift - self.clean_shift


def _expand(values):
    return values[:, None, None, None]


class BareTrainer:
    """`step(images, labels)` returns the loss; the state is donated to each step."""

    def __init__(self, model):
        self.network, self.recipe = model.network, Recipe(model)
        self.num_classes, self.label_dropout = model.num_classes, model.label_dropout
        weights = [jnp.array(v.value, copy=True) for v in model.network.trainable_variables]
        self.fixed = [v.value for v in model.network.non_trainable_variables]
        self.state = {
            "weights": weights,
            "first": [jnp.zeros_like(w) for w in weights],
            "second": [jnp.zeros_like(w) for w in weights],
            "average": [jnp.array(w, copy=True) for w in weights],
            "step": jnp.zeros((), "int32"),
        }
        self._step = jax.jit(self._update, donate_argnums=0)

    def step(self, *batch):
        loss, self.state = self._step(self.state, *batch)
        return loss

    def _loss(self, weights, key, images, labels=None):
        recipe, batch = self.recipe, images.shape[0]
        x = images.astype("float32") / 127.5 - 1.0
        keys = jax.random.split(key, 4)
        t = jnp.mod(jax.random.uniform(keys[0]) + jnp.arange(batch) / batch, 1.0)
        eps = jax.random.normal(keys[1], x.shape)
        if labels is not None:
            dropped = jax.random.uniform(keys[2], (batch,)) < self.label_dropout
            labels = jnp.where(dropped, self.num_classes, labels)
        logsnr = recipe.logsnr(t)
        alpha, sigma = jnp.sqrt(jax.nn.sigmoid(logsnr)), jnp.sqrt(jax.nn.sigmoid(-logsnr))
        z_t = _expand(alpha) * x + _expand(sigma) * eps
        v = _expand(alpha) * eps - _expand(sigma) * x
        seed = jax.lax.bitcast_convert_type(jax.random.key_data(keys[3]), jnp.int32)
        inputs = (z_t, logsnr, labels)
        v_hat, _ = self.network.stateless_call(weights, self.fixed, inputs, training=True, seed=seed)
        weight = math.exp(recipe.bias) * jax.nn.sigmoid(logsnr - recipe.bias) * -0.5 * recipe.dlogsnr_dt(t)
        return jnp.mean(weight * sigma**2 * jnp.mean(jnp.square(v_hat - v), axis=(1, 2, 3)))

    def _update(self, state, *batch):
        recipe, step = self.recipe, state["step"]
        key = jax.random.fold_in(jax.random.key(0), step)
        loss, grads = jax.value_and_grad(self._loss)(state["weights"], key, *batch)
        norm = jnp.sqrt(sum(jnp.sum(jnp.square(g)) for g in grads))
        scale = jnp.minimum(1.0, recipe.clip / jnp.maximum(norm, 1e-12))
        count = (step + 1).astype("float32")
        rate = recipe.rate * jnp.minimum(1.0, count / max(recipe.warmup, 1))
        rate = rate * jnp.sqrt(1.0 - recipe.beta_2**count) / (1.0 - recipe.beta_1**count)
        decay = jnp.where(step > 0, recipe.decay, 0.0)
        new = [self._adam(*slot, scale, rate, decay) for slot in zip(*self._slots(state), grads, strict=True)]
        names = ("weights", "first", "second", "average")
        return loss, {**dict(zip(names, map(list, zip(*new, strict=True)), strict=True)), "step": step + 1}

    @staticmethod
    def _slots(state):
        return state["weights"], state["first"], state["second"], state["average"]

    def _adam(self, weight, first, second, average, grad, scale, rate, decay):
        recipe, grad = self.recipe, grad * scale
        first = recipe.beta_1 * first + (1.0 - recipe.beta_1) * grad
        second = recipe.beta_2 * second + (1.0 - recipe.beta_2) * jnp.square(grad)
        weight = weight - rate * first / (jnp.sqrt(second) + recipe.epsilon)
        return weight, first, second, decay * average + (1.0 - decay) * weight


class BareSampler:
    """`draw(seed, labels)` returns uint8 images: DDPM without guidance, the whole loop one program."""

    def __init__(self, model, num_steps: int, variance: float = 0.2):
        self.network, self.image_shape = model.network, model.image_shape
        self.variance, self.has_classes = variance, model.num_classes is not None
        self.logsnr = np.asarray(Recipe(model).logsnr(np.linspace(1.0, 0.0, num_steps + 1, dtype="float32")))
        self.weights = [v.value for v in model.network.trainable_variables]
        self.fixed = [v.value for v in model.network.non_trainable_variables]
        self._draw = jax.jit(self._images)

    def draw(self, seed: int, labels: np.ndarray) -> np.ndarray:
        return np.asarray(self._draw(self.weights, self.fixed, self.logsnr, jax.random.key(seed), labels))

    def _images(self, weights, fixed, logsnr, key, labels):
        shape = (labels.shape[0], *self.image_shape)
        body = functools.partial(self._body, weights, fixed, logsnr, key, labels)
        z = jax.random.normal(jax.random.fold_in(key, 0), shape)
        _, x_hat = jax.lax.fori_loop(0, logsnr.shape[0] - 1, body, (z, jnp.zeros(shape)))
        return jnp.round((x_hat + 1.0) * 127.5).astype("uint8")

    def _body(self, weights, fixed, logsnr, key, labels, i, carry):
        z_t, _ = carry
        now, then = logsnr[i], logsnr[i + 1]
        inputs = (z_t, jnp.full(labels.shape, now), labels if self.has_classes else None)
        v_hat, _ = self.network.stateless_call(weights, fixed, inputs, training=False)
        alpha_t, alpha_s = jnp.sqrt(jax.nn.sigmoid(now)), jnp.sqrt(jax.nn.sigmoid(then))
        x_hat = jnp.clip(alpha_t * z_t - jnp.sqrt(jax.nn.sigmoid(-now)) * v_hat, -1.0, 1.0)
        c = -jnp.expm1(now - then)
        mean = alpha_s * (z_t * (1.0 - c) / alpha_t + c * x_hat)
        lower, upper = jax.nn.sigmoid(-then) * c, jax.nn.sigmoid(-now) * c
        noise = jax.random.normal(jax.random.fold_in(key, i + 1), z_t.shape)
        return mean + jnp.sqrt(lower ** (1.0 - self.variance) * upper**self.variance) * noise, x_hat
