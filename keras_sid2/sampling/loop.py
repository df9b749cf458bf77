"""The sampling loop. It gets denoise functions (sampling.denoisers), never a model.

Noise of example i at step n is a function of (keys[i], n) alone, so an image does not depend on its neighbours. The
interval of guidance is known beforehand and the steps are in order, so the loop is three loops: outside, inside,
outside; only the middle one pays for guidance.

Known parts of an image (inpainting, continuing frames) are replaced in every z_s by a draw from q(z_s | z_t, x) of the
known x: the lower variance of gaussian.posterior with x_hat = x, or the flow for a deterministic sampler. So known
pixels carry the noise of their level at every step (Song et al. 2011.13456, Ho et al. 2204.03458). What is drawn beside
them follows p(unknown | known) only roughly, as its estimate sees no more than a noisy known part; `resamplings` brings
it closer, by noising z_s to z_t again and repeating the step (Lugmayr et al. 2201.09865).
"""

import dataclasses
from collections.abc import Callable

from keras import ops

from keras_sid2 import backend, threefry
from keras_sid2.diffusion import alpha_sigma, diffuse
from keras_sid2.diffusion.gaussian import posterior
from keras_sid2.sampling.samplers import flow

_REPEATS = 2**31 - 1  # no pixel and no step has this number: keys of repetitions are apart from all noise


@dataclasses.dataclass(frozen=True, kw_only=True)
class SamplingLoop:
    """A run of a sampler that can be advanced piece by piece; `sample` runs it whole.

    Its state is (z_t, the newest x_hat, the sampler's carry): after two evaluations a step, x_hat is that at its end.

    Args:
        denoise: used outside the interval of guidance.
        sampler: see sampling.samplers.
        logsnr: float32 [num_steps + 1], rising; the loop starts from N(0, I) at logsnr[0].
        keys: int32 [B, 2], one random key an example.
        image_shape: of an example, of any rank.
        denoise_guided: used in steps guided_steps[0] <= i < guided_steps[1]; integers, or int32 scalars of the backend.
        init: x float32 [B, *image_shape] to start from, noised to logsnr[0]; None is pure noise.
        known: (x float32 [B, *image_shape], mask bool, broadcastable to it): what is known of the result, and where.
        resamplings: how often each step is done, >= 1; more than once is of use where something is known.
    """

    denoise: Callable
    sampler: Callable
    logsnr: object
    keys: object
    image_shape: tuple[int, ...]
    denoise_guided: Callable | None = None
    guided_steps: tuple = (0, 0)
    init: object = None
    known: tuple | None = None
    resamplings: int = 1

    @property
    def num_steps(self) -> int:
        return self.logsnr.shape[0] - 1

    def start(self):
        """The state before step 0."""
        noise = threefry.normal(self.keys, self.image_shape)
        z_t = noise if self.init is None else diffuse(x=self.init, eps=noise, logsnr=self.logsnr[0])
        if self.known is not None:
            x, mask = self.known
            z_t = ops.where(mask, diffuse(x=x, eps=noise, logsnr=self.logsnr[0]), z_t)
        return z_t, ops.zeros_like(z_t), self.sampler.carry(z_t)

    def advance(self, state, first, last):
        """The state before step `last` from that before step `first`; integers or int32 scalars."""
        if self.denoise_guided is None:
            return backend.loop(first, last, self._step(self.denoise), state)
        start, stop = (ops.clip(ops.convert_to_tensor(edge, "int32"), first, last) for edge in self.guided_steps)
        state = backend.loop(first, start, self._step(self.denoise), state)
        state = backend.loop(start, stop, self._step(self.denoise_guided), state)
        return backend.loop(stop, last, self._step(self.denoise), state)

    def result(self, state):
        """x [B, *image_shape] from the state after the last step: the newest x_hat, for z_s still has noise."""
        if self.known is None:
            return state[1]
        x, mask = self.known
        return ops.where(mask, x, state[1])

    def _step(self, denoise: Callable) -> Callable:
        if self.resamplings == 1:
            return lambda i, state: self._once(denoise, i, self._with_history(i, state), self.keys)

        def repeated(i, state):
            state = self._once(denoise, i, self._without_history(state), self.keys)

            def again(repeat, found):
                keys = threefry.fold_in(threefry.fold_in(self.keys, _REPEATS, _REPEATS), repeat, i)  # noise of its own
                z_t = self._noised_again(i, found[0], keys)
                return self._once(denoise, i, self._without_history((z_t, *found[1:])), keys)

            return backend.loop(1, self.resamplings, again, state)

        return repeated

    def _with_history(self, i, state):
        """The state before step i; its carry is zero where the denoise function changes."""
        start, stop = self.guided_steps
        z_t, x_hat, carry = state
        begins = ops.logical_and(start < stop, ops.logical_or(ops.equal(i, start), ops.equal(i, stop)))
        return z_t, x_hat, tuple(ops.where(begins, ops.zeros_like(part), part) for part in carry)

    def _without_history(self, state):
        """What was drawn anew has no step before it: 2M steps as DDIM."""
        z_t, x_hat, carry = state
        return z_t, x_hat, tuple(ops.zeros_like(part) for part in carry)

    def _once(self, denoise: Callable, i, state, keys):
        """The state after step i, from the one before it."""
        z_t, _, carry = state
        levels, first, drawn = {"logsnr_t": self.logsnr[i], "logsnr_s": self.logsnr[i + 1]}, [], []

        def estimate(z, logsnr):
            if first:  # z is of the sampler's making, and says nothing of what is known
                z = z if self.known is None else self._replaced(z, self._known_at(*first[0], logsnr))
            first.append((z, logsnr))
            return denoise(z, ops.broadcast_to(logsnr, (keys.shape[0],)))

        def noise():
            drawn.append(threefry.normal(keys, self.image_shape, index=i + 1))
            return drawn[-1]

        z_s, x_hat, carry = self.sampler.step(estimate, z_t, carry, noise=noise, **levels)
        if self.known is not None:
            z_s = self._replaced(z_s, self._known_at(z_t, *levels.values(), drawn[0] if drawn else None))
        return z_s, x_hat, carry

    def _known_at(self, z_t, logsnr_t, logsnr_s, noise=None):
        """A draw from q(z_s | z_t, x) of the known x, or its flow where the sampler draws no noise."""
        levels = {"z_t": z_t, "logsnr_t": logsnr_t, "logsnr_s": logsnr_s}
        if noise is None:
            return flow(x=self.known[0], **levels)
        mean, lower, _ = posterior(x_hat=self.known[0], **levels)
        return mean + ops.sqrt(lower) * noise

    def _replaced(self, z, known):
        return ops.where(self.known[1], known, z)

    def _noised_again(self, i, z_s, keys):
        """z_t from z_s by the forward process, q(z_t | z_s)."""
        alpha_t, sigma_t = alpha_sigma(self.logsnr[i])
        alpha_s, _ = alpha_sigma(self.logsnr[i + 1])
        c = -ops.expm1(self.logsnr[i] - self.logsnr[i + 1])
        noise = threefry.normal(keys, self.image_shape)
        return alpha_t / alpha_s * z_s + sigma_t * ops.sqrt(c) * noise


def sample(**settings):
    """Draws x, float32 [B, *image_shape], from noise; arguments as `SamplingLoop`."""
    loop = SamplingLoop(**settings)
    return loop.result(loop.advance(loop.start(), 0, loop.num_steps))
