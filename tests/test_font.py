import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fontTools.feaLib.builder import addOpenTypeFeaturesFromString
from fontTools.fontBuilder import FontBuilder
from fontTools.subset import Subsetter
from fontTools.ttLib import TTFont, newTable
from fontTools.ttLib.tables.sbixGlyph import Glyph
from fontTools.ttLib.tables.sbixStrike import Strike
from PIL import Image

from minclip import data
from minclip.data import FontArtist, Preprocess

NOTO = Path("/usr/share/fonts/truetype/noto/NotoColorEmoji.ttf")
needs_noto = pytest.mark.skipif(not NOTO.exists(), reason="Debian's fonts-noto-color-emoji is not installed")
CMAP = {0x1F469: "woman", 0x200D: "joiner", 0x1F692: "engine", 0x2764: "heart", 0x1F408: "nothing"}
COLOURS = {"woman": "yellow", "engine": "orange", "heart": "red", "firefighter": "brown"}
FEATURES = """
lookup shorter { sub woman joiner by heart; } shorter;
lookup whole { sub woman joiner engine by firefighter; } whole;
feature ccmp { lookup shorter; lookup whole; } ccmp;
"""


def png(colour: str, size: tuple[int, int] = (30, 20)) -> bytes:
    file = io.BytesIO()
    Image.new("RGBA", size, colour).save(file, "png")
    return file.getvalue()


def font_without_bitmaps() -> TTFont:
    builder = FontBuilder(1000)
    glyphs = [".notdef", *CMAP.values(), "firefighter"]
    builder.setupGlyphOrder(glyphs)
    builder.setupCharacterMap(CMAP)
    builder.setupGlyf({name: _outline() for name in glyphs})
    builder.setupHorizontalMetrics(dict.fromkeys(glyphs, (1000, 0)))
    builder.setupHorizontalHeader()
    builder.setupNameTable({"familyName": "Test Emoji", "copyright": "Ours.", "licenseDescription": "Free. For all."})
    builder.setupPost()
    addOpenTypeFeaturesFromString(builder.font, FEATURES)
    return builder.font


def _outline():
    from fontTools.pens.ttGlyphPen import TTGlyphPen

    return TTGlyphPen(None).glyph()


def with_sbix(font: TTFont, **changes: Glyph) -> TTFont:
    """Add two sizes of bitmaps: black ones of 10 pixels, and coloured ones of 30 × 20."""
    table: Any = newTable("sbix")
    font["sbix"] = table
    table.version, table.flags = 1, 1
    for ppem, draw in ((10, lambda _: png("black", (10, 10))), (30, png)):
        strike = table.strikes[ppem] = Strike(ppem=ppem, resolution=72)
        for name in font.getGlyphOrder():
            bitmap = draw(COLOURS[name]) if name in COLOURS else None
            strike.glyphs[name] = Glyph(glyphName=name, graphicType=bitmap and "png ", imageData=bitmap)
        strike.glyphs |= changes
    return font


def save(font: TTFont, path: Path) -> FontArtist:
    font.save(path)
    return FontArtist(path)


@pytest.fixture
def artist(tmp_path) -> FontArtist:
    return save(with_sbix(font_without_bitmaps()), tmp_path / "test.ttf")


def colour(artist: FontArtist, codes: str) -> tuple[int, ...]:
    return artist.draw(codes, 24).getpixel((12, 12))  # pyright: ignore[reportReturnType]


def test_the_largest_bitmap_is_drawn_centred_on_white(artist):
    heart = artist.draw("2764-FE0F", 30)
    assert heart.size == (30, 30)
    assert heart.mode == "RGB"
    is_red = (np.asarray(heart) == (255, 0, 0)).all(axis=2)
    assert is_red[6:24].all()
    assert (np.asarray(heart)[[0, 29]] == 255).all()


def test_a_sequence_is_the_longest_ligature_and_never_two_pictures(artist):
    assert colour(artist, "1F469-200D-1F692") == (165, 42, 42)
    assert colour(artist, "1F469") == (255, 255, 0)
    assert not artist.has("1F469-1F692")
    assert not artist.has("2764-2764")


