"""Models that flags name: a .keras file, the folder of a checkpoint, preset or run; --init_from and --teacher."""

import dataclasses
import functools
import pathlib

from keras_sid2 import SiD2Model
from keras_sid2.bin.common import newest_checkpoint
from keras_sid2.checkpoints import MANIFEST, load_model
from keras_sid2.checkpoints.loading import model_config, unreadable
from keras_sid2.models import abstract_variables
from keras_sid2.training import Preset, list_presets, list_trained
from keras_sid2.training.adapting import Adaptation, Described, preset_like, take_weights
from keras_sid2.training.preset_folder import REMOTE, is_preset_folder, preset_folder
from keras_sid2.training.transfer import plan

_WITH_NETWORK = ("init_from", "teacher")  # flags whose model says its network itself


def model_path(flag: str, name: str) -> pathlib.Path:
    """The file or folder with the model, of a run its newest checkpoint; ValueError or FileNotFoundError for none."""
    path = preset_folder(name) if name in list_trained() else pathlib.Path(name)
    if is_preset_folder(path) or (path / MANIFEST).is_file() or (path.suffix == ".keras" and path.is_file()):
        return path
    if (path / "checkpoints").is_dir():
        return newest_checkpoint(flag, name)
    if path.suffix == ".keras" or not path.exists():
        raise FileNotFoundError(f"--{flag}={name} is no file.")
    accepted = "a .keras file, the folder of a checkpoint or a preset, or a .weights.h5 file with --preset or --config"
    accepted = "a .keras file, or the folder of a checkpoint, a run or a preset" if flag in _WITH_NETWORK else accepted
    raise ValueError(f"--{flag}={name} must be {accepted}.")


def load_model_file(path: pathlib.Path) -> SiD2Model:
    """The model at a `model_path`."""
    return SiD2Model.from_preset(path) if is_preset_folder(path) else load_model(path)


@dataclasses.dataclass(frozen=True)
class InitialWeights:
    """What --init_from, or another `flag`, names; found, and its configuration read, when it is made.

    Raises ValueError or FileNotFoundError, in one sentence, for what is no trained model that can be read.
    """

    name: str
    use_ema: bool = True
    flag: str = "init_from"

    def __post_init__(self):
        _ = self._described
        if self.flag == "init_from" and "auxiliary" in model_config(self._path)["config"]:
            advice = "write its student as a file by sid2-export --student, and give that"
            raise ValueError(f"--init_from={self.name} holds a student with its teacher: {advice}.")

    @functools.cached_property
    def _path(self) -> pathlib.Path:
        if self.name in list_presets():
            known = ", ".join(list_trained())
            raise ValueError(f"--{self.flag}={self.name} is a preset, without trained weights; these have {known}.")
        if self.name.startswith(REMOTE) or self.name in list_trained():
            return preset_folder(self.name)
        return model_path(self.flag, self.name)

    @functools.cached_property
    def _described(self) -> Described:
        config = model_config(self._path)["config"]
        try:
            with abstract_variables():
                return Described.of(config)
        except Exception as error:  # keras raises many kinds
            raise unreadable(error, self._path, "model") from error

    @property
    def described(self) -> Described:
        return self._described

    @property
    def student_steps(self) -> int | None:
        """Of a student of few steps, how many."""
        return model_config(self._path)["config"].get("student_steps")

    def load(self) -> SiD2Model:
        return load_model_file(self._path)

    def preset(self, sample_shape: tuple[int, ...], num_classes: int | None, **options) -> Preset:
        """One for data of this shape with the network of the model, with `preset_like`'s options; ValueError where
        there cannot be one."""
        return self._refusing(lambda: preset_like(self._described, sample_shape, num_classes, **options))

    def check(self, preset: Preset):
        """ValueError, in one sentence, unless the preset's network can begin with these weights."""
        with abstract_variables():
            network = preset.make_network()
        self._refusing(lambda: plan(self._described.network, network, trained_null={}))

    def _refusing(self, work):
        try:
            return work()
        except ValueError as error:
            raise ValueError(f"--{self.flag}={self.name} cannot be adapted: {error}") from error

    def give_to(self, model: SiD2Model) -> Adaptation:
        """Gives a new model, not yet compiled, its weights."""
        return take_weights(model, self.load(), use_ema=self.use_ema)
