"""tfds builder for the emoji of a colour font, with their names as captions."""

import collections
import dataclasses
import functools
import os
import re
from collections.abc import Iterable, Mapping
from typing import Any

import tensorflow_datasets as tfds

from pipelines.datasets.local_builder import BadSource, Item, LocalBuilder, Made, PictureConfig, digest_of
from pipelines.extras import near, require
from pipelines.images import BadImage

HELD_OUT = 5  # one combination of so many goes into the split test
_TONE = re.compile(r" (light|medium-light|medium|medium-dark|dark) skin tone")
_COLOUR = re.compile(r"^(red|orange|yellow|green|(?:light )?blue|purple|pink|brown|black|gr[ae]y|white) (.+)$")
_VARIATION = "\ufe0f"  # asks for the coloured form, which fonts of colours need not be asked for
_QUALIFIED = 2  # of the package emoji: as it is written, and no shorter form
_TABLES = ("CBDT", "CBLC", "GSUB")  # pictures, where they are, and what sequences become


@dataclasses.dataclass(eq=False, kw_only=True)
class EmojiConfig(PictureConfig):
    """`source`: the font's file, NotoColorEmoji.ttf (with bitmaps, CBDT); see PictureConfig for the rest.

    Attributes:
        words: "heart,face,-skin" or a list: only emoji with one of these words in their caption, and none of those with
            a "-"; None: all.
    """

    image_size: int | None = 64
    words: Any = None

    def __post_init__(self) -> None:
        words = self.words.split(",") if isinstance(self.words, str) else self.words
        if words is not None and not all(isinstance(word, str) and re.fullmatch(r"-?\w+", word) for word in words):
            raise ValueError(
                f"words must be like heart,face,-skin (words of captions, - for none of it), got {words!r}"
            )
        self.words = None if words is None else ",".join(words)
        super().__post_init__()
        glyphs(self.source)  # refuses what is no such font

    def default_name(self) -> str:
        words = "" if self.words is None else f"-words-{digest_of(self.words.encode()).hex()[:8]}"
        return super().default_name() + words


class Emoji(LocalBuilder):
    """Emoji of a colour font: uint8 RGB images in 0..255 and their names (Unicode's CLDR, English) as captions.

    Source: a font with coloured bitmaps, as NotoColorEmoji.ttf (SIL Open Font License 1.1), of Debian's package
    fonts-noto-color-emoji; sequences (skin tones, families, flags) are those that the font has a glyph for. Splits:
    what comes in several colours or skin tones ("red square", "waving hand dark skin tone") leaves every fifth of these
    combinations to `test`, another for each thing, and has the others in `train`, where all the rest is, too. Emoji
    that look the same as an earlier one are left out.
    """

    CONFIG = EmojiConfig
    HOMEPAGE = "https://github.com/googlefonts/noto-emoji"

    def values(self) -> dict[str, tfds.features.FeatureConnector]:
        return {"image": self.builder_config.feature(), "caption": tfds.features.Text()}

    def listed(self) -> tuple[dict[str, list[Item]], list[str]]:
        found, notes = glyphs(self.builder_config.source), []
        known = {caption: found[sequence] for sequence, caption in captions().items() if sequence in found}
        if not known:
            raise ValueError(f"source {self.builder_config.source} has pictures, but none of an emoji that has a name")
        pictures = _pictures(self.builder_config.source)
        alike = collections.Counter(digest_of(pictures[glyph]) for glyph in known.values())
        first = {digest_of(pictures[glyph]): caption for caption, glyph in reversed(known.items())}
        different = {caption: known[caption] for caption in known if caption in set(first.values())}
        if len(different) < len(known):
            notes.append(f"emoji that look as another one were left out: {sum(alike.values()) - len(alike)}")
        held_out, splits = combinations_held_out(different), {"train": [], "test": []}
        for caption in _chosen(different, self.builder_config.words):
            key = caption.replace(" ", "_")
            splits["test" if caption in held_out else "train"].append(Item(key, None, (different[caption], caption)))
        return {split: items for split, items in splits.items() if items}, notes

    def caption(self, item: Item) -> str:
        return item.source[1]

    def example(self, item: Item) -> Made:
        glyph, caption = item.source
        data = _pictures(self.builder_config.source)[glyph]
        try:
            image, _ = self.builder_config.stored(data, upright=False)
        except BadImage as error:
            raise BadSource(f"{caption} {error}") from None
        return Made({"image": image, "caption": caption}, digest_of(data))


