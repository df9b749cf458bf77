"""The import of Keras: for our programs after a look at --backend, and with words of its own where it fails."""

import importlib.util
import itertools
import os
import pathlib
import re
import sys

BACKENDS = ("jax", "tensorflow", "torch")
EXPORT_BACKENDS = {
    "savedmodel": "tensorflow",
    "onnx": "torch",
    "torch": "torch",
    "jax": "jax",
}  # of sid2-export's formats


def require_keras():
    """Imports Keras. ImportError, in one sentence, unless it runs on a backend of ours that is installed.

    A console program of ours ends with that sentence and exit code 2 instead. There --backend=NAME comes before
    KERAS_BACKEND, and TensorFlow is asked for silence, as both must be known before the first import.
    """
    program = program_of_ours()
    if program:
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
        asked = _asked_for(sys.argv[1:])
        if asked is not None and (program != "sid2-plan" or _there(asked)):  # which plans for what is not here, too
            os.environ["KERAS_BACKEND"] = asked
        if program == "sid2-export" and (needed := EXPORT_BACKENDS.get(_asked_for(sys.argv[1:], "format") or "")):
            _take_for_export(needed)
    try:
        import keras

        error, asked = None, keras.backend.backend()
    except Exception as caught:  # of no backend a ModuleNotFoundError, of a misspelt one a ValueError
        config = sys.modules.get("keras.src.backend.config")  # is there, where only what comes after it failed
        error, asked = caught, config.backend() if config else os.environ.get("KERAS_BACKEND")
    if error is None and asked in BACKENDS:
        return
    sentence = _sentence(error, asked, by="--backend, " if program else "")
    if program:
        print(f"{program}: {sentence}", file=sys.stderr)
        raise SystemExit(2)
    raise ImportError(sentence, name="keras_sid2")  # with the name, `python -m` tells it in one line


def program_of_ours() -> str | None:
    """The name of the program of ours that runs, as a script or by python -m; None in any other process."""
    name = pathlib.Path(sys.argv[0] if sys.argv else "").name
    if name == "-m":  # which is there while the package of a module is imported
        module = _module_asked_for(sys.orig_argv)
        return f"sid2-{module.rpartition('.')[2]}" if module.startswith("keras_sid2.bin.") else None
    return name if name == "sid2" or name.startswith("sid2-") else None


def _module_asked_for(argv: list[str]) -> str:
    """That of -m among the interpreter's arguments, also as -mMODULE and -um MODULE."""
    for argument, behind in itertools.pairwise([*argv, ""]):
        if found := re.fullmatch(r"-[bBdEiIOPqRsSuvx]*m(.*)", argument):
            return found[1] or behind
    return ""


def _take_for_export(needed: str):
    """The backend that writes a format, whatever KERAS_BACKEND says; ends the program without it, or for another."""
    format, asked = (_asked_for(sys.argv[1:], name) for name in ("format", "backend"))
    if asked not in (None, needed):
        wrong = f"--format={format} is written on {needed}, got --backend={asked}: leave --backend out"
    elif importlib.util.find_spec(needed) is None:
        wrong = f"--format={format} needs {needed}, which is not installed: pip install 'keras_sid2[{needed}]'"
    else:
        os.environ["KERAS_BACKEND"] = needed
        return
    print(f"sid2-export: {wrong}.", file=sys.stderr)
    raise SystemExit(2)


def _asked_for(argv: list[str], flag: str = "backend") -> str | None:
    """The last --backend, or another flag, among arguments, as absl reads them; None without."""
    found = None
    for argument, behind in itertools.zip_longest(argv, argv[1:]):
        name, equals, value = argument.lstrip("-").partition("=")
        if argument.startswith("-") and name == flag:
            found = value if equals else behind
    return found


def _there(backend: str) -> bool:
    return backend in BACKENDS and importlib.util.find_spec(backend) is not None


def _sentence(error: Exception | None, asked: str | None, by: str) -> str:
    """What is wrong and what helps."""
    missing = (getattr(error, "name", None) or "").partition(".")[0]
    if missing in BACKENDS:
        wrong = f"Keras's backend is {missing} (by {by}KERAS_BACKEND, keras.json or default), which is not installed"
    elif asked and asked not in BACKENDS:
        wrong = f"Keras's backend is {asked!r} (by {by}KERAS_BACKEND or keras.json), which is none of ours"
    else:
        return f"Keras cannot be imported: {error or repr(error)}".strip().splitlines()[0]
    there = [name for name in BACKENDS if _there(name)]
    if there:
        return f"{wrong}: set KERAS_BACKEND to what is installed here, {' or '.join(there)}."
    return f"{wrong}, and none of ours is: pip install 'keras_sid2[jax]', or [tensorflow], or [torch]."
