"""SiD2Model: a network, a noise schedule and a loss weighting, trained by `fit` on any backend.

    (1) t_i = frac(u + i / B), u ~ U(0, 1): each t_i is uniform, together they cover [0, 1] evenly
    (2) z_t = alpha x + sigma eps, v = alpha eps - sigma x, v_hat = network(z_t, logsnr, label)
    (3) loss_i = -1/2 dlogsnr/dt w(logsnr) sigma^2 mean((v - v_hat)^2): SiD2's Eq. (4), since mse_x = sigma^2 mse_v

Everything random in a training step is a function of (seed, step, example's place in the batch), where step is the
optimizer's own counter; so runs repeat, and continue exactly from any file that holds the optimizer.
"""

import contextlib
import hashlib
import inspect

import keras
import numpy as np
from keras import ops

from keras_sid2 import backend, random, replicas
from keras_sid2.diffusion import (
    PREDICTIONS,
    CosineInterpolatedSchedule,
    SigmoidWeighting,
    alpha_sigma,
    convert,
    diffuse,
    loss_weight,
    velocity,
)
from keras_sid2.distribution import check_batch_size, check_model, spread
from keras_sid2.serialization import register
from keras_sid2.training.checkpoints import check_weights_file
from keras_sid2.training.data_checks import check_batch, check_image_spec, peek, unpack
from keras_sid2.training.drawing import generate, trajectory
from keras_sid2.training.guards import StopOnNonFinite
from keras_sid2.training.optimizer import AdamRecipe, accumulated_losses, steps_done
from keras_sid2.training.preset import find_preset

_TRAIN, _EVALUATE = range(2)  # streams of a seed: training steps and evaluation batches never share noise

LOGSNR_EDGES = (-5.0, 0.0, 5.0)  # our choice: noise, structure, detail, texture


def _bin_metrics() -> list[keras.metrics.Mean]:
    bounds = ["min", *(f"{edge:g}" for edge in LOGSNR_EDGES), "max"]
    return [keras.metrics.Mean(name=f"loss_logsnr_{a}_{b}") for a, b in zip(bounds, bounds[1:], strict=False)]


