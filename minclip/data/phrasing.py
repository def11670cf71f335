"""Other phrasings of a caption, so that a model understands more than the bare names that it was shown.

The keywords are those of the package `em-keyboard` (emojilib, MIT): English, for emoji without a skin tone.
"""

import importlib.util
import json
import random
from collections.abc import Collection, Sequence
from functools import cache
from pathlib import Path

from minclip.data.artists import code_points
from minclip.prompts import fill_templates

TEMPLATES = {
    "ar": ("صورة {}", "رسم {}"),
    "de": ("ein Bild: {}", "eine Zeichnung: {}", "hier ist {}", "Emoji: {}"),
    "en": (
        "a {}", "the {}", "my {}", "some {}", "one {}", "this is a {}", "there is a {}", "someone with a {}",
        "a picture of a {}", "a drawing of a {}", "an icon of a {}", "an image of {}", "the emoji for {}", "{} emoji",
        "{} picture", "show me a {}",
    ),
    "es": ("una imagen: {}", "un dibujo: {}", "esto es {}", "emoji: {}"),
    "fa": ("تصویر {}", "نقاشی {}"),
    "fr": ("une image : {}", "un dessin : {}", "voici {}", "émoji : {}"),
    "id": ("gambar {}", "ini {}", "sebuah gambar {}", "emoji {}"),
    "it": ("un'immagine: {}", "un disegno: {}", "ecco {}", "emoji: {}"),
    "ja": ("{}の絵", "{}の画像", "これは{}です", "{}の絵文字"),
    "ko": ("{} 그림", "{} 이미지", "이것은 {}", "{} 이모티콘"),
    "pt": ("uma imagem: {}", "um desenho: {}", "isto é {}", "emoji: {}"),
    "ru": ("картинка: {}", "рисунок: {}", "это {}", "эмодзи: {}"),
    "tr": ("{} resmi", "{} çizimi", "bu {}", "{} emojisi"),
    "zh": ("一张{}的图片", "{}的图片", "{}的图", "这是{}", "一个{}", "{}表情", "画着{}", "我的{}"),
}  # fmt: skip


def phrasings(
    captions: Sequence[str], codes: Sequence[str], language: str, count: int, never: Collection[str] = ()
) -> list[list[str]]:
    """`count` phrasings of each caption, the first of which is the caption itself: count lists of N texts.

    `codes` are the code points of the emoji that each caption names; `never` are captions of a test set, which no
    text may repeat. The same arguments give the same texts.
    """
    chance, never = random.Random(0), frozenset(never)
    known = keywords() if language == "en" else {}
    templates = ("{}", *TEMPLATES[language])

    def say(caption: str, code: str) -> str:
        words = _other_words(caption, known.get(code, ()), chance)
        return fill_templates([caption if words in never else words], [chance.choice(templates)])[0]

    said = [[say(*pair) for pair in zip(captions, codes, strict=True)] for _ in range(count - 1)]
    return [list(captions), *said]


def _other_words(caption: str, keywords: Sequence[str], chance: random.Random) -> str:
    """One or two keywords, some of the caption's words in any order, or the caption."""
    words = caption.split()
    if keywords and chance.random() < 0.5:
        return " ".join(chance.sample(keywords, min(len(keywords), chance.choice((1, 1, 2)))))
    if len(words) > 1 and chance.random() < 0.4:
        return " ".join(chance.sample(words, len(words) - chance.choice((0, 0, 1))))
    return caption


@cache
def keywords() -> dict[str, tuple[str, ...]]:
    """English keywords by code points: `keywords()["1F408"]` has "meow" and "pet"."""
    spec = importlib.util.find_spec("em")
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(
            "the package em-keyboard, which has the keywords, is missing: pip install em-keyboard"
        )
    table = json.loads((Path(spec.origin).parent / "emojis.json").read_text(encoding="utf-8"))
    return {code_points(sequence): tuple(word.replace("_", " ") for word in words) for sequence, words in table.items()}
