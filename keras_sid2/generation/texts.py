"""Texts of a SampleRequest, which an encoder makes into values of the model's TextEmbedding.

An encoder is any callable encoder(texts: list[str]) -> float32 [N, length, width], padded with rows of zeros, with
`signature`, "NAME#HASH". It raises ValueError for too long a text.
"""

import numpy as np

from keras_sid2.conditions import TextEmbedding


def take_texts(request):
    """Puts what `request.text` and `request.negative_text` say into its conditions; ValueError, in one sentence, for a
    model without text or another encoder than made its training data's."""
    if request.text is None and request.negative_text is None:
        return
    name = _name_of_text(request.model)
    condition, encoder = request.model.conditions[name], request.text_encoder or request.model.text_encoder
    alone = request.num_images is None and request.labels is None and not request.conditions
    for kind, texts in (("conditions", request.text), ("negative_conditions", request.negative_text)):
        if texts is None:
            continue
        said = "text" if kind == "conditions" else "negative_text"
        given = getattr(request, kind)
        if given is not None and name in given:
            raise ValueError(f"Give {said} or {kind}[{name!r}], not both.")
        found = _encoded(said, texts, condition, encoder)
        one = isinstance(texts, str) and not (alone and said == "text")
        if said == "text" or found.any():  # a negative text that says nothing is the null value, which is usual
            setattr(request, kind, {**(given or {}), name: found[0] if one else found})
    request.text = request.negative_text = None  # they are in the conditions now, of which requests are made again


def _name_of_text(model) -> str:
    names = [name for name, condition in model.conditions.items() if isinstance(condition, TextEmbedding)]
    if len(names) != 1:
        told = ", ".join(model.conditions) or "none"
        wanted = "text= is for models with one TextEmbedding"
        raise ValueError(f"{wanted}, and this model has {len(names)}: its conditions are {told}.")
    return names[0]


def _encoded(said: str, texts, condition: TextEmbedding, encoder) -> np.ndarray:
    """float32 [N, length, width] of one text or several; an empty text has no tokens, and no encoder is asked."""
    texts = [texts] if isinstance(texts, str) else texts
    if not isinstance(texts, list | tuple) or not texts or not all(isinstance(text, str) for text in texts):
        raise ValueError(f"{said} must be a text, or a list of at least one, got {texts!r}.")
    found = np.zeros((len(texts), *condition.shape), "float32")
    if rows := [i for i, text in enumerate(texts) if text.strip()]:
        asked = [texts[i] for i in rows]
        found[rows] = _fitted(asked, np.asarray(_checked(encoder, condition)(asked)), condition)
    return found


def _checked(encoder, condition: TextEmbedding):
    """`encoder`, if it is the one of the condition's signature."""
    wanted = condition.encoder or f"one that gives {list(condition.shape)} numbers a text"
    if encoder is None:
        raise ValueError(f"A text needs the encoder of the training data, {wanted}: give text_encoder=.")
    if not callable(encoder):
        raise ValueError(f"text_encoder must be callable with a list of texts, got {encoder!r}.")
    signature = getattr(encoder, "signature", None)
    if condition.encoder and signature != condition.encoder:
        raise ValueError(f"This model was made for texts by {condition.encoder}, and text_encoder is {signature}.")
    return encoder


def _fitted(texts: list[str], values: np.ndarray, condition: TextEmbedding) -> np.ndarray:
    """[N, length, width] of an encoder's values, which may have rows of padding more or less."""
    width, length = condition.width, condition.length
    if values.ndim != 3 or len(values) != len(texts) or values.shape[-1] != width:
        wanted = f"{[len(texts), 'tokens', width]} for {len(texts)} texts"
        raise ValueError(f"text_encoder must give {wanted}, got {list(values.shape)}.")
    long = values[:, length:].any(axis=(1, 2))
    if long.any():
        raise ValueError(f"This model reads {length} tokens, and {texts[int(long.argmax())]!r} has more: shorten it.")
    return np.pad(values[:, :length], [(0, 0), (0, max(0, length - values.shape[1])), (0, 0)])