def test_what_the_font_lacks_is_named(artist):
    for codes in ("0041", "1F408", "1F469-200D-1F469"):
        assert not artist.has(codes)
        with pytest.raises(ValueError, match=rf"Test Emoji .*test\.ttf.* has no drawing of {codes}"):
            artist.draw(codes, 24)


def test_it_is_an_artist_like_any_other(artist):
    assert artist.name == "Test Emoji"
    assert artist.credit == "Pictures: Test Emoji. Ours. Free"
    pairs = data.load_artist(artist, Preprocess(16, trim=True))
    assert sorted(pairs.captions) == ["fire engine", "red heart", "woman", "woman firefighter"]
    assert {origin.credit for origin in pairs.origins} == {artist.credit}


def test_another_version_of_the_font_is_drawn_again(artist, tmp_path):
    font = with_sbix(font_without_bitmaps())
    font["head"].fontRevision = 7.0  # type: ignore[attr-defined]
    assert save(font, tmp_path / "other.ttf").version != artist.version


def test_a_glyph_may_refer_to_the_bitmap_of_another(tmp_path):
    same = Glyph(glyphName="nothing", referenceGlyphName="heart", graphicType="dupe")
    assert colour(save(with_sbix(font_without_bitmaps(), nothing=same), tmp_path / "a.ttf"), "1F408") == (255, 0, 0)


def test_a_font_without_bitmaps_is_refused_by_name(tmp_path):
    artist = save(font_without_bitmaps(), tmp_path / "outlines.ttf")
    message = r"outlines\.ttf: Test Emoji has no bitmaps: the table CBDT or sbix is needed, this font has glyf"
    with pytest.raises(ValueError, match=message):
        artist.has("1F408")


@pytest.mark.parametrize("content", [b"", b"no font at all", b"\0\1\0\0" + bytes(200), None])
def test_a_file_that_is_no_font_is_refused(content, tmp_path, artist):
    path = tmp_path / "bad.ttf"
    path.write_bytes(artist.path.read_bytes()[:700] if content is None else content)
    with pytest.raises(ValueError, match=r"bad\.ttf: cannot be read as a font: "):
        FontArtist(path).has("1F408")


def test_a_font_without_emoji_is_refused(tmp_path):
    font = with_sbix(font_without_bitmaps())
    font["sbix"].strikes.popitem()  # type: ignore[attr-defined]
    for strike in font["sbix"].strikes.values():  # type: ignore[attr-defined]
        strike.glyphs = {"nothing": Glyph(glyphName="nothing")} | {".notdef": strike.glyphs["heart"]}
    artist = save(font, tmp_path / "a.ttf")
    with pytest.raises(ValueError, match="Test Emoji has no drawing of any emoji"):
        data.load_artist(artist, Preprocess(16))


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"gone\.ttf: no such font file"):
        FontArtist(tmp_path / "gone.ttf").has("1F408")


def test_a_damaged_bitmap_is_named(tmp_path):
    bad = Glyph(glyphName="heart", graphicType="png ", imageData=png("red")[:40])
    artist = save(with_sbix(font_without_bitmaps(), heart=bad), tmp_path / "a.ttf")
    with pytest.raises(ValueError, match="the drawing of 2764 is damaged"):
        artist.draw("2764", 24)


@needs_noto
def test_noto_has_nearly_all_names():
    """3,788 of 3,963 in version 2.042 of the font, of the year 2023."""
    captions = data.emoji_captions(artist=FontArtist(NOTO))
    assert len(captions) >= 3788
    assert captions["1F469-200D-1F692"] == "woman firefighter"
    assert "SIL Open Font License" in FontArtist(NOTO).credit


@needs_noto
def test_a_part_of_noto_draws_the_same(tmp_path):
    """CBDT and CBLC as fontTools writes them."""
    font, subsetter = TTFont(NOTO), Subsetter()
    subsetter.populate(unicodes=[0x1F469, 0x200D, 0x1F692, 0x1F408])
    subsetter.subset(font)
    artist = save(font, tmp_path / "part.ttf")
    for codes in ("1F408", "1F469-200D-1F692"):
        assert artist.draw(codes, 48).tobytes() == FontArtist(NOTO).draw(codes, 48).tobytes()
    assert not artist.has("1F415")
