"""SiD2Model: a network, a noise schedule and a loss weighting, trained by `fit` on any backend.

    (1) t_i = frac(u + i / B), u ~ U(0, 1): each t_i is uniform, together they cover [0, 1] evenly
    (2) z_t = alpha x + sigma eps, v = alpha eps - sigma x, v_hat = network(z_t, logsnr, label)
    (3) loss_i = -1/2 dlogsnr/dt w(logsnr) sigma^2 mean((v - v_hat)^2): SiD2's Eq. (4), since mse_x = sigma^2 mse_v

Everything random in a training step is a function of (seed, step, example's place in the batch), where step is the
model's own count; so runs repeat, and continue exactly from any file that holds model and optimizer. In evaluation it
is a function of (seed, example's number) alone, so that the loss does not depend on the batches:

    (4) t_i = frac(u + i (sqrt(5) - 1) / 2), which cover [0, 1] evenly whatever their number is
"""

import inspect

import keras
import numpy as np
from keras import ops

from keras_sid2 import backend, threefry
from keras_sid2.config import register
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
from keras_sid2.generation.request import generate, trajectory
from keras_sid2.models import ResidualUViT
from keras_sid2.parallel import replicas
from keras_sid2.policies import check_channels_last, check_floatx
from keras_sid2.training.averaged_model import parameters
from keras_sid2.training.checked_model import CheckedModel
from keras_sid2.training.data_checks import DataFaults, check_image_spec, unpack, without_faults
from keras_sid2.training.frozen import freeze, frozen
from keras_sid2.training.optimizer import AdamRecipe, accumulated_losses, gradient_norm_of
from keras_sid2.training.preset import find_preset

_UNSAID = object()
_TRAIN, _EVALUATE = range(2)  # streams of a seed: training steps and evaluation never share noise

LOGSNR_EDGES = (-5.0, 0.0, 5.0)  # our choice: noise, structure, detail, texture


def _bin_metrics() -> list[keras.metrics.Mean]:
    bounds = ["min", *(f"{edge:g}" for edge in LOGSNR_EDGES), "max"]
    return [keras.metrics.Mean(name=f"loss_logsnr_{a}_{b}") for a, b in zip(bounds, bounds[1:], strict=False)]


