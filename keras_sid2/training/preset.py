"""Presets: everything that defines a model and its training. The table of those that have a name is presets.py."""

import dataclasses
import difflib
import functools
import types
from collections.abc import Mapping

import keras

from keras_sid2.channels import Channels
from keras_sid2.conditions import conditions_of, sample_shape_of
from keras_sid2.diffusion import DiffusionObjective, Guidance
from keras_sid2.models import ResidualUViT, abstract_variables, trace
from keras_sid2.models.level import as_levels
from keras_sid2.sampling import get_sampler
from keras_sid2.shapes import rate, whole_number
from keras_sid2.training.optimizer import AdamRecipe

DATA_OPTIONS = {"crop": None, "flip": False, "min_crop": 0.8}  # of pipelines.make_dataset, and their defaults


@dataclasses.dataclass(frozen=True, kw_only=True, init=False)
class Preset:
    """An experiment: a network, what it is trained on and how.

    Args:
        name, description: what `list_presets` and error messages show.
        network: arguments of `network_class`.
        objective: what training minimises; or `schedule`, `weighting` and `prediction`, of which a `DiffusionObjective`
            is made, or which replace those of `objective`.
        label_dropout, recipe: arguments of `SiD2Model`.
        batch_size: examples a training step.
        num_steps, guidance, sampler: of sampling.
        channels: `keras_sid2.Channels` of fields, see `SiD2Model`; None: images.
        data: options of `pipelines.make_dataset`: crop, flip, min_crop.
        network_class: of Keras, registered (`keras.saving.register_keras_serializable`), so that files can be read.

    It has also the network's `cost`, `sample_shape` and `conditions`. Raises ValueError, naming the field, for others.
    """

    name: str
    description: str = ""
    network: Mapping
    objective: DiffusionObjective
    label_dropout: float | Mapping = 0.1
    recipe: AdamRecipe = AdamRecipe()
    batch_size: int = 64
    num_steps: int = 256
    guidance: Guidance | None = None
    sampler: object = "ddpm"
    channels: Channels | None = None
    data: Mapping = dataclasses.field(default_factory=dict)
    network_class: type = dataclasses.field(default=ResidualUViT, repr=False)

    def __init__(self, *, objective=None, schedule=None, weighting=None, prediction=None, **values):
        fields = {field.name: field for field in dataclasses.fields(self)}
        for name in values:
            if name not in fields:
                raise ValueError(f"A preset has no {name!r}{near(name, fields)}")
        parts = {"schedule": schedule, "weighting": weighting, "prediction": prediction}
        given = {name: value for name, value in parts.items() if value is not None}
        if objective is None:
            _require({"schedule", "weighting"} <= {*given}, "needs an objective, or schedule and weighting")
            objective = DiffusionObjective(**given)
        values["objective"] = dataclasses.replace(objective, **given) if given else objective
        for name, field in fields.items():
            default = {} if name == "data" else field.default
            _require(name in values or default is not dataclasses.MISSING, f"needs {name}")
            object.__setattr__(self, name, values.get(name, default))
        self._check()

    def _check(self):
        _require(self.name, f"needs a name, got {self.name!r}")
        for name, (kind, what) in _KINDS.items():
            value = getattr(self, name)
            _require(isinstance(value, kind), f"needs {what}, got {value!r}")
        for part in ("corrupt", "losses", "schedule"):
            _require(hasattr(self.objective, part), f"needs an objective with {part}, got {self.objective!r}")
        for what in ("batch_size", "num_steps"):
            whole_number(f"A preset's {what}", getattr(self, what))
        if not isinstance(self.label_dropout, Mapping):
            rate("A preset's label_dropout", self.label_dropout)
        get_sampler(self.sampler)
        for name in self.data:
            _require(name in DATA_OPTIONS, f"has the data's options {', '.join(DATA_OPTIONS)}; got {name!r}")
        crop = self.data.get("crop")
        _require(crop in (None, "center", "random"), f"needs center, random or None as the data's crop, got {crop!r}")
        for part in (self.network_class, self.objective, self.schedule, self.weighting):
            kind = part if isinstance(part, type | types.FunctionType) else type(part)
            known = keras.saving.get_registered_object(keras.saving.get_registered_name(kind)) is kind
            advice = "decorate it with @keras.saving.register_keras_serializable()"
            _require(known, f"needs {kind.__name__} registered at Keras, or its files cannot be read: {advice}")

    @functools.cached_property
    def _abstract(self):
        """The network without values: it takes no memory."""
        with abstract_variables():
            return self.make_network()

    schedule = property(lambda self: self.objective.schedule)
    weighting = property(lambda self: self.objective.weighting)
    # The network's; they raise what its constructor raises.
    cost = property(lambda self: trace(self._abstract).cost)
    sample_shape = property(lambda self: sample_shape_of(self._abstract))
    conditions = property(lambda self: conditions_of(self._abstract))

    def described(self) -> dict:
        """What defines a run, as plain values; a flag of sid2-train of its own says the rest."""
        kind = self.network_class
        try:
            network = self._abstract.get_config()
        except NotImplementedError as error:
            raise ValueError(f"{kind.__name__} needs a get_config, or its files cannot be read.") from error
        rest = ("beta_1", "beta_2", "epsilon", "clip_norm", "decay_steps")
        channels = {} if self.channels is None else {"channels": _plain(self.channels)}
        return channels | {
            "network_class": keras.saving.get_registered_name(kind),
            "network": _plain({k: v for k, v in network.items() if k not in ("name", "trainable", "dtype")}),
            "objective": _plain(self.objective),
            "label_dropout": _plain(self.label_dropout),
            "recipe": {name: getattr(self.recipe, name) for name in rest},
            "data": {"min_crop": self.data.get("min_crop", DATA_OPTIONS["min_crop"])},
        }

    def make_network(self, *, dtype=None, remat: bool = False):
        """A new one; ValueError, in one sentence, for arguments that its class does not take."""
        options = {**self.network, **({"remat": True} if remat else {}), **({} if dtype is None else {"dtype": dtype})}
        try:
            return self.network_class(**options)
        except TypeError as error:
            name = self.network_class.__name__
            raise ValueError(f"{name} cannot be made with {', '.join(options)}: {error}.") from error

    def build(self, model_class: type, *, seed: int = 0, dtype=None, remat: bool = False):
        """`model_class` with a new network."""
        same = {name: getattr(self, name) for name in ("objective", "label_dropout", "recipe")}
        same |= {} if self.channels is None else {"channels": self.channels}
        return model_class(self.make_network(dtype=dtype, remat=remat), seed=seed, **same)

    def shrunk(self) -> "Preset":
        """The same in little, to see within a minute whether all works: samples, patches, conditions and objective
        stay; levels are narrow and of a block, batches of two examples, and samples of two steps. ValueError for a
        network that has no levels."""
        kind = self.network_class.__name__
        _require("levels" in self.network, f"needs a network with levels to be shrunk, got {kind}")
        levels = []
        for i, level in enumerate(as_levels(self.network["levels"])):
            few = {"channels": 8 * 2**i, "blocks": 2 if level.attention == "alternate" else 1, "head_dim": None}
            levels.append(dataclasses.replace(level, **few))
        return dataclasses.replace(
            self,
            name=f"{self.name}_smoke",
            network={**self.network, "levels": tuple(levels), "embedding_dim": 32},
            recipe=dataclasses.replace(self.recipe, warmup_steps=2),
            batch_size=2,
            num_steps=2,
        )


