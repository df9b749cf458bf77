"""SiD2Model: a network and an objective, trained by `fit` on any backend.

    (1) t_i = frac(u + i / B), u ~ U(0, 1): each t_i is uniform, together they cover [0, 1] evenly

Everything random in a training step is a function of (seed, step, example's place in the batch), step being the model's
own count: runs repeat, and continue exactly from any file that holds model and optimizer. In evaluation it is one of
(seed, example's number) alone, so that the loss does not depend on the batches:

    (2) t_i = frac(u + i (sqrt(5) - 1) / 2), which cover [0, 1] evenly whatever their number is
"""

import dataclasses
import functools
import itertools
from collections.abc import Mapping

import keras
import numpy as np
from keras import ops

from keras_sid2 import backend, threefry
from keras_sid2.channels import check_channels
from keras_sid2.conditions import (
    call_network,
    check_channels_of_clips,
    check_clips,
    conditions_of,
    dropout_shares,
    expand,
    known_of,
    null_like,
    sample_shape_of,
)
from keras_sid2.config import register
from keras_sid2.diffusion import DiffusionObjective
from keras_sid2.generation import generate, trajectory
from keras_sid2.models import ResidualUViT
from keras_sid2.parallel import replicas
from keras_sid2.policies import check_channels_last, check_floatx
from keras_sid2.shapes import whole_number
from keras_sid2.training.adapting import adapt
from keras_sid2.training.averaged_model import parameters
from keras_sid2.training.checked_model import CheckedModel
from keras_sid2.training.data_checks import DataFaults, check_sample_spec, most_of, unpack, without_faults
from keras_sid2.training.frozen import freeze, frozen
from keras_sid2.training.optimizer import AdamRecipe, accumulated_losses
from keras_sid2.training.preset import find_preset
from keras_sid2.training.preset_folder import is_folder, list_trained, load_preset, save_preset

_TRAIN, _EVALUATE = range(2)  # streams of a seed: training steps and evaluation never share noise

LOGSNR_EDGES = (-5.0, 0.0, 5.0)  # our choice: noise, structure, detail, texture


def _of_objective(name: str) -> property:
    def replace(self, value):
        self.objective = dataclasses.replace(self.objective, **{name: value})

    return property(lambda self: getattr(self.objective, name), replace)


class _ExampleLosses(list):
    """keras's list of a layer's extra losses; called with a batch, it gives the losses of the batch's examples."""

    def __init__(self, extra, model: "SiD2Model"):
        super().__init__(extra)
        self._model = model

    def __call__(self, batch, *, use_ema: bool = True) -> np.ndarray:
        self._model._check_batch(batch)
        with self._model._reading(use_ema):
            losses = self._model.step_losses(self._model._to_evaluate(batch, 0), False)
        return backend.gathered(ops.stop_gradient(losses))


