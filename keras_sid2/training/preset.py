"""Presets: everything that defines a model and its training, by name. The table itself is keras_sid2/presets.py."""

import dataclasses
import difflib
from collections.abc import Mapping

from keras_sid2.diffusion import Guidance
from keras_sid2.models import NetworkCost, ResidualUViT, network_cost
from keras_sid2.training.optimizer import AdamRecipe


@dataclasses.dataclass(frozen=True, kw_only=True)
class Preset:
    """A named model.

    Args:
        name, description: what `list_presets` and error messages show.
        network: arguments of `ResidualUViT`.
        schedule, weighting, label_dropout, recipe: arguments of `SiD2Model`.
        batch_size: examples a training step.
        num_steps, guidance: of sampling.
    """

    name: str
    description: str
    network: Mapping
    schedule: object
    weighting: object
    label_dropout: float
    recipe: AdamRecipe
    batch_size: int
    num_steps: int
    guidance: Guidance | None = None

    @property
    def cost(self) -> NetworkCost:
        return network_cost(**self.network)

    def make_network(self, *, dtype=None, remat: bool = False):
        return ResidualUViT(**{**self.network, "remat": remat or self.network.get("remat", False)}, dtype=dtype)

    def build(self, model_class: type, *, seed: int = 0, dtype=None, remat: bool = False):
        """`model_class` with a new network."""
        return model_class(
            self.make_network(dtype=dtype, remat=remat),
            schedule=self.schedule,
            weighting=self.weighting,
            label_dropout=self.label_dropout,
            seed=seed,
            recipe=self.recipe,
        )


_REGISTRY: dict[str, Preset] = {}


def register_preset(preset: Preset) -> Preset:
    _REGISTRY[preset.name] = preset
    return preset


def list_presets() -> list[str]:
    """The names that `SiD2Model.from_preset` takes."""
    return list(_REGISTRY)


def find_preset(name: str) -> Preset:
    """The preset of that name; ValueError, with the names that are near, if there is none."""
    if name in _REGISTRY:
        return _REGISTRY[name]
    near = difflib.get_close_matches(str(name), _REGISTRY, n=3, cutoff=0.4)
    hint = f"did you mean {' or '.join(near)}?" if near else f"there are {', '.join(_REGISTRY)}."
    raise ValueError(f"There is no preset {name!r}: {hint}")
