"""The data set emoji: of a font that the test makes, and of the system's where there is one."""

import io
import pathlib

import numpy as np
import pytest
from fontTools.fontBuilder import FontBuilder
from fontTools.ttLib import newTable
from fontTools.ttLib.tables.BitmapGlyphMetrics import SmallGlyphMetrics
from fontTools.ttLib.tables.C_B_D_T_ import cbdt_bitmap_format_17
from fontTools.ttLib.tables.E_B_L_C_ import BitmapSizeTable, SbitLineMetrics, Strike, eblc_index_sub_table_1
from PIL import Image

from pipelines.datasets.emoji import Emoji, EmojiConfig, captions, combinations_held_out

pytestmark = pytest.mark.backend_free

SYSTEMS = pathlib.Path("/usr/share/fonts/truetype/noto/NotoColorEmoji.ttf")
# red heart, grinning face, waving hand, a skin tone, the letters of flags; the last two have no picture.
CODES = {"heart": 0x2764, "face": 0x1F600, "hand": 0x1F44B, "dark": 0x1F3FF, "letter_F": 0x1F1EB, "letter_R": 0x1F1F7}
COLOURS = {
    "heart": (255, 0, 0, 255),
    "face": (255, 255, 0, 128),
    "hand": (200, 150, 0, 255),
    "dark": (90, 50, 0, 255),
    "hand_dark": (80, 40, 0, 255),
    "flag": (0, 0, 255, 255),
}


def _png(colour) -> bytes:
    file = io.BytesIO()
    Image.new("RGBA", (12, 8), colour).save(file, "png")
    return file.getvalue()


def _fill(table: str, names: list[str], font):
    """Bitmaps of `names`, in the colours above, as the tables CBDT and CBLC."""
    data, places = newTable("CBDT"), newTable("CBLC")
    data.version = places.version = 3.0
    data.strikeData, strike = [{}], Strike()
    for name in names:
        glyph = cbdt_bitmap_format_17(b"", font)
        glyph.metrics, glyph.imageData = SmallGlyphMetrics(), _png(COLOURS[name])
        for field, value in {"height": 8, "width": 12, "BearingX": 0, "BearingY": 8, "Advance": 12}.items():
            setattr(glyph.metrics, field, value)
        data.strikeData[0][name] = glyph
    size = strike.bitmapSizeTable = BitmapSizeTable()
    size.colorRef, size.startGlyphIndex, size.endGlyphIndex = 0, 1, len(names)
    size.ppemX = size.ppemY = 8
    size.bitDepth, size.flags = 32, 1
    for line in ("hori", "vert"):
        metrics = SbitLineMetrics()
        for field in "ascender descender widthMax caretSlopeNumerator caretSlopeDenominator caretOffset minOriginSB " \
                     "minAdvanceSB maxBeforeBL minAfterBL pad1 pad2".split():  # fmt: skip
            setattr(metrics, field, 0)
        setattr(size, line, metrics)
    index = eblc_index_sub_table_1(b"", font)
    index.indexFormat, index.imageFormat, index.names = 1, 17, names
    strike.indexSubTables = [index]
    places.strikes = [strike]
    font["CBDT"], font["CBLC"] = data, places


@pytest.fixture(scope="module")
def font(tmp_path_factory) -> pathlib.Path:
    names = [*COLOURS, *(name for name in CODES if name not in COLOURS)]
    builder = FontBuilder(100, isTTF=False)
    builder.setupGlyphOrder([".notdef", *names])
    builder.setupCharacterMap({code: name for name, code in CODES.items()})
    builder.setupHorizontalMetrics(dict.fromkeys([".notdef", *names], (100, 0)))
    builder.setupHorizontalHeader()
    builder.addOpenTypeFeatures("feature ccmp { sub hand dark by hand_dark; sub letter_F letter_R by flag; } ccmp;")
    _fill("CBDT", list(COLOURS), builder.font)
    path = tmp_path_factory.mktemp("font") / "tiny.ttf"
    builder.font.save(path)
    return path


