"""Captions on their way into records: looked at before work starts, and encoded batch by batch of one shard alone, so
that the bytes are the same for any number of processes."""

import itertools
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from pipelines.datasets.opening import BadSource
from pipelines.text_encoders.base import BATCH

if TYPE_CHECKING:
    from pipelines.datasets.local_builder import Item, LocalBuilder, Made

_LOOKED_AT = 4096  # captions that an encoder's tokenizer gets at once
_NAMED = 3  # bad ones that a sentence names
_T = TypeVar("_T")


def check_captions(builder: "LocalBuilder", listing: "dict[str, list[Item]]", allowed: int | None, remedy: str) -> None:
    """Raises BadSource: more captions than are `allowed`, of those that the listing knows, lack, are empty or too long
    for the encoder."""
    if allowed is None:
        return
    bad = list(_bad_captions(builder, itertools.chain.from_iterable(listing.values())))
    if len(bad) > allowed:
        count = f"{len(bad)} of {sum(map(len, listing.values()))} captions cannot be used"
        raise BadSource(f"{count}, and max_bad_sources is {allowed} ({remedy}): {'; '.join(bad[:_NAMED])}")


def _bad_captions(builder: "LocalBuilder", items: "Iterable[Item]") -> Iterator[str]:
    for some in _batched(items, _LOOKED_AT):
        known = []
        for item in some:
            try:
                caption = builder.caption(item)
            except BadSource as error:
                yield str(error)
                continue
            if caption is not None:
                known.append((item, caption))
        if builder.text_encoder is not None:
            faults = builder.text_encoder.faults([caption for _, caption in known])
            for (item, _), fault in zip(known, faults, strict=True):
                yield from [f"{item.key}: its caption {fault}"] * bool(fault)


def fault_in_caption(builder: "LocalBuilder", item: "Item", made: "Made") -> str:
    """What is wrong with the caption of an example, or the empty string."""
    caption = made.features.get("caption")
    if caption is None or builder.text_encoder is None:
        return ""
    (fault,) = builder.text_encoder.faults([caption])
    return f"{item.key}: its caption {fault}" if fault else ""


def with_text(builder: "LocalBuilder", examples: "Iterable[tuple[Item, Made]]") -> "Iterator[tuple[Item, Made]]":
    """The same examples of a shard, with "text" float16 [length, width] where there is an encoder."""
    if builder.text_encoder is None:
        yield from examples
        return
    for some in _batched(examples, BATCH):
        texts = builder.text_encoder([made.features["caption"] for _, made in some]).astype(np.float16)
        for (item, made), text in zip(some, texts, strict=True):
            made.features["text"] = text
            yield item, made


def _batched(values: Iterable[_T], size: int) -> Iterator[list[_T]]:
    iterator = iter(values)
    while some := list(itertools.islice(iterator, size)):
        yield some
