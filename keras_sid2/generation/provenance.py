"""Provenance of samples: what they were drawn by, as texts in which different settings differ, alike on every backend.

NAME.npz has its provenance in NAME.npz.json beside it, a folder of PNG files in images.json in it: what
`SampleRequest.describe` says, and the digest of the images, by which it is known whether they are still the same.
"""

import dataclasses
import functools
import hashlib
import inspect
import json
import os
import pathlib

import keras
import numpy as np

from keras_sid2 import renamed
from keras_sid2.config import PACKAGE
from keras_sid2.diffusion import Guidance
from keras_sid2.io.atomic import read_json, write_json

_OURS = f"{PACKAGE}."
CUSTOM = "custom "  # how the text of a setting begins, or a value in it, of which no more than the name is known


def array_digest(values: np.ndarray) -> str:
    """16 hexadecimal digits of the SHA-256 of an array's bytes."""
    return _digest(np.ascontiguousarray(values).tobytes())


def config_digest(network) -> str:
    """The same of a network's configuration, which says more than its weights: which activations and how many heads.

    One of the user's that keras cannot write as a configuration is told by its class.
    """
    try:
        config = {key: value for key, value in network.get_config().items() if key not in ("name", "trainable")}
    except NotImplementedError:
        return CUSTOM + _place(network)
    return _digest(json.dumps(config, sort_keys=True, default=named).encode())


def named(setting) -> str:
    """A name as it is, a frozen configuration with its values, anything else as "custom" and its qualified name.

    A frozen configuration is a frozen dataclass, or an object that Keras has registered. Of anything else, such as a
    closure, nobody can tell from outside what it does.
    """
    if dataclasses.is_dataclass(setting) and not isinstance(setting, type) and setting.__dataclass_params__.frozen:
        values = [f"{field.name}={_value(getattr(setting, field.name))}" for field in dataclasses.fields(setting)]
        # This library's own are told without their place, as its first versions did.
        name = type(setting).__qualname__ if type(setting).__module__.startswith(_OURS) else _place(setting)
        return f"{name}({', '.join(values)})"
    if isinstance(setting, str):
        return setting
    if inspect.isfunction(setting) and setting.__module__.startswith(_OURS) and setting.__closure__ is None:
        return _place(setting)
    registered = keras.saving.get_registered_name(type(setting))
    if hasattr(setting, "get_config") and registered != type(setting).__name__:
        return f"{registered}({json.dumps(setting.get_config(), sort_keys=True, default=named)})"
    return CUSTOM + _place(setting)


def named_guidance(guidance: Guidance) -> str:
    """What of it decides images: whether both estimates are one batch does not."""
    if not guidance.acts:
        return "none"
    where = "all" if guidance.interval is None else "{!r} to {!r}".format(*map(float, guidance.interval))
    scale = named(guidance.scale) if callable(guidance.scale) else repr(float(guidance.scale))
    return f"{scale} in {where}"


def custom_in(drawn: dict) -> list[str]:
    """Names of the settings of a `SampleRequest.describe` that are custom: two that read alike need not be equal."""
    return [name for name, value in drawn.items() if isinstance(value, str) and CUSTOM in value]


def _value(value) -> str:
    """Of a field: plain values as Python writes them, which tells floats apart to the last digit."""
    value = value.item() if isinstance(value, np.generic) else value
    if value is None or isinstance(value, bool | int | float | str):
        return repr(value)
    if isinstance(value, tuple | list):
        inside = ", ".join(map(_value, value))
        return f"[{inside}]" if isinstance(value, list) else f"({inside}{',' * (len(value) == 1)})"
    if isinstance(value, np.ndarray):
        return f"{value.dtype}{list(value.shape)} {array_digest(value)}"
    return named(value)


def _place(setting) -> str:
    setting = setting.func if isinstance(setting, functools.partial) else setting
    kind = setting if hasattr(setting, "__qualname__") else type(setting)
    return f"{kind.__module__}.{kind.__qualname__}"


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:16]


def provenance_path(images: str | os.PathLike) -> pathlib.Path:
    """Of the images in an .npz, or in a folder."""
    images = pathlib.Path(images)
    return pathlib.Path(f"{images}.json") if images.suffix == ".npz" else images / "images.json"


def write_provenance(images: str | os.PathLike, images_digest: str, drawn: dict):
    """Beside `images`, whose `ImagesDigest` it has: plain values that say how they were drawn."""
    write_json(provenance_path(images), {"images_digest": images_digest, **drawn})


def read_provenance(images: str | os.PathLike) -> dict | None:
    """What `write_provenance` wrote: `drawn` and images_digest; None for no file, ValueError for another one."""
    path = provenance_path(images)
    if not path.is_file():
        return None
    found = read_json(path)
    if found is None or not isinstance(found.get("images_digest"), str):
        raise ValueError(f"{path} does not say how the images beside it were drawn: remove or rename it.")
    return renamed.recorded(found)
