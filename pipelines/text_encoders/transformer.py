"""Text encoders of the transformers package, and where models lie: folders, and the cache of the Hugging Face hub."""

import contextlib
import fnmatch
import json
import os
import re
from collections.abc import Iterator
from typing import Any

import numpy as np

from pipelines.extras import require
from pipelines.text_encoders.base import TextEncoder, checked_length, not_here, weights_digest

# What decides what a text becomes, beside the weights.
_DECIDING = ("config.json", "sentence_bert_config.json", "tokenizer*", "vocab*", "merges.txt", "*tok*.json", "*.model")
_NAME_ON_HUB = re.compile(r"[\w.-]+(/[\w.-]+)?")


class Transformer(TextEncoder):
    """The last hidden states of a network of the transformers package, on one core: with others the order of sums, and
    so the last bits, would depend on how many there are."""

    def __init__(self, name: str, folder: str, length: int | None) -> None:
        folder = _transformer_in(folder)
        digest = digest_of_files(folder)
        transformers = require("transformers", extra="text")
        self._lower = bool(json_of(folder, "sentence_bert_config.json").get("do_lower_case"))
        self._tokenizer = transformers.AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
        self._tokenizer.padding_side = "right"
        if self._tokenizer.pad_token is None:
            self._tokenizer.pad_token = self._tokenizer.eos_token
        config = transformers.AutoConfig.from_pretrained(folder, trust_remote_code=False)
        config = getattr(config, "text_config", config)  # CLIP's has one for each of its two networks
        limit = self._tokenizer.model_max_length
        most = min(limit, getattr(config, "max_position_embeddings", None) or limit)
        self._most = int(most) if most < 10**6 else None
        length = checked_length(name, length, self._most)
        self._model = _text_network(transformers, folder)
        super().__init__(f"{name}@{length}", length, config.hidden_size, digest)

    def _tokens(self, texts: list[str], **options: Any) -> Any:
        texts = [text.lower() for text in texts] if self._lower else texts
        return self._tokenizer(texts, verbose=False, **options)

    def _counts(self, texts: list[str]) -> list[int]:
        return [len(ids) for ids in self._tokens(texts)["input_ids"]]

    def _encoded(self, texts: list[str]) -> Iterator[np.ndarray]:
        torch = require("torch", extra="text")
        inputs = self._tokens(texts, padding=True, return_tensors="pt")
        with torch.inference_mode(), one_thread(torch):
            states = self._model(**inputs).last_hidden_state.numpy()
        for rows, mask in zip(states, inputs["attention_mask"].numpy(), strict=True):
            yield rows[mask.astype(bool)]


def model_folder(path_or_name: str, download: bool = True) -> tuple[str, str]:
    """(folder, name) of a model: a folder of the user's, of which only the last part is told, as "./clip", or what the
    Hugging Face hub's cache has, or gets, of that name. Raises FileNotFoundError: there is neither."""
    folder = os.path.abspath(os.path.expanduser(path_or_name))
    if os.path.isdir(folder):
        return folder, f"./{os.path.basename(folder)}"
    if not _NAME_ON_HUB.fullmatch(path_or_name) or path_or_name.startswith("."):
        advice = "" if download else ": give its name or folder (--text_encoder=)"
        raise FileNotFoundError(f"there is no folder {path_or_name} with a model{advice}")
    hub = require("huggingface_hub", extra="text")
    wanted = ["*.json", "*.safetensors", "*.txt", "*.model"]
    try:
        return hub.snapshot_download(path_or_name, allow_patterns=wanted, local_files_only=not download), path_or_name
    except Exception as error:  # of the hub, its cache, and the network, of several packages
        reason = str(error).strip().partition("\n")[0]
        raise FileNotFoundError(not_here(path_or_name) if not download else f"{path_or_name}: {reason}") from None


