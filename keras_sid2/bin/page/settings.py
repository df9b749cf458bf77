"""What a visitor of the page asks for, as the flags of sid2-sample, which then are what is drawn, and as Python.

There is one way from a request to pictures: its flags. The page shows them, and `flags_of` reads them as sid2-sample
does, so that what is shown is what was drawn.
"""

import base64
import binascii
import dataclasses
import re
import shlex

import keras
import numpy as np
from absl import flags

from keras_sid2.bin import flag_table
from keras_sid2.bin.page.models import Offered
from keras_sid2.bin.page.pictures import Kept
from keras_sid2.bin.sample import SampleFlags
from keras_sid2.sampling.noise_levels import NOISE_LEVELS
from keras_sid2.sampling.samplers import SAMPLERS

OWN = "default"  # the model's sampler: ddpm, and of a student its own
MOST_RESAMPLINGS = 16
_LONGEST_TEXT = 2000  # characters
_CONTROLS = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")  # and halves of characters, which no shell passes on
_WIDTH = 56  # of a line of the command


@dataclasses.dataclass(frozen=True)
class Limits:
    """What one request may ask for."""

    images: int
    steps: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """One side of a request, checked.

    Args:
        classes: of the images in turn, () for all classes in turn, None for images of no class.
        text, negative_text: of a model that has a TextEmbedding, else "".
        interval: (low, high) in logsnr, or None for everywhere.
        known, mask: paths of the picture that is inpainted, and of where it is kept; "" for none.
    """

    model: Offered
    count: int
    seed: int
    num_steps: int
    sampler: str = OWN
    noise_levels: str = "uniform_t"
    scale: float = 1.0
    interval: tuple[float, float] | None = None
    classes: tuple[int, ...] | None = ()
    text: str = ""
    negative_text: str = ""
    known: str = ""
    mask: str = ""
    resamplings: int = 1


def read_settings(asked, models: list[Offered], limits: Limits, kept: Kept) -> list[Settings]:
    """Both sides, or one, of what the page sent: {"shared": {...}, "sides": [{...}, ...]}; ValueError, in one sentence,
    for what is wrong in it."""
    try:
        shared, sides = dict(asked["shared"]), [dict(side) for side in asked["sides"]]
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError("The page sent no request that can be read: load it anew.") from error
    if not 1 <= len(sides) <= 2:
        raise ValueError(f"The page draws one setting or two, got {len(sides)}.")
    return [_side({**shared, **side}, models, limits, kept) for side in sides]


def _side(asked: dict, models: list[Offered], limits: Limits, kept: Kept) -> Settings:
    model = models[_whole("The model", asked.get("model"), 0, len(models) - 1)]
    settings = {
        "model": model,
        "count": _whole("The number of pictures", asked.get("count"), 1, limits.images),
        "seed": _whole("The seed", asked.get("seed"), 0, 2**32 - 1),
        "num_steps": _whole("The number of steps", asked.get("num_steps"), 1, limits.steps),
        "sampler": _one_of("The sampler", asked.get("sampler", OWN), (OWN, *SAMPLERS)),
        "noise_levels": _one_of("Noise levels", asked.get("noise_levels", "uniform_t"), tuple(NOISE_LEVELS)),
        "scale": _number("The guidance scale", asked.get("scale", 1.0), 0.0, 100.0),
        "interval": _interval(asked.get("interval")),
        "resamplings": _whole("Resamplings", asked.get("resamplings", 1), 1, MOST_RESAMPLINGS),
    }
    if model.num_classes is not None:
        settings["classes"] = _classes(asked.get("classes", ""), model.num_classes)
    if model.takes_text:
        settings["text"] = _text(asked.get("text", ""))
        if settings["scale"] != 1.0:  # where there is no guidance, nothing leads away from it
            settings["negative_text"] = _text(asked.get("negative_text", ""))
    if asked.get("known"):
        settings["known"] = kept.known(asked["known"])
        settings["mask"] = kept.keep_mask(_painted(asked.get("painted"), model))
    return Settings(**settings)


