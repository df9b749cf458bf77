"""The preset of a run in its work directory: written, compared with that of a later start, and told."""

import json
import pathlib
import shutil

from keras_sid2.io.atomic import atomic_write, write_json
from keras_sid2.models.level import as_levels
from keras_sid2.training import Preset
from keras_sid2.training.proposal import SIZES, config_text

PRESET, CONFIG = "preset.json", "config.py"


def remarks(workdir: pathlib.Path, preset: Preset, asked) -> list[str]:
    """What was proposed, if anything was."""
    if not asked.proposes:
        return []
    network, objective = preset.network, preset.objective
    levels = ", ".join(f"{level.blocks} {level.kind} {level.channels} wide" for level in as_levels(network["levels"]))
    return [
        f"{preset.description.capitalize()} (--size: {', '.join(SIZES)}), patches of {network['patch_size']}, "
        f"blocks {levels}, {type(objective.schedule).__name__}, bias "
        f"{objective.weighting.bias:g}. To change it give --set, or {workdir / CONFIG}, edited, as --config."
    ]


def write(workdir: pathlib.Path, preset: Preset, asked):
    """preset.json; and config.py, which is what a --config file said, or what was proposed; one that is there stays."""
    write_json(workdir / PRESET, preset.described())
    if (workdir / CONFIG).exists() or not (asked.config or asked.proposes):
        return
    with atomic_write(workdir / CONFIG) as temporary:
        if asked.config:
            shutil.copyfile(asked.config, temporary)
        else:
            temporary.write_text(config_text(preset))


def changes(workdir: pathlib.Path, preset: Preset, config: str | None) -> list[str]:
    """What is not as it was when the run began, each in a few words; nothing of runs that did not say it."""
    try:
        before = json.loads((workdir / PRESET).read_text())
    except FileNotFoundError:
        return []
    except ValueError:
        raise ValueError(f"{workdir / PRESET} is damaged: remove it to continue with the preset of now.") from None
    before, now = _flat(before), _flat(preset.described())
    found = [
        f"{path}={now.get(path, 'nothing')} (there: {before.get(path, 'nothing')})"
        for path in dict.fromkeys((*before, *now))
        if before.get(path) != now.get(path)
    ]
    own_code = config and preset.network_class.__module__.startswith("sid2_config_")
    if own_code and not found and (workdir / CONFIG).read_bytes() != pathlib.Path(config).read_bytes():
        found = [f"--config={config}, whose code has changed (there: {workdir / CONFIG})"]
    return found


def _flat(value, path: str = "") -> dict:
    """{path: plain value} of dicts and lists in one another."""
    if isinstance(value, dict):
        parts = value.items()
    elif isinstance(value, list) and any(isinstance(part, dict | list) for part in value):
        parts = [*enumerate(value), ("length", len(value))]
    else:
        return {path: value}
    return {k: v for name, part in parts for k, v in _flat(part, f"{path}.{name}" if path else str(name)).items()}
