"""What sid2-sample is to draw pictures of: --text, --text_file, --negative_text and --text_encoder."""

import copy
import dataclasses
import pathlib
from collections.abc import Callable

import pipelines
from keras_sid2 import SiD2Model
from keras_sid2.conditions import TextEmbedding


@dataclasses.dataclass(frozen=True)
class Prompts:
    """Texts of images in turn, none if empty; what guidance leads away from; and the encoder of both, once the model is
    known."""

    texts: tuple[str, ...] = ()
    negative: str | None = None
    encoder: Callable | None = None

    def __bool__(self) -> bool:
        return bool(self.texts) or self.negative is not None

    def of(self, first: int, last: int) -> list[str]:
        """Those of images with numbers first <= i < last."""
        return [self.texts[i % len(self.texts)] for i in range(first, last)]

    def options(self, first: int, last: int) -> dict:
        """Arguments of `SampleRequest` for these images."""
        texts = {"text": self.of(first, last)} if self.texts else {}
        negative = {} if self.negative is None else {"negative_text": self.negative}
        return {**texts, **negative, "text_encoder": self.encoder} if self else {}

    def described(self) -> dict:
        """For provenance."""
        if not self:
            return {}
        told = {"prompts": list(self.texts), "negative_prompt": self.negative, "text_encoder": self.encoder.signature}
        return {name: value for name, value in told.items() if value}


def read_prompts(values) -> Prompts:
    """What the flags say, the encoder aside; ValueError or FileNotFoundError, in one sentence, for what is wrong."""
    if values.text and values.text_file is not None:
        raise ValueError("--text and --text_file both say what to draw: give one of them.")
    texts = tuple(values.text) if values.text_file is None else _lines(values.text_file)
    if not all(text.strip() for text in texts):
        raise ValueError("--text is empty: say what to draw, or leave it out for images of no text.")
    prompts = Prompts(texts, values.negative_text)
    if values.text_encoder is not None and not prompts:
        raise ValueError("--text_encoder does nothing without --text, --text_file or --negative_text.")
    if values.negative_text is not None and values.guidance_scale == "1":
        raise ValueError("--negative_text does nothing at --guidance_scale=1: give a scale too.")
    return prompts


def _lines(path: str) -> tuple[str, ...]:
    """The lines of a file that are not empty."""
    if not pathlib.Path(path).is_file():
        raise FileNotFoundError(f"--text_file={path} is no file.")
    try:
        lines = pathlib.Path(path).read_text("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"--text_file={path} is not UTF-8 (byte {error.start}): save it as such.") from None
    found = tuple(line.strip() for line in lines if line.strip())
    if not found:
        raise ValueError(f"--text_file={path} has no line with a text.")
    return found


def with_encoder(prompts: Prompts, model: SiD2Model, name: str | None, given: dict) -> Prompts:
    """The same with the encoder that --text_encoder names, or else the model's condition; all texts are looked at.
    `given` are the conditions of --condition. ValueError, in one sentence, for texts that the model does not take."""
    if not prompts:
        return prompts
    texts = {key: c for key, c in model.conditions.items() if isinstance(c, TextEmbedding)}
    if len(texts) != 1:
        told = ", ".join(model.conditions) or "none"
        raise ValueError(f"--text is for models of one text, and this model's conditions are {told}.")
    ((key, condition),) = texts.items()
    if prompts.texts and key in given:
        raise ValueError(f"--text and --condition={key}=FILE both say what to draw: give one of them.")
    if name is None and not condition.encoder:
        raise ValueError("This model does not say what encoded its texts: give --text_encoder, as minilm.")
    try:
        encoder = pipelines.text_encoder(name or condition.encoder, download=name is not None)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{str(error).rstrip('.')}.") from None
    if condition.encoder and encoder.signature != condition.encoder:
        if encoder.signature.partition("#")[2] != condition.encoder.partition("#")[2]:
            told = f"--text_encoder={name} is {encoder.signature}"
            raise ValueError(f"This model was made for texts by {condition.encoder}, and {told}.")
        encoder = copy.copy(encoder)  # the same one, in another folder or of another length
        encoder.signature = condition.encoder
    encoder.check([*prompts.texts, prompts.negative or ""], condition.length)
    return dataclasses.replace(prompts, encoder=encoder)
