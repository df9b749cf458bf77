"""Keras's callbacks that would act on other weights, or another rate, than they seem to: each gets a sentence."""

from collections.abc import Iterable

import keras

from keras_sid2.training.learning_rate import Schedule

_RATE = (keras.callbacks.ReduceLROnPlateau, keras.callbacks.LearningRateScheduler)


def check_callbacks(callbacks: Iterable | None, optimizer=None):
    """ValueError for a callback of fit, evaluate or predict that cannot do here what it does elsewhere."""
    if isinstance(callbacks, keras.callbacks.Callback) and not isinstance(callbacks, keras.callbacks.CallbackList):
        callbacks = [callbacks]
    for callback in getattr(callbacks, "callbacks", callbacks) or ():
        name = type(callback).__name__
        if isinstance(callback, keras.callbacks.SwapEMAWeights):
            raise ValueError(
                f"{name} would exchange weights and averages, and a SiD2Model keeps both in their places: evaluate, "
                "predict and generate read the averages by themselves (use_ema=False: the weights), so leave it out."
            )
        if isinstance(callback, _RATE) and optimizer is not None and not _settable(optimizer):
            raise ValueError(
                f"{name} sets the learning rate, and this optimizer's follows a schedule of its own: compile() with "
                "AdamRecipe(warmup_steps=0).build(), or leave the callback out and let the recipe's decay lower the "
                "rate."
            )


def _settable(optimizer) -> bool:
    inner = getattr(optimizer, "inner_optimizer", optimizer)
    return not hasattr(inner, "optimizers") and not isinstance(inner._learning_rate, Schedule)