@register
class SiD2Model(CheckedModel):
    """Trains `network` on SiD2's loss and draws images from it.

    `compile()` without arguments takes the preset's optimizer; `fit` and `evaluate` take batches {"image", "label"} or
    (image, label) as tf.data, PyDataset, torch DataLoader, generator or arrays; images are uint8 or float in [-1, 1],
    [B, H, W, C], labels int [B]. `evaluate` and `generate` use the averaged weights unless told otherwise. Metrics:
    loss, the loss in bins of logsnr, and the norm of the latest gradient.

    The model itself keeps `step`, how many steps it was trained, and the averages: compile() again, with any optimizer
    of Keras, loses neither. Layers may be frozen (`layer.trainable = False`, then compile()); files keep that.

    Args:
        network: network((z_t, logsnr, label), training, seed) -> v_hat, with the attributes `image_shape` and
            `num_classes` (None: no labels); a `ResidualUViT`.
        schedule: a noise schedule; None is the paper's for images of this size.
        weighting: a loss weighting; None is the paper's for images of this size.
        label_dropout: share of the labels that training replaces by the null class, in [0, 1).
        seed: of all noise in training and evaluation, an integer >= 0.
        recipe: optimizer settings of `compile()`; None is the lineage's.
        prediction: what the network's output means: "v", as in the paper, "eps" or "x".
        no_label: a label of training data, such as -1, that means an image of no class; None: there is none, and a
            label outside the classes ends fit and evaluate with a ValueError.

    Raises ValueError where the paper has no schedule or bias for this size and none is given; for a network whose
    weights are not float32; and where keras's floatx or, for networks of other makers, image_data_format is another.
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
        no_label=None,
        name="sid2",
        **kwargs,
    ):
        check_floatx()
        if not isinstance(network, ResidualUViT):
            check_channels_last()
        shape = tuple(network.image_shape)
        schedule = CosineInterpolatedSchedule.for_image_shape(shape) if schedule is None else schedule
        weighting = SigmoidWeighting.for_image_shape(shape) if weighting is None else weighting
        if not 0.0 <= label_dropout < 1.0:
            raise ValueError(f"label_dropout must be in [0, 1), got {label_dropout!r}.")
        if prediction not in PREDICTIONS:
            raise ValueError(f"prediction must be one of {', '.join(PREDICTIONS)}, got {prediction!r}.")
        threefry.key(seed)  # refuses what is no seed
        _check_no_label(no_label, network.num_classes)
        super().__init__(name=name, **{**kwargs, "autocast": False, "dtype": "float32"})
        self.network, self.schedule, self.weighting = _built(network, shape), schedule, weighting
        self.image_shape, self.num_classes = shape, network.num_classes
        self.label_dropout, self.seed, self.prediction = float(label_dropout), int(seed), prediction
        self.recipe, self.no_label = recipe or AdamRecipe(), no_label
        self._keep_averages(self.network, self.recipe.ema_decay)
        self.bin_losses, self.data_faults = _bin_metrics(), DataFaults()
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
        return threefry.fold_in(threefry.key(self.seed, stream), step, ops.arange(4))

    def _checked_in_step(self, data):
        """(x float32 in [-1, 1], labels, share, faults) of a batch, on the device; see `without_faults`."""
        images, labels = unpack(data)
        images = ops.convert_to_tensor(images)
        check_image_spec(images.shape, images.dtype, self.image_shape)
        scaled = keras.backend.standardize_dtype(images.dtype) == "uint8"
        x = ops.cast(images, "float32")
        x = x / 127.5 - 1.0 if scaled else x
        return without_faults(x, labels, num_classes=self.num_classes, no_label=self.no_label, scaled=scaled)

    def noised(self, data, keys, label_dropout: float, first=None):
        """(inputs, v): a batch at random noise levels, by Eq. (1) and (2), as a function of `keys` [4, 2] alone.

        inputs holds z_t, logsnr, label (where there are classes), the weight of mse_v in Eq. (3), the seed of the
        network's dropout, and faults of the data. Labels are replaced by the null class with probability label_dropout.
        With `first`, the number of the first example, noise is by the examples' numbers, and t by Eq. (4).
        """
        x, labels, share, faults = self._checked_in_step(data)
        order, batch = replicas.rows(ops.shape(x)[0])
        if first is None:
            fractions = ops.cast(order, "float32") / ops.cast(batch, "float32")
        else:
            order = order + ops.cast(first, "int32")
            fractions = threefry.evenly(order)
        t = ops.mod(threefry.uniform(keys[0]) + fractions, 1.0)
        eps = threefry.normal(keys[2], self.image_shape, index=order)
        logsnr = self.schedule.logsnr(t)
        _, sigma = alpha_sigma(logsnr)
        inputs = {
            "faults": faults,
            "logsnr": logsnr,
            "seed": replicas.key_of_copy(keys[3]),
            "weight": share * loss_weight(t, schedule=self.schedule, weighting=self.weighting) * ops.square(sigma),
            "z_t": diffuse(x=x, eps=eps, logsnr=logsnr),
        }
        if self.num_classes is not None:
            dropped = threefry.uniform(keys[1], index=order) <= label_dropout
            inputs["label"] = ops.where(dropped, self.num_classes, labels)
        return inputs, velocity(x=x, eps=eps, logsnr=logsnr)

    def train_step(self, *args):
        """keras's own step of the backend on the noised batch; jax passes and returns its state explicitly."""
        *state, data = args
        step = backend.step_value(self.step, self.non_trainable_variables, state[0][1] if state else None)
        inputs, v = self.noised(data, self._step_keys(_TRAIN, step), self.label_dropout)
        if self.recipe.accumulation_steps > 1:
            inputs["v"] = v
        result = super().train_step(*state, (inputs, v))
        logs, *state = result if state else (result,)
        norm = gradient_norm_of(self.optimizer)
        if norm is not None:
            values = state[0][2] if state else None
            logs["gradient_norm"] = backend.step_value(norm, self.optimizer.variables, values)
        return (logs, *state) if state else replicas.step_logs(logs)

    def test_step(self, *args):
        """Noise of an example is a function of (seed, examples before it): the same at every evaluation."""
        *state, data = args
        seen = backend.step_value(self._loss_tracker.count, self.metrics_variables, state[0][2] if state else None)
        seen = seen * replicas.count()  # each copy counts its own
        result = super().test_step(*state, self.noised(data, self._step_keys(_EVALUATE, 0), 0.0, first=seen))
        return result if state else replicas.step_logs(result)

    def _maybe_symbolic_build(self, *args, **kwargs):
        """All is built; tensorflow's trainer would take a batch from the data to find out."""

    def call(self, inputs, training=None):
        """v_hat from inputs with the keys z_t, logsnr and, where there are classes, label (see `noised`).

        With the key v too, in training: the losses [B] instead, their gradient accumulated over the recipe's parts.
        """
        if training and "v" in inputs:
            variables, parts = (self.network.variables, self.trainable_variables), self.recipe.accumulation_steps
            return accumulated_losses(self._losses_of, inputs, *variables, parts)
        seed = {"seed": inputs.get("seed")} if self._network_takes_seed else {}
        output = self._predict((inputs["z_t"], inputs["logsnr"], inputs.get("label")), training=training, **seed)
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
        self.data_faults.update_state(x["faults"])
        logs = self.get_metrics_result()
        return {**logs, "loss": ops.where(self.data_faults.found(), np.float32(np.nan), logs["loss"])}

    # -- sampling ----------------------------------------------------------------------------------------------------

    generate = generate
    trajectory = trajectory

    # -- saving ------------------------------------------------------------------------------------------------------

    def get_config(self):
        parts = {part: getattr(self, part) for part in ("network", "schedule", "weighting", "recipe")}
        return {
            **{k: v for k, v in super().get_config().items() if k in ("name", "trainable")},
            **{part: keras.saving.serialize_keras_object(value) for part, value in parts.items()},
            "label_dropout": self.label_dropout,
            "seed": self.seed,
            "prediction": self.prediction,
            "no_label": self.no_label,
            "frozen": frozen(self.network),
            **({"ema_decay": self.ema_decay} if self._chosen else {}),
        }

    @classmethod
    def from_config(cls, config, custom_objects=None):
        config = dict(config)
        paths, decay = config.pop("frozen", ()), config.pop("ema_decay", _UNSAID)
        for part in ("network", "schedule", "weighting", "recipe"):
            config[part] = keras.saving.deserialize_keras_object(config[part], custom_objects=custom_objects)
        model = cls(**config)
        freeze(model.network, paths)
        if decay is not _UNSAID:
            model.ema_decay, model._chosen = decay, True
        return model

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
    half = [v for v in parameters(network) if v.dtype != "float32"]
    if half:
        raise ValueError(
            f"The weights of a network must be float32, for small steps are lost in others, and {half[0].path} is "
            f"{half[0].dtype}: make it with dtype='mixed_bfloat16', which computes in bfloat16."
        )
    return network


def _check_no_label(no_label, num_classes: int | None):
    if no_label is None:
        return
    if isinstance(no_label, bool) or not isinstance(no_label, int) or 0 <= no_label < (num_classes or 0):
        raise ValueError(f"no_label must be an integer that is no class, such as -1, got {no_label!r}.")
