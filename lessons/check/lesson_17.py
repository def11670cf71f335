"""The checks of lesson 17, The fused loss."""

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from hypothesis import strategies as st
from torch import Tensor

from check.cases import expect, given
from check.interpreter import fenced, launch
from check.verdict import Wrong, exercise

LN_2 = math.log(2)


@exercise("log(1 + exp(t)) has a name of its own: look among the activations in torch.nn.functional.")
def loss_from_others(attempt, draw):
    ahead = draw(st.lists(st.integers(-100, 70), min_size=1, max_size=3))
    others = torch.tensor([float(draw(st.integers(-100, 100))) for _ in ahead])
    pairs = others + torch.tensor(ahead)
    got, wanted = attempt(others, pairs), torch.log1p((others - pairs).double().exp())
    expect(got, wanted.float(), others=others, pairs=pairs)
    wrong = ((got.double() - wanted).abs() > 1e-5 * wanted).nonzero()
    if len(wrong):
        k = int(wrong[0])
        case = f"others = {others[k].item():g}, pair = {pairs[k].item():g}"
        raise Wrong(f"it returned {got[k].item():.6g}, expected {wanted[k].item():.6g}, for {case}")


def unit_features(draw: Callable[..., Any], rows: int = 0) -> tuple[Tensor, Tensor, float]:
    """Features (N, D) of length one, in fenced memory, and a scale; at the highest scale in opposite cones.

    There every logit is far below zero, and what stands beyond the edge, zero, would be the largest by far.
    """
    rows, width = rows or draw(st.integers(1, 9)), draw(st.integers(1, 9))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 9)))
    x, y = F.normalize(torch.randn(2, rows, width, generator=generator), dim=2)
    scale = draw(st.sampled_from([1.0, 20.0, 300.0]))
    return (fenced(x.abs()), fenced(-y.abs()), scale) if scale == 300 else (fenced(x), fenced(y), scale)


def unwritten(*shape: int) -> Tensor:
    return fenced(torch.full(shape, torch.nan))


@exercise("which elements must not count? And what is the largest of a row where none is left?", 12)
def sums_kernel(attempt, draw):
    x, y, scale = unit_features(draw)
    N, D = x.shape
    blocks = -(-N // 4)
    row_lse, column_lse = unwritten(blocks, N), unwritten(blocks, N)
    launch(attempt, (blocks, blocks), x, y, row_lse, column_lse, scale, N, D, BLOCK=4, BLOCK_D=4)
    logits = scale * (x @ y.T).double()
    logits.fill_diagonal_(-torch.inf)
    tiles = range(0, N, 4)
    by_row = torch.stack([(logits[:, k : k + 4] * LN_2).logsumexp(dim=1) for k in tiles]) / LN_2
    by_column = torch.stack([(logits[k : k + 4] * LN_2).logsumexp(dim=0) for k in tiles]) / LN_2
    for name, got, wanted in (("row_lse", row_lse, by_row), ("column_lse", column_lse, by_column)):
        _compare(name, got, wanted, {"N": N, "D": D, "BLOCK": 4, "scale": scale})


@exercise("the first row of a launch is number `first`; beyond last and N nothing counts, in the moment too.", 2)
def coefficients_kernel(attempt, draw):
    for N, first, last in ((1, 0, 1), (3, 0, 3), (5, 0, 5), (5, 3, 4), (9, 4, 9), (9, 1, 8), (13, 2, 7)):
        _check_coefficients(attempt, *unit_features(draw, N), first, last)


def _check_coefficients(attempt: Any, x: Tensor, y: Tensor, scale: float, first: int, last: int) -> None:
    N, D = x.shape
    cosines = (x @ y.T).double()
    row_lse, column_lse = ((scale * cosines * LN_2).logsumexp(dim=k) / LN_2 for k in (1, 0))
    pair = -torch.rand(N, generator=torch.Generator().manual_seed(0))
    grid = -(-(last - first) // 4), -(-N // 4)
    out, moments = unwritten(last - first, N), unwritten(*grid)
    vectors = [fenced(vector.float()) for vector in (row_lse, column_lse, pair)]
    launch(attempt, grid, x, y, *vectors, out, moments, scale, first, last, N, D, BLOCK=4, BLOCK_D=4)
    G = (scale * cosines - row_lse[:, None]).exp2() + (scale * cosines - column_lse).exp2()
    G = torch.where(torch.eye(N, dtype=torch.bool), pair.double()[:, None], G)[first:last]
    case = {"N": N, "D": D, "BLOCK": 4, "first": first, "last": last, "scale": scale}
    _compare("out", out, G, case)
    sums = [tile.sum() for rows in (G * cosines[first:last]).split(4) for tile in rows.split(4, dim=1)]
    hint = "moments has a row for each block of rows, and a place in it for each block of *columns*; G times the cosine"
    _compare("moments", moments, torch.stack(sums).view(grid), case, hint)


def _compare(name: str, got: Tensor, wanted: Tensor, case: dict[str, Any], hint: str = "") -> None:
    """Raises Wrong with the first element that differs."""
    wrong = ~torch.isclose(got.double(), wanted, rtol=1e-3, atol=1e-4)
    if wrong.any():
        index = tuple(wrong.nonzero()[0].tolist())
        values = f"{got[index].item():.5g}, expected {wanted[index].item():.5g}"
        raise Wrong(f"{name}{list(index)} is {values}{given(case)}", hint)