def _whole(what: str, given, low: int, high: int) -> int:
    if type(given) is not int or not low <= given <= high:
        raise ValueError(f"{what} must be a whole number from {low} to {high}, got {_shown(given)}.")
    return given


def _number(what: str, given, low: float, high: float) -> float:
    if type(given) not in (int, float) or not low <= given <= high:
        raise ValueError(f"{what} must be a number from {low:g} to {high:g}, got {_shown(given)}.")
    return float(f"{given:g}")  # as the flags have it


def _one_of(what: str, given, known: tuple[str, ...]) -> str:
    if given not in known:
        raise ValueError(f"{what} must be one of {', '.join(known)}, got {_shown(given)}.")
    return given


def _shown(given) -> str:
    text = repr(given)
    return text if len(text) <= 60 else f"{text[:60]}..."


def _interval(given) -> tuple[float, float] | None:
    if given is None:
        return None
    if not isinstance(given, list) or len(given) != 2:
        raise ValueError(f"The interval of guidance must be two numbers, got {_shown(given)}.")
    low, high = (_number("An end of the interval", end, -1000.0, 1000.0) for end in given)
    if not low < high:
        raise ValueError(f"The interval of guidance must end above its beginning, got {low:g} to {high:g}.")
    return low, high


def _classes(given, num_classes: int) -> tuple[int, ...] | None:
    """Of a text such as "3" or "0, 1, 2"; "" is all in turn, "none" is no class."""
    given = given.strip() if isinstance(given, str) else given
    if given in ("", "none"):
        return () if given == "" else None
    try:
        found = tuple(int(part) for part in given.split(","))
    except (AttributeError, ValueError):
        found = (-1,)
    if not all(0 <= each < num_classes for each in found):
        wanted = f"whole numbers from 0 to {num_classes - 1} with commas between, or none, or nothing"
        raise ValueError(f"Classes must be {wanted}, got {_shown(given)}.")
    return found


def _text(given) -> str:
    if not isinstance(given, str) or len(given) > _LONGEST_TEXT:
        raise ValueError(f"A text has at most {_LONGEST_TEXT} characters.")
    return " ".join(_CONTROLS.sub(" ", given).split())


def _painted(given, model: Offered) -> np.ndarray:
    """bool [H, W], true where the brush was, from base64 of a byte a pixel."""
    height, width = model.sample_shape[:2]
    if len(model.sample_shape) != 3:
        raise ValueError("Clips are not inpainted on this page.")
    try:
        data = base64.b64decode(given, validate=True)
    except (TypeError, ValueError, binascii.Error):
        data = b""
    if len(data) != height * width or not set(data) <= {0, 1}:
        raise ValueError(f"What was painted must be {height} x {width} pixels, as the model's: choose a picture anew.")
    painted = np.frombuffer(data, "uint8").reshape(height, width).astype(bool)
    if not painted.any():
        raise ValueError("Nothing is painted: paint over what is to be drawn anew, or leave out the picture.")
    if painted.all():
        raise ValueError("All is painted, so that nothing of the picture would be kept: leave some of it.")
    return painted


# -- the same as a command and as Python ------------------------------------------------------------------------------


def arguments(settings: Settings) -> list[str]:
    """The flags of sid2-sample, but for --backend and --out."""
    found = [settings.model.flag, *_what(settings), f"--seed={settings.seed}", f"--num_steps={settings.num_steps}"]
    if settings.sampler != OWN:
        found.append(f"--sampler={settings.sampler}")
    if settings.noise_levels != "uniform_t":
        found.append(f"--noise_levels={settings.noise_levels}")
    if settings.scale != 1.0:  # an interval of none is refused
        found.append(f"--guidance_scale={settings.scale:g}")
        if settings.interval is not None:
            found.append("--guidance_interval={:g},{:g}".format(*settings.interval))
    if settings.known:
        found += [f"--known={settings.known}", f"--mask={settings.mask}"]
        found += [f"--resamplings={settings.resamplings}"] if settings.resamplings > 1 else []
    return found


