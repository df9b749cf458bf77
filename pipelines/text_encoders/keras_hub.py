"""Text encoders of KerasHub, on the backend that Keras has."""

import hashlib
import json
from collections.abc import Iterator

import numpy as np

from pipelines.extras import require
from pipelines.text_encoders.base import TextEncoder, checked_length


class KerasHub(TextEncoder):
    """The last hidden states of a T5 encoder or of CLIP's text encoder. The last bits may depend on the backend and on
    how many cores it takes."""

    def __init__(self, name: str, preset: str, length: int | None) -> None:
        hub, keras = require("keras_hub", extra="keras-hub"), require("keras", extra="keras-hub")
        backbone = hub.models.Backbone.from_preset(preset, dtype="float32")
        self._tokenizer = hub.models.Tokenizer.from_preset(preset)
        self._clip = isinstance(backbone, hub.models.CLIPBackbone)
        if self._clip:
            self._model, width = backbone.text_encoder, backbone.text_encoder.hidden_dim
            self._most = self._model.max_sequence_length
        elif isinstance(backbone, hub.models.T5Backbone):
            inputs = {key: backbone.input[key] for key in ("encoder_token_ids", "encoder_padding_mask")}
            width = backbone.hidden_dim
            self._model = keras.Model(inputs, backbone.output["encoder_sequence_output"])
        else:
            raise ValueError(f"{name} is a {type(backbone).__name__}: KerasHub's text encoders are T5 and CLIP")
        length = checked_length(name, length, self._most)
        super().__init__(f"{name}@{length}", length, width, self._digest())

    def _digest(self) -> str:
        digest = hashlib.sha256(json.dumps(list(self._tokenizer.get_vocabulary())).encode())
        for weight in self._model.weights:
            array = np.ascontiguousarray(weight.numpy() if hasattr(weight, "numpy") else weight)
            digest.update(f"{array.dtype} {array.shape}".encode())
            digest.update(array)
        return digest.hexdigest()

    def _ids(self, texts: list[str]) -> list[list[int]]:
        """The tokens of each text, with those for its ends as the model was trained with."""
        ids = [list(map(int, np.asarray(self._tokenizer(text)))) for text in texts]
        first = [self._tokenizer.start_token_id] * self._clip
        return [[*first, *some, self._tokenizer.end_token_id] for some in ids]

    def _counts(self, texts: list[str]) -> list[int]:
        return [len(ids) for ids in self._ids(texts)]

    def _encoded(self, texts: list[str]) -> Iterator[np.ndarray]:
        ids = self._ids(texts)
        longest = max(map(len, ids))
        tokens, mask = np.zeros((2, len(ids), longest), "int32")
        for row, some in enumerate(ids):
            tokens[row, : len(some)], mask[row, : len(some)] = some, 1
        inputs = {"token_ids": tokens} if self._clip else {"encoder_token_ids": tokens, "encoder_padding_mask": mask}
        states = self._model.predict_on_batch(inputs)
        for some, rows in zip(ids, states, strict=True):
            yield rows[: len(some)]
