"""Keras's methods of a model, which check what they are given before they start.

What Keras lets a user do either works on what `generate` and `evaluate` use, or is refused in one sentence.
"""

import warnings

import keras

from keras_sid2 import backend
from keras_sid2.exporting import export_step
from keras_sid2.parallel import replicas
from keras_sid2.parallel.mesh import check_batch_size, check_model, spread
from keras_sid2.training.averaged_model import AveragedModel
from keras_sid2.training.data_checks import check_batch, peek, unpack
from keras_sid2.training.describing import in_a_line
from keras_sid2.training.guards import StopOnNonFinite
from keras_sid2.training.optimizer import Schedule, decay_of, usable


class CheckedModel(AveragedModel):
    """A model with `recipe`, `sample_shape`, `conditions`, `no_label`, `channels` and `data_faults`."""

    _texts_looked_at = False

    def __repr__(self):
        return in_a_line(self) if hasattr(self, "step") else f"<{type(self).__name__}, not made yet>"

    def summary(self, *args, print_fn=None, **kwargs):
        """keras's summary, and the line of repr."""
        super().summary(*args, print_fn=print_fn, **kwargs)
        (print_fn or print)(in_a_line(self))

    def export(self, filepath, format=None, *, use_ema: bool = True, overwrite: bool = False):
        """Writes one denoising step for other runtimes, with a runner that draws samples by it: see `export_step`."""
        export_step(self, filepath, format, use_ema=use_ema, overwrite=overwrite)

    def compile(self, optimizer=None, **kwargs):
        """keras's compile; `optimizer` None is the recipe's.

        Weights, averages and `step` stay as they are; a new optimizer begins anew, with its own warm-up and moments.
        An EmaAdam averages with its decay; another optimizer not, unless there are averages already. In float16 it is
        put into a LossScaleOptimizer, as in Keras. On torch run_eagerly=True has a ResidualUViT run its blocks as Keras
        does, and neither record nor compile them.

        Raises ValueError for a loss or metrics, as it has both; for an optimizer that averages or accumulates by
        itself, or was built for other variables; and where the mesh of `distribute` cannot hold it.
        """
        own = ("loss", "loss_weights", "metrics", "weighted_metrics")
        _refuse(kwargs, own, "SiD2Model computes its own loss and metrics: compile()")
        float16 = any(layer.compute_dtype == "float16" for layer in self.network._flatten_layers())
        optimizer = self.new_optimizer() if optimizer is None else optimizer
        optimizer = usable(optimizer, float16=float16 and kwargs.get("auto_scale_loss", True))
        if self._trains_others(optimizer):
            advice = "(of another model, or before layers were frozen or freed): give compile() a new one, or none"
            raise ValueError(f"This {type(optimizer).__name__} was built for other variables {advice}.")
        if isinstance(optimizer, keras.optimizers.LossScaleOptimizer) and self.recipe.accumulation_steps > 1:
            advice = "a LossScaleOptimizer, which does not scale the gradients of microbatches: take mixed_bfloat16"
            raise ValueError(f"accumulation_steps > 1 does not go with float16 and {advice}.")
        super().compile(optimizer=optimizer, **kwargs)
        for layer in self._flatten_layers(include_self=False):
            if isinstance(layer, keras.Model):
                layer.run_eagerly = self.run_eagerly
        replicas.check_optimizer(self.optimizer)
        check_model(self)
        self.optimizer.build(self.trainable_variables)
        self._average_with(decay_of(self.optimizer))
        self.sampling_programs.clear()

    def new_optimizer(self):
        """What compile() takes where it is given none."""
        return self.recipe.build()

    def fit(self, x=None, y=None, batch_size=None, epochs=1, *, callbacks=None, **kwargs):
        """keras's fit, after a look at the first batch; it stops at the first loss or gradient that is not finite.

        Warns, once, where a network that whitens the tokens of texts was given none by `adapt_text`. Raises ValueError
        for data that does not fit the model, before training starts; for callbacks that cannot do here what they do
        elsewhere; and where layers were frozen or freed since compile(). FloatingPointError, with the
        step, when the loss or the gradient is NaN or infinite; that step changed no weight to NaN. CorruptBatch, which
        is both, for a label outside the classes or a float image outside [-1, 1] in a later batch; it was not learnt.
        """
        _refuse(kwargs, ("sample_weight", "class_weight"), "SiD2Model's loss weights noise levels only: fit()")
        self._begin_training("fit")
        _check_callbacks(callbacks, self.optimizer)
        x = self._checked(x, y, batch_size)
        validation = kwargs.get("validation_data")
        if isinstance(validation, tuple):
            self._checked(*validation, batch_size=kwargs.get("validation_batch_size") or batch_size)
        elif validation is not None:
            kwargs["validation_data"] = self._checked(validation)
        if not (hasattr(x, "shape") or isinstance(x, dict | keras.utils.PyDataset)):
            kwargs.setdefault("shuffle", False)  # keras warns at each fit that other data shuffles itself
        guard = StopOnNonFinite()
        callbacks = callbacks if isinstance(callbacks, keras.callbacks.CallbackList) else [guard, *_listed(callbacks)]
        with backend.variables_survive(self):
            history = super().fit(x, y, batch_size, epochs, callbacks=callbacks, **kwargs)
        guard.raise_if_stopped()
        return history

    def evaluate(self, x=None, y=None, batch_size=None, *args, use_ema: bool = True, **kwargs):
        """keras's evaluate, with the averaged weights unless use_ema is False; the same noise every time.

        Raises ValueError as fit does, and for a wrong label or float image in a later batch.
        """
        self._check_compiled("evaluate")
        _check_callbacks(kwargs.get("callbacks"))
        if not kwargs.get("_use_cached_eval_dataset"):
            x = self._checked(x, y, batch_size)
        with self._reading(use_ema):
            result = super().evaluate(x, y, batch_size, *args, **kwargs)
        backend.sync_variables(self)
        if wrong := self.data_faults.sentence(self.conditions, self.channels):
            raise ValueError(f"{wrong} It is in the data of evaluate, behind the first batch.")
        return result

    def predict(self, x, *args, use_ema: bool = True, **kwargs):
        """keras's predict: v_hat of the averaged weights for {"z_t", "logsnr", "label"}; ValueError for others."""
        x, first = peek(x)
        _check_inputs(first[0] if isinstance(first, tuple) else first)
        _check_callbacks(kwargs.get("callbacks"))
        with self._reading(use_ema):
            return super().predict(x, *args, **kwargs)

    def train_on_batch(self, x, y=None, *args, **kwargs):
        """keras's train_on_batch, of a batch that is checked first."""
        self._begin_training("train_on_batch")
        self._check_batch((x, y))
        return super().train_on_batch(x, y, *args, **kwargs)

    def test_on_batch(self, x, y=None, *args, use_ema: bool = True, **kwargs):
        """keras's test_on_batch, as `evaluate` of one batch."""
        self._check_compiled("test_on_batch")
        self._check_batch((x, y))
        with self._reading(use_ema):
            return super().test_on_batch(x, y, *args, **kwargs)

    def predict_on_batch(self, x, *, use_ema: bool = True):
        """keras's predict_on_batch, as `predict` of one batch."""
        _check_inputs(x)
        with self._reading(use_ema):
            return super().predict_on_batch(x)

    def _check_compiled(self, method: str):
        if not self.compiled:
            raise ValueError(f"{method} needs an optimizer and metrics: call compile() first.")

    def _begin_training(self, method: str):
        self._check_compiled(method)
        if self._trains_others(self.optimizer):
            advice = "call compile() again, which keeps weights, averages and the count of steps"
            raise ValueError(f"Layers were frozen or freed since compile(): {advice}.")
        self._complete()
        self.reconstructed = None
        looked_at, self._texts_looked_at = self._texts_looked_at, True  # once: it reads weights from the device
        if not looked_at and (waits := getattr(self.network, "waits_for_texts", None)) is not None and waits():
            advice = "call model.network.adapt_text(values) first, with some hundred texts of the data"
            warnings.warn(f"Tokens are not whitened, as no texts that differ have told how: {advice}.", stacklevel=3)

    def _trains_others(self, optimizer) -> bool:
        """Whether `optimizer` was built for other variables than are trained now."""
        built_for = optimizer._trainable_variables if optimizer.built else self.trainable_variables
        return [id(v) for v in built_for] != [id(v) for v in self.trainable_variables]

    def _check_batch(self, batch):
        check_batch(batch, self.sample_shape, self.conditions, self.no_label, self.channels)

    def _checked(self, x, y=None, batch_size=None):
        """`x` as it must be used from now on; ValueError if its first batch does not fit the model, or the mesh."""
        x, first = peek(x, y)
        if first is not None:
            self._check_batch(first)
            arrays, rows = isinstance(first, tuple) and first[0] is x, unpack(first)[0].shape[0]
            check_batch_size(rows, (batch_size or 32) if arrays else None)
            x = spread(x, rows)
        return x


