"""What a prepared data set has beside pictures, fields and texts, as channels and conditions for a network, and whether
one fits them."""

import dataclasses
from collections.abc import Callable

import pipelines
from keras_sid2.channels import Channels
from keras_sid2.conditions import Condition, Image, TextEmbedding, Vector, in_data
from keras_sid2.training import Preset


def channels_of(statistics: pipelines.ChannelStatistics | None) -> Channels | None:
    """Those of a sample, or of a value beside it; None of what is not in physical units."""
    return None if statistics is None else Channels(statistics.names, statistics.mean, statistics.std)


def conditions_of_data(data: pipelines.DatasetDescription, size: tuple[int, int] | None = None) -> dict[str, Condition]:
    """What lies over the samples, and vectors, in physical units, as conditions by name, beside pictures embedded texts
    alone. `size` is the samples' height and width where they are cut or resized to it; ValueError for what cannot
    follow that."""
    found = {}
    for name, spec in data.values.items():
        if spec.encoder is not None:
            found[name] = TextEmbedding(*spec.shape, spec.encoder)
        if spec.channels is not None and data.sample_channels is not None:
            channels = channels_of(spec.channels)
            shape = spec.following(name, data.sample_shape[-3:-1], size) if size else spec.shape
            found[name] = Image(shape, channels) if spec.lies_over else Vector(*shape, channels)
    return found


def with_texts(preset: Preset, describe: Callable[[], pipelines.DatasetDescription]) -> Preset:
    """The preset with its texts as the data have them, where it leaves the encoder open; the data are looked at only
    then."""
    open_ones = [n for n, c in preset.conditions.items() if isinstance(c, TextEmbedding) and not c.encoder]
    there = conditions_of_data(describe()) if open_ones else {}
    texts = {
        name: dataclasses.replace(there[name], whitened=preset.conditions[name].whitened)
        for name in open_ones
        if name in there
    }
    if not texts:
        return preset
    network = {**preset.network, "conditions": {**preset.network["conditions"], **texts}}
    return dataclasses.replace(preset, network=network)


def misfit(preset: Preset, data: pipelines.DatasetDescription) -> tuple[str, str] | None:
    """What the preset is, and what the data have, where the names of channels differ, each in words; None if not."""
    for name, condition in preset.conditions.items():
        encoder = getattr(condition, "encoder", "")
        if encoder and name in data.values and (there := data.values[name].encoder) != encoder:
            advice = f"prepare it with --text_encoder={encoder.partition('#')[0]}"
            return f"reads {name} by the encoder {encoder}", f"it by {there or 'one that it does not name'}: {advice}"
    pairs = {"samples": (preset.channels, data.sample_channels)}
    for name, condition in in_data(preset.conditions).items():
        if name in data.values:
            pairs[name] = condition.channels, data.values[name].channels
    for name, (wanted, there) in pairs.items():
        here, found = (() if one is None else tuple(one.names) for one in (wanted, there))
        if here == found:
            continue
        told = f"has {name} with the channels {', '.join(here)}" if here else f"has {name} without channels"
        unknown = [one for one in found if one not in here]
        lacking = [one for one in here if one not in found]
        if not here:
            return (
                told,
                f"them in physical units, {', '.join(found)}: give the preset channels, or none and it is proposed",
            )
        if not found and data.sample_channels is None and name != "samples":
            continue  # beside pictures nothing is measured: the preset alone says what units values have
        if not found:
            return told, f"them without statistics: prepare it with --channel_names={','.join(here)}"
        wrong = [f"an unknown channel {one}" for one in unknown[:1]] + [f"no channel {one}" for one in lacking[:1]]
        return told, f"{' and '.join(wrong) or 'another order'}: {', '.join(found)}"
    return None


def remark(preset: Preset, data: pipelines.DatasetDescription) -> list[str]:
    """A sentence where a run's statistics are not those of its data, and one for values that it does not use."""
    pairs = {"the samples": (preset.channels, channels_of(data.sample_channels))}
    pairs |= {
        k: (c.channels, channels_of(data.values[k].channels)) for k, c in preset.conditions.items() if k in data.values
    }
    other = [name for name, (wanted, there) in pairs.items() if there is not None and wanted != there]
    unused = [name for name in conditions_of_data(data) if name not in preset.conditions]
    told = f"The data's mean and deviation of {', '.join(other)} are others than the network's, which are used."
    return [told] * bool(other) + [f"The network is not conditioned on {', '.join(unused)} of the data."] * bool(unused)
