"""What a run is, in its work directory: written there, and compared with a later start.

workdir/run.json      the settings that define it, and a digest of its data
workdir/preset.json   its preset in words, with what --set made of it
workdir/config.py     the --config file, or what was proposed where there was none
"""

import contextlib
import hashlib
import json
import pathlib
import shutil
from collections.abc import Iterator

import pipelines
from keras_sid2.bin.train_settings import CONFIG, TrainSettings
from keras_sid2.checkpoints import checkpoints
from keras_sid2.io.atomic import atomic_write, read_json, write_json
from keras_sid2.training.proposal import config_text

RUN, PRESET = "run.json", "preset.json"


def write_run(run):
    """Writes all three for a RunContext; a config.py that is there stays."""
    write_json(run.workdir / RUN, {**run.settings.defining(), "data_digest": run.data_digest})
    write_json(run.workdir / PRESET, run.experiment.described())
    config = run.workdir / CONFIG
    if config.exists() or not (run.asked.config or run.asked.proposes):
        return
    with atomic_write(config) as temporary:
        if run.asked.config:
            shutil.copyfile(run.asked.config, temporary)
        else:
            temporary.write_text(config_text(run.experiment))


def check_same_run(run) -> str | None:
    """The digest of the data of a RunContext; ValueError if its work directory has a run of other settings or data."""
    settings, path = run.settings, run.workdir / RUN
    try:
        digest = _digest(settings.data, settings.split, settings.data_dir)
    except FileNotFoundError:  # shards are missing
        if not settings.max_bad_records:
            raise
        digest = None
    if not path.exists():
        if checkpoints(run.checkpoint_dir):
            raise ValueError(f"{run.workdir} has checkpoints but no {RUN}: give another --workdir.")
        return digest
    found, now = read_json(path), settings.defining()
    if found is None:
        raise ValueError(f"{path} is damaged, so it is not known which run this is: give another --workdir.")
    # What a run of before did not say, as it had no such flag, it did as the preset says.
    kind = type(settings)
    unsaid = {name: now[name] if name in settings.OF_RECIPE else getattr(kind, name, None) for name in now}
    before = unsaid | found
    changed = [f"--{k}={now[k]} (there: {before[k]})" for k in now if k != "data" and before[k] != now[k]]
    changed += _other_data(settings, digest, before) + _other_preset(run)
    if changed:
        told = ", ".join(changed)
        raise ValueError(f"{run.workdir} holds a run with other settings: {told}. Give the same, or another --workdir.")
    return digest or before.get("data_digest")


def _digest(data: str, split: str, data_dir: str | None) -> str:
    """Of the size and both ends of each shard: the same wherever they lie and whatever they are called."""
    stamps = pipelines.fingerprint(data, split=split, data_dir=data_dir)
    shards = [(size, digest) for _, size, _, digest in stamps]
    return hashlib.sha256(json.dumps(shards).encode()).hexdigest()[:32]


def _other_data(settings: TrainSettings, digest: str | None, before: dict) -> list[str]:
    """What a sentence says of data that are not those of the run in `before`."""
    if before["data"] == settings.data:
        changed = before.get("data_digest", digest) != digest and not settings.max_bad_records  # allowed damage
        return [f"--data={settings.data}, whose records have changed"] * changed
    there = [before["data_digest"]] if "data_digest" in before else _digests_there(settings, before)
    return [] if digest is not None and digest in there else [f"--data={settings.data} (there: {before['data']})"]


def _digests_there(settings: TrainSettings, before: dict) -> Iterator[str]:
    """Of what lies there now, where an earlier version wrote no digest."""
    for data_dir in {settings.data_dir, None}:
        with contextlib.suppress(ValueError, OSError):
            yield _digest(before["data"], before["split"], data_dir)


def _other_preset(run) -> list[str]:
    """What is not as it was when the run began, each in a few words; nothing of runs that did not say it."""
    path, config = run.workdir / PRESET, run.asked.config
    if not path.exists():
        return []
    if (found := read_json(path)) is None:
        raise ValueError(f"{path} is damaged: remove it to continue with the preset of now.")
    before, now = _flat(found), _flat(run.experiment.described())
    # Version 0.6 did not whiten what is proposed for texts: such a run goes on as its checkpoint is.
    now = {name: value for name, value in now.items() if name in before or not name.endswith(".whitened")}
    changed = [
        f"{name}={now.get(name, 'nothing')} (there: {before.get(name, 'nothing')})"
        for name in dict.fromkeys((*before, *now))
        if before.get(name) != now.get(name)
    ]
    own_code = config and run.experiment.network_class.__module__.startswith("sid2_config_")
    if own_code and not changed and (run.workdir / CONFIG).read_bytes() != pathlib.Path(config).read_bytes():
        changed = [f"--config={config}, whose code has changed (there: {run.workdir / CONFIG})"]
    return changed


def _flat(value, path: str = "") -> dict:
    """{path: plain value} of dicts and lists in one another."""
    if isinstance(value, dict):
        parts = value.items()
    elif isinstance(value, list) and any(isinstance(part, dict | list) for part in value):
        parts = [*enumerate(value), ("length", len(value))]
    else:
        return {path: value}
    return {k: v for name, part in parts for k, v in _flat(part, f"{path}.{name}" if path else str(name)).items()}
