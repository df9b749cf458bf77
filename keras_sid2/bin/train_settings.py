"""What sid2-train is asked for: a flag each."""

import dataclasses

import pipelines
from keras_sid2.bin.measuring import CACHE, check_features
from keras_sid2.bin.preset_flags import chosen_preset
from keras_sid2.checkpoints.sharded import check_available
from keras_sid2.parallel.rules import Mesh
from keras_sid2.training import Preset
from keras_sid2.training.overrides import overridden
from keras_sid2.training.preset import DATA_OPTIONS
from keras_sid2.training.proposal import proposed_preset

# What says nothing without measure_every.
MEASURING = ("measure_images", "measure_features", "inception_weights", "measure_share", "measure_cache")
PRECISIONS = ("float32", "mixed_bfloat16")
CHECKPOINTS = ("portable", "sharded")


def _multiple(number: int, of: int) -> int:
    """The first multiple at or above a number."""
    return -(-number // of) * of


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainSettings:
    """What `sid2-train` was asked for; None is the preset's. Fields in DEFINING make the run, others may change."""

    workdir: str
    data: str
    preset: str | None = None
    config: str | None = None
    set: tuple[str, ...] = ()
    size: str | None = None
    image_size: str | None = None
    data_dir: str | None = None
    split: str = "train"
    eval_split: str | None = None
    steps: int = 1000
    batch_size: int | None = None
    learning_rate: float | None = None
    warmup_steps: int | None = None
    lr_decay: str | None = None
    ema_decay: float | None = None
    ema_warmup: bool | None = None
    flip: bool | None = None
    crop: str | None = None
    max_bad_records: int = 0
    seed: int = 0
    precision: str = "float32"
    remat: bool = False
    accumulation_steps: int = 1
    mesh: str | None = None
    coordinator: str | None = None
    process_count: int | None = None
    process_id: int | None = None
    log_every: int = 50
    eval_every: int = 500
    checkpoint_every: int = 500
    keep_checkpoints: int = 3
    keep_every: int = 0
    checkpoints: str = "portable"
    sample_every: int = 500
    sample_steps: int | None = None
    measure_every: int = 0
    measure_images: int = 1000
    measure_features: str = "inception"
    inception_weights: str | None = None
    measure_share: float | None = None
    measure_cache: str = CACHE
    peak_tflops: float | None = None
    on_nan: str = "stop"
    explosion_factor: float = 100.0

    DEFINING = (
        "preset",
        "data",
        "split",
        "batch_size",
        "learning_rate",
        "warmup_steps",
        "lr_decay",
        "ema_decay",
        "ema_warmup",
        "flip",
        "crop",
        "seed",
        "precision",
        "remat",
        "accumulation_steps",
    )

    OF_RECIPE = {  # and the field there
        "learning_rate": "learning_rate",
        "warmup_steps": "warmup_steps",
        "lr_decay": "decay",
        "ema_decay": "ema_decay",
        "ema_warmup": "ema_warmup",
    }

    EVERY = ("eval_every", "checkpoint_every", "sample_every", "measure_every")

    def __post_init__(self):
        for field in ("steps", "log_every", "eval_every", "checkpoint_every", "keep_checkpoints"):
            if getattr(self, field) < 1:
                raise ValueError(f"--{field} must be at least 1, got {getattr(self, field)}.")
        if not 0 <= self.seed < 2**32:
            raise ValueError(f"--seed must be in [0, 2**32), got {self.seed}.")
        if self.batch_size is not None and self.batch_size < 1:
            raise ValueError(f"--batch_size must be at least 1, got {self.batch_size}.")
        if self.max_bad_records < 0:
            raise ValueError(f"--max_bad_records must be at least 0, got {self.max_bad_records}.")
        if self.on_nan not in ("stop", "skip"):
            raise ValueError(f"--on_nan must be stop or skip, got {self.on_nan!r}.")
        if self.explosion_factor and not self.explosion_factor > 1.0:
            raise ValueError(f"--explosion_factor must be above 1, or 0 for never, got {self.explosion_factor}.")
        if self.crop not in (None, "center", "random"):
            raise ValueError(f"--crop must be center or random, got {self.crop!r}.")
        if self.precision not in PRECISIONS:
            raise ValueError(f"--precision must be one of {', '.join(PRECISIONS)}, got {self.precision!r}.")
        if self.checkpoints not in CHECKPOINTS:
            raise ValueError(f"--checkpoints must be {' or '.join(CHECKPOINTS)}, got {self.checkpoints!r}.")
        for field in ("sample_every", "measure_every", "keep_every"):
            if getattr(self, field) < 0:
                raise ValueError(f"--{field} must be at least 0 (0 is never), got {getattr(self, field)}.")
        if self.sample_steps is not None and self.sample_steps < 1:
            raise ValueError(f"--sample_steps must be at least 1, got {self.sample_steps}.")
        if self.measure_images < 20:
            raise ValueError(f"--measure_images must be at least 20, got {self.measure_images}.")
        if self.peak_tflops is not None and not self.peak_tflops > 0:
            raise ValueError(f"--peak_tflops must be positive, got {self.peak_tflops}.")
        check_features(self.measure_features)

    def resolved(self, experiment: Preset | None = None) -> tuple["TrainSettings", Preset]:
        """These settings with the preset's numbers filled in, and the preset with these settings' numbers.

        Numbers of steps that go by the log's are rounded up to multiples of it (`remarks` says which).
        ImportError, or ValueError, for sharded checkpoints where they cannot be.
        """
        preset = experiment or self.experiment()
        recipe, data = preset.recipe, DATA_OPTIONS | preset.data
        if self.checkpoints == "sharded":
            check_available()
        chosen = {
            field: getattr(recipe, name) if getattr(self, field) is None else getattr(self, field)
            for field, name in self.OF_RECIPE.items()
        }
        chosen |= {
            name: data[name] if getattr(self, name) is None else getattr(self, name) for name in ("flip", "crop")
        }
        batch_size = self.batch_size or preset.batch_size
        self._check_parts(batch_size)
        ends = chosen["lr_decay"] in ("linear", "cosine")
        recipe = dataclasses.replace(
            recipe,
            **{name: chosen[field] for field, name in self.OF_RECIPE.items()},
            decay_steps=(recipe.decay_steps or self.steps) if ends else None,
            accumulation_steps=self.accumulation_steps,
        )
        network = {**preset.network, "remat": True} if self.remat else preset.network
        preset = dataclasses.replace(preset, recipe=recipe, network=network, batch_size=batch_size)
        found = dataclasses.replace(self, preset=preset.name, **chosen, batch_size=batch_size, **self._rounded())
        return found, preset

    @property
    def proposes(self) -> bool:
        """Whether the preset is one that is proposed for the data."""
        return self.preset is None and self.config is None

    def experiment(self) -> Preset:
        """The preset as it was asked for, or as it is proposed, before other flags; raises what is wrong with it."""
        if not self.proposes:
            given = [flag for flag in ("size", "image_size") if getattr(self, flag) is not None]
            if given:
                raise ValueError(f"--{given[0]} is of a proposed network: leave it out, or --preset and --config.")
            return chosen_preset(self.preset, self.config, self.set)
        missing = self.max_bad_records > 0
        data = pipelines.describe(self.data, split=self.split, data_dir=self.data_dir, missing_shards=missing)
        shape = self._sample_shape(data)
        proposed = proposed_preset(shape, data.num_classes, size=self.size, examples=data.num_examples)
        return overridden(proposed, self.set)

    def _sample_shape(self, data: pipelines.DatasetDescription) -> tuple[int, ...]:
        *frames, height, width, channels = data.sample_shape
        if self.image_size is not None:
            sides = self.image_size.split("x")
            if len(sides) not in (1, 2) or not all(side.isdecimal() and int(side) for side in sides):
                raise ValueError(f"--image_size must be a side or two, as 64 or 48x64, got {self.image_size!r}.")
            height, width = int(sides[0]), int(sides[-1])
        if None in (height, width):
            found = pipelines.sizes(self.data, split=self.split, data_dir=self.data_dir).most_common(3)
            if len(found) != 1:
                told = ", ".join(f"{rows}x{columns}" for (rows, columns), _ in found)
                raise ValueError(f"--data={self.data} has images of sizes such as {told}: cut them by --image_size=...")
            height, width = found[0][0]
        return (*frames, height, width, channels)

    def _rounded(self) -> dict[str, int]:
        """What comes at the end of a line of the log, and what is kept of the checkpoints, as it can be: rounded up."""
        every = {field: _multiple(getattr(self, field), self.log_every) for field in self.EVERY}
        return {**every, "keep_every": _multiple(self.keep_every, every["checkpoint_every"])}

    def remarks(self, asked: "TrainSettings") -> list[str]:
        """A sentence for each number of steps that `resolved` rounded up, and for flags that do nothing any more."""
        changed = [f for f in (*self.EVERY, "keep_every") if getattr(self, f) != getattr(asked, f)]
        gone = "--measure_share does nothing, and goes with the next version: --measure_every and --measure_images do."
        return [gone] * (self.measure_share is not None) + [
            f"--{field}={getattr(asked, field)} is {getattr(self, field)} here: a multiple of "
            + ("--checkpoint_every" if field == "keep_every" else f"--log_every={self.log_every}")
            + "."
            for field in changed
        ]

    def _check_parts(self, batch_size: int):
        """ValueError unless every device has as many rows of every part of a batch."""
        shards = 1 if self.mesh is None else Mesh.parse(self.mesh).batch_shards
        if self.accumulation_steps < 1 or batch_size % (shards * self.accumulation_steps):
            raise ValueError(
                f"A batch of {batch_size} must be divisible by the {shards} devices that share it times "
                f"--accumulation_steps={self.accumulation_steps}."
            )

    @classmethod
    def default(cls, name: str):
        """Of a field; None where it must be given."""
        return getattr(cls, name, None)

    def defining(self) -> dict:
        return {field: getattr(self, field) for field in self.DEFINING}
