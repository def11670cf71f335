"""Other right answers to lesson 16 are accepted, and the stepper shows what a program does."""

import importlib.util
import os
import sys
from pathlib import Path

import matplotlib.pyplot as plt
import pytest
import torch

LESSONS = Path(__file__).resolve().parent.parent / "lessons"
sys.path[:0] = [str(LESSONS), str(Path(__file__).parent)]

import check  # noqa: E402
from check import stepper  # noqa: E402
from check.interpreter import Touch  # noqa: E402
from mistakes import load  # noqa: E402

needs_interpreter = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None or os.environ.get("TRITON_INTERPRET") != "1",
    reason="needs Triton's interpreter in this process",
)
HEADER = "import triton\nimport triton.language as tl\n\n\n@triton.jit\n"
RIGHT = {
    "diagonal_kernel": """
def diagonal_kernel(x, out, N, M, BLOCK_N: tl.constexpr, BLOCK_M: tl.constexpr):
    columns = tl.program_id(1) * BLOCK_M + tl.arange(0, BLOCK_M)
    first = tl.program_id(0) * BLOCK_N
    mine = (columns >= first) & (columns < first + BLOCK_N) & (columns < N)
    tl.store(out + columns, tl.load(x + columns * (M + 1), mask=mine, other=0.0), mask=mine)
""",
    "row_maximum_kernel": """
def row_maximum_kernel(x, out, D, BLOCK: tl.constexpr):
    best = tl.full((BLOCK,), -float("inf"), tl.float32)
    for start in range(0, D, BLOCK):
        k = start + tl.arange(0, BLOCK)
        best = tl.maximum(best, tl.load(x + tl.program_id(0) * D + k, mask=k < D, other=-3e38))
    tl.store(out + tl.program_id(0), tl.max(best, axis=0))
""",
    "transpose_kernel": """
def transpose_kernel(x, out, N, D, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr):
    i = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    k = tl.program_id(1) * BLOCK_D + tl.arange(0, BLOCK_D)
    tile = tl.load(x + i[None, :] * D + k[:, None], mask=(i < N)[None, :] & (k < D)[:, None], other=1.0)
    tl.store(out + k[:, None] * N + i[None, :], tile, mask=(i < N)[None, :] & (k < D)[:, None])
""",
    "row_lse_kernel": """
def row_lse_kernel(x, out, N, D, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr):
    rows, k = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N), tl.arange(0, BLOCK_D)
    inside = (rows < N)[:, None] & (k < D)[None, :]
    tile = tl.load(x + rows[:, None] * D + k[None, :], mask=inside, other=0.0)
    top = tl.max(tl.where(inside, tile, -3e38), axis=1)
    sums = tl.sum(tl.where(inside, tl.exp(tile - top[:, None]), 0.0), axis=1)
    tl.store(out + rows, tl.log(sums) + top, mask=rows < N)
""",
}


@needs_interpreter
@pytest.mark.parametrize("name", RIGHT)
def test_another_right_answer_is_accepted(name, capsys, tmp_path):
    attempt = getattr(load(HEADER + RIGHT[name].lstrip(), tmp_path / "right.py"), name)
    assert getattr(check, name)(attempt) is attempt
    assert capsys.readouterr().out.startswith("✓")


@needs_interpreter
def test_the_log_has_the_tile_and_its_mask():
    from solutions.lesson_16 import transpose_kernel

    N, D = 6, 7
    x, out = check.fenced(torch.arange(float(N * D)).view(N, D)), check.fenced(torch.empty(D, N))
    touches = check.launch(transpose_kernel, (2, 2), x, out, N, D, BLOCK_N=4, BLOCK_D=4)
    read, written = (touch for touch in touches if touch.program == (1, 1))
    assert (read.verb, read.name, written.verb, written.name) == ("reads", "x", "writes", "out")
    for touch in (read, written):
        assert touch.tile.shape == (4, 4)
        assert torch.equal(touch.tile >= 0, torch.tensor([[1, 1, 1, 0]] * 2 + [[0] * 4] * 2).bool())
        assert torch.equal(touch.tile[touch.tile >= 0], touch.places)
    inside = read.tile >= 0
    assert torch.equal(out.view(-1)[written.tile[inside]], x.view(-1)[read.tile[inside]])


STEPS = [
    Touch((0,), "reads", "x", torch.tensor([0, 1]), torch.tensor([0, 1, -1])),
    Touch((1,), "reads", "x", torch.tensor([2]), torch.tensor([2, -1, -1])),
    Touch((0,), "writes", "out", torch.tensor([0]), torch.tensor(0)),
]


def test_the_strip_has_a_column_for_each_step_of_the_program(monkeypatch, capsys):
    monkeypatch.setattr(stepper.importlib.util, "find_spec", lambda name: None)
    check.step_through(STEPS, (0,), x=torch.zeros(3), out=torch.zeros(2))
    axes = plt.gcf().axes
    assert [a.get_title() for a in axes[:2]] == ["step 0: reads x", "step 1: writes out"]
    assert [text.get_text() for text in axes[2].texts] == ["0", "1", "no"]
    plt.close("all")
    assert "2 of 3 loads and stores" in capsys.readouterr().out


def test_the_slider_draws_one_step_at_a_time(monkeypatch):
    shown = []

    class Widgets:
        @staticmethod
        def interact(show, step):
            for k in range(step[0], step[1] + 1):
                show(k)

        @staticmethod
        def IntSlider(value, least, most):
            return least, most

    monkeypatch.setattr(stepper.importlib.util, "find_spec", lambda name: "found")
    monkeypatch.setattr(stepper.importlib, "import_module", lambda name: Widgets)
    monkeypatch.setattr(stepper.plt, "show", lambda: shown.append([a.get_title() for a in plt.gcf().axes]))
    check.step_through(STEPS, (0,), x=torch.zeros(3), out=torch.zeros(2))
    plt.close("all")
    assert shown == [["step 0: reads x", ""], ["step 1: writes out", ""]]
