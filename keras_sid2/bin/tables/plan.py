"""The flags of sid2-plan."""

import dataclasses

from keras_sid2.bin.flag_table import IN_UNIT_INTERVAL, at_least, flag, one_of
from keras_sid2.bin.tables.shared import SIZES, PresetFlags


@dataclasses.dataclass(frozen=True, kw_only=True)
class PlanFlags(PresetFlags):
    all: bool = flag(False, "only print a table of all presets and sizes: cost, days, disk, what is to be expected")
    sample_shape: str | None = flag(None, "of data of your own, as 64x64x3 or 16x64x64x3, in place of --preset")
    size: str | None = flag(None, f"of what is proposed for them: {', '.join(SIZES)}; by shape", needs="sample_shape")
    num_classes: int | None = flag(None, "of them; none if not given", at_least(1), needs="sample_shape")
    given_frames: int | None = flag(None, "of clips, how many are given", at_least(1), needs="sample_shape")
    batch_size: int | None = flag(None, "images a step, of all devices; the preset's if not given")
    mesh: str | None = flag(None, "devices, as data:4,fsdp:2,model:1: prints what lies where, too")
    precision: str = flag("float32", "float32 or mixed_bfloat16", one_of("float32", "mixed_bfloat16"))
    remat: bool = flag(False, "recompute every block in the backward pass")
    accumulation_steps: int = flag(1, "parts of a batch, one after another")
    platform: str = flag("gpu", "gpu, tpu or cpu: the devices that activations are estimated for")
    backend: str | None = flag(None, "jax, tensorflow or torch, which keep other activations; that of now")
    distill: bool = flag(False, "memory and work of sid2-distill: teacher, auxiliary network and student")
    matching: str = flag("auxiliary", "sid2-distill's", one_of("auxiliary", "parameters"), needs="distill")
    compile: bool = flag(False, "compile the step for --platform, and say what memory XLA wants (jax)")
    topology: str = flag("v5p:2x2x1", "the TPU of --compile --platform=tpu; needs libtpu, no TPU")
    memory: str | None = flag(None, "of a device, as 80GiB: prints the largest batch that fits")
    accelerator: str | None = flag(None, "as h100 or tpu-v5p: prints the days that --mesh of them take")
    share_of_peak: float = flag(0.3, "of the accelerator's operations a second that are reached", IN_UNIT_INTERVAL)
    steps: int = flag(1_000_000, "of training", at_least(1))
    num_steps: int | None = flag(None, "of sampling; the preset's if not given", at_least(1))
    sampler: str = flag("ddpm", "as sid2-sample's")
    guidance_interval: list | None = flag(None, "low,high in logsnr, where guidance acts; the preset's")
