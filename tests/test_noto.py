"""The sample of sixty pictures by an artist who is never trained on."""

import csv
import importlib.util
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from minclip import data

ROOT = Path(__file__).parents[1] / "lessons" / "noto"
FONT = Path("/usr/share/fonts/truetype/noto/NotoColorEmoji.ttf")


def table() -> list[dict[str, str]]:
    with (ROOT / "noto.csv").open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_the_table_names_sixty_pictures_by_their_cldr_names():
    rows, captions = table(), data.emoji_captions()
    assert len(rows) == len({row["codes"] for row in rows}) == 60
    assert all(captions[row["codes"]] == row["caption"] and data.is_basic(row["codes"]) for row in rows)
    assert {row["image"] for row in rows} == {path.name for path in ROOT.glob("*.png")}
    assert {row["class"] for row in rows} == {"cat", "dog", "horse", "bird", "fish", "other", ""}
    assert {data.emoji_group(row["codes"]) for row in rows if row["class"]} == {"Animals & Nature"}


def test_it_is_a_folder_like_any_other():
    pairs, problems = data.load_folder(ROOT, data.Preprocess(24, trim=True))
    assert problems == []
    assert len(pairs) == len(pairs.origins) == 60


def test_its_licence_lies_beside_it():
    assert "SIL OPEN FONT LICENSE Version 1.1" in (ROOT / "LICENSE").read_text()


@pytest.mark.skipif(not FONT.exists(), reason="Debian's fonts-noto-color-emoji is not installed")
def test_the_rule_chooses_these_and_the_font_draws_them():
    spec = importlib.util.spec_from_file_location("draw", ROOT / "draw.py")
    assert spec
    assert spec.loader
    draw = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(draw)
    noto = data.FontArtist(FONT)
    assert draw.choose(noto) == table()
    for row in table():
        drawn = np.asarray(noto.draw(row["codes"], 72)).astype(int)
        assert abs(drawn - np.asarray(Image.open(ROOT / row["image"]))).max() <= 3
