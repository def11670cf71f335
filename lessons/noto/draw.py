"""Draw the sample of 60 pictures from Noto Color Emoji, and write the table noto.csv beside them.

Usage: python lessons/noto/draw.py NotoColorEmoji.ttf

The rule: every emoji of the five classes of animals below; then, of the other basic emoji, 3 of each group and 6 more
animals, those whose code points have the lowest SHA-256. Nothing was chosen by looking at the answers of a model.
"""

import csv
import hashlib
import sys
from collections.abc import Callable
from pathlib import Path

from minclip.data import FontArtist, emoji_captions, emoji_group, is_basic

HERE, SIZE = Path(__file__).parent, 72
CLASSES = {
    "cat": ["cat", "cat face"],
    "dog": ["dog", "dog face", "guide dog", "service dog", "poodle"],
    "horse": ["horse", "horse face"],
    "bird": [
        "bird", "black bird", "dove", "chicken", "rooster", "hatching chick", "baby chick", "front-facing baby chick",
        "turkey", "eagle", "duck", "goose", "swan", "owl", "peacock", "parrot", "flamingo", "penguin", "dodo",
        "phoenix",
    ],
    "fish": ["fish", "tropical fish", "blowfish", "shark"],
}  # fmt: skip
GROUPS = (
    "Activities", "Food & Drink", "Objects", "People & Body", "Smileys & Emotion", "Symbols", "Travel & Places"
)  # fmt: skip


def choose(artist: FontArtist) -> list[dict[str, str]]:
    """The rows of the table: image, caption, codes, and for animals the class, "other" included."""
    captions = {codes: name for codes, name in emoji_captions(artist=artist).items() if is_basic(codes)}
    class_of = {name: label for label, names in CLASSES.items() for name in names}
    chosen = {codes: class_of[name] for codes, name in captions.items() if name in class_of}
    for group in GROUPS:
        chosen |= dict.fromkeys(_first(captions, 3, lambda codes, group=group: emoji_group(codes) == group), "")
    animals = _first(captions, 6, lambda codes: _is_animal(codes) and codes not in chosen)
    chosen |= dict.fromkeys(animals, "other")
    return [
        {
            "image": captions[codes].replace(" ", "_") + ".png",
            "caption": captions[codes],
            "codes": codes,
            "class": label,
        }
        for codes, label in chosen.items()
    ]


def _is_animal(codes: str) -> bool:
    return emoji_group(codes) == "Animals & Nature" and int(codes.split("-")[0], 16) in range(0x1F400, 0x1F440)


def _first(captions: dict[str, str], n: int, belongs: Callable[[str], bool]) -> list[str]:
    digest = {codes: hashlib.sha256(codes.encode()).hexdigest() for codes in captions if belongs(codes)}
    return sorted(digest, key=digest.__getitem__)[:n]


if __name__ == "__main__":
    noto = FontArtist(Path(sys.argv[1]))
    rows = choose(noto)
    for row in rows:
        noto.draw(row["codes"], SIZE).save(HERE / row["image"], optimize=True)
    with (HERE / "noto.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    print(f"{len(rows)} pictures: {noto.credit}")
