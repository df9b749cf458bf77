"""Paths and shapes of a ResidualUViT's weights, from its configuration: what a plan needs to know of a network that is
too large to make."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence

from keras_sid2.layers.embeddings import FREQUENCIES
from keras_sid2.models.level import Level, as_levels, check_image_shape, check_widths


@dataclasses.dataclass(frozen=True)
class Weight:
    """A trained weight: what `sharding_rules.place` looks at."""

    path: str
    shape: tuple[int, ...]
    dtype: str = "float32"
    trainable: bool = True


@dataclasses.dataclass(frozen=True)
class NetworkWeights:
    """The weights of a network that was not made, as `sharding_rules.table` takes them."""

    levels: tuple[Level, ...]
    trainable_variables: tuple[Weight, ...]
    non_trainable_variables: tuple[Weight, ...] = ()


def network_weights(
    image_shape: tuple[int, int, int],
    patch_size: int,
    num_classes: int | None,
    embedding_dim: int,
    levels: Sequence[Level | Mapping],
    remat: bool = False,
    name: str = "residual_uvit",
) -> NetworkWeights:
    """The weights of `ResidualUViT(**the same arguments)`. Raises ValueError where its constructor would."""
    embedding_dim, num_classes = check_widths(embedding_dim, num_classes)
    levels = as_levels(levels)
    height, width, channels = check_image_shape(image_shape, patch_size, len(levels))
    scaled = {"height": height // patch_size, "width": width // patch_size}
    parts = {
        "embedding": _embedding(embedding_dim, num_classes),
        "patchify": _layer((patch_size, patch_size, channels, levels[0].channels)),
        **_levels(levels, embedding_dim, **scaled),
        "unpatchify": {"kernel": (patch_size, patch_size, channels, levels[0].channels), "bias": (channels,)},
    }
    weights = (
        Weight(f"{name}/{part}/{path}", shape) for part, shapes in parts.items() for path, shape in shapes.items()
    )
    return NetworkWeights(levels, tuple(weights))


def _levels(levels: Sequence[Level], embedding_dim: int, *, height: int, width: int) -> dict[str, dict]:
    parts = {}
    for i, level in enumerate(levels):
        last = i == len(levels) - 1
        if level.kind == "transformer":
            parts[f"level{i}_position"] = {"embedding": (height >> i, width >> i, level.channels)}
        for role in ("middle",) if last else ("down", "up"):
            for j in range(level.blocks):
                parts[f"level{i}_{role}_block{j}"] = dict(_block(level, embedding_dim))
        if not last:
            lower = levels[i + 1].channels
            parts[f"level{i}_downsample"] = _layer((1, 1, level.channels, lower), "conv/")
            parts[f"level{i}_upsample"] = _layer((1, 1, lower, level.channels), "conv/")
    return parts


def _layer(shape: tuple[int, ...], prefix: str = "") -> dict[str, tuple[int, ...]]:
    """A kernel and its bias."""
    return {f"{prefix}kernel": shape, f"{prefix}bias": shape[-1:]}


def _norm(width: int, name: str) -> dict[str, tuple[int, ...]]:
    return {f"{name}/gamma": (width,), f"{name}/beta": (width,)}


def _embedding(dim: int, num_classes: int | None) -> dict[str, tuple[int, ...]]:
    classes = {} if num_classes is None else {"classes/embeddings": (num_classes + 1, dim)}
    return {**_layer((2 * len(FREQUENCIES), dim), "dense1/"), **_layer((dim, dim), "dense2/"), **classes}


def _block(level: Level, embedding_dim: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    c = level.channels
    if level.kind == "res":
        for number in (1, 2):
            yield from _layer((3, 3, c, c), f"conv{number}/").items()
            yield from _norm(c, f"norm{number}").items()
        yield from _layer((embedding_dim, 2 * c), "modulation/").items()
        return
    yield from _norm(c, "mlp_norm").items()
    yield from _layer((c, 4 * c), "mlp1/").items()
    yield from _layer((embedding_dim, 8 * c), "modulation/").items()
    yield from _layer((4 * c, c), "mlp2/").items()
    yield from _norm(c, "attention_norm").items()
    for role in ("query", "key", "value"):
        yield f"attention/{role}/kernel", (c, c)
    for role in ("query_norm", "key_norm"):
        yield from _norm(level.attention_head_dim, f"attention/{role}").items()
    yield from _layer((c, c), "attention/out/").items()
