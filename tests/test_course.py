"""What the reader solved stays, as a module that stands by itself; guesses are sealed; hints come step by step."""

import linecache
import sys
from pathlib import Path

import pytest

LESSONS = Path(__file__).resolve().parent.parent / "lessons"
sys.path.insert(0, str(LESSONS))

import check  # noqa: E402
from check import course, kept  # noqa: E402
from check.verdict import EXERCISES  # noqa: E402


@pytest.fixture(autouse=True)
def mine(tmp_path, monkeypatch):
    """An empty folder for what is solved, and no hint given yet."""
    monkeypatch.setenv("MINCLIP_MINE", str(tmp_path / "mine"))
    monkeypatch.setattr(course, "_given", {})
    return tmp_path / "mine"


def cell(text: str, **notebook) -> dict:
    """Runs a text as a notebook's cell does: in the notebook's names, and with its source to be found."""
    number = len(linecache.cache)
    name = f"<cell {number}>"
    linecache.cache[name] = len(text), None, text.splitlines(keepends=True), name
    notebook.setdefault("__name__", "__main__")
    exec(compile(text, name, "exec"), notebook)
    return notebook


SIMPLE = """
def causal_mask(length):
    return torch.ones(length, length, dtype=torch.bool).tril()
"""
WITH_HELPERS = """
import torch as th
from torch import ones as all_ones
from functools import partial as p

BELOW = 0

def lower(matrix):
    return matrix.tril(BELOW)

def causal_mask(length):
    images = all_ones(length, length, dtype=th.bool)
    return p(lower)(images)
"""


@pytest.mark.parametrize("text", [SIMPLE, WITH_HELPERS], ids=["simple", "with helpers"])
def test_what_is_solved_is_kept_and_used_by_later_lessons(text, mine, capsys):
    import torch

    attempt = cell(text, torch=torch, images=torch.ones(3))["causal_mask"]
    assert check.causal_mask(attempt) is attempt
    assert "kept in mine/causal_mask.py" in capsys.readouterr().out
    again = check.yours("causal_mask")
    assert capsys.readouterr().out == "causal_mask: yours\n"
    assert again is not attempt
    assert torch.equal(again(3), attempt(3))
    assert (mine / "causal_mask.py").read_text().startswith(("import torch", "from torch"))


def test_what_cannot_stand_by_itself_is_solved_but_not_kept(mine, capsys):
    import torch

    text = "def causal_mask(length):\n    return table[:length, :length]\n"
    attempt = cell(text, table=torch.ones(9, 9, dtype=torch.bool).tril())["causal_mask"]
    assert check.causal_mask(attempt) is attempt
    assert "not kept for later lessons: it uses table" in capsys.readouterr().out
    assert not mine.exists()


def test_what_depends_on_the_notebook_in_another_way_is_not_kept(mine, capsys):
    import torch

    text = "def causal_mask(length):\n    return globals()['torch'].ones(length, length, dtype=bool).tril()\n"
    attempt = cell(text.replace("dtype=bool", "dtype=globals()['torch'].bool"), torch=torch)["causal_mask"]
    assert check.causal_mask(attempt) is attempt
    assert "outside of this notebook it does something else" in capsys.readouterr().out
    assert not mine.exists()


def test_a_later_wrong_attempt_leaves_what_was_kept(mine):
    import torch

    check.causal_mask(cell(SIMPLE, torch=torch)["causal_mask"])
    before = (mine / "causal_mask.py").read_bytes()
    check.causal_mask(cell(SIMPLE.replace("tril", "triu"), torch=torch)["causal_mask"])
    assert (mine / "causal_mask.py").read_bytes() == before


def test_a_class_is_kept_as_a_function_is(mine):
    from torch import nn

    text = "class Doubling(nn.Module):\n    def forward(self, x):\n        return 2 * x\n"
    kept.keep("Doubling", cell(text, nn=nn)["Doubling"], lambda doubling: doubling()(3) == 6)
    assert kept.load("Doubling", mine / "Doubling.py")()(4) == 8


def test_a_kept_file_that_was_broken_by_hand_gives_way_to_ours(mine, capsys):
    mine.mkdir()
    (mine / "causal_mask.py").write_text("def causal_mask(length) return")
    assert check.yours("causal_mask") is EXERCISES["causal_mask"].solution("causal_mask")
    assert "ours (mine/causal_mask.py raised" in capsys.readouterr().out


def test_the_map_shows_what_is_solved(capsys):
    import torch

    check.causal_mask(cell(SIMPLE, torch=torch)["causal_mask"])
    capsys.readouterr()
    check.progress()
    shown = capsys.readouterr().out
    assert "✓ causal_mask" in shown
    assert "· pool_at_end" in shown
    assert f"1 of {len(EXERCISES)} are yours" in shown


def test_hints_come_one_by_one_and_begin_anew(capsys):
    for name, exercise in EXERCISES.items():
        said = []
        for _ in range(len(exercise.steps) + 1):
            check.hint(name)
            said.append(capsys.readouterr().out)
        assert said[0] == said[-1]
        assert len(set(said)) == len(exercise.steps)
    check.hint("causal_musk")
    assert "causal_mask" in capsys.readouterr().out


def test_a_guess_is_sealed_and_scored_once(capsys):
    check.predict("batch of 64", 50)
    check.predict("batch of 64", 70)  # the first one counts
    check.reveal("batch of 64", 71.2, within=5)
    assert capsys.readouterr().out.splitlines()[-1] == "batch of 64: 71.2; your guess: 50. ✘ (0 of 1 so far)"
    check.predict("batch of 64", 71.2)
    check.reveal("batch of 64", 71.2, within=5)
    check.predict("who wins", "accumulation", options=("accumulation", "caching"))
    check.reveal("who wins", "accumulation")
    assert "(1 of 2 so far)" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("guess", "options", "said"),
    [
        (None, (), "Write a number"),
        (None, ("a", "b"), "Write 'a' or 'b'"),
        ("c", ("a", "b"), "'c' is none of"),
        ("many", (), "is not a number"),
    ],
)
def test_what_is_no_guess_is_not_sealed_and_the_lesson_goes_on(guess, options, said, capsys):
    check.predict("q", guess, options)
    assert said in capsys.readouterr().out
    check.reveal("q", 3.0)
    assert capsys.readouterr().out == "q: 3 (you made no guess)\n"
