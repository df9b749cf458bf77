"""Which data a run is of: its records, and not the path that they were given by."""

import hashlib
import json
import pathlib

import pipelines
from keras_sid2.bin.train_settings import TrainSettings


def data_digest(settings: TrainSettings, data: str | None = None) -> str | None:
    """Of the size and both ends of each shard that is trained on; None where shards are missing, which may be.

    It is the same wherever they lie and whatever they are called. Raises what `pipelines.fingerprint` raises.
    """
    try:
        stamps = pipelines.fingerprint(data or settings.data, split=settings.split, data_dir=settings.data_dir)
    except FileNotFoundError:
        if settings.max_bad_records:
            return None
        raise
    shards = [(size, digest) for _, size, _, digest in stamps]
    return hashlib.sha256(json.dumps(shards).encode()).hexdigest()[:32]


def read_run(path: pathlib.Path) -> dict:
    """run.json of a work directory; ValueError, in one sentence, for what is none."""
    try:
        found = json.loads(path.read_text())
    except ValueError:  # UnicodeDecodeError is one, too
        found = None
    if not isinstance(found, dict):
        raise ValueError(f"{path} is damaged, so it is not known which run this is: give another --workdir.")
    return found


def other_data(settings: TrainSettings, digest: str | None, before: dict) -> str | None:
    """What a sentence says of data that are not those of the run in `before`; None if they are."""
    same_name = before["data"] == settings.data
    if same_name and settings.max_bad_records:  # damaged since then, perhaps, and that is allowed
        return None
    if _digest_of(settings, before) == digest is not None:
        return None
    if not same_name:
        return f"--data={settings.data} (there: {before['data']})"
    if "data_digest" in before:
        return f"--data={settings.data}, whose records have changed"
    return None


def _digest_of(settings: TrainSettings, before: dict) -> str | None:
    """As it was written, or, by a version that did not, of what lies there now."""
    if "data_digest" in before:
        return before["data_digest"]
    for data_dir in {settings.data_dir, None}:
        try:
            asked = {"data": before["data"], "data_dir": data_dir, "split": before["split"]}
            return data_digest(TrainSettings(preset=settings.preset, workdir=settings.workdir, **asked))
        except (ValueError, OSError):
            continue
    return None