@register
class SiD2Model(keras.Model):
    """Trains `network` on SiD2's loss and draws images from it.

    `compile()` without arguments takes the preset's optimizer; `fit` and `evaluate` take batches {"image", "label"} or
    (image, label) as tf.data, PyDataset, torch DataLoader, generator or arrays; images are uint8 or float in [-1, 1],
    [B, H, W, C], labels int [B]. `evaluate` and `generate` use the averaged weights unless told otherwise. Metrics:
    loss, the loss in bins of logsnr, and the norm of the latest gradient.

    Args:
        network: network((z_t, logsnr, label), training, seed) -> v_hat, with the attributes `image_shape` and
            `num_classes` (None: no labels); a `ResidualUViT`.
        schedule: a noise schedule; None is the paper's for images of this size.
        weighting: a loss weighting; None is the paper's for images of this size.
        label_dropout: share of the labels that training replaces by the null class, in [0, 1).
        seed: of all noise in training and evaluation, an integer >= 0.
        recipe: optimizer settings of `compile()`; None is the lineage's.
        prediction: what the network's output means: "v", as in the paper, "eps" or "x".

    Raises ValueError where the paper has no schedule or bias for this size and none is given.
    """

    def __init__(
        self,
        network,
        schedule=None,
        weighting=None,
        label_dropout=0.1,
        seed=0,
        recipe=None,
        prediction="v",
        name="sid2",
        **kwargs,
    ):
        shape = tuple(network.image_shape)
        schedule = CosineInterpolatedSchedule.for_image_shape(shape) if schedule is None else schedule
        weighting = SigmoidWeighting.for_image_shape(shape) if weighting is None else weighting
        if not 0.0 <= label_dropout < 1.0:
            raise ValueError(f"label_dropout must be in [0, 1), got {label_dropout!r}.")
        if prediction not in PREDICTIONS:
            raise ValueError(f"prediction must be one of {', '.join(PREDICTIONS)}, got {prediction!r}.")
        random.key(seed)  # refuses what is no seed
        super().__init__(name=name, **{**kwargs, "autocast": False, "dtype": "float32"})
        self.network, self.schedule, self.weighting = _built(network, shape), schedule, weighting
        self.image_shape, self.num_classes = shape, network.num_classes
        self.label_dropout, self.seed, self.prediction = float(label_dropout), int(seed), prediction
        self.recipe = recipe or AdamRecipe()
        self.bin_losses = _bin_metrics()
        self.sampling_programs = {}
        self.non_finite = None  # the NonFiniteLoss that stopped fit
        self._network_takes_seed = "seed" in inspect.signature(network.call).parameters
        self.built = True

    @classmethod
    def from_preset(cls, preset: str, *, seed: int = 0, dtype=None, remat: bool = False) -> "SiD2Model":
        """A model with new weights by a preset's name (`keras_sid2.list_presets()`), not yet compiled.

        No trained weights are published: train it, or `load_weights` your own. `dtype` is a dtype policy for the
        network, such as "mixed_bfloat16"; `remat` computes blocks again in the backward pass, for less memory. Raises
        ValueError for an unknown name, with the names that are near.
        """
        return find_preset(preset).build(cls, seed=seed, dtype=dtype, remat=remat)

    # -- the training step -------------------------------------------------------------------------------------------

    def _step_keys(self, stream: int, step):
        """int32 [4, 2]: the step's keys for t, label dropout, eps and the network's dropout."""
        return random.fold_in(random.key(self.seed, stream), step, ops.arange(4))

    def _scaled(self, images):
        """uint8 [0, 255] or float [-1, 1] images of the model's shape as float32 in [-1, 1], on the device."""
        check_image_spec(images.shape, images.dtype, self.image_shape)
        if keras.backend.standardize_dtype(images.dtype) == "uint8":
            return ops.cast(images, "float32") / 127.5 - 1.0
        return ops.cast(images, "float32")

    def noised(self, data, keys, label_dropout: float):
        """(inputs, v): a batch at random noise levels, by Eq. (1) and (2), as a function of `keys` [4, 2] alone.

        inputs holds z_t, logsnr, label (where there are classes), the weight of mse_v in Eq. (3) and the seed of the
        network's dropout. Labels are replaced by the null class with probability label_dropout.
        """
        images, labels = unpack(data)
        x = self._scaled(ops.convert_to_tensor(images))
        order, batch = replicas.rows(ops.shape(x)[0])
        t = ops.mod(random.uniform(keys[0]) + ops.cast(order, "float32") / ops.cast(batch, "float32"), 1.0)
        eps = random.normal(keys[2], self.image_shape, index=order)
        logsnr = self.schedule.logsnr(t)
        _, sigma = alpha_sigma(logsnr)
        inputs = {
            "logsnr": logsnr,
            "seed": replicas.key_of_copy(keys[3]),
            "weight": loss_weight(t, schedule=self.schedule, weighting=self.weighting) * ops.square(sigma),
            "z_t": diffuse(x=x, eps=eps, logsnr=logsnr),
        }
        if self.num_classes is not None:
            dropped = random.uniform(keys[1], index=order) <= label_dropout
            inputs["label"] = ops.where(dropped, self.num_classes, ops.cast(labels, "int32"))
        return inputs, velocity(x=x, eps=eps, logsnr=logsnr)

    def train_step(self, *args):
        """keras's own step of the backend on the noised batch; jax passes and returns its state explicitly."""
        *state, data = args
        variables = self.optimizer.variables
        step = backend.step_value(self.optimizer._iterations, variables, state[0][2] if state else None)
        inputs, v = self.noised(data, self._step_keys(_TRAIN, step), self.label_dropout)
        if self.recipe.accumulation_steps > 1:
            inputs["v"] = v
        result = super().train_step(*state, (inputs, v))
        logs, *state = result if state else (result,)
        if hasattr(self.optimizer, "gradient_norm"):
            norm = backend.step_value(self.optimizer.gradient_norm, variables, state[0][2] if state else None)
            logs["gradient_norm"] = norm
        return (logs, *state) if state else replicas.step_logs(logs)

    def test_step(self, *args):
        """Noise of an evaluation batch is a function of (seed, examples before it): the same at every evaluation."""
        *state, data = args
        seen = backend.step_value(self._loss_tracker.count, self.metrics_variables, state[0][2] if state else None)
        seen = seen * replicas.count()  # each copy counts its own
        result = super().test_step(*state, self.noised(data, self._step_keys(_EVALUATE, seen), 0.0))
        return result if state else replicas.step_logs(result)

    def _maybe_symbolic_build(self, *args, **kwargs):
        """All is built; tensorflow's trainer would take a batch from the data to find out."""

    def call(self, inputs, training=None):
        """v_hat from inputs with the keys z_t, logsnr and, where there are classes, label (see `noised`).

        With the key v too, in training: the losses [B] instead, their gradient accumulated over the recipe's parts.
        """
        if training and "v" in inputs:
            variables, parts = (self.variables, self.trainable_variables), self.recipe.accumulation_steps
            return accumulated_losses(self._losses_of, inputs, *variables, parts)
        seed = {"seed": inputs.get("seed")} if self._network_takes_seed else {}
        output = self.network((inputs["z_t"], inputs["logsnr"], inputs.get("label")), training=training, **seed)
        if self.prediction == "v":
            return output
        at = {"z_t": inputs["z_t"], "logsnr": inputs["logsnr"]}
        return convert(ops.cast(output, "float32"), self.prediction, "v", **at)

    def _losses_of(self, inputs):
        v = inputs["v"]
        v_hat = self.call({k: value for k, value in inputs.items() if k != "v"}, training=True)
        return self._loss_per_example(inputs, v, v_hat)

    @staticmethod
    def _loss_per_example(inputs, v, v_hat):
        """Eq. (3), float32 [B]; `v_hat` may be these losses already."""
        if len(v_hat.shape) == 1:
            return v_hat
        error = ops.square(ops.cast(v_hat, "float32") - v)
        return inputs["weight"] * ops.mean(error, axis=tuple(range(1, len(v.shape))))

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        losses = self._loss_per_example(x, y, y_pred)
        return replicas.mean_loss(losses + sum(ops.sum(extra) for extra in self.losses) if self.losses else losses)

    def compute_metrics(self, x, y, y_pred, sample_weight=None):
        losses = replicas.gathered(self._loss_per_example(x, y, ops.stop_gradient(y_pred)))
        bins = ops.searchsorted(ops.convert_to_tensor(LOGSNR_EDGES, "float32"), replicas.gathered(x["logsnr"]))
        for i, metric in enumerate(self.bin_losses):
            metric.update_state(losses, sample_weight=ops.cast(ops.equal(bins, i), "float32"))
        return self.get_metrics_result()

    # -- compile, fit, evaluate --------------------------------------------------------------------------------------

    def compile(self, optimizer=None, **kwargs):
        """keras's compile; `optimizer` None is the recipe's.

        Raises ValueError for a loss or metrics, as it has both, and where the mesh of `distribute` cannot hold it.
        """
        refused = [k for k in ("loss", "loss_weights", "metrics", "weighted_metrics") if kwargs.get(k) is not None]
        if refused:
            raise ValueError(f"SiD2Model computes its own loss and metrics: compile() takes no {', '.join(refused)}.")
        super().compile(optimizer=self.recipe.build() if optimizer is None else optimizer, **kwargs)
        replicas.check_optimizer(self.optimizer)
        check_model(self)
        self.optimizer.build(self.trainable_variables)
        self.sampling_programs.clear()

    def fit(self, x=None, y=None, batch_size=None, epochs=1, *, callbacks=None, **kwargs):
        """keras's fit, after a look at the first batch; it stops at the first loss or gradient that is not finite.

        Raises ValueError for data that does not fit the model, before training starts, and FloatingPointError, with
        the step, when the loss or the gradient is NaN or infinite; that step changed no weight to NaN.
        """
        refused = [k for k in ("sample_weight", "class_weight") if kwargs.get(k) is not None]
        if refused:
            raise ValueError(f"SiD2Model's loss weights noise levels only: fit() takes no {', '.join(refused)}.")
        x = self._checked(x, y, batch_size)
        validation = kwargs.get("validation_data")
        if isinstance(validation, tuple):
            self._checked(*validation, batch_size=kwargs.get("validation_batch_size") or batch_size)
        elif validation is not None:
            kwargs["validation_data"] = self._checked(validation)
        if not (hasattr(x, "shape") or isinstance(x, dict | keras.utils.PyDataset)):
            kwargs.setdefault("shuffle", False)  # keras warns at each fit that other data shuffles itself
        guard = StopOnNonFinite()
        callbacks = callbacks if isinstance(callbacks, keras.callbacks.CallbackList) else [guard, *(callbacks or ())]
        with backend.variables_survive(self):
            history = super().fit(x, y, batch_size, epochs, callbacks=callbacks, **kwargs)
        guard.raise_if_stopped()
        return history

    def evaluate(self, x=None, y=None, batch_size=None, *args, use_ema: bool = True, **kwargs):
        """keras's evaluate, with the averaged weights unless use_ema is False; the same noise every time."""
        if not kwargs.get("_use_cached_eval_dataset"):
            x = self._checked(x, y, batch_size)
        with self.averaged_weights() if use_ema else contextlib.nullcontext():
            return super().evaluate(x, y, batch_size, *args, **kwargs)

    def _checked(self, x, y=None, batch_size=None):
        """`x` as it must be used from now on; ValueError if its first batch does not fit the model, or the mesh."""
        x, first = peek(x, y)
        if first is not None:
            check_batch(first, image_shape=self.image_shape, num_classes=self.num_classes)
            arrays, rows = isinstance(first, tuple) and first[0] is x, unpack(first)[0].shape[0]
            check_batch_size(rows, (batch_size or 32) if arrays else None)
            x = spread(x, rows)
        return x

    def averages(self) -> list | None:
        """The optimizer's averaged weights, or None while there are none (no EMA, no step done yet)."""
        optimizer = getattr(self, "optimizer", None)
        if optimizer is None or not optimizer.use_ema or not steps_done(self):
            return None
        return optimizer._model_variables_moving_average

    @contextlib.contextmanager
    def averaged_weights(self):
        """Within it the model's weights and their averages have changed places; without averages, nothing happens."""
        backend.sync_variables(self)
        pairs = list(zip(self.trainable_variables, self.averages() or (), strict=False))
        _exchange(pairs)
        try:
            yield
        finally:
            _exchange(pairs)

    # -- sampling ----------------------------------------------------------------------------------------------------

    generate = generate
    trajectory = trajectory

    def weights_digest(self, *, use_ema: bool = True) -> str:
        """The first 16 hexadecimal digits of the SHA-256 of the weights that `generate` draws from."""
        backend.sync_variables(self)
        digest = hashlib.sha256()
        for variable in (*((use_ema and self.averages()) or self.trainable_variables), *self.non_trainable_variables):
            digest.update(np.ascontiguousarray(ops.convert_to_numpy(variable.value)).tobytes())
        return digest.hexdigest()[:16]

    # -- saving ------------------------------------------------------------------------------------------------------

    def load_weights(self, filepath, **kwargs):
        """keras's load_weights, all or nothing: ValueError, and no weight changed, for those of another network."""
        check_weights_file(filepath, expected=len(self.network.weights))
        variables = [*self.variables, *(self.optimizer.variables if self.compiled else ())]
        before = [ops.copy(v.value) for v in variables]
        try:
            super().load_weights(filepath, **kwargs)
        except ValueError as error:
            for variable, value in zip(variables, before, strict=True):
                variable.assign(value)
            reason = str(error).strip().splitlines()[0]
            raise ValueError(f"{filepath} does not hold the weights of this model's network: {reason}") from error

    def get_config(self):
        parts = {part: getattr(self, part) for part in ("network", "schedule", "weighting", "recipe")}
        return {
            **{k: v for k, v in super().get_config().items() if k in ("name", "trainable")},
            **{part: keras.saving.serialize_keras_object(value) for part, value in parts.items()},
            "label_dropout": self.label_dropout,
            "seed": self.seed,
            "prediction": self.prediction,
        }

    @classmethod
    def from_config(cls, config, custom_objects=None):
        config = dict(config)
        for part in ("network", "schedule", "weighting", "recipe"):
            config[part] = keras.saving.deserialize_keras_object(config[part], custom_objects=custom_objects)
        return cls(**config)

    def get_compile_config(self):
        """The optimizer alone: what jit_compile came to on this backend must not be imposed on another."""
        return {"optimizer": keras.saving.serialize_keras_object(self.optimizer)} if self.compiled else {}

    def compile_from_config(self, config):
        self.compile(keras.saving.deserialize_keras_object(config["optimizer"]))


def _built(network, image_shape: tuple[int, ...]):
    """`network` with its weights, which one of the user's may make at its first call only."""
    if not network.built:
        label = None if network.num_classes is None else ops.zeros((1,), "int32")
        network((ops.zeros((1, *image_shape)), ops.zeros((1,)), label))
    return network


def _exchange(pairs):
    for variable, average in pairs:
        kept = ops.copy(variable.value)
        variable.assign(average.value)
        average.assign(kept)
