"""The flags of every program that draws images: which model, and how."""

import contextlib
import dataclasses
import pathlib

from keras_sid2 import Guidance, ScaleCurve, SiD2Model
from keras_sid2.bin.common import newest_checkpoint
from keras_sid2.bin.compilation_cache import runs_eagerly
from keras_sid2.bin.flag_table import parsed
from keras_sid2.bin.model_files import load_model_file, model_path
from keras_sid2.bin.preset_flags import chosen_preset, read_config
from keras_sid2.checkpoints import load_model
from keras_sid2.parallel.mesh import Mesh, drawing
from keras_sid2.sampling import get_noise_levels, get_sampler
from keras_sid2.training.preset_folder import is_folder, list_trained
from keras_sid2.training.snapshots import Reconstruction


def drawing_devices(values) -> contextlib.AbstractContextManager:
    """Within it models are loaded onto, and images drawn by, this process's devices of --mesh; ValueError if it cannot
    be."""
    return drawing(None if values.mesh is None else Mesh.parse(values.mesh))


def load_model_from_flags(values) -> SiD2Model:
    """The model that the flags name; ValueError or FileNotFoundError, in one sentence, if they do not."""
    return _run_as_asked(_load_model(values), values)


def _run_as_asked(model: SiD2Model, values) -> SiD2Model:
    model.network.run_eagerly = runs_eagerly(values.compile)
    return model


def _load_model(values) -> SiD2Model:
    folder = values.preset if values.preset and is_folder(values.preset) else None
    if sum(map(bool, (values.workdir, values.weights, folder))) != 1:
        trained = ", ".join(list_trained())
        if values.preset and not (values.workdir or values.weights):
            raise ValueError(
                f"--preset={values.preset} is no folder, no hf://user/name, and has no weights: {trained} has."
            )
        raise ValueError(f"Give either --workdir, or --weights, or --preset: {trained}, a folder or hf://user/name.")
    if (values.weights or "").endswith(".weights.h5"):
        return _load_weights(values)
    for name in ("set",) if folder else ("preset", "set"):
        if getattr(values, name):
            raise ValueError(f"--{name} goes with --weights=NAME.weights.h5 only: others hold their configuration.")
    if values.config:
        read_config(values.config)  # defines classes
    if folder:
        return SiD2Model.from_preset(folder)
    if values.workdir:
        return load_model(newest_checkpoint("workdir", values.workdir))
    return load_model_file(model_path("weights", values.weights))


def check_width_flags(values, width: str = "ema_width"):
    """ValueError for those of averages that do nothing; `width` is the flag that needs them."""
    if getattr(values, width) is None:
        for name in ("ema_step", "snapshots"):
            if values[name].present:
                raise ValueError(f"--{name} does nothing without --ema_width.")
    elif not values.ema:
        raise ValueError(f"--{width} is of averaged weights: leave out --ema=false.")
    elif not (values.snapshots or values.workdir):
        raise ValueError(f"--{width} needs --snapshots, the folder of a run's snapshots, or --workdir.")


def check_width(values, width: float | None):
    """Raises what `Reconstruction` raises, before work starts."""
    if width is not None:
        Reconstruction(_snapshots(values), width, step=values.ema_step)


def take_width(model: SiD2Model, values, width: float | None):
    """The average of `width`, if it is one, becomes the model's; raises what `reconstruct_average` raises."""
    if width is not None:
        model.reconstruct_average(_snapshots(values), width, step=values.ema_step)


def _snapshots(values) -> pathlib.Path:
    return pathlib.Path(values.snapshots or pathlib.Path(values.workdir) / "snapshots")


def _load_weights(values) -> SiD2Model:
    """The model of --preset or --config with the weights in a .weights.h5 file."""
    if not pathlib.Path(values.weights).is_file():
        raise FileNotFoundError(f"--weights={values.weights} is no file.")
    if not (values.preset or values.config):
        raise ValueError(f"--weights={values.weights} needs --preset or --config, of which they are the weights.")
    model = chosen_preset(values).build(SiD2Model)
    model.load_weights(values.weights)
    return model


def sampling_options(values) -> dict:
    """Arguments of `SampleRequest`: how to draw, without what. The guidance network is loaded if all else is right.

    Raises ValueError or FileNotFoundError, in one sentence, for flags that are wrong or do nothing.
    """
    get_noise_levels(values.noise_levels)
    runs_eagerly(values.compile)
    fields = [name for name in ("eta", "variance", "churn") if getattr(values, name) is not None]
    sampler = dataclasses.replace(get_sampler(values.sampler), **{name: getattr(values, name) for name in fields})
    sampler = sampler if fields or values["sampler"].present else None  # ddpm, or a student's own
    options = {"sampler": sampler, "guidance": _guidance(values), "use_ema": values.ema}
    for name in ("num_steps", "noise_levels", "dynamic_threshold", "seed", "batch_size"):
        options[name] = getattr(values, name)
    other = values.autoguide
    if other is not None:
        other = _run_as_asked(load_model_file(model_path("autoguide", other)), values)
    return {**options, "guidance_network": other}


def _guidance(values) -> Guidance:
    interval = parsed("guidance_interval", values.guidance_interval, float)
    guidance = Guidance(guidance_scale(values.guidance_scale), interval and tuple(interval), values.guidance_one_batch)
    swept = "sweep" in values and values.sweep
    for name in ("guidance_interval", "guidance_one_batch", "autoguide"):
        if values[name].present and not guidance.acts and not swept:
            raise ValueError(f"--{name} does nothing at --guidance_scale=1: give a scale too.")
    return guidance


def guidance_scale(text: str):
    """A number, or a ScaleCurve through logsnr:scale pairs."""
    accepted = "a number, or logsnr:scale pairs as -3:1,0:2.5,5:1"
    points = parsed("guidance_scale", text.split(","), lambda pair: tuple(map(float, pair.split(":"))), accepted)
    return points[0][0] if len(points) == len(points[0]) == 1 else ScaleCurve(tuple(points))
