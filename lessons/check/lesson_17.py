"""The checks of lesson 17, The fused loss."""

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
import torch.nn.functional as F
from hypothesis import strategies as st
from minclip_kernels.testing import assert_equals_reference, make_features
from torch import Tensor

from check.cases import expect, given
from check.interpreter import fenced, launch
from check.verdict import Attempt, Wrong, exercise

LN_2 = math.log(2)


@exercise(
    "log(1 + exp(t)) has a name of its own: look among the activations in torch.nn.functional.",
    steps=(
        "what is 1 + exp(−20) in float32, and what is exp(100)?",
        "log(1 + exp(t)) is nearly t for a large t, and nearly exp(t) for a very negative one: it is a soft relu.",
        "log(1 + exp(t)) is called softplus, and torch.nn.functional has it.",
    ),
)
def loss_from_others(attempt, draw):
    _compare_losses(attempt, torch.zeros(5), torch.tensor([-3.0, 0.0, 12.0, 60.0, -95.0]))
    ahead = draw(st.lists(st.integers(-100, 70), min_size=1, max_size=3))
    others = torch.tensor([float(draw(st.integers(-100, 100))) for _ in ahead])
    _compare_losses(attempt, others, others + torch.tensor(ahead))


def _compare_losses(attempt: Attempt, others: Tensor, pairs: Tensor) -> None:
    """Raises Wrong with the first loss that lacks one of its first five digits."""
    got, wanted = attempt(others, pairs), torch.log1p((others - pairs).double().exp())
    if isinstance(got, Tensor) and got.shape == ():
        raise Wrong(f"it returned one number, expected {len(wanted)} losses", "one loss for each row: no mean yet")
    if not isinstance(got, Tensor) or got.shape != wanted.shape:
        expect(got, wanted.float(), others=others, pairs=pairs)
    for other, pair, mine, right in zip(others, pairs, got.double(), wanted, strict=True):
        if not (mine - right).abs() <= 1e-5 * right:
            case = f"others = {other.item():g}, pair = {pair.item():g}"
            problem = f"it returned {mine.item():.6g}, expected {right.item():.6g}, for {case}"
            raise Wrong(problem, _why_loss(mine.item(), right.item(), (pair - other).item()))


def _why_loss(mine: float, right: float, ahead: float) -> str:
    if not math.isfinite(mine):
        return "exp of more than 88 overflows float32, and sigmoid of less than −103 is 0: which function avoids both?"
    if ahead < 0 and abs(mine) < 1:
        return "the pair is *behind* the others here, so its loss is large: which one is subtracted from which?"
    if ahead > 10:
        return "the pair is far ahead: 1 + exp(−12) has lost digits before you take its logarithm, and so has z − z'"
    return ""


def unit_features(draw: Callable[..., Any], rows: int = 0) -> tuple[Tensor, Tensor, float]:
    """Features (N, D) of length one, in fenced memory, and a scale; at the highest scale in opposite cones.

    There every logit is far below zero, so the zeros beyond the edge would be the largest by far.
    """
    rows, width = rows or draw(st.integers(1, 9)), draw(st.integers(1, 9))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 9)))
    x, y = F.normalize(torch.randn(2, rows, width, generator=generator), dim=2)
    scale = draw(st.sampled_from([1.0, 20.0, 300.0]))
    return (fenced(x.abs()), fenced(-y.abs()), scale) if scale == 300 else (fenced(x), fenced(y), scale)


def unwritten(*shape: int) -> Tensor:
    return fenced(torch.full(shape, torch.nan))


