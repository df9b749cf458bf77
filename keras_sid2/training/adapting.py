"""Models for other samples, patches or conditions from a trained one: `model.adapt(...)`, sid2-train --init_from."""

import dataclasses
import math
from collections.abc import Mapping

import keras

from keras_sid2.channels import Channels
from keras_sid2.conditions import (
    ClassLabel,
    Frames,
    Image,
    TextEmbedding,
    as_conditions,
    conditions_of,
    dropout_shares,
    sample_shape_of,
)
from keras_sid2.diffusion import CosineInterpolatedSchedule, CosineSchedule, DiffusionObjective, SigmoidWeighting
from keras_sid2.diffusion.schedules import ShiftedCosineSchedule
from keras_sid2.models import ResidualUViT
from keras_sid2.shapes import as_image_shape, whole_number
from keras_sid2.training.frozen import freeze, frozen
from keras_sid2.training.optimizer import AdamRecipe
from keras_sid2.training.preset import Preset
from keras_sid2.training.proposal import proposed_objective
from keras_sid2.training.transfer import carry_out, check_shapes, plan, rows_of

_NONE: Mapping = {}
_SCHEDULES = CosineSchedule, CosineInterpolatedSchedule, ShiftedCosineSchedule


@dataclasses.dataclass(frozen=True)
class Adaptation:
    """What became of a model's weights; printed as a table.

    Attributes:
        rows: (part of the network, number of parameters, "copied", "resized" or "new", how) of each group of weights.
        remarks: sentences on weights, schedule and bias.
    """

    rows: tuple[tuple[str, int, str, str], ...]
    remarks: tuple[str, ...]

    def __str__(self):
        wide = max(len(part) for part, *_ in self.rows)
        lines = [f"{part:<{wide}}  {count:>13,}  {what:<7}  {how}".rstrip() for part, count, what, how in self.rows]
        return "\n".join((*lines, *self.remarks))


def adapt(model, sample_shape=None, patch_size=None, conditions=None, *, use_ema: bool = True, verbose: bool = True):
    """A new SiD2Model, not compiled, at step 0, for other samples, patches or conditions; `model` stays as it is.

    Weights are copied where they fit, else resized or new, so that the network computes what it did as far as that can
    be (training/transfer.py says how, and what is exact). Where height and width are others, schedule and bias of the
    loss are those that are proposed for them (training/proposal.py), unless they are classes of yours. Layers stay
    frozen.

    Args:
        sample_shape: (H, W, C) or (F, H, W, C); None is as before.
        patch_size: None keeps the number of positions where a whole patch does, and is else as before.
        conditions: all that the new network has, by name; None is as before, images as large as the samples.
        use_ema: take the averages, if there are any, and not the weights.
        verbose: print what became of the weights, which is `adaptation` of the new model.

    Raises ValueError, in one sentence, for what cannot be adapted: other channels, images from clips, another network
    than a ResidualUViT, a model of several networks, a condition that becomes one of another kind or size, LoRA.
    """
    parts = [name for name in model.PARTS if isinstance(getattr(model, name), keras.layers.Layer)]
    if parts != ["network"]:
        told = f"A {type(model).__name__} has the networks {', '.join(parts)}"
        raise ValueError(f"{told}: adapt a SiD2Model of each, and join the new ones.")
    network = adapted_network(model.network, sample_shape, patch_size, conditions)
    new = type(model)(
        network,
        objective=moved_objective(model.objective, model.sample_shape, network.sample_shape),
        label_dropout=moved_dropout(model.label_dropout, model.conditions, network.conditions),
        seed=model.seed,
        recipe=model.recipe,
        no_label=model.no_label,
        name=model.name,
        **({} if model.channels is None else {"channels": model.channels}),
    )
    new.adaptation = take_weights(new, model, use_ema=use_ema)
    if verbose:
        print(new.adaptation)
    return new