@contextlib.contextmanager
def one_thread(torch: Any) -> Iterator[None]:
    """Within it torch computes on one core."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def json_of(folder: str, name: str) -> Any:
    """What a file of JSON in a folder says; {} if there is none. Raises ValueError: it is damaged."""
    path = os.path.join(folder, name)
    if not os.path.exists(path):
        return {}
    with open(path, encoding="utf-8") as file:
        try:
            return json.load(file)
        except ValueError as error:
            raise ValueError(f"{path} is no JSON: {error}") from None


def _transformer_in(folder: str) -> str:
    """The folder of the network itself in one of a sentence encoder."""
    modules = json_of(folder, "modules.json") or [{"path": ""}]
    inside = os.path.normpath(os.path.join(folder, str(modules[0].get("path", ""))))
    if os.path.commonpath([inside, folder]) != folder:
        raise ValueError(f"modules.json in {folder} names a folder outside of it")
    return inside


def weights_in(folder: str) -> list[str]:
    """The names of the safetensors files of a model. Raises ValueError: it has none."""
    index = json_of(folder, "model.safetensors.index.json")
    names = sorted(set(index.get("weight_map", {}).values())) or ["model.safetensors"]
    for name in names:
        if os.path.basename(name) != name or not os.path.isfile(os.path.join(folder, name)):
            raise ValueError(
                f"{folder} has no weights in {name}: only safetensors are read (others are converted by "
                "model.save_pretrained of the transformers package)"
            )
    return names


def digest_of_files(folder: str, *others: str) -> str:
    """Over the weights, and the files that decide what a text becomes, or `others`."""
    kinds = (*_DECIDING, *others)
    deciding = [name for name in os.listdir(folder) if any(fnmatch.fnmatch(name, kind) for kind in kinds)]
    return weights_digest({name: os.path.join(folder, name) for name in [*deciding, *weights_in(folder)]})


@contextlib.contextmanager
def quiet(transformers: Any) -> Iterator[None]:
    """Within it the transformers package shows no bar and no table of weights that were not needed."""
    logging = transformers.utils.logging
    level, bar = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bar:
            logging.enable_progress_bar()


def _text_network(transformers: Any, folder: str) -> Any:
    """The text network of a folder."""
    kind = transformers.AutoConfig.from_pretrained(folder, trust_remote_code=False).model_type
    model = transformers.CLIPTextModel if kind == "clip" else transformers.AutoModelForTextEncoding
    try:
        return _loaded(model, transformers, folder, kind)
    except ValueError as error:
        if "AutoModel" not in str(error):  # which lists all classes that it knows
            raise
        raise ValueError(f"{folder} holds a {kind}, which is no text encoder") from None


def _loaded(model: Any, transformers: Any, folder: str, kind: str) -> Any:
    """A network with the weights in a folder, in float32. Raises ValueError: some are missing, or a file is damaged."""
    torch, safetensors = require("torch", extra="text"), require("safetensors", extra="text")
    how = {"trust_remote_code": False, "use_safetensors": True, "dtype": torch.float32}
    try:
        with quiet(transformers):
            found, told = model.from_pretrained(folder, output_loading_info=True, **how)
    except safetensors.SafetensorError as error:
        raise ValueError(f"the weights of the {kind} in {folder} are damaged: {error}") from None
    if missing := [name for name in told["missing_keys"] if "pooler" not in name]:
        raise ValueError(f"{folder} lacks the weights {', '.join(sorted(missing)[:3])} of a {kind}")
    return found.eval()


class Clip:
    """A CLIP with both of its networks, in float32 on one core.

    Attributes:
        digest: SHA-256 over weights and all that decides what an image or text becomes.
        image_size, length: pixels a side, and tokens of a text, that it takes.
        preprocessing: what its preprocessor_config.json says.
    """

    def __init__(self, folder: str) -> None:
        transformers, torch = require("transformers", extra="text"), require("torch", extra="text")
        kind = json_of(folder, "config.json").get("model_type")
        if kind != "clip":
            held = f"a {kind}" if kind else "no model"
            raise ValueError(f"{folder} holds {held}, and no CLIP of the transformers package")
        self.digest = digest_of_files(folder, "preprocessor_config.json")[:16]
        self.preprocessing = json_of(folder, "preprocessor_config.json")
        self._tokenizer = transformers.AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
        self._model = _loaded(transformers.CLIPModel, transformers, folder, kind)
        self._torch, config = torch, self._model.config
        self.image_size, self.length = config.vision_config.image_size, config.text_config.max_position_embeddings

    def of_images(self, pixels: np.ndarray) -> np.ndarray:
        """float32 [B, 3, image_size, image_size], prepared, -> float32 [B, D]."""
        with self._torch.inference_mode(), one_thread(self._torch):
            pooled = self._model.vision_model(pixel_values=self._torch.from_numpy(pixels)).pooler_output
            return self._model.visual_projection(pooled).numpy()

    def of_texts(self, texts: list[str]) -> np.ndarray:
        """float32 [N, D]; what is longer than `length` tokens is cut."""
        how = {"padding": True, "truncation": True, "max_length": self.length, "return_tensors": "pt"}
        inputs = self._tokenizer(texts, **how)
        with self._torch.inference_mode(), one_thread(self._torch):
            inputs = {name: inputs[name] for name in ("input_ids", "attention_mask")}
            return self._model.text_projection(self._model.text_model(**inputs).pooler_output).numpy()


def open_clip(path_or_name: str) -> Clip:
    """The CLIP in a folder, or of that name on the Hugging Face hub; raises what `model_folder` and `Clip` raise."""
    return Clip(model_folder(path_or_name)[0])