@register
class SiD2Model(CheckedModel):
    """Trains `network` on a diffusion objective, SiD2's by default, and draws samples from it.

    `fit` and `evaluate` take batches {"image", "label"} or (image, label) as tf.data, PyDataset, torch DataLoader,
    generator or arrays, whatever the conditions by their names; images are uint8 or float in [-1, 1], [B, H, W, C],
    clips ("video") [B, F, H, W, C]; with `channels`, float in their units. `evaluate` and `generate` use the averaged
    weights unless told otherwise. Metrics: loss, the loss in bins of logsnr, and the norm of the latest gradient.
    `losses(batch, use_ema=True)` gives the loss of each example of one batch, float32 [B], as evaluate sees them;
    without a call it is Keras's list of extra losses. `text_encoder` may be set, for `generate(text=)`; no file keeps
    it.

    The model itself keeps `step`, how many steps it was trained, and the averages: compile() again, with any optimizer
    of Keras, loses neither. Layers may be frozen (`layer.trainable = False`, then compile()); files keep that. A
    subclass with several networks has `step_losses`, `variables_of_step`, `new_optimizer` and `PARTS` of its own, and
    no train step (distillation.py).

    Args:
        network: what keras_sid2.conditions says of networks, with `sample_shape` and `conditions`; a `ResidualUViT`.
        schedule, weighting: of noise, and of the loss; None are the paper's for images of this size.
        label_dropout: share of the examples whose conditions training replaces by null values, in [0, 1); or a dict of
            shares by the conditions' names, 0 where one is not named. Guidance is away from the null values of those
            with a share above 0, or of all where there is none.
        seed: of all noise in training and evaluation, an integer >= 0.
        recipe: optimizer settings of `compile()`; None is the lineage's.
        prediction: what the network's output means: "v", as in the paper, "eps" or "x".
        no_label: a label of training data, such as -1, that means an image of no class; None: there is none, and a
            label outside the classes ends fit and evaluate with a ValueError.
        objective: in place of schedule, weighting and prediction; see `DiffusionObjective`.
        channels: `keras_sid2.Channels`, for fields: float samples in physical units, of any range, which the network
            sees standardised. `generate` gives them in these units, and clips none. None: images in [-1, 1].
        student_steps: of a student (`MomentMatchingModel.student`), the steps that it was distilled for, which
            `generate` takes where it is told of no others; None of other models.

    Raises ValueError where the paper has no schedule or bias for this size and none is given; for a network whose
    weights are not float32, or whose given frames are of other clips; for other channels than the samples'; and where
    keras's floatx or, for networks of other makers, image_data_format is another.
    """

    text_encoder = None  # what makes texts into values of the network's TextEmbedding; in no file

    PARTS = ("network", "objective", "recipe")  # of the configuration: constructor's arguments that keras serialises

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
        *,
        objective=None,
        channels=None,
        student_steps=None,
        **kwargs,
    ):
        check_floatx()
        if not isinstance(network, ResidualUViT):
            check_channels_last()
        shape, conditions = sample_shape_of(network), conditions_of(network)
        check_clips(conditions, shape)
        check_channels(f"A model of samples {list(shape)}", channels, shape[-1])
        check_channels_of_clips(conditions, channels)
        if objective is None:
            objective = DiffusionObjective.for_image_shape(shape, schedule, weighting, prediction)
        elif schedule is not None or weighting is not None or prediction != "v":
            raise ValueError("Give an objective, or schedule, weighting and prediction, not both.")
        dropout_shares(label_dropout, conditions)  # refuses what are none
        threefry.key(seed)  # refuses what is no seed
        super().__init__(name=name, **{**kwargs, "autocast": False, "dtype": "float32"})
        self.network, self.objective = built(network, shape, conditions), objective
        self.sample_shape, self.no_label, self.channels = shape, no_label, channels
        classes = range(self.num_classes or 0)
        if no_label is not None and (type(no_label) is not int or no_label in classes):
            raise ValueError(f"no_label must be an integer that is no class, such as -1, got {no_label!r}.")
        self.label_dropout = dict(label_dropout) if isinstance(label_dropout, Mapping) else float(label_dropout)
        self.seed, self.recipe = int(seed), recipe or AdamRecipe()
        self.student_steps = None if student_steps is None else whole_number("student_steps", student_steps)
        self._keep_averages()
        bounds = ("min", *map("{:g}".format, LOGSNR_EDGES), "max")
        self.bin_losses = [keras.metrics.Mean(name=f"loss_logsnr_{a}_{b}") for a, b in itertools.pairwise(bounds)]
        self.data_faults = DataFaults()
        self.sampling_programs = {}
        self.non_finite = None  # the NonFiniteLoss that stopped fit
        self.built = True

    def __setattr__(self, name, value):
        if name == "text_encoder":  # keras and torch would take a model of theirs for a part of this one
            return object.__setattr__(self, name, value)
        return super().__setattr__(name, value)

    @property
    def conditions(self) -> dict:
        """What the network is conditioned on, by name."""
        return conditions_of(self.network)

    @property
    def num_classes(self) -> int | None:
        """Of the label; None without one."""
        return getattr(self.conditions.get("label"), "num_classes", None)

    @property
    def _dropout(self) -> dict[str, float]:
        return dropout_shares(self.label_dropout, self.conditions)

    image_shape = property(lambda self: self.sample_shape, doc="`sample_shape`, by its name of version 0.1.")
    schedule, weighting, prediction = map(_of_objective, ("schedule", "weighting", "prediction"))

    @property
    def guided_conditions(self) -> tuple[str, ...]:
        """Names of those that guidance is by: training drops them."""
        dropped = tuple(name for name, share in self._dropout.items() if share)
        return dropped or tuple(self.conditions)

    @property
    def always_given(self) -> tuple[str, ...]:
        """Names of those that every example of training has: their null values were not learnt."""
        missing = set() if self.no_label is None else {"label"}
        return tuple(name for name, share in self._dropout.items() if not share and name not in missing)

    @classmethod
    def from_preset(cls, preset, *, load_weights: bool = True, seed=None, dtype=None, remat=False) -> "SiD2Model":
        """A model, not yet compiled, of a name in `list_presets()`, or in `list_trained()`, trained models that come
        with the library, of a folder of `save_preset`, or of hf://user/name.

        A preset's weights are new; the others' are trained, unless load_weights=False. `seed` None is 0 or the
        folder's; `dtype` is a dtype policy for the network, such as "mixed_bfloat16"; `remat` computes blocks again in
        the backward pass, for less memory. Raises ValueError for an unknown name, and what `load_preset` raises.
        """
        options = {"dtype": dtype, "remat": remat}
        if is_folder(preset):
            return load_preset(cls, preset, load_weights=load_weights, seed=seed, **options)
        return find_preset(preset, list_trained()).build(cls, seed=seed or 0, **options)

    adapt, save_preset, generate, trajectory = adapt, save_preset, generate, trajectory

    # -- the training step -------------------------------------------------------------------------------------------

    def _step_keys(self, stream: int, step):
        """int32 [5, 2]: the step's keys for t, dropped conditions, eps, the network's dropout, parts that are given."""
        return threefry.fold_in(threefry.key(self.seed, stream), step, ops.arange(5))

    def corrupted(self, data, keys, dropout: Mapping[str, float], first=None) -> dict:
        """A batch at random noise levels, as a function of `keys` [5, 2] alone; t by Eq. (1).

        What the objective's `corrupt` makes of it (its weight is 0 for a wrong example), the conditions, replaced by
        their null values with probability dropout[name], the seeds of the network's dropout, and faults of the data.
        With `first`, the number of the first example, noise is by the examples' numbers, and t by Eq. (2).
        """
        samples, given = unpack(data, self.conditions)
        samples = ops.convert_to_tensor(samples)
        check_sample_spec(samples.shape, samples.dtype, self.sample_shape, self.channels)
        most, x = most_of(samples.dtype, self.channels), ops.cast(samples, "float32")
        x = x / 127.5 - 1.0 if most is None else x
        x = x if self.channels is None else self.channels.standardize(x)
        allowed = {"conditions": self.conditions, "no_label": self.no_label, "most": most}
        x, given, share, faults = without_faults(x, given, **allowed)
        order, batch = replicas.rows(ops.shape(x)[0])
        if first is None:
            fractions = ops.cast(order, "float32") / ops.cast(batch, "float32")
        else:
            order = order + ops.cast(first, "int32")
            fractions = threefry.evenly(order)
        start, draw, example_seeds = _draws(keys, order)
        t = start + fractions
        t = t - ops.floor(t)
        inputs = self.objective.corrupt(x, t, threefry.normal(keys[2], self.sample_shape, index=order))
        inputs |= {"faults": faults, "seed": replicas.key_of_replica(keys[3]), "weight": share * inputs["weight"]}
        if getattr(self.network, "seed_per_example", False):
            inputs["example_seeds"] = example_seeds
        return inputs | self._dropped(given | self._given_parts(x, keys[4], order), dropout, draw)

    def _given_parts(self, x, key, order) -> dict:
        """The conditions that are a part of the samples themselves."""
        parts = {name: c for name, c in self.conditions.items() if c.from_samples}
        return {name: c.of_samples(x, threefry.uniform(key, index=order)) for name, c in parts.items()}

    def _dropped(self, given: dict, dropout: Mapping[str, float], draw) -> dict:
        """The conditions, null where the example's draw [B] is below their share; what they leave unknown, if so."""
        if not given:
            return {}
        null = null_like(self.conditions, ops.shape(draw)[0])
        for name, values in given.items():
            given[name] = ops.where(expand(draw <= dropout[name], values), null[name], values)
        unknown = [1.0 - ops.cast(mask, "float32") for _, mask in known_of(self.conditions, given)]
        return {**given, **({"unknown": functools.reduce(ops.multiply, unknown)} if unknown else {})}

    def train_step(self, *args):
        """keras's own step of the backend on the corrupted batch; jax passes and returns its state explicitly."""
        *state, data = args
        variables = self.non_trainable_variables if state else ()
        step = backend.step_value(self.step, variables, state[0][1] if state else None)
        inputs = self.corrupted(data, self._step_keys(_TRAIN, step), self._dropout)
        result = super().train_step(*state, (inputs,))
        logs, *state = result if state else (result,)
        norm = getattr(getattr(self.optimizer, "inner_optimizer", self.optimizer), "gradient_norm", None)
        if norm is not None:
            values = state[0][2] if state else None
            logs["gradient_norm"] = backend.step_value(norm, self.optimizer.variables, values)
        return (logs, *state) if state else replicas.step_logs(logs)

    def test_step(self, *args):
        """Noise of an example is a function of (seed, examples before it): the same at every evaluation."""
        *state, data = args
        seen = backend.step_value(self._loss_tracker.count, self.metrics_variables, state[0][2] if state else None)
        seen = seen * replicas.count()  # each replica counts its own
        result = super().test_step(*state, (self._to_evaluate(data, seen),))
        return result if state else replicas.step_logs(result)

    def _to_evaluate(self, data, first) -> dict:
        return self.corrupted(data, self._step_keys(_EVALUATE, 0), dict.fromkeys(self.conditions, 0.0), first=first)

    def _maybe_symbolic_build(self, *args, **kwargs):
        """All is built; tensorflow's trainer would take a batch from the data to find out."""

    def call(self, inputs, training=None):
        """The losses, float32 [B], of a corrupted batch; in training by microbatches, if the recipe has any.

        Of inputs without a weight, {"z_t", "logsnr", conditions...}: v_hat.
        """
        if "weight" not in inputs:
            return self.objective.velocity(self._predict(inputs, training=training, seed=inputs.get("seed")), inputs)
        if training and (parts := self.recipe.accumulation_steps) > 1:
            variables = self.variables_of_step(), self.trainable_variables
            return accumulated_losses(lambda part: self.step_losses(part, True), inputs, *variables, parts)
        return self.step_losses(inputs, training)

    def step_losses(self, inputs: Mapping, training: bool | None):
        """The objective's losses, float32 [B], of a corrupted batch or microbatch."""
        seed = inputs.get("example_seeds", inputs.get("seed"))
        predict = functools.partial(self._predict, training=training, seed=seed)
        return self.objective.losses(predict, inputs)

    def variables_of_step(self) -> list:
        """All that `step_losses` reads or changes."""
        return self.network.variables

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        extra = super().losses
        return replicas.mean_loss(y_pred + sum(ops.sum(loss) for loss in extra) if extra else y_pred)

    def compute_metrics(self, x, y, y_pred, sample_weight=None):
        losses = replicas.gathered(ops.stop_gradient(y_pred))
        bins = ops.searchsorted(ops.convert_to_tensor(LOGSNR_EDGES, "float32"), replicas.gathered(x["logsnr"]))
        inside = ops.cast(ops.equal(bins[:, None], ops.arange(len(self.bin_losses))), "float32")
        sums, counts = ops.sum(losses[:, None] * inside, axis=0), ops.sum(inside, axis=0)
        variables = [getattr(m, part) for part in ("total", "count") for m in self.bin_losses]
        backend.add_to(variables, [*ops.unstack(sums), *ops.unstack(counts)])  # as update_state would, of all bins
        self.data_faults.update_state(x["faults"])
        logs = self.get_metrics_result()
        return {**logs, "loss": ops.where(self.data_faults.found(), np.float32(np.nan), logs["loss"])}

    def get_metrics_result(self):
        """keras's, the losses' means in one division: on torch each takes seven operations."""
        means = [*([self._loss_tracker] if self.compiled else []), *self.bin_losses]
        totals, counts = (ops.stack([getattr(m, part).value for m in means]) for part in ("total", "count"))
        found = dict(zip(map(id, means), ops.unstack(ops.divide_no_nan(totals, counts)), strict=True))
        results = {}
        for m in self.metrics:
            result = found[id(m)] if id(m) in found else m.result()
            results |= result if isinstance(result, dict) else {m.name: result}
        return results

    @property
    def losses(self):
        return _ExampleLosses(super().losses, self)

    # -- saving ------------------------------------------------------------------------------------------------------

    def get_config(self):
        return {
            **{k: v for k, v in super().get_config().items() if k in ("name", "trainable")},
            **{part: keras.saving.serialize_keras_object(getattr(self, part)) for part in self.PARTS},
            **{name: getattr(self, name) for name in ("label_dropout", "seed", "no_label")},
            **({} if self.channels is None else {"channels": keras.saving.serialize_keras_object(self.channels)}),
            "frozen": frozen(self.network),
            **({"ema_decay": self.ema_decay} if self._chosen else {}),
            **({} if self.student_steps is None else {"student_steps": self.student_steps}),
        }

    @classmethod
    def from_config(cls, config, custom_objects=None):
        """Also of version 0.1 and 0.2, which had schedule, weighting and prediction in place of an objective."""
        config = dict(config)
        paths, chosen, decay = config.pop("frozen", ()), "ema_decay" in config, config.pop("ema_decay", None)
        for part in (*cls.PARTS, "schedule", "weighting", "channels"):
            if part in config:
                config[part] = keras.saving.deserialize_keras_object(config[part], custom_objects=custom_objects)
        model = cls(**config)
        freeze(model.network, paths)
        if chosen:
            model.ema_decay, model._chosen = decay, True
        return model

    def get_compile_config(self):
        """The optimizer alone: what jit_compile came to on this backend must not be imposed on another."""
        return {"optimizer": keras.saving.serialize_keras_object(self.optimizer)} if self.compiled else {}

    def compile_from_config(self, config):
        self.compile(keras.saving.deserialize_keras_object(config["optimizer"]))


