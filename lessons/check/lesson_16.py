"""The checks of lesson 16, A first Triton kernel: eight puzzles, on ragged sizes and in fenced memory."""

from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor

from check.cases import expect
from check.interpreter import Touch, fenced, launch, numbers
from check.verdict import Wrong, exercise

UNWRITTEN = "the NaN was there before: this element was never written. Which elements does program k own?"
UNDEFINED = (
    "−∞ − (−∞) is NaN: beyond the edge a row's maximum is −∞. Measure rows from the maximum of the row, "
    "and columns from that of the column"
)
TRANSPOSED = (
    "the NaN was there before: this element was never written. Element [i, j] of x goes to place j · N + i of out"
)


def empty(*shape: int) -> Tensor:
    return fenced(torch.full(shape, torch.nan))


def blocks(size: int, block: int) -> int:
    return -(-size // block)


def compare(
    got: Tensor, wanted: Tensor, mistakes: list[tuple[Tensor, str]], unwritten: str = UNWRITTEN, **case: Any
) -> None:
    """Compares as `expect` does, with the hint for a mistake that gives the same numbers, or for unwritten elements."""
    fitting = [
        hint for result, hint in mistakes if result.shape == got.shape and torch.allclose(got, result, 1e-4, 1e-3)
    ]
    fitting += [unwritten] * int(bool((got.isnan() & ~wanted.isnan()).any()))
    expect(got, wanted, hint=next(iter(fitting), ""), **case)


@exercise(
    "program k has the elements k · BLOCK … k · BLOCK + BLOCK − 1, and of these only those below N.",
    cases=10,
    steps=(
        "which places does program 2 have, if BLOCK is 4?",
        "places = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK): what is the mask that belongs to them?",
        "load x and y with mask=places < N, other=0.0; store their sum with the same mask.",
    ),
)
def add_kernel(attempt, draw):
    N = draw(st.sampled_from([6, 4, 1, 9]))
    x, y, out = numbers(draw, 1, N)[0], numbers(draw, 1, N)[0] + 1, empty(N)
    x, y = fenced(x), fenced(y)
    launch(attempt, (blocks(N, 4),), x, y, out, N, BLOCK=4)
    compare(out, x + y, [], N=N, BLOCK=4, x=x, y=y)


@exercise(
    "element [i, j] of x is at place i · D + j; in out it is [j, i], and a row of out has N elements.",
    cases=15,
    steps=(
        "at which place of out does element [i, j] of x belong?",
        "a tile of addresses may grow in steps of N to the right, and in steps of 1 downwards.",
        "load from x + rows[:, None] * D + columns[None, :], store the same tile to out + columns[None, :] * N + "
        "rows[:, None]; one mask serves both.",
    ),
)
def transpose_kernel(attempt, draw):
    N, D = draw(st.sampled_from([6, 3, 1, 9])), draw(st.sampled_from([5, 9, 8, 1, 11]))
    x, out = fenced(torch.arange(float(N * D)).view(N, D)), empty(D, N)
    launch(attempt, (blocks(N, 4), blocks(D, 8)), x, out, N, D, BLOCK_N=4, BLOCK_D=8)
    mistakes = [(x.reshape(D, N), "that is x in its old order: element [i, j] goes to place j · N + i of out")]
    compare(out, x.T, mistakes, TRANSPOSED, N=N, D=D, BLOCK_N=4, BLOCK_D=8, x=x)


@exercise(
    "the load ends at N and at D, the store at N; what can stand elsewhere without changing a sum?",
    cases=15,
    steps=(
        "which rows does program k have? And which columns?",
        "inside = (rows < N)[:, None] & (columns < D)[None, :]; what must `other` be, so that a sum stays right?",
        "tile = tl.load(x + rows[:, None] * D + columns[None, :], mask=inside, other=0.0); then "
        "tl.store(out + rows, tl.sum(tile * tile, axis=1), mask=rows < N).",
    ),
)
def squared_lengths_kernel(attempt, draw):
    N, D = draw(st.sampled_from([5, 3, 1, 9])), draw(st.sampled_from([3, 5, 8, 1]))
    x, out = numbers(draw, N, D), empty(N)
    launch(attempt, (blocks(N, 4),), x, out, N, D, BLOCK_N=4, BLOCK_D=16)
    mistakes = [
        (x.sum(dim=1), "that is the sum of the elements, not of their squares"),
        ((x * x).sum(dim=1).sqrt(), "that is the length; its square is asked for"),
    ]
    compare(out, (x * x).sum(dim=1), mistakes, N=N, D=D, BLOCK_N=4, BLOCK_D=16, x=x)


@exercise(
    "start with the maximum of nothing, and let every piece of the row raise it; masked elements must not raise it.",
    cases=15,
    steps=(
        "what is the maximum of no numbers at all?",
        "for start in range(0, D, BLOCK): which columns are in this piece, and which of them exist?",
        "piece = tl.load(x + row * D + columns, mask=columns < D, other=-float('inf')); "
        "largest = tl.maximum(largest, tl.max(piece, axis=0)).",
    ),
)
def row_maximum_kernel(attempt, draw):
    N, D = draw(st.sampled_from([3, 2, 1])), draw(st.sampled_from([6, 11, 3, 4]))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 9)))
    x = fenced(torch.stack([torch.randperm(D, generator=generator) for _ in range(N)]) - 1.0 * D)  # all negative
    out = empty(N)
    launch(attempt, (N,), x, out, D, BLOCK=4)
    first, last = x[:, :4].amax(dim=1), x[:, (D - 1) // 4 * 4 :].amax(dim=1)
    zero = "zero is larger than every number of a negative row: what do you begin with, and what is `other`?"
    mistakes = [
        (x.amax(dim=1).clamp(min=0), zero),
        (first, "that is the maximum of the first piece: the row goes on to D"),
        (last, "that is the maximum of the last piece: compare each piece with the largest so far"),
    ]
    compare(out, x.amax(dim=1), mistakes, D=D, BLOCK=4, x=x)


def logits(draw: Any, N: int, M: int) -> Tensor:
    """Random logits in fenced memory, sometimes so large that exp overflows, or so small that it vanishes."""
    generator = torch.Generator().manual_seed(draw(st.integers(0, 9)))
    shift = draw(st.sampled_from([200.0, 0.0, -200.0]))
    return fenced(torch.randn(N, M, generator=generator) + shift)


def without_maximum(x: Tensor, axis: int) -> Tensor:
    return x.exp().sum(dim=axis).log()


FAR = "exp(200) overflows float32 and exp(−200) is 0: subtract the largest first, and add it back at the end"


@exercise(
    "largest + log of the sum of exp(x − largest), row by row; where the mask says no, exp must give 0.",
    cases=15,
    steps=(
        "lesson 15: what is subtracted before exp, and added back at the end?",
        "tl.max(tile, axis=1) has one number for each row; [:, None] makes a column of it. Which `other` has exp = 0?",
        "tile = tl.load(…, other=-float('inf')); largest = tl.max(tile, axis=1); "
        "largest + tl.log(tl.sum(tl.exp(tile - largest[:, None]), axis=1)).",
    ),
)
def row_lse_kernel(attempt, draw):
    N, D = draw(st.sampled_from([5, 3, 1])), draw(st.sampled_from([3, 6, 8, 1]))
    x, out = logits(draw, N, D), empty(N)
    launch(attempt, (blocks(N, 4),), x, out, N, D, BLOCK_N=4, BLOCK_D=8)
    padded = torch.cat([x, torch.zeros(N, 8 - D)], dim=1)
    mistakes = [
        (without_maximum(x, 1), FAR),
        (
            padded.logsumexp(dim=1),
            "exp(0) is 1, so every masked element counts: which `other` has an exponential of 0?",
        ),
        (x.logsumexp(dim=1) - x.amax(dim=1), "the largest was subtracted; it must be added back at the end"),
    ]
    compare(out, x.logsumexp(dim=1), mistakes, N=N, D=D, BLOCK_N=4, BLOCK_D=8, x=x)


@exercise(
    "reduce one tile twice: over axis 1 for its rows, over axis 0 for its columns; each program has lines of its own.",
    cases=12,
    steps=(
        "program (i, j) has one tile. How many log-sum-exps does it need for its rows, and how many for its columns?",
        "two programs side by side have the same rows: line j of row_lse belongs to program (i, j).",
        "row_lse + j * N + rows with mask=rows < N; column_lse + i * M + columns with mask=columns < M.",
    ),
)
def tile_lse_kernel(attempt, draw):
    N, M = draw(st.sampled_from([6, 5, 1, 3])), draw(st.sampled_from([11, 9, 3, 8]))
    x, grid = logits(draw, N, M), (blocks(N, 4), blocks(M, 8))
    row_lse, column_lse = empty(grid[1], N), empty(grid[0], M)
    touches = launch(attempt, grid, x, row_lse, column_lse, N, M, BLOCK_N=4, BLOCK_M=8)
    by_row = [part.logsumexp(dim=1) for part in x.split(8, dim=1)]
    by_column = [part.logsumexp(dim=0) for part in x.split(4)]
    bare = [without_maximum(part, 1) for part in x.split(8, dim=1)], [without_maximum(part, 0) for part in x.split(4)]
    line = "the NaN was there before. Program (i, j) writes to line j of row_lse and to line i of column_lse"
    case = {"N": N, "M": M, "BLOCK_N": 4, "BLOCK_M": 8, "x": x}
    for name, got, wanted, far in (
        ("row_lse", row_lse, torch.stack(by_row), torch.stack(bare[0])),
        ("column_lse", column_lse, torch.stack(by_column), torch.stack(bare[1])),
    ):
        written = {place for touch in touches if touch.name == name for place in touch.places.tolist()}
        if len(written) < got.numel():
            raise Wrong(f"{name} has elements that were not written, for N = {N}, M = {M}", line)
        if got.isnan().any():
            raise Wrong(f"{name} has elements that are NaN, for N = {N}, M = {M}", UNDEFINED)
        compare(got, wanted, [(far, FAR)], of=name, **case)


@exercise(
    "most tiles have no element of the diagonal, and must write nothing; compare row numbers with column numbers.",
    cases=15,
    steps=(
        "which elements of the tile lie on the diagonal of the *matrix*?",
        "rows[:, None] == columns[None, :] is true there. A sum over a row that is 0 everywhere else picks one number.",
        "tl.sum(tl.where(rows[:, None] == columns[None, :], tile, 0.0), axis=1); and the store's mask also asks "
        "whether the row's own number is among the tile's columns: rows >= j * BLOCK_M and rows < (j + 1) * BLOCK_M.",
    ),
)
def diagonal_kernel(attempt, draw):
    N = draw(st.sampled_from([6, 9, 3, 1]))
    M = N + draw(st.sampled_from([3, 0, 6]))
    x, out = numbers(draw, N, M), empty(N)
    x[N - 1, N - 1] = draw(st.sampled_from([1.0, 0.0]))
    touches = launch(attempt, (blocks(N, 4), blocks(M, 2)), x, out, N, M, BLOCK_N=4, BLOCK_M=2)
    _each_once(touches, N)
    zero = (
        "the NaN was there before: this element was never written. A zero on the diagonal counts as well: ask where an "
        "element is, not what it is"
    )
    unwritten = zero if x[N - 1, N - 1] == 0 and not out[: N - 1].isnan().any() else UNWRITTEN
    compare(out, x.diagonal(), [], unwritten, N=N, M=M, BLOCK_N=4, BLOCK_M=2, x=x)


def _each_once(touches: list[Touch], size: int) -> None:
    """Raises Wrong if several programs write the same element of out."""
    writers: list[tuple[int, ...] | None] = [None] * size
    for touch in touches:
        for place in touch.places.tolist() if touch.verb == "writes" else []:
            if writers[place] is not None:
                problem = f"programs {writers[place]} and {touch.program} both write out[{place}]"
                hint = "on a GPU the last one wins, whichever that is: only the program whose tile has it may write"
                raise Wrong(problem, hint)
            writers[place] = touch.program


@exercise(
    "the rows of x end at N, the rows of y at M, the features of both at D; feature k of text c is at place c · D + k.",
    cases=15,
    steps=(
        "which rows of x and which rows of y does program (i, j) need?",
        "in each step, a is (BLOCK_N, BLOCK_D) of x; b is (BLOCK_D, BLOCK_M) of y: features downwards. Each has a mask "
        "with two conditions.",
        "ks = start + tl.arange(0, BLOCK_D); b = tl.load(y + columns[None, :] * D + ks[:, None], "
        "mask=(columns < M)[None, :] & (ks < D)[:, None], other=0.0).",
    ),
)
def product_kernel(attempt, draw):
    N, M, D = draw(st.sampled_from([5, 3, 1, 9])), draw(st.sampled_from([9, 3, 1, 8])), draw(st.sampled_from([6, 3, 9]))
    x, y, out = numbers(draw, N, D), numbers(draw, M, D), empty(N, M)
    sizes: dict[str, Any] = {"BLOCK_N": 4, "BLOCK_M": 8, "BLOCK_D": 4}
    launch(attempt, (blocks(N, 4), blocks(M, 8)), x, y, out, N, M, D, **sizes)
    first, last = slice(0, 4), slice((D - 1) // 4 * 4, D)
    mistakes = [
        (x[:, first] @ y[:, first].T, "that is the first step only: the features go on to D"),
        (x[:, last] @ y[:, last].T, "that is the last step only: each step is added to the tile so far"),
    ]
    compare(out, x @ y.T, mistakes, N=N, M=M, D=D, **sizes, x=x, y=y)