_KINDS = {
    "name": (str, "a name"),
    "network": (Mapping, "the network's arguments as a dict"),
    "recipe": (AdamRecipe, "an AdamRecipe as recipe"),
    "guidance": (Guidance | None, "a Guidance, or None, as guidance"),
    "channels": (Channels | None, "a Channels, or None, as channels"),
    "data": (Mapping, "the data's options as a dict"),
    "network_class": (type, "a class of networks as network_class"),
}


def _plain(value):
    """`value` as JSON has it: dataclasses and dicts by names; of others what Keras writes."""
    if dataclasses.is_dataclass(value):
        fields = {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
        return {"class": type(value).__name__, **fields}
    if isinstance(value, Mapping):
        return {str(name): _plain(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    is_plain = isinstance(value, str | bool | int | float | None)
    return value if is_plain else keras.saving.serialize_keras_object(value)


def _require(condition: bool, message: str):
    if not condition:
        raise ValueError(f"A preset {message}.")


_REGISTRY: dict[str, Preset] = {}


def register_preset(preset: Preset) -> Preset:
    """Makes `SiD2Model.from_preset` know a preset by its name, in place of one of the same name; returns it."""
    _REGISTRY[preset.name] = preset
    return preset


def list_presets() -> list[str]:
    """The names of presets, which `SiD2Model.from_preset` makes new models of."""
    return list(_REGISTRY)


def find_preset(name: str, others=()) -> Preset:
    """The preset of that name; ValueError, with the names that are near, also of `others`, if there is none."""
    if name in _REGISTRY:
        return _REGISTRY[name]
    if "/" in str(name):
        raise FileNotFoundError(f"There is no folder {name} to take a model from.")
    raise ValueError(f"There is no preset {str(name)!r}{near(name, [*_REGISTRY, *others])}")


def near(name, names) -> str:
    """The end of a sentence about an unknown name: which of the `names` are like it, or which there are."""
    found = difflib.get_close_matches(str(name), names, n=3, cutoff=0.4)
    return f": did you mean {' or '.join(found)}?" if found else f": there are {', '.join(names)}."