@dataclasses.dataclass(frozen=True)
class Described:
    """What `preset_like` reads of a model: its parts, its network made or abstract."""

    network: object
    objective: object
    label_dropout: float | Mapping
    recipe: AdamRecipe
    channels: Channels | None = None

    sample_shape = property(lambda self: sample_shape_of(self.network))
    conditions = property(lambda self: conditions_of(self.network))

    @classmethod
    def of(cls, config: Mapping) -> "Described":
        """Of a SiD2Model's configuration, also of versions 0.1 and 0.2; raises what keras raises."""
        named = ("network", "objective", "schedule", "weighting", "recipe", "channels")
        parts = {name: keras.saving.deserialize_keras_object(config[name]) for name in named if config.get(name)}
        if "objective" not in parts:
            parts["objective"] = DiffusionObjective(
                parts["schedule"], parts["weighting"], config.get("prediction", "v")
            )
        found = parts["network"], parts["objective"], config.get("label_dropout", 0.1), parts["recipe"]
        return cls(*found, parts.get("channels"))


def take_weights(model, source, *, use_ema: bool = True) -> Adaptation:
    """Gives `model`, not yet compiled, the weights of `source`, as `adapt` does, and freezes what is frozen there."""
    dropped = trained_null(source.label_dropout, source.conditions)
    entries = plan(source.network, model.network, trained_null=dropped, seed=model.seed)
    carry_out(entries, {id(v): value for v, value in source.network_values(use_ema=use_ema)})
    model.reset_averages()
    still = frozen(source.network)
    freeze(model.network, still)
    averaged = use_ema and source.averages() is not None
    remarks = [f"From the {'averages' if averaged else 'weights'} of step {int(source.step.numpy())}."]
    for name in ("schedule", "weighting"):
        before, now = (getattr(one.objective, name, None) for one in (source, model))
        if before != now:
            remarks.append(f"The {name} was {before}, and is {now}.")
    if still:
        remarks.append(f"{len(still)} layers and weights stay frozen.")
    return Adaptation(rows_of(entries), tuple(remarks))


def trained_null(share: float | Mapping, conditions: Mapping) -> dict[str, bool]:
    """Whether training dropped each of the conditions."""
    return {name: value > 0 for name, value in dropout_shares(share, conditions).items()}


def adapted_arguments(network, sample_shape=None, patch_size=None, conditions=None) -> dict:
    """The arguments that a ResidualUViT for this has in place of `network`'s; ValueError for another network."""
    if not isinstance(network, ResidualUViT):
        kind = type(network).__name__
        advice = "make the new one and SiD2Model around it yourself, and give it the weights"
        told = f"A ResidualUViT can be adapted, and this network is of the class {kind}"
        raise ValueError(f"{told}: {advice}.")
    old, patch = network.sample_shape, network.patch_size
    shape = old if sample_shape is None else as_image_shape(sample_shape)
    check_shapes(old, shape)
    conditions = _following(network, shape) if conditions is None else as_conditions(conditions)
    label = conditions.get("label")
    wanted = {patch * n / o for n, o in zip(shape[-3:-1], old[-3:-1], strict=True)}  # for as many positions
    patch = int(*wanted) if len(wanted) == 1 and min(wanted).is_integer() else patch
    return {
        "image_shape": shape,
        "patch_size": whole_number("patch_size", patch if patch_size is None else patch_size),
        "num_classes": getattr(label, "num_classes", None),
        "conditions": {name: c for name, c in conditions.items() if name != "label"},
    }