def _draws(keys, order) -> tuple:
    """Of a step's keys [5, 2] and the examples' numbers [B]: u [1] of Eq. (1), uniform draws [B] for dropped
    conditions, keys [B, 2] for dropout. threefry.uniform(keys[0]), uniform(keys[1], index=order) and
    fold_in(keys[3], order), in one call of the cipher, whose operations are small and many."""
    nothing, used = ops.zeros_like(order), ops.stack([keys[0], keys[1], keys[3]])
    data, index = ops.stack([nothing, nothing, order]), ops.stack([nothing, order, nothing])
    words = threefry.threefry2x32(used[:, :1], used[:, 1:], data, index)
    uniform = threefry.to_uniform(words[0])
    return uniform[0, :1], uniform[1], ops.stack([part[2] for part in words], axis=-1)


def built(network, shape: tuple[int, ...], conditions: Mapping):
    """`network` with its weights, which one of the user's may make at its first call only."""
    if not network.built:
        call_network(network, {"z_t": ops.zeros((1, *shape)), "logsnr": ops.zeros((1,)), **null_like(conditions, 1)})
    half = [v for v in parameters(network) if v.dtype != "float32"]
    if half:
        advice = "make it with dtype='mixed_bfloat16', which computes in bfloat16"
        raise ValueError(f"The weights of a network must be float32, and {half[0].path} is {half[0].dtype}: {advice}.")
    return network
