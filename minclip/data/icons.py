"""Icons as further drawings of emoji, in black and by other artists.

They are glyphs of the icon fonts in the package QtAwesome, which is located without importing it, so Qt is not needed.
"""

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import emoji
from PIL import Image, ImageDraw, ImageFont

from minclip.data.artists import code_points, package_folder, versions

PACKAGE, FONTS = "QtAwesome", "qtawesome/fonts"
# Icons with these names show something other than the emoji: a logo, a device, another kind of mask or wave.
MISNAMED = "apple bath cake chart cricket mask moon mouse pound ribbon seal wave wind"


@dataclass(frozen=True)
class IconArtist:
    """The icons of one font whose names are an emoji's name and the suffix `style`: "cat", or "cat-fill"."""

    name: str
    title: str
    licence: str
    font: str
    style: str = ""

    @property
    def credit(self) -> str:
        return f"Pictures: {self.title}, {self.licence}"

    @property
    def version(self) -> str:
        return versions(PACKAGE, "pillow")

    def has(self, codes: str) -> bool:
        return codes in _glyphs(self)

    def draw(self, codes: str, size: int) -> Image.Image:
        if not self.has(codes):
            raise ValueError(f"{self.title} has no icon of {codes}")
        image = Image.new("RGB", (size, size), "white")
        # One glyph needs no text shaper. Some are a quarter wider than the font's size.
        font = ImageFont.truetype(_file(f"{self.font}-[0-9]*.ttf"), size * 2 // 3, layout_engine=ImageFont.Layout.BASIC)
        ImageDraw.Draw(image).text((size / 2, size / 2), _glyphs(self)[codes], "black", font, anchor="mm")
        return image


@cache
def _glyphs(artist: IconArtist) -> dict[str, str]:
    """The glyph of each emoji that has an icon, by its code points. Raises ModuleNotFoundError without the package."""
    icons = json.loads(_file(f"{artist.font}-charmap-*.json").read_text(encoding="utf-8"))
    # Reversed, so that the likeliest of several names has the last word.
    found = {codes: icons[name + artist.style] for name, codes in reversed(_names()) if name + artist.style in icons}
    return {codes: chr(int(glyph, 16)) for codes, glyph in found.items()}


def _file(pattern: str) -> Path:
    """The one file of the package with such a name. Raises FileNotFoundError if its version has none or several."""
    found = list(package_folder(PACKAGE, FONTS).glob(pattern))
    if len(found) != 1:
        raise FileNotFoundError(
            f"{versions(PACKAGE)} has {len(found)} files {pattern}, not one: pip install 'QtAwesome>=1.4,<1.5'"
        )
    return found[0]


@cache
def _names() -> list[tuple[str, str]]:
    """What an icon may be called, and the code points of the emoji that it then shows: the likeliest names first.

    These are the CLDR names, then other names in use, and last the names of faces without the word "face".
    """
    entries = {
        code_points(sequence): entry
        for sequence, entry in emoji.EMOJI_DATA.items()
        if entry["status"] == emoji.STATUS["fully_qualified"]
    }
    own = [(entry["en"], codes) for codes, entry in entries.items()]
    other = [(name, codes) for codes, entry in entries.items() for name in entry.get("alias", ())]
    faces = [(name.replace("_face", ""), codes) for name, codes in own]
    shows: dict[str, str] = {}
    for name, codes in own + other + faces:
        shows.setdefault(name.strip(":").replace("_", "-").lower(), codes)
    # No letters: the icon "v" is not a victory hand.
    return [(name, codes) for name, codes in shows.items() if name not in MISNAMED.split() and len(name) > 1]


ICONS = (
    IconArtist("font-awesome", "Font Awesome Free", "SIL OFL 1.1", "fontawesome6-solid-webfont"),
    IconArtist("material", "Material Design Icons", "Apache-2.0", "materialdesignicons6-webfont"),
    IconArtist("material-outline", "Material Design Icons", "Apache-2.0", "materialdesignicons6-webfont", "-outline"),
    IconArtist("phosphor", "Phosphor Icons", "MIT", "phosphor"),
    IconArtist("phosphor-fill", "Phosphor Icons", "MIT", "phosphor", "-fill"),
    IconArtist("remix", "Remix Icon", "Apache-2.0", "remixicon", "-line"),
    IconArtist("remix-fill", "Remix Icon", "Apache-2.0", "remixicon", "-fill"),
)
