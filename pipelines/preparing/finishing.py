"""What is done when all shards of a data set are written: tfds's description of it, offsets, and a report."""

import collections
import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from pipelines.extras import require_tfds
from pipelines.preparing import moments
from pipelines.preparing.shards import PARTS, TEMPORARY, Shard, write_atomically
from pipelines.reading.records import INDEX_FILE

if TYPE_CHECKING:
    from etils import epath

    from pipelines.datasets.local_builder import LocalBuilder

LISTED = 200  # sources that the report names of each kind


def finish(builder: "LocalBuilder", settings: dict[str, Any], work: "epath.Path", shards: list[Shard]) -> None:
    """Writes what makes the shards in a work directory a data set: offsets, a report, and dataset_info.json and
    features.json, with which tfds takes the directory for one of its own."""
    of_split = {name: [shard for shard in shards if shard.split == name] for name in {shard.split for shard in shards}}
    splits = {name: _of_split(work, own) for name, own in sorted(of_split.items())}
    notes = json.loads((work / "plan.json").read_text())["notes"]
    report = {"settings": settings, "splits": splits, "notes": notes, **_duplicates(work, shards)}
    report |= _channels(builder, work, of_split.get("train", []))
    if (encoder := builder.text_encoder) is not None:
        told = {name: getattr(encoder, name) for name in ("name", "signature", "length", "width")}
        report["text"] = {"text": told}  # by name of the value
    write_atomically(work / "report.json", json.dumps(report, indent=1, sort_keys=True).encode())
    core, infos = require_tfds().core, []
    for name, part in splits.items():
        if not part["examples"]:
            reasons = [f"{count} {reason}" for reason, count in sorted(part["skipped"].items())]
            reasons += part["left_out_first"][:3]
            raise ValueError(f"no example of the split {name!r} could be made: {'; '.join(reasons)}")
        size = sum((work / shard.filename(builder)).stat().length for shard in of_split[name])
        infos.append(core.SplitInfo(name=name, shard_lengths=part["shard_lengths"], num_bytes=size))
    builder.info.set_splits(core.splits.SplitDict(infos))
    builder.info.write_to_directory(work)


def finish_cleaning(final: "epath.Path") -> None:
    """Removes what only the writing needed; it may be left from a run that was killed at its very end."""
    if not (final / PARTS).exists():
        return
    for path in final.iterdir():
        if path.name in ("plan.json", ".lock") or TEMPORARY.fullmatch(path.name):
            path.unlink(missing_ok=True)
    (final / PARTS).rmtree(missing_ok=True)


def _parts(work: "epath.Path", shards: list[Shard]) -> Iterator[tuple[Shard, dict[str, Any]]]:
    for shard in shards:
        yield shard, json.loads((work / f"{shard.part}.done.json").read_text())


def _channels(builder: "LocalBuilder", work: "epath.Path", shards: list[Shard]) -> dict[str, Any]:
    """Mean and deviation of what is in physical units, over the training split."""
    names, found = builder.channel_names(), {}
    sample = next(iter(builder.values()))
    for _, part in _parts(work, shards) if names else ():
        for name, of_part in part["moments"].items():
            found[name] = moments.merged(found.get(name), of_part)
    told = {
        name: moments.statistics(found[name], own, of_sample=name == sample) for name, own in names.items() if found
    }
    return {"channels": told} if told else {}


def _of_split(work: "epath.Path", shards: list[Shard]) -> dict[str, Any]:
    """Totals of a split; writes its offsets."""
    lengths, bad, offsets, sizes = [], [], [], []
    changes, skipped, labels = collections.Counter(), collections.Counter(), collections.Counter()
    for _, part in _parts(work, shards):
        lengths.append(len(part["digests"]))
        bad += part["bad"]
        sizes += part.get("sizes", [None, None])  # of a shard that the version before has written they are not known
        offsets.append(np.asarray(part["offsets"], np.int64))
        changes.update(part["changes"])
        skipped.update(part["skipped"])
        labels.update(part["labels"])
    if len(offsets[0]):
        with (work / INDEX_FILE.format(split=shards[0].split)).open("wb") as file:
            np.save(file, np.concatenate(offsets), allow_pickle=False)
    return {
        "examples": sum(lengths),
        "shard_lengths": lengths,
        "image_size": sizes[0] if len({tuple(size or ()) for size in sizes}) == 1 else None,
        "changes": dict(changes),
        "skipped": dict(skipped),
        "per_class": {label: labels[label] for label in sorted(labels, key=int)},
        "left_out": len(bad),
        "left_out_first": bad[:LISTED],
    }


def _duplicates(work: "epath.Path", shards: list[Shard]) -> dict[str, Any]:
    """Sources of equal content, over all splits."""
    digests = "".join(digest for _, part in _parts(work, shards) for digest in part["digests"])
    flat = np.frombuffer(bytes.fromhex(digests), "V16")
    _, inverse, counts = np.unique(flat, return_inverse=True, return_counts=True)
    groups = collections.defaultdict(list)
    if len(counts) < len(flat):
        sources = ((shard.split, key) for shard, part in _parts(work, shards) for key in part["keys"])
        for source, group in zip(sources, inverse, strict=True):
            if counts[group] > 1:
                groups[group].append(source)
    same = sorted(sorted(f"{split}/{key}" for split, key in group) for group in groups.values())
    return {
        "duplicates": len(flat) - len(counts),
        "duplicates_between_splits": sum(len({split for split, _ in group}) > 1 for group in groups.values()),
        "duplicates_first": same[:LISTED],
    }