def _refuse(kwargs: dict, names: tuple[str, ...], who: str):
    refused = [name for name in names if kwargs.get(name) is not None]
    if refused:
        raise ValueError(f"{who} takes no {', '.join(refused)}.")


def _check_inputs(inputs):
    if not isinstance(inputs, dict) or not {"z_t", "logsnr"} <= set(inputs):
        advice = "to draw images call generate, and for the loss of images evaluate"
        raise ValueError(f'predict gives v_hat for {{"z_t": [N, ...], "logsnr": [N], "label": [N]}}: {advice}.')


def _check_callbacks(callbacks, optimizer=None):
    """ValueError for those that would act on other weights, or another learning rate, than they seem to."""
    inner = getattr(optimizer, "inner_optimizer", optimizer)
    fixed_rate = hasattr(inner, "optimizers") or isinstance(getattr(inner, "_learning_rate", None), Schedule)
    for callback in _listed(callbacks):
        name = type(callback).__name__
        if isinstance(callback, keras.callbacks.SwapEMAWeights):
            advice = "leave it out: evaluate, predict and generate read the averages (use_ema=False: the weights)"
            raise ValueError(f"{name} would exchange weights and averages, which a SiD2Model reads in place; {advice}.")
        sets_rate = isinstance(callback, keras.callbacks.ReduceLROnPlateau | keras.callbacks.LearningRateScheduler)
        if sets_rate and fixed_rate:
            advice = "compile() with AdamRecipe(warmup_steps=0).build(), or let the recipe's decay lower the rate"
            raise ValueError(f"{name} sets the learning rate, and this optimizer's follows a schedule: {advice}.")


def _listed(callbacks) -> list:
    if isinstance(callbacks, keras.callbacks.CallbackList):
        return list(callbacks.callbacks)
    return [callbacks] if isinstance(callbacks, keras.callbacks.Callback) else list(callbacks or ())
