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

    def corrupted(self, data, keys, dropout):
        def key(index):
            data = jax.lax.bitcast_convert_type(keys.reshape(-1, 2)[0], "uint32")
            return jax.random.fold_in(jax.random.wrap_key_data(data), index)

        kept = threefry.uniform, threefry.normal
        batch = data[0].shape[0]
        threefry.uniform = lambda keys, shape=(), index=0: jax.random.uniform(key(0), (batch, 2))
        threefry.normal = lambda keys, shape=(), index=0: jax.random.normal(key(1), (batch, *shape))
        try:
            return type(self).corrupted(self, data, keys, dropout)
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