def captions() -> dict[str, str]:
    """{sequence, without variation selectors: caption} of all emoji, in the order of the package."""
    data = require("emoji", extra="emoji").EMOJI_DATA
    return {sequence.replace(_VARIATION, ""): _caption(sequence, about["en"]) for sequence, about in data.items()
            if about["status"] == _QUALIFIED}  # fmt: skip


def _caption(sequence: str, name: str) -> str:
    """ "red heart" of ":red_heart:"; of a country's name, "flag of ..."."""
    name = name.strip(":").replace("_", " ")
    of_country = all(0x1F1E6 <= ord(letter) <= 0x1F1FF for letter in sequence) or "\U000e007f" in sequence
    return f"flag of {name}" if of_country else name


def combinations_held_out(names: Iterable[str]) -> set[str]:
    """Captions for the split test: of each thing in three or more colours or skin tones every fifth combination, from
    another one on for each thing, in the order of the alphabet; of colours that three things have. So training has seen
    each tone and colour, and each thing, but in others."""
    names, kinds = sorted(names), collections.defaultdict(list)
    coloured = [found for name in names if (found := _COLOUR.match(name))]
    things_of = collections.Counter(found[1] for found in coloured)
    for found in coloured:
        if things_of[found[1]] >= 3:
            kinds[f"coloured {found[2]}"].append(found[0])
    for name in names:
        if _TONE.search(name):
            kinds[_TONE.sub("", name)].append(name)
    several = [kinds[thing] for thing in sorted(kinds) if len(kinds[thing]) >= 3]
    return {name for i, of_thing in enumerate(several) for name in of_thing[i % HELD_OUT :: HELD_OUT]}


def _chosen(names: Iterable[str], words: str | None) -> list[str]:
    """The captions that `words` asks for. Raises ValueError: none has one of them."""
    words = [] if words is None else words.lower().split(",")
    wanted, unwanted = ({word.lstrip("-") for word in words if word.startswith("-") == no} for no in (False, True))
    of_names = {name: set(re.findall(r"\w+", name.lower())) for name in names}
    vocabulary = set().union(*of_names.values())
    for word in sorted((wanted | unwanted) - vocabulary):
        raise ValueError(f"no caption of this font's emoji has the word {word!r} (words=){near(word, vocabulary)}")
    found = [n for n, has in of_names.items() if (not wanted or has & wanted) and not has & unwanted]
    if not found:
        raise ValueError(f"words={','.join(words)} leaves no emoji")
    return found


def glyphs(path: str) -> dict[str, str]:
    """{sequence of code points, without variation selectors: glyph with a picture} of a font."""
    return _opened(path, os.stat(path).st_mtime_ns)[0]


def _pictures(path: str) -> Mapping[str, bytes]:
    """{glyph: PNG}."""
    return _opened(path, os.stat(path).st_mtime_ns)[1]


@functools.lru_cache(maxsize=2)
def _opened(path: str, changed: int) -> tuple[dict[str, str], dict[str, bytes]]:
    """`glyphs` and `_pictures`. Raises ValueError: it is no font with coloured bitmaps."""
    fonts = require("fontTools.ttLib", extra="emoji")
    try:
        with fonts.TTFont(path) as font:
            if missing := [table for table in _TABLES if table not in font]:
                raise ValueError(f"it has no {missing[0]}")
            names = {name: chr(code) for code, name in font.getBestCmap().items()}
            of_sequence = {text: name for name, text in names.items()} | _ligatures(font["GSUB"].table, names)
            pictures = {name: bytes(glyph.imageData) for name, glyph in font["CBDT"].strikeData[-1].items()
                        if hasattr(glyph, "imageData")}  # fmt: skip
    except OSError:
        raise
    except Exception as error:  # fontTools raises TTLibError, struct.error, AssertionError, KeyError...
        reason = " ".join(str(error).split())
        advice = "give --source=.../NotoColorEmoji.ttf, the one with bitmaps (CBDT)"
        raise ValueError(f"source {path} is no font of coloured bitmaps ({reason}): {advice}") from None
    found = {text.replace(_VARIATION, ""): name for text, name in of_sequence.items() if name in pictures}
    return found, pictures


def _ligatures(table: Any, names: Mapping[str, str]) -> dict[str, str]:
    """{sequence: glyph} of the sequences that a font's GSUB makes one glyph."""
    found = {}
    for lookup in table.LookupList.Lookup:
        for part in (getattr(part, "ExtSubTable", part) for part in lookup.SubTable):
            for first, ligatures in getattr(part, "ligatures", {}).items():
                for ligature in ligatures:
                    parts = (first, *ligature.Component)
                    if all(name in names for name in parts):
                        found["".join(names[name] for name in parts)] = ligature.LigGlyph
    return found
