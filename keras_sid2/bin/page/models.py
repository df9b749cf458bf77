"""The models that the page offers: each a flag of sid2-sample, loaded once."""

import dataclasses
import math
import os

import numpy as np
from absl import flags
from keras import ops

from keras_sid2 import SiD2Model
from keras_sid2.bin import flag_table, sampling_flags
from keras_sid2.bin.common import newest_checkpoint
from keras_sid2.bin.model_files import model_path
from keras_sid2.bin.sample import SampleFlags
from keras_sid2.conditions import ClassLabel, Frames, TextEmbedding
from keras_sid2.training.preset_folder import is_preset_folder

_POINTS = 161  # of the curve


@dataclasses.dataclass(frozen=True, eq=False)
class Offered:
    """A model that can be chosen.

    Args:
        name: for people.
        flag: of sid2-sample, as "--weights=runs/digits/checkpoints/step_0000001500".
        model: what that loads.
    """

    name: str
    flag: str
    model: SiD2Model

    @property
    def sample_shape(self) -> tuple[int, ...]:
        return self.model.sample_shape

    @property
    def num_classes(self) -> int | None:
        return self.model.num_classes

    @property
    def takes_text(self) -> bool:
        return self._text is not None

    @property
    def text_encoder(self) -> str:
        """Of the text, the signature NAME#HASH of what encodes it; "" where it is not known."""
        return getattr(self._text, "encoder", "")

    @property
    def _text(self) -> TextEmbedding | None:
        return next((c for c in self.model.conditions.values() if isinstance(c, TextEmbedding)), None)

    @property
    def python_import(self) -> str:
        return "" if self.flag.startswith("--preset=") else "from keras_sid2.checkpoints import load_model"

    @property
    def python(self) -> str:
        """The expression that loads it."""
        kind, _, path = self.flag.partition("=")
        return f"keras_sid2.SiD2Model.from_preset({path!r})" if kind == "--preset" else f"load_model({path!r})"

    def describe(self) -> dict:
        """What the page needs to know, as plain values."""
        return {
            "name": self.name,
            "shape": list(self.sample_shape),
            "classes": self.num_classes,
            "text": self.takes_text,
            "guided": bool(self.model.conditions),
            "steps": self.model.student_steps,
            "curve": weighting_curve(self.model),
        }


def offer(workdirs, weights, presets) -> list[Offered]:
    """All models that flags name, loaded; ValueError or FileNotFoundError, in one sentence, for what is none of them,
    and for models that the page cannot serve."""
    workdirs, weights, presets = ([*map(os.path.expanduser, names)] for names in (workdirs, weights, presets))
    named = [(f"--workdir={name}", f"--weights={newest_checkpoint('workdir', name)}", name) for name in workdirs]
    named += [(f"--weights={name}", _flag_of(name), name) for name in weights]
    named += [(f"--preset={name}", f"--preset={name}", name) for name in presets]
    found = []
    for given, flag, name in named:
        values = flags.FlagValues()
        flag_table.define(SampleFlags, values)
        values(["sid2-sample", flag])
        found.append(Offered(name, flag, served(given, sampling_flags.load_model_from_flags(values))))
    return found


def _flag_of(weights: str) -> str:
    """What --weights names, as a flag whose value Python takes, too."""
    if weights.endswith(".weights.h5"):
        raise ValueError(f"--weights={weights} has no configuration; save_preset makes a folder with both.")
    path = model_path("weights", weights)
    return f"--preset={path}" if is_preset_folder(path) else f"--weights={path}"


def served(given: str, model: SiD2Model) -> SiD2Model:
    """The model; ValueError for one that draws no pictures, or for what cannot be typed."""
    if model.channels is not None or model.sample_shape[-1] not in (1, 3):
        told = "draws fields" if model.channels is not None else f"has {model.sample_shape[-1]} channels"
        raise ValueError(f"{given} {told}, and the page shows pictures: use sid2-sample.")
    typed = (ClassLabel, TextEmbedding, Frames)
    others = [name for name, condition in model.conditions.items() if not isinstance(condition, typed)]
    if others:
        told = f"{given} is conditioned on {', '.join(others)}, which the page has no field for"
        raise ValueError(f"{told}: use sid2-sample --condition={others[0]}=FILE.")
    return model


def weighting_curve(model: SiD2Model) -> dict:
    """{"logsnr", "weight"}: the loss weighting on the squared error in eps, w(logsnr) exp(-logsnr), divided by its
    maximum, between the ends of the schedule, which are rounded outwards to tenths.

    Of an objective without a weighting "weight" is [].
    """
    noisy, clean = (float(end) for end in ops.convert_to_numpy(model.schedule.logsnr(np.array([1.0, 0.0], "float32"))))
    low, high = math.floor(10 * noisy) / 10, math.ceil(10 * clean) / 10
    logsnr = np.linspace(low, high, _POINTS)
    weighting = getattr(model.objective, "weighting", None)
    weight = np.zeros(0)
    if weighting is not None:
        on_x = ops.convert_to_numpy(weighting(ops.convert_to_tensor(logsnr.astype("float32"))))
        weight = on_x.astype("float64") * np.exp(-logsnr)
        weight = weight / weight.max()
    return {"logsnr": logsnr.round(4).tolist(), "weight": weight.round(5).tolist()}