def _labels(settings: Settings) -> list[int] | None:
    """A class an image, where they were chosen."""
    chosen = settings.classes
    return [chosen[i % len(chosen)] for i in range(settings.count)] if chosen else None


def _what(settings: Settings) -> list[str]:
    """How many of what."""
    labels = _labels(settings)
    if labels:
        return [f"--labels={','.join(map(str, labels))}", *_texts(settings)]
    of_no_class = ["--labels=none"] if settings.classes is None else []
    return [f"--num_images={settings.count}", *of_no_class, *_texts(settings)]


def _texts(settings: Settings) -> list[str]:
    """The flags of a model with a TextEmbedding; one text serves all images."""
    given = (("text", settings.text), ("negative_text", settings.negative_text))
    return [f"--{name}={text}" for name, text in given if text]


def command(settings: Settings) -> str:
    """What a shell runs."""
    backend = f"--backend={keras.backend.backend()}"  # others differ by rounding
    lines = [""]
    for word in map(shlex.quote, ["sid2-sample", backend, *arguments(settings), "--out=drawn"]):
        if lines[-1] and len(lines[-1]) + len(word) > _WIDTH:
            lines.append("   ")
        lines[-1] = f"{lines[-1]} {word}" if lines[-1] else word
    return " \\\n".join(lines)


def flags_of(settings: Settings) -> flags.FlagValues:
    """The flags as sid2-sample reads them; ValueError for those that it refuses."""
    values = flags.FlagValues()
    flag_table.define(SampleFlags, values)
    try:
        values(["sid2-sample", *arguments(settings)])
    except flags.Error as error:
        raise ValueError(str(error).splitlines()[0]) from error
    flag_table.check(SampleFlags, values)
    return values


def python_lines(settings: Settings) -> str:
    """A program that makes the same images."""
    imports, how = ["import keras_sid2"], _how(settings)
    if settings.known:
        imports = ["import numpy as np", "", *imports, "from keras_sid2.io.image_reading import read_images"]
        how["known"] = f"np.repeat(read_images({settings.known!r}), {settings.count}, axis=0)"
        how["mask"] = f"read_images({settings.mask!r})"
        how |= {"resamplings": settings.resamplings} if settings.resamplings > 1 else {}
    imports += [settings.model.python_import] if settings.model.python_import else []
    if (settings.text or settings.negative_text) and settings.model.text_encoder:
        imports.insert(imports.index("import keras_sid2") + 1, "import pipelines")
        how["text_encoder"] = f"pipelines.text_encoder({settings.model.text_encoder!r})"
    given = [f"    {name}={value}," for name, value in how.items()]
    made = [f"model = {settings.model.python}", "images = model.generate(", *given, ")"]
    return "\n".join([*imports, "", *made]) + "\n"


def _how(settings: Settings) -> dict:
    """Arguments of `generate` by name, as Python writes them."""
    labels, classes = _labels(settings), settings.model.num_classes
    if labels is None and classes is not None and settings.classes is not None:
        labels = [i % classes for i in range(settings.count)]
    how = {"num_images": settings.count} if labels is None else {"labels": labels}
    how |= {"text": f"[{settings.text!r}] * {settings.count}"} if settings.text else {}
    how |= {"negative_text": repr(settings.negative_text)} if settings.negative_text else {}
    how |= {"num_steps": settings.num_steps, "seed": settings.seed}
    how |= {} if settings.sampler == OWN else {"sampler": repr(settings.sampler)}
    how |= {} if settings.noise_levels == "uniform_t" else {"noise_levels": repr(settings.noise_levels)}
    if settings.scale != 1.0:
        interval = "" if settings.interval is None else ", ({:g}, {:g})".format(*settings.interval)
        how["guidance"] = f"keras_sid2.Guidance({settings.scale:g}{interval})"
    return how
