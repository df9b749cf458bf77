"""Models as folders that others can load, in KerasHub's layout.

    config.json          the model, as keras serialises it
    metadata.json        versions, number of parameters, date, step, and the SHA-256 of the weights
    model.weights.h5     weights and averages, no optimizer; or the averages alone, in float16

`hf://user/name` is such a folder at Hugging Face, which huggingface_hub downloads. The folders in keras_sid2/trained
are known by their names; each has a README.md beside the three files, which says how it was made.
"""

import contextlib
import datetime
import os
import pathlib

import keras

from keras_sid2.backend import steps_done
from keras_sid2.checkpoints.loading import first_reason, unreadable
from keras_sid2.io.atomic import file_sha256, read_json, write_json, written_folder
from keras_sid2.training.preset import list_presets
from keras_sid2.training.weights_files import save_averages, save_weights
from keras_sid2.version import __version__

CONFIG, METADATA, WEIGHTS = "config.json", "metadata.json", "model.weights.h5"
REMOTE = "hf://"
TRAINED = pathlib.Path(__file__).parents[1] / "trained"


def list_trained() -> list[str]:
    """Names of the trained models that come with the library, which `SiD2Model.from_preset` takes."""
    return sorted(path.name for path in TRAINED.iterdir() if is_preset_folder(path))


def is_folder(preset: str | os.PathLike) -> bool:
    """Whether it says a folder, hf://user/name or one of `list_trained()`, and no preset's name."""
    name = str(preset)
    return name.startswith(REMOTE) or name in list_trained() or (name not in list_presets() and os.path.isdir(name))


def is_preset_folder(path: str | os.PathLike) -> bool:
    return all((pathlib.Path(path) / name).is_file() for name in (CONFIG, METADATA))


def save_preset(model, folder: str | os.PathLike, *, dtype: str | None = None):
    """Writes `model` as a folder, atomically; an earlier preset there is replaced.

    `dtype="float16"` writes the averaged weights alone, rounded, in a quarter of the space; read again, they are
    weights and averages in float32. Raises ValueError for a folder that holds something else, another dtype, and
    weights beyond it; OSError if the disk fails.
    """
    if dtype not in (None, "float32", "float16"):
        raise ValueError(f"A preset's folder has weights in float32 or float16, got dtype={dtype!r}.")
    folder = pathlib.Path(folder)
    if folder.is_file() or (folder.is_dir() and any(folder.iterdir()) and not is_preset_folder(folder)):
        raise ValueError(f"{folder} is there and is no preset, so nothing is written over it: give another folder.")
    config = keras.saving.serialize_keras_object(model)
    for name in ("build_config", "compile_config"):
        config.pop(name, None)
    with written_folder(folder) as temporary:
        if dtype is None:
            save_weights(temporary / WEIGHTS, model)
        else:
            save_averages(temporary / WEIGHTS, model, dtype)
        metadata = {
            "keras_version": keras.__version__,
            "keras_sid2_version": __version__,
            "backend": keras.backend.backend(),
            "parameter_count": model.network.count_params(),
            **({} if dtype is None else {"weights_dtype": dtype}),
            "training_step": steps_done(model),
            "date_saved": datetime.datetime.now().strftime("%Y-%m-%d@%H:%M:%S"),
            "weights_sha256": file_sha256(temporary / WEIGHTS),
        }
        write_json(temporary / CONFIG, config)
        write_json(temporary / METADATA, metadata)


def load_preset(
    kind: type, where: str | os.PathLike, *, load_weights: bool = True, seed=None, dtype=None, remat: bool = False
):
    """The model of class `kind` in a folder, at hf://user/name, or of `list_trained()`; with new weights unless
    `load_weights`.

    seed, dtype and remat are `SiD2Model.from_preset`'s. Raises ValueError, FileNotFoundError or ImportError, in one
    sentence, for what is no such folder, is damaged, is of a class that is not imported, or cannot be downloaded.
    """
    names = [CONFIG, METADATA, *([WEIGHTS] if load_weights else [])]
    folder = preset_folder(where, names)
    if missing := [name for name in names if not (folder / name).is_file()]:
        raise FileNotFoundError(f"{where} is no folder of a preset: it has no {' and no '.join(missing)}.")
    config, metadata = (_read(folder / name) for name in (CONFIG, METADATA))
    if load_weights and metadata.get("weights_sha256") != file_sha256(folder / WEIGHTS):
        raise ValueError(f"{folder / WEIGHTS} is damaged: its SHA-256 is not what {METADATA} says.")
    changes = {"dtype": dtype, "remat": remat or None}
    with contextlib.suppress(KeyError, TypeError):  # what is no model is told below
        config["config"]["network"]["config"] |= {k: v for k, v in changes.items() if v is not None}
        config["config"] |= {} if seed is None else {"seed": seed}
    try:
        model = keras.saving.deserialize_keras_object(config)
    except Exception as error:  # keras raises many kinds
        raise unreadable(error, folder / CONFIG, "model") from error
    if not isinstance(model, kind):
        raise ValueError(f"{folder / CONFIG} holds a {type(model).__name__}, not a {kind.__name__}.")
    if load_weights:
        model.load_weights(folder / WEIGHTS)
    return model


def preset_folder(where: str | os.PathLike, names=(CONFIG, METADATA, WEIGHTS)) -> pathlib.Path:
    """The folder itself, that of a trained model's name, or what was downloaded of hf://user/name, its files `names`;
    raises what `load_preset` raises of that."""
    if str(where).startswith(REMOTE):
        return pathlib.Path(_downloaded(str(where), [*names]))
    return TRAINED / str(where) if str(where) in list_trained() else pathlib.Path(where)


def _read(path: pathlib.Path) -> dict:
    if (found := read_json(path)) is None:
        raise ValueError(f"{path} is damaged: it is no JSON object.")
    return found


def _downloaded(where: str, names: list[str]) -> str:
    """The folder that huggingface_hub keeps of hf://user/name."""
    user, _, name = where.removeprefix(REMOTE).partition("/")
    if not user or not name or "/" in name:
        raise ValueError(f"A preset at Hugging Face is {REMOTE}user/name, got {where!r}.")
    try:
        from huggingface_hub import snapshot_download
    except ImportError as error:
        raise ImportError(f"{where} needs huggingface_hub: pip install huggingface_hub.") from error
    try:
        return snapshot_download(repo_id=f"{user}/{name}", allow_patterns=names)
    except Exception as error:  # of the network, of names, of rights
        raise ValueError(f"{where} could not be downloaded: {first_reason(error)}") from error