def _following(network, shape: tuple[int, ...]) -> dict:
    """The conditions of `network`, images as large beside samples of `shape`, frames as many as before."""

    def follow(condition):
        if isinstance(condition, Image):
            smaller = network.sample_shape[-2] // condition.shape[-2]
            size = (*shape[:-3], shape[-3] // smaller, shape[-2] // smaller, condition.shape[-1])
            return dataclasses.replace(condition, shape=size)
        return dataclasses.replace(condition, shape_of_clip=shape) if isinstance(condition, Frames) else condition

    return {name: follow(condition) for name, condition in conditions_of(network).items()}


def adapted_network(network, sample_shape=None, patch_size=None, conditions=None):
    """A new network with these in place of `network`'s."""
    changed = adapted_arguments(network, sample_shape, patch_size, conditions)
    changed["conditions"] = {k: keras.saving.serialize_keras_object(c) for k, c in changed["conditions"].items()}
    return type(network).from_config({**network.get_config(), **changed})


def preset_like(
    model: "Described", sample_shape, num_classes: int | None, *, examples: int | None = None, texts: Mapping = _NONE
) -> Preset:
    """What `adapt` would make of `model`, made or abstract, for such samples of so many classes, as a preset; with
    `texts`, TextEmbeddings by name, for these, too: whitened, but for one that the model has as it is.

    Of few `examples` the batch is no larger than they are. A rate that fell to 0 at the end of that run is constant, as
    this one may be longer; a schedule of Keras's becomes AdamRecipe's usual rate. Raises ValueError as `adapt` does.
    """
    check_shapes(model.sample_shape, tuple(sample_shape))
    conditions = {k: c for k, c in _following(model.network, tuple(sample_shape)).items() if k != "label"}
    for name, text in texts.items():
        conditions[name] = dataclasses.replace(text, whitened=getattr(conditions.get(name), "whitened", True))
    conditions |= {} if num_classes is None else {"label": ClassLabel(num_classes)}
    changed = adapted_arguments(model.network, sample_shape, None, conditions)
    others = {"embedding_dim": model.network.embedding_dim, "levels": model.network.levels}
    shape, classes = changed["image_shape"], f"{num_classes or 'no'} classes"
    usual = Preset.batch_size
    endless = {} if model.recipe.decay_steps is None else {"decay": "constant", "decay_steps": None}
    if isinstance(model.recipe.learning_rate, keras.optimizers.schedules.LearningRateSchedule):
        endless["learning_rate"] = AdamRecipe.learning_rate
    return Preset(
        name="_".join(["adapted", "x".join(map(str, shape)), *([str(num_classes)] if num_classes else [])]),
        description=f"adapted for {'clips' if len(shape) == 4 else 'images'} {shape} of {classes}",
        network={k: v for k, v in {**changed, **others}.items() if k != "conditions" or v},
        objective=moved_objective(model.objective, model.sample_shape, shape),
        label_dropout=moved_dropout(model.label_dropout, model.conditions, conditions),
        recipe=dataclasses.replace(model.recipe, accumulation_steps=1, **endless),
        channels=model.channels,
        batch_size=min(usual, 2 ** int(math.log2(examples)) if examples else usual),
    )


def moved_objective(objective, old: tuple[int, ...], new: tuple[int, ...]):
    """`objective` for samples of another height or width."""
    if old[-3:-1] == new[-3:-1] or not isinstance(objective, DiffusionObjective):
        return objective
    schedule, proposed, changes = objective.schedule, proposed_objective(new), {}
    if isinstance(schedule, _SCHEDULES):
        span = {name: getattr(schedule, name) for name in ("logsnr_min", "logsnr_max")}
        changes["schedule"] = dataclasses.replace(proposed.schedule, **span)
    if isinstance(objective.weighting, SigmoidWeighting):
        changes["weighting"] = proposed.weighting
    return dataclasses.replace(objective, **changes)


def moved_dropout(share: float | Mapping, old: Mapping, new: Mapping) -> float | dict:
    """`label_dropout` of other conditions; 0.1, SiD2Model's own, where there were none before, and of a new text."""
    if new and not old and not isinstance(share, Mapping):
        return 0.1
    texts = {k: 0.1 for k, c in new.items() if isinstance(c, TextEmbedding) and k not in old}
    if texts and share == 0.0:
        share = dict.fromkeys(old, 0.0)
    if isinstance(share, Mapping):
        return texts | {name: value for name, value in share.items() if name in new}
    return share
