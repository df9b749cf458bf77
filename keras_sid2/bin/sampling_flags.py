"""The flags of every program that draws images: which model, and how."""

import dataclasses
import pathlib
import sys

from absl import flags

from keras_sid2.bin import preset_flags

Values = flags.FlagValues


def define(values: Values = flags.FLAGS):
    """Defines them; a program does so when it starts, so that two can be imported into one process."""
    add = {"flag_values": values}
    flags.DEFINE_string("workdir", None, "work directory of sid2-train; its newest checkpoint is used", **add)
    text = "a .keras file, a checkpoint's folder, or a preset's; or a .weights.h5 file, with --preset or --config"
    flags.DEFINE_string("weights", None, text, **add)
    preset_flags.define(
        values,
        preset="a folder of save_preset, or hf://user/name; or the name of the model that --weights=X.weights.h5 is of",
        config="the --config file of sid2-train that defines the network's class, or what --weights=X.weights.h5 is of",
        set="path=value: changes the preset that --weights=X.weights.h5 is of",
    )
    flags.adopt_module_key_flags(preset_flags, values)
    flags.DEFINE_bool("ema", True, "use the averaged weights", **add)
    flags.DEFINE_integer("num_steps", 512, "sampler steps", **add)
    flags.DEFINE_string("sampler", "ddpm", "a name in keras_sid2.sampling.SAMPLERS: ddpm, ddim, dpmpp_2m, ...", **add)
    flags.DEFINE_float("eta", None, "of ddim, in [0, 1]; 0, without noise, if not given", **add)
    flags.DEFINE_float("variance", None, "of ddpm, in [0, 1]; 0.2 if not given", **add)
    flags.DEFINE_float("churn", None, "of edm_heun, >= 0: by what share noise is raised; 0 if not given", **add)
    flags.DEFINE_string("noise_levels", "uniform_t", "uniform_t, uniform_logsnr or edm_rho", **add)
    flags.DEFINE_alias("grid", "noise_levels", **add)  # its name in version 0.3
    text = "1 is none; or logsnr:scale pairs, as -3:1,0:2.5,5:1, with straight lines between"
    flags.DEFINE_string("guidance_scale", "1", text, **add)
    flags.DEFINE_list("guidance_interval", None, "low,high in logsnr; everywhere if not given", **add)
    flags.DEFINE_bool("guidance_one_batch", True, "both estimates at once: faster, in twice the memory", **add)
    text = "guide away from this model: a .keras file, a work directory, or a folder as of --weights"
    flags.DEFINE_string("autoguide", None, text, **add)
    text = "quantile in (0, 1] that estimates are scaled by; clipped if not given"
    flags.DEFINE_float("dynamic_threshold", None, text, **add)
    flags.DEFINE_integer("seed", 0, "image i depends on (seed, i, its label, the settings)", **add)
    flags.DEFINE_integer("batch_size", 64, "images drawn at once", **add)


def load_model_from_flags(values: Values = flags.FLAGS):
    """The SiD2Model that the flags name; ValueError or FileNotFoundError, in one sentence, if they do not."""
    from keras_sid2 import SiD2Model
    from keras_sid2.checkpoints import load_model
    from keras_sid2.training.preset_folder import is_folder

    folder = values.preset if values.preset and is_folder(values.preset) else None
    if [values.workdir, values.weights, folder].count(None) != 2:
        raise ValueError("Give either --workdir, or --weights, or --preset with a folder or hf://user/name.")
    of_weights = (values.weights or "").endswith(".weights.h5")
    for flag in ("set",) if folder else ("preset", "set"):
        if values[flag].value and not of_weights:
            raise ValueError(f"--{flag} goes with --weights=NAME.weights.h5 only: others hold their configuration.")
    if values.config and not of_weights:
        preset_flags.read_config(values.config)  # defines classes
    if folder:
        return SiD2Model.from_preset(folder)
    if values.workdir:
        return load_model(_newest_checkpoint("workdir", values.workdir))
    if not of_weights:
        return _load_file("weights", values.weights)
    if not pathlib.Path(values.weights).is_file():
        raise FileNotFoundError(f"--weights={values.weights} is no file.")
    if not (values.preset or values.config):
        raise ValueError(f"--weights={values.weights} needs --preset or --config, of which they are the weights.")
    model = preset_flags.preset_from_flags(values).build(SiD2Model)
    model.load_weights(values.weights)
    return model


