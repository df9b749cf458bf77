"""--features=clip: images and texts by a CLIP of the user's, and which texts images were drawn for."""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
from PIL import Image

import pipelines
from keras_sid2.conditions import TextEmbedding
from keras_sid2.evaluation import Features
from pipelines.text_encoders.transformer import open_clip

TEXT = "of --features=clip, a folder, or a name on the Hugging Face hub, with a CLIP as safetensors"
# Of OpenAI's CLIPs.
_USUAL = {"mean": (0.48145466, 0.4578275, 0.40821073), "std": (0.26862954, 0.26130258, 0.27577711)}
_BATCH = 32


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClipFeatures(Features):
    """`of_texts`: texts -> float32 [N, D], which lie beside the features of images."""

    of_texts: Callable


def clip_features(path_or_name: str) -> ClipFeatures:
    """Projected embeddings [B, D] of images and of texts, which are cut where CLIP's context ends. Raises
    FileNotFoundError, and ValueError for what is no CLIP or has no safetensors."""
    clip = open_clip(path_or_name)
    told, size = clip.preprocessing, clip.image_size
    mean, std = (np.array(told.get(f"image_{name}", _USUAL[name]), "float32") for name in ("mean", "std"))

    def of_images(images: np.ndarray) -> np.ndarray:
        pixels = np.stack([_prepared(image, size) for image in images]).astype("float32") / 255
        return clip.of_images(((pixels - mean) / std).transpose(0, 3, 1, 2))

    def of_texts(texts: Sequence[str]) -> np.ndarray:
        kinds = list(dict.fromkeys(texts))
        found = np.concatenate([clip.of_texts(kinds[i : i + _BATCH]) for i in range(0, len(kinds), _BATCH)])
        places = {text: number for number, text in enumerate(kinds)}
        return found[[places[text] for text in texts]]

    rule = f"bicubic to {size}, middle, mean {mean.tolist()}, std {std.tolist()}, texts of {clip.length} tokens"
    return ClipFeatures(name="clip", digest=clip.digest, rule=rule, extract=of_images, of_texts=of_texts)


def _prepared(image: np.ndarray, size: int) -> np.ndarray:
    """uint8 [size, size, 3]: the shorter side resized by Pillow, then the middle."""
    picture = Image.fromarray(np.broadcast_to(image, (*image.shape[:2], 3)))
    width, height = (max(size, int(size * side / min(picture.size))) for side in picture.size)
    picture = picture.resize((width, height), Image.Resampling.BICUBIC)
    left, top = (width - size) // 2, (height - size) // 2
    return np.asarray(picture.crop((left, top, left + size, top + size)))


def texts_of_samples(provenance: dict | None) -> list[str] | None:
    """Those that images on disk were drawn for, as their provenance says; None where it does not."""
    if not provenance or not provenance.get("prompts"):
        return None
    prompts, first = provenance["prompts"], provenance.get("first_image", 0)
    return [prompts[(first + i) % len(prompts)] for i in range(provenance["images"])]


def texts_of_real(conditions: dict, count: int, **where) -> list[str] | None:
    """The captions of the first real examples, which a model of texts draws for; None of other models."""
    if not any(isinstance(condition, TextEmbedding) for condition in conditions.values()):
        return None
    found = []
    for split in where["split"].split(","):
        found += pipelines.read_captions(where["reference"], count, split=split, data_dir=where["data_dir"]) or []
    return [found[i % len(found)] for i in range(count)] if found else None
