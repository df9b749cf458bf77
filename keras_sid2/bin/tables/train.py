"""The flags of sid2-train, most of which sid2-distill has, too."""

import dataclasses
import functools

from keras_sid2.bin.flag_table import REQUIRED, Accepted, at_least, flag, one_of
from keras_sid2.bin.tables.shared import (
    CACHE,
    CACHE_TEXT,
    COMPILE_TEXT,
    FEATURES_TEXT,
    SIZES,
    WEIGHTS_TEXT,
    CacheFlags,
    PresetFlags,
    ProcessFlags,
)

_OWN_TRACKERS = ("tensorboard", "wandb", "mlflow")
_SEEDS = Accepted("in [0, 2**32)", lambda seed: 0 <= seed < 2**32)
_POSITIVE = Accepted("positive", lambda value: value > 0)
_LOG_TEXT = "tensorboard, wandb (Weights & Biases), mlflow, and MODULE:CLASS of yours, with commas; or nothing"
_TRACKERS = Accepted(
    "among tensorboard, wandb, mlflow, and MODULE:CLASS of yours, each once",
    lambda names: len({*names}) == len(names) and all(":" in n or n in _OWN_TRACKERS for n in names),
    _OWN_TRACKERS,
)
_DTYPES = one_of("float32", "float16")
_FACTORS = Accepted("above 1, or 0 for never", lambda factor: factor == 0 or factor > 1)
of_run = functools.partial(flag, defines=True)  # a run goes on with the same value only
_of_measuring = functools.partial(flag, needs="measure_every")


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainTable(PresetFlags, ProcessFlags, CacheFlags):
    """What a run is asked for; None is the preset's."""

    workdir: str = flag(REQUIRED, "folder of the run; a run that is in it is continued")
    data: str = of_run(REQUIRED, "name or folder of a prepared data set (sid2-data prepare)")
    size: str | None = flag(None, f"of the network proposed without --preset and --config: {', '.join(SIZES)}")
    init_from: str | None = of_run(None, "begin with the weights of a run, checkpoint, .keras file or preset's folder")
    init_ema: bool = of_run(True, "of --init_from its averages, if it has any; else its weights")
    image_size: str | None = flag(None, "that it is for, as 64 or 48x64, where the data's differ or with --crop")
    given_frames: int | None = flag(None, "of clips, how many of the proposed network's are given", at_least(1))
    data_dir: str | None = flag(None, "where data sets lie that are given by name; tfds' own folder if not given")
    split: str = of_run("train", "split to train on")
    eval_split: str | None = flag(None, "split to evaluate on; none if not given")
    smoke: bool = flag(False, "a shrunken network and four steps of two images: does it all work, within a minute?")
    steps: int = flag(1000, "training steps in all, those of an earlier start counted in", at_least(1))
    batch_size: int | None = of_run(None, "images a step; the preset's if not given", at_least(1))
    learning_rate: float | None = of_run(None, "after warm-up; the preset's if not given")
    warmup_steps: int | None = of_run(None, "steps of linear warm-up; the preset's if not given")
    lr_decay: str | None = of_run(None, "constant, inverse_sqrt, or linear or cosine to 0 at --steps; the preset's")
    ema_decay: float | None = of_run(None, "of the averaged weights; the preset's if not given")
    ema_warmup: bool | None = of_run(None, "average over fewer steps at first; the preset's if not given")
    ema_widths: list | None = of_run(None, "power-function averages kept beside it, as 0.05,0.1; the preset's: none")
    snapshot_every: int = flag(0, "steps between snapshots of these, rounded up likewise; 0 is never", at_least(0))
    snapshot_dtype: str = flag("float32", "of snapshots: float32, or float16 in half the space", _DTYPES)
    flip: bool | None = of_run(None, "mirror half of the images")
    crop: str | None = of_run(None, "center or random: cut, resize to the preset's size", one_of("center", "random"))
    max_bad_records: int = flag(0, "damaged records that are skipped and counted before training stops", at_least(0))
    seed: int = of_run(0, "of the initial weights, the data's order and all noise", _SEEDS)
    precision: str = of_run("float32", "float32 or mixed_bfloat16", one_of("float32", "mixed_bfloat16"))
    remat: bool = of_run(False, "recompute blocks in the backward pass: less memory, a quarter more work; not on CPUs")
    compile: str = flag("auto", COMPILE_TEXT, one_of("auto", "never"))
    accumulation_steps: int = of_run(1, "microbatches that a batch is cut into, one after another", at_least(1))
    log_every: int = flag(50, "steps between lines of the log", at_least(1))
    eval_every: int = flag(500, "steps between evaluations, rounded up to a multiple of log_every", at_least(1))
    checkpoint_every: int = flag(500, "steps between checkpoints, rounded up to a multiple of log_every", at_least(1))
    keep_checkpoints: int = flag(3, "how many of the newest checkpoints to keep", at_least(1))
    keep_every: int = flag(0, "keep those at multiples of this, rounded up to checkpoint_every's; 0: none", at_least(0))
    checkpoints: str = flag("portable", "portable, for every backend, or sharded (jax)", one_of("portable", "sharded"))
    sample_every: int = flag(500, "steps between sample grids, rounded up likewise; 0 is never", at_least(0))
    sample_steps: int | None = flag(None, "sampler steps, for grids and measurements; the preset's", at_least(1))
    measure_every: int = flag(0, "steps between measurements of samples, rounded up likewise; 0 is never", at_least(0))
    measure_images: int = _of_measuring(1000, "how many are drawn each time", at_least(20))
    measure_features: str = _of_measuring("inception", FEATURES_TEXT)
    inception_weights: str | None = _of_measuring(None, WEIGHTS_TEXT)
    measure_share: float | None = _of_measuring(None, "deprecated, without effect")
    measure_cache: str = _of_measuring(CACHE, CACHE_TEXT)
    log_to: list = flag(("tensorboard",), _LOG_TEXT, _TRACKERS)
    project: str | None = flag(None, "W&B's project, MLflow's experiment; WANDB_PROJECT or keras_sid2 if not given")
    upload_checkpoints: bool = flag(False, "to W&B or MLflow the checkpoints themselves, and not where they lie")
    peak_tflops: float | None = flag(None, "10^12 dense operations a second of all devices; a table's", _POSITIVE)
    on_nan: str = flag("stop", "stop; or skip: go back to a checkpoint, leave the batch out", one_of("stop", "skip"))
    explosion_factor: float = flag(100.0, "times the least mean of 20 losses is as bad as a NaN; 0: never", _FACTORS)


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainFlags(TrainTable):
    verify_resume: int = flag(0, "train nothing: show that N and N steps, in two processes, end as 2 N do", at_least(0))
