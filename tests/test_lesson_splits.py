"""No lesson measures on a picture that it trained on, nor on nearly the same one."""

import sys
from pathlib import Path

import pytest
import torch

LESSONS = Path(__file__).resolve().parent.parent / "lessons"
sys.path.insert(0, str(LESSONS))

import build  # noqa: E402
from splits import without_twins  # noqa: E402

from minclip.data import Pairs  # noqa: E402

SOURCES = {source.name[:2]: source for source in build.sources()}
# Lesson -> a part of each cell that makes its split, and the names of every (test, train).
SPLITS = {
    "00": (["load_emoji("], [("unseen", "train")]),
    "02": (["load_emoji("], [("unseen", "train")]),
    "07": (["load_emoji(", "ANIMALS = "], [("held_out", "emoji"), ("aside", "taught")]),
    "08": (
        ["load_emoji(", "TESTS = {"],
        [("unseen", "pairs"), ("TESTS['new tone']", "pairs"), ("TESTS['new drawing']", "pairs")],
    ),
    "09": (["load_emoji("], [("unseen", "everything"), ("aside", "train")]),
    "10": (["load_emoji("], [("unseen", "train")]),
    "11": (["load_emoji("], [("unseen", "train"), ("small_unseen", "small_train")]),
    "12": (
        ["load_emoji("],
        [
            ("home_unseen", "home_train"),
            ("away_unseen", "home_train"),
            ("away_unseen", "away_train"),
            ("away_known", "home_train"),
            ("away_known", "labels"),
        ],
    ),
    "13": (["LARGE = "], [("test", "home"), ("test", "away.select(known.tolist())")]),
    "21": (["FOLDER = None", "unlink(", "hold_out(pairs)"], [("held_out", "train")]),
}


def test_every_lesson_that_measures_on_other_pictures_is_here():
    assert set(SPLITS) == {number for number, source in SOURCES.items() if "without_twins(" in source.read_text()}
    keep_a_test_set = {
        number
        for number, source in SOURCES.items()
        if any("load_emoji(" in line and ", _ = " not in line for line in source.read_text().splitlines())
    }
    assert keep_a_test_set <= set(SPLITS)


def variables(number: str, parts: list[str]) -> dict:
    """What the first cell of a lesson and those with one of these parts define."""
    cells = [cell.source for cell in build.read(SOURCES[number]).cells if cell.cell_type == "code"]
    namespace: dict = {}
    for cell in [cells[0], *(cell for cell in cells[1:] if any(part in cell for part in parts))]:
        exec(compile(cell, SOURCES[number].name, "exec"), namespace)
    return namespace


@pytest.mark.parametrize("number", SPLITS)
def test_no_test_picture_was_trained_on_not_even_nearly(number, monkeypatch):
    monkeypatch.chdir(LESSONS)
    parts, names = SPLITS[number]
    with torch.random.fork_rng():
        found = variables(number, parts)
    torch.set_grad_enabled(True)  # which some lessons switch off
    for test, train in names:
        test, train = (eval(name, found).images.flatten(1).float() for name in (test, train))
        assert len(test) > 90
        distances = torch.cdist(test, train) / train.shape[1] ** 0.5  # the root of the mean square, of 255
        assert distances.min() > 2.55, "one percent"


def pairs_of(images: torch.Tensor) -> Pairs:
    names = [str(place) for place in range(len(images))]
    return Pairs(images, names, names, torch.arange(len(images)))  # type: ignore[arg-type]


def test_equal_and_nearly_equal_pictures_are_twins_and_others_are_not():
    picture = torch.randint(0, 256, (3, 24, 24), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    nearly, other, moved = picture.clone(), picture.clone(), picture.roll(1, dims=2)
    nearly[:, 5, 5] ^= 7  # one pixel, a little
    other[:, 4:8, 4:8] = 255 - other[:, 4:8, 4:8]  # as another tone of skin: a small part of another colour
    test = without_twins(pairs_of(torch.stack([picture, nearly, other, moved])), pairs_of(picture[None]))
    assert test.captions == ["2", "3"]
