"""What sid2-train is asked for: a flag each."""

import dataclasses
import functools
import pathlib

import pipelines
from keras_sid2.bin.compilation_cache import runs_eagerly
from keras_sid2.bin.field_data import channels_of, conditions_of_data, with_texts
from keras_sid2.bin.flag_table import check, names, parsed
from keras_sid2.bin.measuring import check_features
from keras_sid2.bin.model_files import InitialWeights
from keras_sid2.bin.preset_flags import chosen_preset, read_config
from keras_sid2.bin.tables.train import TrainTable
from keras_sid2.checkpoints.sharded import check_available
from keras_sid2.conditions import TextEmbedding
from keras_sid2.parallel.rules import Mesh
from keras_sid2.training import Preset
from keras_sid2.training.overrides import overridden
from keras_sid2.training.power_averages import as_widths
from keras_sid2.training.preset import DATA_OPTIONS
from keras_sid2.training.proposal import proposed_preset

CONFIG = "config.py"  # in a work directory: the --config file, or what was proposed where there was none


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainSettings(TrainTable):
    """What `sid2-train` was asked for; None is the preset's."""

    # Flags that are fields of the recipe, with their names there.
    OF_RECIPE = {name: name for name in ("learning_rate", "warmup_steps", "ema_decay", "ema_warmup")}
    OF_RECIPE |= {"lr_decay": "decay", "ema_widths": "ema_widths"}
    SMOKE = {"steps": 4, "log_every": 2, "sample_steps": 2}
    SMOKE |= dict.fromkeys(("eval_every", "checkpoint_every", "sample_every"), 4)
    EVERY = ("eval_every", "checkpoint_every", "sample_every", "measure_every", "snapshot_every")

    def __post_init__(self):
        check(TrainSettings, self)
        check_features(self.measure_features)
        if self.measure_features in ("i3d", "clip"):
            told = f"--measure_features={self.measure_features} is not for training"
            raise ValueError(f"{told}: measure by sid2-evaluate.")

    def resolved(self, preset: Preset) -> tuple["TrainSettings", Preset]:
        """These settings with the numbers of `experiment()` filled in, and that preset with these settings' numbers.

        Numbers of steps that go by the log's are rounded up to multiples of it (`remarks` says which).
        ImportError, or ValueError, for sharded checkpoints where they cannot be; ValueError for --compile=never there.
        """
        if self.smoke:
            self = dataclasses.replace(self, **self.SMOKE)
        if self.checkpoints == "sharded":
            check_available()
        if self.init_from is None and not self.init_ema:
            raise ValueError("--init_ema does nothing without --init_from.")
        runs_eagerly(self.compile)
        preset_says = {field: getattr(preset.recipe, name) for field, name in self.OF_RECIPE.items()}
        preset_says |= {name: (DATA_OPTIONS | preset.data)[name] for name in ("flip", "crop")}
        preset_says["batch_size"] = preset.batch_size
        given = {name: value for name in preset_says if (value := getattr(self, name)) is not None}
        widths = as_widths(parsed("ema_widths", given.pop("ema_widths", None), float) or preset.recipe.ema_widths)
        given["ema_widths"] = [*widths]  # as JSON has it
        if not isinstance(given.get("learning_rate", preset.recipe.learning_rate), int | float):
            kind = type(preset.recipe.learning_rate).__name__
            raise ValueError(f"{preset.name} has a {kind} as learning_rate: give --learning_rate, a number, instead.")
        found = dataclasses.replace(self, preset=preset.name, **{**preset_says, **given}, **self._rounded())
        found._check_parts()
        ends = found.lr_decay in ("linear", "cosine")
        end = preset.recipe.decay_steps or self.steps
        if ends and isinstance(end, int) and end <= found.warmup_steps:
            told = f"--lr_decay={found.lr_decay} ends at step {end}, which must be above the {found.warmup_steps} steps"
            raise ValueError(f"{told} of warm-up: give a lower --warmup_steps, or more --steps.")
        recipe = dataclasses.replace(
            preset.recipe,
            **{name: getattr(found, field) for field, name in self.OF_RECIPE.items()},
            decay_steps=end if ends else None,
            accumulation_steps=self.accumulation_steps,
        )
        network = {**preset.network, "remat": True} if self.remat else preset.network
        return found, dataclasses.replace(preset, recipe=recipe, network=network, batch_size=found.batch_size)

    @property
    def proposes(self) -> bool:
        """Whether the preset is one that is proposed for the data."""
        return self.preset is None and self.config is None

    def experiment(self) -> Preset:
        """The preset as it was asked for, or as it is proposed, before other flags; raises what is wrong with it."""
        if not self.proposes:
            given = [flag for flag in ("size", "image_size", "given_frames") if getattr(self, flag) is not None]
            if given:
                raise ValueError(f"--{given[0]} is of a proposed network: leave it out, or --preset and --config.")
            return self._in_its_size(with_texts(chosen_preset(self), self._described))
        data = self._described()
        shape, told = self._sample_shape(data), pathlib.Path(self.workdir) / CONFIG
        if self.init_from is not None and self.size is None and told.is_file():  # begun, and its source may be gone
            found = overridden(read_config(str(told)), self.set)
            if self.image_size is not None and found.sample_shape != shape:
                wanted = f"{self.workdir} holds a run for samples {found.sample_shape}"
                raise ValueError(f"{wanted}, and --image_size={self.image_size} is of others: give another --workdir.")
            return found
        if self.init_from is not None and self.size is None:
            if self.given_frames is not None:
                raise ValueError("--given_frames with --init_from needs --size: else the network is that one's.")
            texts = {k: c for k, c in conditions_of_data(data).items() if isinstance(c, TextEmbedding)}
            how = {"examples": data.num_examples, "texts": texts}
            proposed = self.initial_weights.preset(shape, data.num_classes, **how)
        else:
            how = {"size": self.size, "examples": data.num_examples, "given_frames": self.given_frames}
            size = shape[-3:-1] if self.crop else None
            how |= {"channels": channels_of(data.sample_channels), "conditions": conditions_of_data(data, size)}
            proposed = proposed_preset(shape, data.num_classes, **how)
        return self._in_its_size(overridden(proposed, self.set))

    def _described(self) -> pipelines.DatasetDescription:
        missing = self.max_bad_records > 0
        return pipelines.describe(self.data, split=self.split, data_dir=self.data_dir, missing_shards=missing)

    def _in_its_size(self, preset: Preset) -> Preset:
        if self.smoke and self.init_from is not None:
            raise ValueError("--smoke shrinks the network, which --init_from cannot fill: leave one of them out.")
        return preset.shrunk() if self.smoke else preset

    @functools.cached_property
    def initial_weights(self) -> InitialWeights | None:
        """What --init_from names; raises what is wrong with it."""
        return None if self.init_from is None else InitialWeights(self.init_from, self.init_ema)

    def _sample_shape(self, data: pipelines.DatasetDescription) -> tuple[int, ...]:
        *frames, height, width, channels = data.sample_shape
        if self.image_size is not None:
            sides = self.image_size.split("x")
            if len(sides) not in (1, 2) or not all(side.isdecimal() and int(side) for side in sides):
                raise ValueError(f"--image_size must be a side or two, as 64 or 48x64, got {self.image_size!r}.")
            height, width = int(sides[0]), int(sides[-1])
        if None in (height, width):
            raise ValueError(
                f"--data={self.data} has images of several sizes (sid2-data stats shows them): cut them to one by "
                "--crop=center --image_size=64, or 48x64."
            )
        return (*frames, height, width, channels)

    def _rounded(self) -> dict[str, int]:
        """What comes at the end of a line of the log, and what is kept of the checkpoints, as it can be: rounded up."""
        every = {field: _multiple(getattr(self, field), self.log_every) for field in self.EVERY}
        return {**every, "keep_every": _multiple(self.keep_every, every["checkpoint_every"])}

    def remarks(self, asked: "TrainSettings") -> list[str]:
        """A sentence for each number of steps that `resolved` rounded up, and for flags that do nothing any more."""
        gone = "--measure_share does nothing, and goes with the next version: --measure_every and --measure_images do."
        of = dict.fromkeys(self.EVERY, f"--log_every={self.log_every}") | {"keep_every": "--checkpoint_every"}
        if self.smoke:
            return ["--smoke: four steps of a shrunken network, which say whether all works and nothing of quality."]
        return [gone] * (self.measure_share is not None) + [
            f"--{field}={getattr(asked, field)} is {getattr(self, field)} here: a multiple of {divisor}."
            for field, divisor in of.items()
            if getattr(self, field) != getattr(asked, field)
        ]

    def _check_parts(self):
        """ValueError unless every device has as many rows of every part of a batch."""
        shards = 1 if self.mesh is None else Mesh.parse(self.mesh).batch_shards
        if self.batch_size % (shards * self.accumulation_steps):
            by = f"the {shards} devices that share it times --accumulation_steps={self.accumulation_steps}"
            raise ValueError(f"A batch of {self.batch_size} must be divisible by {by}.")
        if bool(self.ema_widths) != bool(self.snapshot_every):
            missing = "--snapshot_every" if self.ema_widths else "--ema_widths"
            raise ValueError(f"--ema_widths and --snapshot_every go together, and there is no {missing}: give both.")

    def defining(self) -> dict:
        return {name: getattr(self, name) for name in names(self, "defines")}


def _multiple(number: int, of: int) -> int:
    """The first multiple at or above a number."""
    return -(-number // of) * of