@exercise(
    "which elements must not count? And over which axis of the tile does each of the two sums go?",
    12,
    steps=(
        "which elements of a tile are not logits of others? There are three kinds.",
        "set all three to −inf with one tl.where; then take each row's maximum, which is −inf where nothing is left.",
        "largest = tl.max(tile, 1), with 0 in place of −inf; largest + log2 of the sum of exp2(tile − largest[:, None])"
        " goes to row_lse + j * N + rows; the same over axis 0 goes to column_lse + i * N + columns.",
    ),
)
def sums_kernel(attempt, draw):
    x, y, scale = unit_features(draw)
    N, D = x.shape
    blocks = -(-N // 4)
    row_lse, column_lse = unwritten(blocks, N), unwritten(blocks, N)
    launch(attempt, (blocks, blocks), x, y, row_lse, column_lse, scale, N, D, BLOCK=4, BLOCK_D=4)
    case = {"N": N, "D": D, "BLOCK": 4, "scale": scale}
    logits = scale * (x @ y.T).double()
    others = logits.clone().fill_diagonal_(-torch.inf)
    places = torch.arange(N) % 4
    local = logits.masked_fill(places[:, None] == places, -torch.inf)  # the diagonal of every tile
    beyond = F.pad(logits, (0, 4 * blocks - N, 0, 4 * blocks - N)).fill_diagonal_(-torch.inf)  # zeros at the edges
    mistakes = [
        (logits, 2.0, "the pair counts in its own sum: where row number and column number are equal, put −inf"),
        (beyond, 2.0, "beyond the edge the product is 0, and 2⁰ = 1 counts: put −inf there, for rows *and* columns"),
        (others, math.e, "logits are in units of ln 2 here: exp2, not exp"),
        (others / scale, 2.0, "the logits are scale · x·y: product_tile has no scale yet"),
        (logits.clone().fill_diagonal_(0), 2.0, "2⁰ = 1, so a pair that is set to 0 still counts: put −inf there"),
        (local, 2.0, "the pair of a row is the column of the same number in the *matrix*, not in the tile"),
    ]
    for name, got, axis in (("row_lse", row_lse, 1), ("column_lse", column_lse, 0)):
        results = [(_parts(matrix, axis, base)[:, :N], hint) for matrix, base, hint in mistakes]
        results.append((_parts(others / LN_2, axis) * LN_2, "the sums are log2 Σ 2^logit: tl.exp2 and tl.log2"))
        _compare(name, got, _parts(others, axis), case, results, _why_sum(got, _parts(others, axis)))


def _parts(logits: Tensor, axis: int, base: float = 2.0) -> Tensor:
    """The log-sum-exps of the strips of four columns (axis 1) or four rows (axis 0), (strips, N), in base 2.

    Another base gives the results of code that takes exp in place of exp2, but keeps log2.
    """
    unit, strips = math.log(base), logits.split(4, dim=axis)
    largest = [strip.amax(dim=axis).nan_to_num(neginf=0.0) for strip in strips]
    shifted = [strip - top.unsqueeze(axis) for strip, top in zip(strips, largest, strict=True)]
    sums = [(strip * unit).logsumexp(dim=axis) / LN_2 for strip in shifted]
    return torch.stack([top + one for top, one in zip(largest, sums, strict=True)])


def _why_sum(got: Tensor, wanted: Tensor) -> str:
    nothing = got.isnan() & (wanted == -torch.inf)
    if nothing.any():
        return "no logit is left there: the maximum is −inf, and −inf − (−inf) is NaN. Put 0 in place of such a maximum"
    if got.isnan().any():
        return "some elements are still NaN, never written: tile (i, j) has line j of row_lse, and line i of column_lse"
    if (got.isinf() & ~wanted.isinf()).any():
        return "2^300 overflows float32, and 2^−300 is 0: subtract the largest of the row or column before exp2"
    return ""


@exercise(
    "the first row of a launch is number `first`; beyond last and N nothing counts, not in the moment either.",
    2,
    steps=(
        "which rows of x belong to program (i, j) of a launch that begins with row `first`?",
        "two exponentials of the same logits: one measured from the row's log-sum-exp, one from the column's.",
        "rows = first + i * BLOCK + …; G = exp2(z − row_lse[:, None]) + exp2(z − column_lse[None, :]); tl.where puts "
        "`pair` on the diagonal; out belongs to rows − first; the moment is Σ G · cosine, rows < last and columns < N.",
    ),
)
def coefficients_kernel(attempt, draw):
    for N, first, last in ((5, 0, 5), (5, 3, 4), (9, 4, 9), (9, 1, 8), (13, 2, 7), (1, 0, 1), (3, 0, 3)):
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
    of_rows, of_columns = (scale * cosines - row_lse[:, None]).exp2(), (scale * cosines - column_lse).exp2()

    def rows(G: Tensor, diagonal: Tensor = pair, shift: int = 0) -> Tensor:
        """The rows of the launch, with a diagonal that begins `shift` columns further left."""
        is_pair = torch.arange(N)[:, None] - shift == torch.arange(N)
        return torch.where(is_pair, diagonal.double()[:, None], G)[first:last]

    both = of_rows + of_columns
    G = rows(both)
    case = {"N": N, "D": D, "BLOCK": 4, "first": first, "last": last, "scale": scale}
    mistakes = [
        (rows(both, shift=first), "the pair of row r is column r, with r counted from the first row of all"),
        (rows(of_rows), "that is the softmax over the rows only: its columns have one, too"),
        (rows(of_columns), "that is the softmax over the columns only: its rows have one, too"),
        (rows(2 * of_rows), "the second term is measured from the log-sum-exp of the *column*"),
        (
            rows(both, both.diag() - 2),
            "do not subtract 1 from a probability: what belongs on the diagonal is in `pair`",
        ),
        (both[first:last], "the diagonal is still missing: put `pair` where row number and column number are equal"),
    ]
    _compare("out", out, G, case, mistakes)
    place = "moments has a row for each block of rows, and a place in it for each block of *columns*: Σ G · cosine"
    sums = _tile_sums(G * cosines[first:last], grid)
    infinite = "beyond the edges G may be infinite, and ∞ · 0 is NaN: tl.where(inside, …, 0.0) before the sum"
    edges = "does the sum count elements beyond `last` or N? tl.where(inside, …, 0.0) comes before the sum"
    beyond = last < N and (last - first) % 4 > 0  # for this, the launches before it were right
    with_scale = _tile_sums(scale * G * cosines[first:last], grid), "G times the cosine, not times the logit"
    has_edge = bool(moments.isnan().any()) and N % 4 + (last - first) % 4 > 0 and scale == 300
    without_pair = _tile_sums(both[first:last] * cosines[first:last], grid), "G has `pair` on its diagonal here, too"
    suspects = [with_scale, without_pair]
    _compare("moments", moments, sums, case, suspects, infinite if has_edge else edges if beyond else place)


def _tile_sums(matrix: Tensor, grid: tuple[int, int]) -> Tensor:
    return torch.stack([tile.sum() for rows in matrix.split(4) for tile in rows.split(4, dim=1)]).view(grid)


def _compare(
    name: str, got: Tensor, wanted: Tensor, case: dict[str, Any], mistakes: list[tuple[Tensor, str]], hint: str = ""
) -> None:
    """Raises Wrong with the first element that differs, and the hint of the mistake that makes the same numbers."""
    wrong = ~_near(got, wanted)
    if wrong.any():
        index = tuple(wrong.nonzero()[0].tolist())
        values = f"{got[index].item():.5g}, expected {wanted[index].item():.5g}"
        fitting = [words for result, words in mistakes if result.shape == got.shape and _near(got, result).all()]
        raise Wrong(f"{name}{list(index)} is {values}{given(case)}", next(iter(fitting), hint))


def _near(got: Tensor, wanted: Tensor) -> Tensor:
    return torch.isclose(got.double(), wanted, rtol=1e-3, atol=1e-4)


def project_tests(loss: Callable[..., Tensor], whose: str, cases: Iterable[dict[str, Any]]) -> None:
    """Compares a loss with the project's reference in float64, and prints one line, whatever the loss does.

    cases: arguments of make_features, and the logit scale as `scale`.
    """
    count = 0
    for case in cases:
        features = make_features(**{name: value for name, value in case.items() if name != "scale"})
        try:
            assert_equals_reference(loss, *features, case["scale"])
        except Exception as error:  # from the reader's own code
            what = f"{error}" if isinstance(error, AssertionError) else f"it raised {type(error).__name__}: {error}"
            print(f"✘ {whose}: passed {count} comparisons with float64, then, for {case}: {what.splitlines()[0]}")
            return
        count += 1
    print(f"✔ {whose}: passed {count} comparisons with float64")
