"""The import of Keras, which fails with words of its own where its backend is missing or misspelt."""

import importlib.util
import os
import pathlib
import sys

BACKENDS = ("jax", "tensorflow", "torch")


def require_keras():
    """Imports Keras. ImportError, in one sentence, unless it runs on a backend of ours that is installed.

    A console program of ours ends with that sentence and exit code 2 instead.
    """
    try:
        import keras

        error, asked = None, keras.backend.backend()
    except Exception as caught:  # of no backend a ModuleNotFoundError, of a misspelt one a ValueError
        config = sys.modules.get("keras.src.backend.config")  # is there, where only what comes after it failed
        error, asked = caught, config.backend() if config else os.environ.get("KERAS_BACKEND")
    if error is None and asked in BACKENDS:
        return
    sentence = _sentence(error, asked)
    program = pathlib.Path(sys.argv[0] if sys.argv else "").name
    if program.startswith("sid2-"):
        print(f"{program}: {sentence}", file=sys.stderr)
        raise SystemExit(2)
    raise ImportError(sentence, name="keras_sid2")  # with the name, `python -m` tells it in one line


def _sentence(error: Exception | None, asked: str | None) -> str:
    """What is wrong and what helps."""
    missing = (getattr(error, "name", None) or "").partition(".")[0]
    if missing in BACKENDS:
        wrong = f"Keras's backend is {missing} (by KERAS_BACKEND, keras.json or default), which is not installed"
    elif asked and asked not in BACKENDS:
        wrong = f"Keras's backend is {asked!r} (by KERAS_BACKEND or keras.json), which is none of ours"
    else:
        return f"Keras cannot be imported: {error or repr(error)}".strip().splitlines()[0]
    there = [name for name in BACKENDS if importlib.util.find_spec(name)]
    if there:
        return f"{wrong}: set KERAS_BACKEND to what is installed here, {' or '.join(there)}."
    return f"{wrong}, and none of ours is: pip install 'keras_sid2[jax]', or [tensorflow], or [torch]."
