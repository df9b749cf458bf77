"""--compilation_cache: a program finds there what an earlier start of it has compiled; --compile: whether it does."""

import os
import pathlib
import sys

from keras_sid2 import backend
from keras_sid2.backend.platform import jax, torch
from keras_sid2.bin.common import make_folders

NONE = "none"
_CHOSEN_BY = {  # variables by which a user has told a backend where, or whether
    "jax": ("JAX_COMPILATION_CACHE_DIR", "JAX_ENABLE_COMPILATION_CACHE"),
    "torch": ("TORCHINDUCTOR_CACHE_DIR", "TORCHINDUCTOR_FORCE_DISABLE_CACHES"),
}


def default_folder() -> pathlib.Path:
    return pathlib.Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "keras_sid2" / "compiled"


def keep_compiled(asked: str | None, compile: str = "auto"):
    """From now on what is compiled comes from a folder, and goes there; `asked` is the flag's value. Where `compile`,
    the other flag's value, is "never" torch compiles nothing.

    A backend's own variables in the environment are for where the flag is not given. ValueError, in one sentence, for a
    folder that cannot be made, and for one given on tensorflow; the default folder is done without where it cannot be.
    """
    name = backend.name()
    never = runs_eagerly(compile)
    if name == "torch":
        torch.compiler.set_stance("force_eager" if never else "default")
    if name not in _CHOSEN_BY:
        if asked not in (None, NONE):
            raise ValueError(f"--compilation_cache={asked} does nothing on {name}: leave it out.")
        return
    if asked is None and any(os.environ.get(variable) for variable in _CHOSEN_BY[name]):
        return
    if asked == NONE:
        _keep_none(name)
        return
    folder = (default_folder() if asked is None else pathlib.Path(asked).expanduser()).absolute() / name
    try:
        make_folders("compilation_cache", asked or folder, folder)
    except ValueError as error:
        if asked is not None:
            raise
        print(f"Nothing compiled is kept: {error}", file=sys.stderr)
        return
    _keep_in(folder, name)


def runs_eagerly(asked: str) -> bool:
    """Whether --compile asks for what Keras does; ValueError for that where the backend does it never."""
    if asked == "never" and backend.name() != "torch":
        told = f"--compile=never is torch's, and {backend.name()} compiles every step"
        raise ValueError(f"{told}: leave it out, or --compile=auto.")
    return asked == "never"


def _keep_none(name: str):
    if name == "jax":
        jax.config.update("jax_enable_compilation_cache", False)
    else:
        os.environ["TORCHINDUCTOR_FORCE_DISABLE_CACHES"] = "1"  # for processes that this one starts
        torch._inductor.config.force_disable_caches = True  # as torch has read the variable when it was imported


def _keep_in(folder: pathlib.Path, name: str):
    if name == "torch":
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(folder)
        return
    jax.config.update("jax_enable_compilation_cache", True)
    jax.config.update("jax_compilation_cache_dir", str(folder))
    if "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS" not in os.environ:
        # Most of a start are many small programs, none of which takes the second that jax asks for.
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
