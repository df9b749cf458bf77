"""What can be taken out of the library's training step on jax, one at a time, to see what it costs.

Each change takes a compiled model and returns it changed; what it saves is the cost of the part it took out.
"""

import types
from collections.abc import Callable


def _without_bins(model):
    """No loss in bins of logsnr."""
    model.compute_metrics = lambda *args, **kwargs: model.get_metrics_result()
    return model


def _with_jax_random(model):
    """jax's own generator for t, eps and label dropout, in place of the library's portable one."""
    import jax

    from keras_sid2 import threefry

    def of_jax(draw):
        def drawn(key, shape=(), index=0):
            words = jax.lax.bitcast_convert_type(key, "uint32")
            return draw(jax.random.wrap_key_data(words), (*jax.numpy.shape(index), *shape))

        return drawn

    def corrupted(self, *args, **kwargs):
        kept = threefry.uniform, threefry.normal
        threefry.uniform, threefry.normal = of_jax(jax.random.uniform), of_jax(jax.random.normal)
        try:
            return type(self).corrupted(self, *args, **kwargs)
        finally:
            threefry.uniform, threefry.normal = kept

    model.corrupted = types.MethodType(corrupted, model)
    return model


def _without_guard(model):
    """No zeroing of gradients that are not finite, no record of the norm."""
    from keras import ops

    from keras_sid2 import backend

    def clip(grads):
        norm = backend.global_norm(grads)
        scale = ops.minimum(1.0, model.optimizer.global_clipnorm / ops.maximum(norm, 1e-12))
        return [g * scale for g in grads]

    model.optimizer._clip_gradients = clip
    return model


def _without_averages(model):
    """No EMA."""
    model.ema_decay = None
    return model


CHANGES: dict[str, Callable] = {
    "without bins of the loss": _without_bins,
    "with jax.random": _with_jax_random,
    "without guard of the gradient": _without_guard,
    "without averages": _without_averages,
}