def test_pictures_names_and_sequences(font):
    builder = Emoji(data_dir="unused", config=EmojiConfig(source=font, image_size=4))
    found = {}
    for item in builder.listing()["train"]:
        made = builder.example(item).features
        picture = np.asarray(Image.open(io.BytesIO(made["image"])))
        assert picture.shape == (4, 4, 3) and (picture == picture[0, 0]).all()
        assert made["caption"] == builder.caption(item)
        found[made["caption"]] = picture[0, 0]
    expected = {
        "red heart": (255, 0, 0),
        "grinning face": (255, 255, 127),  # half transparent, on white
        "waving hand": (200, 150, 0),
        "waving hand dark skin tone": (80, 40, 0),
        "flag of France": (0, 0, 255),
    }
    assert found.keys() == expected.keys()  # a skin tone alone is a part of emoji, and none
    np.testing.assert_allclose([found[name] for name in expected], list(expected.values()), atol=1)


def test_words_choose(font):
    def names(words) -> set[str]:
        splits, _ = Emoji(data_dir="unused", config=EmojiConfig(source=font, words=words)).listed()
        return {item.source[1] for items in splits.values() for item in items}

    assert names("heart,hand,-tone") == {"red heart", "waving hand"}
    assert names(["-hand", "-tone"]) == {"red heart", "grinning face", "flag of France"}
    for words, sentence in {
        "hart": "no caption of this font's emoji has the word 'hart' .*did you mean 'heart'",
        "hand,-waving": "words=hand,-waving leaves no emoji",
        "red heart": "words must be like heart,face,-skin",
    }.items():
        with pytest.raises(ValueError, match=sentence):
            names(words)


@pytest.mark.parametrize("kind", ["text", "outlines", "cut"])
def test_other_files_are_refused_in_a_sentence(kind, font, tmp_path):
    path = tmp_path / "other.ttf"
    if kind == "text":
        path.write_text("no font")
    elif kind == "cut":
        path.write_bytes(font.read_bytes()[:300])
    else:
        matplotlib = pytest.importorskip("matplotlib")  # it brings a font
        path = pathlib.Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"
    with pytest.raises(
        ValueError, match=r"^source .* is no font of coloured bitmaps \(.+\): give --source=.*NotoColor"
    ):
        EmojiConfig(source=path)


def test_held_out_combinations():
    names = [f"{colour} {thing}" for thing in ("circle", "heart", "square") for colour in ("blue", "green", "red")]
    tones = ("light", "medium-light", "medium", "medium-dark", "dark")
    hands = [f"{hand} {tone} skin tone" for hand in ("fist", "palm") for tone in tones]
    others = ["grinning face", "grey heart", "fist"]  # no other thing is grey
    found = combinations_held_out([*names, *hands, *others])
    # In the order of the alphabet the things are coloured circle, heart, square; fist, palm: 0 to 4 are left out.
    assert found == {
        "blue circle",
        "green heart",
        "red square",
        "fist medium-dark skin tone",
        "palm medium-light skin tone",
    }
    assert found == combinations_held_out(reversed([*names, *hands, *others]))


def test_captions_are_names():
    found = captions()
    assert found["\u2764"] == "red heart"
    assert found["\U0001f1eb\U0001f1f7"] == "flag of France"
    assert found["\U0001f469\U0001f3fd\u200d\U0001f33e"] == "woman farmer medium skin tone"


@pytest.mark.skipif(not SYSTEMS.exists(), reason="needs NotoColorEmoji.ttf (Debian: fonts-noto-color-emoji)")
def test_the_systems_font():
    splits, _ = Emoji(data_dir="unused", config=EmojiConfig(source=SYSTEMS, image_size=32)).listed()
    train, test = ({item.source[1] for item in splits[split]} for split in ("train", "test"))
    assert len(train) > 3000 and not train & test
    assert "blue square" in test and "red heart" in train and "red square" in test
    assert {"waving hand", "waving hand light skin tone", "waving hand dark skin tone"} <= train | test
