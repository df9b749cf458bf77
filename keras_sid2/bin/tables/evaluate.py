"""The flags of sid2-evaluate."""

import dataclasses

from keras_sid2.bin.flag_table import REQUIRED, at_least, flag, one_of
from keras_sid2.bin.tables.shared import (
    CACHE,
    CACHE_TEXT,
    FEATURES_TEXT,
    WEIGHTS_TEXT,
    CacheFlags,
    ProcessFlags,
    SamplingFlags,
)

MOST_IMAGES = 50_000
SWEEP_IMAGES = 2000  # for each setting, at most, unless the user says how many
_NUMBER_TEXT = f"as many as real ones, to {MOST_IMAGES}; in sweeps to {SWEEP_IMAGES}"
_FIELDS_TEXT = "or fields: scores of float fields --samples, .npz, .nc or .zarr"
_CLIP_SIZE_TEXT = "pixels that clips are cut and resized to before I3D looks at them; 0: as they are"
_CLIP_TEXT = "of --features=clip, a folder, or a name on the Hugging Face hub, with a CLIP as safetensors"
_I3D_TEXT = "of I3D, trained on Kinetics-400, a .npz, .pt or .pth file of yours"


def _list(default, text: str, over: str):
    """A list in place of the flag `over`."""
    return flag(default, text, needs="sweep", over=over)


@dataclasses.dataclass(frozen=True, kw_only=True)
class SweepFlags:
    sweep: bool = flag(False, "measure all combinations of these lists, and the best one anew with the next seed")
    sweep_scales: list = _list(("1", "1.5", "2", "3"), "guidance scales", over="guidance_scale")
    sweep_intervals: list = _list(("all",), "guidance intervals in logsnr, as all,-3:5", over="guidance_interval")
    sweep_steps: list | None = _list(None, "numbers of sampler steps; --num_steps if not given", over="num_steps")
    sweep_ema: list = _list(("true",), "true, false or both: averaged and raw weights", over="ema")
    sweep_ema_width: list | None = _list(None, "of averages made of snapshots, as 0.03,0.05,0.1", over="ema_width")
    sweep_variance: list | None = _list(None, "of ddpm, as 0.1,0.2,0.3; --variance if not given", over="variance")


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvaluateFlags(SamplingFlags, SweepFlags, ProcessFlags, CacheFlags):
    samples: str | None = flag(None, "images to measure, an .npz or a folder of PNG files, in place of a model")
    reference: str = flag(
        REQUIRED, "real images: a prepared data set, an .npz or a folder of PNG files", unless="compare"
    )
    split: str = flag("train", "splits of a prepared data set, as train,test")
    data_dir: str | None = flag(None, "where data sets lie that are given by name")
    crop: str | None = flag(None, "center: cut and resize a data set's images to the size of ours", one_of("center"))
    features: str = flag("inception", f"{FEATURES_TEXT}; {_FIELDS_TEXT}")
    periodic: list | None = flag(None, "axes of fields whose ends meet: height,width", needs="features=fields")
    by_latitude: bool = flag(False, "weigh rows by the cosine of the file's latitude", needs="features=fields")
    inception_weights: str | None = flag(None, WEIGHTS_TEXT, needs="features=inception")
    i3d_weights: str | None = flag(None, _I3D_TEXT, needs="features=i3d")
    clip: str | None = flag(None, _CLIP_TEXT, needs="features=clip")
    clip_size: int = flag(64, _CLIP_SIZE_TEXT, at_least(0), needs="features=i3d")
    folds: int = flag(1, "draw so many times, with the seeds that follow: mean and deviation", at_least(1))
    num_images: int | None = flag(None, _NUMBER_TEXT, at_least(20))
    out: str | None = flag(None, "where to write, without suffix; not given: evaluation/ in the workdir")
    cache: str = flag(CACHE, CACHE_TEXT)
    compare: list | None = flag(None, "only print these side by side: .json, .jsonl files, or lines, as a.jsonl:3")
