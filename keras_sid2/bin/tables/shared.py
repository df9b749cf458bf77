"""Flags that several programs have."""

import dataclasses

from keras_sid2.bin.flag_table import IN_UNIT_INTERVAL, at_least, flag, one_of
from keras_sid2.starting import BACKENDS

SIZES = ("tiny", "small", "base", "large")  # that keras_sid2.training.proposal knows
CACHE = "~/.cache/keras_sid2/references"
COMPILE_TEXT = "auto, or on torch never: blocks are not recorded (compiled on CUDA), but run as Keras does"
CACHE_TEXT = "folder that keeps the statistics of real images"
FEATURES_TEXT = "inception; classifier, fitted on real images; clip; i3d of clips; or MODULE:FUNCTION of yours"
WEIGHTS_TEXT = "the FID's Inception-v3, a .pth or .npz file; downloaded if not given"


@dataclasses.dataclass(frozen=True, kw_only=True)
class BackendFlag:
    """Of every program; keras_sid2/starting.py has read it before Keras was imported."""

    backend: str | None = flag(None, f"{', '.join(BACKENDS)}; KERAS_BACKEND or keras.json if not given")


@dataclasses.dataclass(frozen=True, kw_only=True)
class MeshFlags:
    mesh: str | None = flag(None, "devices, as data:4,fsdp:2,model:1 (tensorflow, torch: data alone); one if not given")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ProcessFlags(MeshFlags):
    coordinator: str | None = flag(None, "host:port of process 0; else the environment tells (docs/guides/devices.md)")
    process_count: int | None = flag(None, "processes that work together")
    process_id: int | None = flag(None, "of this one, from 0")


@dataclasses.dataclass(frozen=True, kw_only=True)
class CacheFlags:
    """The flag of all programs that train or draw."""

    compilation_cache: str | None = flag(
        None, "folder that keeps what jax or torch.compile compiled; or none; ~/.cache/keras_sid2/compiled if not given"
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class PresetFlags:
    """The three flags."""

    preset: str | None = flag(None, "name of the model, see keras_sid2.list_presets()", defines=True)
    config: str | None = flag(None, "a Python file that defines `preset`, a keras_sid2.training.Preset")
    set: tuple = flag((), "path=value, any number of times: changes the preset, as objective.weighting.bias=-2")


@dataclasses.dataclass(frozen=True, kw_only=True)
class SamplingFlags(MeshFlags):
    workdir: str | None = flag(None, "work directory of sid2-train; its newest checkpoint is used")
    weights: str | None = flag(None, "a .keras file, a checkpoint's or preset's folder; X.weights.h5 of a preset")
    preset: str | None = flag(None, "a trained model's name or folder, or hf://user/name; or what X.weights.h5 is of")
    config: str | None = flag(None, "sid2-train's, if it defines the network's class; or what X.weights.h5 is of")
    set: tuple = flag((), "path=value: changes the preset that --weights=X.weights.h5 is of")
    ema: bool = flag(True, "use the averaged weights")
    ema_width: float | None = flag(None, "take an average of this width, as 0.07, made of the run's snapshots")
    ema_step: int | None = flag(None, "at this step, which has a snapshot; the newest one's", at_least(1))
    snapshots: str | None = flag(None, "folder of the snapshots; WORKDIR/snapshots")
    num_steps: int | None = flag(None, "sampler steps; 512, and of a student those it is for", at_least(1))
    sampler: str = flag("ddpm", "a name in keras_sid2.sampling.SAMPLERS: ddpm, ddim, dpmpp_2m, ...")
    eta: float | None = flag(None, "of ddim, in [0, 1]; 0, without noise, if not given", needs="sampler=ddim")
    variance: float | None = flag(None, "of ddpm, in [0, 1]; 0.2 if not given", needs="sampler=ddpm")
    churn: float | None = flag(None, "of edm_heun, >= 0: share that noise is raised by; 0", needs="sampler=edm_heun")
    noise_levels: str = flag("uniform_t", "uniform_t, uniform_logsnr or edm_rho", alias="grid")  # in version 0.3
    guidance_scale: str = flag("1", "1 is none; or logsnr:scale pairs, as -3:1,0:2.5,5:1, with straight lines between")
    guidance_interval: list | None = flag(None, "low,high in logsnr; everywhere if not given")
    guidance_one_batch: bool = flag(True, "both estimates at once: faster, in twice the memory")
    autoguide: str | None = flag(None, "guide away from this model: a work directory, or a path as of --weights")
    dynamic_threshold: float | None = flag(None, "quantile that estimates are scaled by; clipped", IN_UNIT_INTERVAL)
    seed: int = flag(0, "image i depends on (seed, i, its label, the settings)", at_least(0))
    batch_size: int = flag(64, "images drawn at once", at_least(1))
    compile: str = flag("auto", COMPILE_TEXT, one_of("auto", "never"))
