"""Fields as a prepared data set has them: channels and conditions for a network, and whether one fits them."""

import pipelines
from keras_sid2.channels import Channels
from keras_sid2.conditions import Condition, Image, Vector, in_data
from keras_sid2.training import Preset


def channels_of(statistics: pipelines.ChannelStatistics | None) -> Channels | None:
    """Those of a sample, or of a value beside it; None of what is not in physical units."""
    return None if statistics is None else Channels(statistics.names, statistics.mean, statistics.std)


def conditions_of_data(data: pipelines.DatasetDescription, size: tuple[int, int] | None = None) -> dict[str, Condition]:
    """What lies over the samples, and vectors, in physical units, as conditions by name; of pictures none. `size` is
    the samples' height and width where they are cut or resized to it; ValueError for what cannot follow that."""
    found = {}
    for name, spec in data.values.items():
        if spec.channels is not None and data.sample_channels is not None:
            channels = channels_of(spec.channels)
            shape = spec.following(name, data.sample_shape[-3:-1], size) if size else spec.shape
            found[name] = Image(shape, channels) if spec.lies_over else Vector(*shape, channels)
    return found


def misfit(preset: Preset, data: pipelines.DatasetDescription) -> tuple[str, str] | None:
    """What the preset is, and what the data have, where the names of channels differ, each in words; None if not."""
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