def _load_file(flag: str, name: str):
    """The model in a .keras file, a checkpoint's folder or a preset's."""
    from keras_sid2 import SiD2Model
    from keras_sid2.checkpoints import MANIFEST, load_model
    from keras_sid2.training.preset_folder import is_preset_folder

    path = pathlib.Path(name)
    if is_preset_folder(path):
        return SiD2Model.from_preset(path)
    if (path / MANIFEST).is_file() or (path.suffix == ".keras" and path.is_file()):
        return load_model(path)
    if (path / "checkpoints").is_dir():
        return load_model(_newest_checkpoint(flag, name))
    if path.suffix == ".keras" or not path.exists():
        raise FileNotFoundError(f"--{flag}={name} is no file.")
    raise ValueError(
        f"--{flag}={name} must be a .keras file, the folder of a checkpoint or a preset, or a .weights.h5 file with "
        "--preset or --config."
    )


def _newest_checkpoint(flag: str, folder: str) -> pathlib.Path:
    from keras_sid2.checkpoints import checkpoints, newest_sound

    def note(sentence: str):
        print(sentence, file=sys.stderr)

    directory = pathlib.Path(folder) / "checkpoints"
    found = newest_sound(directory, note, set_aside=False)
    if found is None:
        what = "sound checkpoint" if checkpoints(directory) else "checkpoints"
        raise FileNotFoundError(f"--{flag}={folder} holds no {what}: train there with sid2-train.")
    return found


def sampling_options(values: Values = flags.FLAGS) -> dict:
    """Arguments of `SampleRequest`: how to draw, without what. The guidance network is loaded if all else is right.

    Raises ValueError or FileNotFoundError, in one sentence, for flags that are wrong or do nothing.
    """
    from keras_sid2.sampling import get_noise_levels

    check_at_least(values, num_steps=1, batch_size=1, seed=0)
    check_in_unit_interval(values, "dynamic_threshold")
    get_noise_levels(values.noise_levels)
    return {
        "num_steps": values.num_steps,
        "sampler": _sampler(values),
        "noise_levels": values.noise_levels,
        "guidance": _guidance(values),
        "dynamic_threshold": values.dynamic_threshold,
        "use_ema": values.ema,
        "seed": values.seed,
        "batch_size": values.batch_size,
        "guidance_network": _guidance_network(values),
    }


def check_at_least(values: Values, **least: int):
    """ValueError unless each of these flags, where it is given, is as large as said."""
    for name, bound in least.items():
        if values[name].value is not None and values[name].value < bound:
            raise ValueError(f"--{name} must be at least {bound}, got {values[name].value}.")


def check_in_unit_interval(values: Values, name: str):
    """ValueError unless a flag, where it is given, is in (0, 1]."""
    if values[name].value is not None and not 0.0 < values[name].value <= 1.0:
        raise ValueError(f"--{name} must be in (0, 1], got {values[name].value}.")


def numbers(values: Values, name: str, kind: type) -> list | None:
    """A flag's list as numbers of a kind, or None where it is not given."""
    texts = values[name].value
    try:
        found = None if texts is None else [kind(text) for text in texts]
    except ValueError:
        found = []
    if found == []:
        raise ValueError(f"--{name} must be numbers with commas between, got {','.join(texts)!r}.")
    return found


_FIELDS = {"eta": "ddim", "variance": "ddpm", "churn": "edm_heun"}  # flags that are a sampler's fields


def _sampler(values: Values):
    from keras_sid2.sampling import get_sampler

    given = {flag: name for flag, name in _FIELDS.items() if values[flag].value is not None}
    for flag, name in given.items():
        if values.sampler != name:
            raise ValueError(f"--{flag} goes with --sampler={name}, got --sampler={values.sampler}.")
    return dataclasses.replace(get_sampler(values.sampler), **{flag: values[flag].value for flag in given})


def _guidance(values: Values):
    from keras_sid2 import Guidance

    interval = numbers(values, "guidance_interval", float)
    interval = None if interval is None else tuple(interval)
    guidance = Guidance(_scale(values.guidance_scale), interval, values.guidance_one_batch)
    swept = "sweep" in values and values.sweep
    for name in ("guidance_interval", "guidance_one_batch", "autoguide"):
        if values[name].present and not guidance.acts and not swept:
            raise ValueError(f"--{name} does nothing at --guidance_scale=1: give a scale too.")
    return guidance


def _scale(text: str):
    """A number, or a ScaleCurve through logsnr:scale pairs."""
    from keras_sid2 import ScaleCurve

    try:
        points = [tuple(map(float, pair.split(":"))) for pair in text.split(",")]
    except ValueError as error:
        raise ValueError(
            f"--guidance_scale must be a number, or logsnr:scale pairs as -3:1,0:2.5,5:1, got {text!r}."
        ) from error
    return points[0][0] if len(points) == len(points[0]) == 1 else ScaleCurve(tuple(points))


def _guidance_network(values: Values):
    return None if values.autoguide is None else _load_file("autoguide", values.autoguide)
