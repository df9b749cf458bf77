"""The table of sid2-plan --all: every preset and size, what each costs and what it is expected to reach."""

import dataclasses

from keras_sid2.sampling import evaluations, get_sampler
from keras_sid2.training import Preset, find_preset, list_presets
from keras_sid2.training.proposal import SIZES, proposed_preset

SAMPLES = 50_000  # as many as papers evaluate
_TRAINED_BYTES = 16  # a float32 number of the weights, their average, Adam's two moments
_LADDER = (64, 64, 3)  # that sizes are listed for where no shape is given

# Steps, and what is expected behind them, with grades as in presets.py and R: read in another public repository. Where
# the paper's steps are not known, a million is ours (O). We have trained sid2_digits and sid2_photo_patches only.
EXPECTED = {
    "sid2_imagenet64_uvit1": (2_000_000, "FID 2.7, of another network with this loss (R)"),
    "sid2_imagenet128_uvit1": (1_000_000, "FID 1.26, the paper's (P); patch size and steps O"),
    "sid2_imagenet256_uvit2": (1_000_000, "FID 1.73, the paper's (P); steps O"),
    "sid2_imagenet256_uvit1": (1_000_000, "FID 1.38, the paper's (P); steps O"),
    "sid2_imagenet512_uvit4": (1_000_000, "FID 2.19, the paper's (P); steps O"),
    "sid2_imagenet512_uvit2": (1_000_000, "FID 1.48, the paper's (P); steps O"),
    "sid2_kinetics600_64": (1_000_000, "not known (O); others' FVD 3.3 to 16"),
    "sid2_kinetics600_128": (1_000_000, "not known (O); others' FVD 3.3 to 16"),
    "sid2_digits": (1500, "Frechet distance 0.16 by a classifier, measured"),
    "sid2_photo_patches": (20_000, "patches that look like the photographs (O)"),
    "sid2_t2i_256": (1_000_000, "not known (O)"),
    "sid2_t2i_512": (1_000_000, "not known (O)"),
    "sid2_t2i_small": (5000, "small pictures of a narrow world; not measured (O)"),
    "tiny": (50_000, "thousands of small images; not measured (O)"),
    "small": (200_000, "tens of thousands; not measured (O)"),
    "base": (500_000, "hundreds of thousands; not measured (O)"),
    "large": (1_000_000, "a million; the paper's network at 256 and 512 (O)"),
}


@dataclasses.dataclass(frozen=True)
class Row:
    """A line: flags of sid2-train, and what they lead to; `macs` are multiply-adds of an image, `step_macs` of a step,
    `seconds` and `sample_seconds` of all steps and of SAMPLES samples on the device asked for."""

    flags: str
    parameters: int
    macs: int
    batch: int
    step_macs: int
    steps: int
    seconds: float
    sampling: str
    sample_seconds: float
    checkpoint: int
    expected: str


def row(preset: Preset, flags: str, name: str, speed: float) -> Row:
    """Of a preset, on a device that does `speed` multiply-adds a second."""
    cost, (steps, expected) = preset.cost, EXPECTED.get(name, (1_000_000, "not known (O)"))
    step = 3 * cost.multiply_adds * preset.batch_size
    sampler = get_sampler(preset.sampler)
    count = evaluations(sampler) * preset.num_steps
    return Row(
        flags,
        cost.parameters,
        cost.multiply_adds,
        preset.batch_size,
        step,
        steps,
        steps * step / speed,
        f"{preset.num_steps} of {_name(preset.sampler)}",
        SAMPLES * count * cost.multiply_adds / speed,
        _TRAINED_BYTES * cost.parameters,
        expected,
    )


def _name(sampler) -> str:
    return sampler if isinstance(sampler, str) else type(sampler).__name__.removesuffix("Sampler").lower()


def rows(speed: float, shape: tuple[int, ...] | None = None) -> list[Row]:
    """All presets, then the ladder for samples of `shape`."""
    named = [row(find_preset(name), f"--preset={name}", name, speed) for name in list_presets()]
    ladder = ((size, proposed_preset(shape or _LADDER, None, size=size)) for size in SIZES)
    return named + [row(preset, f"--size={size}", size, speed) for size, preset in ladder]


def markdown(found: list[Row], device: str, shape: tuple[int, ...] | None = None) -> str:
    """The table as text for people, and for docs/guides/presets.md."""
    head = ("sid2-train", "parameters", "multiply-adds an image", "batch", "a step", "steps", "days of training")
    head += ("sampling steps", f"days of {SAMPLES // 1000},000 samples", "a checkpoint", "expected")
    lines = [head, ("---",) + ("---:",) * 9 + ("---",), *map(_cells, found)]
    ladder = "x".join(map(str, shape or _LADDER))
    return "\n".join(
        [
            *("| " + " | ".join(cells) + " |" for cells in lines),
            "",
            f"Days are of one device: {device}. Sizes are for your own data of any shape, here {ladder}, no classes.",
            "Each is started by `sid2-train FLAGS --data=DATA --workdir=RUN --steps=STEPS`; --smoke tries it.",
        ]
    )


def _cells(row: Row) -> tuple[str, ...]:
    return (
        f"`{row.flags}`",
        f"{_short(row.parameters / 1e6)} M",
        f"{_short(row.macs / 1e9)} G",
        f"{row.batch:,}",
        f"{_short(row.step_macs / 1e12)} T",
        f"{row.steps:,}",
        _days(row.seconds),
        row.sampling,
        _days(row.sample_seconds),
        f"{row.checkpoint / 1e9:,.2g} GB",
        row.expected,
    )


def _days(seconds: float) -> str:
    days = seconds / 86400
    return _short(days) if days >= 0.01 else "< 0.01"


def _short(number: float) -> str:
    """Three digits that count, and never an exponent of ten above them: 4,030 and not 4.03e+03."""
    return f"{float(f'{number:.3g}'):,.0f}" if number >= 1000 else f"{number:.3g}"
