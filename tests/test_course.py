"""What the reader solved stays, as a module that stands by itself; guesses are sealed; hints come step by step."""

import linecache
import sys
from collections import OrderedDict
from pathlib import Path

import pytest
import torch.nn.functional as F

LESSONS = Path(__file__).resolve().parent.parent / "lessons"
sys.path.insert(0, str(LESSONS))

import check  # noqa: E402
from check import cases, course, kept  # noqa: E402
from check.verdict import EXERCISES, Wrong  # noqa: E402


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
def causal_weights(scores):
    return scores.masked_fill(torch.ones_like(scores).triu(1) == 1, -torch.inf).softmax(-1)
"""
WITH_HELPERS = """
import torch as th
from torch import ones as all_ones
from functools import partial as p

ABOVE = 1

def upper(matrix):
    return matrix.triu(ABOVE)

def causal_weights(scores):
    images = all_ones(scores.shape, dtype=th.bool)
    return scores.masked_fill(p(upper)(images), -th.inf).softmax(-1)
"""


@pytest.mark.parametrize("text", [SIMPLE, WITH_HELPERS], ids=["simple", "with helpers"])
def test_what_is_solved_is_kept_and_used_by_later_lessons(text, mine, capsys):
    import torch

    attempt = cell(text, torch=torch, images=torch.ones(3))["causal_weights"]
    assert check.causal_weights(attempt) is attempt
    assert "kept in mine/causal_weights.py" in capsys.readouterr().out
    again = check.yours("causal_weights")
    assert capsys.readouterr().out == "causal_weights: yours\n"
    assert again is not attempt
    scores = torch.randn(3, 3)
    assert torch.equal(again(scores), attempt(scores))
    assert (mine / "causal_weights.py").read_text().startswith(("import torch", "from torch"))


def test_what_cannot_stand_by_itself_is_solved_but_not_kept(mine, capsys):
    import torch

    text = (
        "def causal_weights(scores):\n    return (scores + table[: scores.shape[-1], : scores.shape[-1]]).softmax(-1)\n"
    )
    attempt = cell(text, table=torch.full((9, 9), -torch.inf).triu(1))["causal_weights"]
    assert check.causal_weights(attempt) is attempt
    assert "not kept for later lessons: it uses table" in capsys.readouterr().out
    assert not mine.exists()


def test_what_depends_on_the_notebook_in_another_way_is_not_kept(mine, capsys):
    import torch

    text = SIMPLE.replace("-torch.inf", "-globals()['torch'].inf").replace("torch.ones", "globals()['torch'].ones")
    attempt = cell(text, torch=torch)["causal_weights"]
    assert check.causal_weights(attempt) is attempt
    assert "outside of this notebook it does something else" in capsys.readouterr().out
    assert not mine.exists()


def test_of_two_attempts_in_one_cell_the_last_is_kept(mine):
    import torch

    attempt = cell(SIMPLE.replace("triu", "tril") + SIMPLE, torch=torch)["causal_weights"]
    assert check.causal_weights(attempt) is attempt
    assert kept.is_kept("causal_weights")


MUTUAL = """
def odd(n):
    return n > 0 and even(n - 1)

def even(n):
    return n == 0 or odd(n - 1)
"""


def test_helpers_that_call_each_other_are_not_kept_and_the_lesson_goes_on(mine):
    assert "call each other" in kept.keep("even", cell(MUTUAL)["even"], lambda even: even(4))
    assert not mine.exists()


def test_a_folder_that_cannot_be_written_to_does_not_stop_a_lesson(mine):
    mine.write_text("a file")
    assert "not kept for later lessons" in kept.keep("odd", cell("def odd(n):\n    return n % 2\n")["odd"], bool)


def test_a_guess_that_cannot_be_kept_does_not_stop_a_lesson(mine, capsys):
    mine.write_text("a file")
    check.predict("q", 3.0)
    check.reveal("q", 3.0)
    assert "this guess cannot be kept" in capsys.readouterr().out


def test_a_missing_return_is_named_whatever_the_hint_of_the_exercise():
    with pytest.raises(Wrong) as wrong:
        cases.expect(None, 1.0, hint="divide by N")
    assert "`return`" in str(wrong.value.hint)


def test_damaged_guesses_do_not_stop_a_lesson(mine, capsys):
    mine.mkdir()
    (mine / "predictions.json").write_text("{")
    check.reveal("q", 3.0)
    assert "you made no guess" in capsys.readouterr().out


def test_a_later_wrong_attempt_leaves_what_was_kept(mine):
    import torch

    check.causal_weights(cell(SIMPLE, torch=torch)["causal_weights"])
    before = (mine / "causal_weights.py").read_bytes()
    check.causal_weights(cell(SIMPLE.replace("triu", "tril"), torch=torch)["causal_weights"])
    assert (mine / "causal_weights.py").read_bytes() == before


def test_a_class_is_kept_as_a_function_is(mine):
    from torch import nn

    text = "class Doubling(nn.Module):\n    def forward(self, x):\n        return 2 * x\n"
    kept.keep("Doubling", cell(text, nn=nn)["Doubling"], lambda doubling: doubling()(3) == 6)
    assert kept.load("Doubling", mine / "Doubling.py")()(4) == 8


def test_a_block_is_kept_with_the_attention_that_it_uses(capsys):
    import torch
    from torch import nn

    solution = (LESSONS / "solutions" / "lesson_06.py").read_text()
    notebook = cell(
        solution[solution.index("def causal_weights") :],
        OrderedDict=OrderedDict,
        torch=torch,
        nn=nn,
        F=F,
        Tensor=torch.Tensor,
    )
    assert check.Block(notebook["Block"]) is notebook["Block"]
    assert "kept in mine/Block.py" in capsys.readouterr().out
    block = check.yours("Block")(8, 2, True)
    assert capsys.readouterr().out == "Block: yours\n"
    assert type(block.attn).__module__ == "mine_Block"


def test_a_kept_file_that_was_broken_by_hand_gives_way_to_ours(mine, capsys):
    mine.mkdir()
    (mine / "causal_weights.py").write_text("def causal_weights(scores) return")
    assert check.yours("causal_weights") is EXERCISES["causal_weights"].solution("causal_weights")
    assert "ours (mine/causal_weights.py raised" in capsys.readouterr().out


def test_the_map_shows_what_is_solved(capsys):
    import torch

    check.causal_weights(cell(SIMPLE, torch=torch)["causal_weights"])
    capsys.readouterr()
    check.progress()
    shown = capsys.readouterr().out
    assert "✓ causal_weights" in shown
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
    check.hint("causal_weihgts")
    assert "causal_weights" in capsys.readouterr().out


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
