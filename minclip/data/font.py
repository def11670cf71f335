"""An emoji font as an artist: what fontTools reads of the tables cmap, GSUB and CBDT or sbix.

No text shaper is needed: an emoji is one code point, or a sequence for which the font has a ligature. Fonts without
bitmaps (COLR, SVG) are refused.
"""

import hashlib
import io
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from fontTools.ttLib import TTFont
from PIL import Image

from minclip.images import to_rgb

COPYRIGHT, FAMILY, LICENCE = 0, 1, 13  # numbers in the table of names
LIGATURE, EXTENSION = 4, 7  # types of lookups in GSUB


@dataclass(frozen=True)
class FontArtist:
    """The drawings in an emoji font.

    The file is read when the artist is first asked. Raises FileNotFoundError if there is none, ValueError if it is not
    a font or has no bitmaps.
    """

    path: Path

    @property
    def name(self) -> str:
        return _read(self.path).family

    @property
    def credit(self) -> str:
        return f"Pictures: {_read(self.path).credit}"

    @property
    def version(self) -> str:
        return _read(self.path).digest

    def has(self, codes: str) -> bool:
        return _read(self.path).glyph(codes) is not None

    def draw(self, codes: str, size: int) -> Image.Image:
        font = _read(self.path)
        glyph = font.glyph(codes)
        if glyph is None:
            raise ValueError(f"{font.family} ({self.path}) has no drawing of {codes}")
        try:
            bitmap = Image.open(io.BytesIO(font.bitmaps[glyph])).convert("RGBA")
        except OSError as error:
            raise ValueError(f"{font.family} ({self.path}): the drawing of {codes} is damaged: {error}") from error
        square = Image.new("RGBA", (max(bitmap.size), max(bitmap.size)))
        square.paste(bitmap, ((square.width - bitmap.width) // 2, (square.height - bitmap.height) // 2))
        return to_rgb(square).resize((size, size), Image.Resampling.BICUBIC)


@dataclass(frozen=True)
class _Font:
    family: str
    credit: str
    digest: str
    cmap: Mapping[int, str]  # code point -> glyph
    ligatures: Mapping[tuple[str, ...], str]
    bitmaps: Mapping[str, bytes]  # glyph -> PNG

    def glyph(self, codes: str) -> str | None:
        """The glyph that has a bitmap of this emoji, or None."""
        points = [int(code, 16) for code in codes.split("-") if code != "FE0F"]
        if not all(point in self.cmap for point in points):
            return None
        glyphs = self._join([self.cmap[point] for point in points])
        return glyphs[0] if len(glyphs) == 1 and glyphs[0] in self.bitmaps else None

    def _join(self, glyphs: list[str]) -> list[str]:
        """Replace glyphs by ligatures from left to right, the longest first."""
        joined = []
        while glyphs:
            lengths = range(len(glyphs), 1, -1)
            n = next((n for n in lengths if tuple(glyphs[:n]) in self.ligatures), 1)
            joined.append(self.ligatures.get(tuple(glyphs[:n]), glyphs[0]))
            glyphs = glyphs[n:]
        return joined


@cache
def _read(path: Path) -> _Font:
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such font file")
    content = path.read_bytes()
    try:
        # The first font of a collection (.ttc) is as good as the others.
        font = TTFont(io.BytesIO(content), fontNumber=0, lazy=True)
        family, credit = _names(font)
        bitmaps, ligatures, cmap = _bitmaps(font), _ligatures(font), font.getBestCmap() or {}
    except Exception as error:
        # On damaged files fontTools raises TTLibError, struct.error, AssertionError and others.
        raise ValueError(f"{path}: cannot be read as a font: {error}") from error
    if not bitmaps:
        found = ", ".join(sorted({"COLR", "SVG ", "glyf", "CFF "} & set(font.keys()))) or "neither"
        raise ValueError(f"{path}: {family} has no bitmaps: the table CBDT or sbix is needed, this font has {found}")
    return _Font(family, credit, hashlib.sha256(content).hexdigest()[:12], cmap, ligatures, bitmaps)


def _names(font: TTFont) -> tuple[str, str]:
    """The family, and the credit: family, copyright and the first sentence of the licence."""
    family, copyright, licence = (font["name"].getDebugName(number) or "" for number in (FAMILY, COPYRIGHT, LICENCE))
    parts = [family or "unnamed font", copyright, licence.split(". ")[0]]
    return parts[0], ". ".join(part.strip().removesuffix(".") for part in parts if part)


def _ligatures(font: TTFont) -> dict[tuple[str, ...], str]:
    """Every ligature of every lookup in GSUB: its components and its glyph."""
    lookups = font["GSUB"].table.LookupList.Lookup if "GSUB" in font else []
    tables = [table for lookup in lookups for table in lookup.SubTable]
    tables = [table.ExtSubTable if table.LookupType == EXTENSION else table for table in tables]
    return {
        (first, *ligature.Component): ligature.LigGlyph
        for table in tables
        if table.LookupType == LIGATURE
        for first, ligatures in table.ligatures.items()
        for ligature in ligatures
    }


def _bitmaps(font: TTFont) -> dict[str, bytes]:
    """The largest bitmap of each glyph, as the content of a file, mostly PNG."""
    if "CBDT" in font:
        strikes = zip(font["CBLC"].strikes, font["CBDT"].strikeData, strict=True)
        _, largest = max(strikes, key=lambda pair: pair[0].bitmapSizeTable.ppemX)
        return {name: glyph.imageData for name, glyph in largest.items()}
    if "sbix" in font:
        strikes = font["sbix"].strikes
        glyphs = strikes[max(strikes)].glyphs
        # A glyph may refer to another one, which has the same bitmap.
        same = {name: glyphs[glyph.referenceGlyphName or name] for name, glyph in glyphs.items()}
        return {name: glyph.imageData for name, glyph in same.items() if glyph.imageData}
    return {}
