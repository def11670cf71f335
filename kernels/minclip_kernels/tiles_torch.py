"""The tiles of the loss in plain PyTorch: on any device, also in float64.

In the softmax loss everything about logits is in units of log 2, because exp2 is several times faster than exp: on a
CPU (MKL's exp falls to a fortieth of its speed where results are denormal, as they are for logits 90 below the largest)
as on a GPU.
"""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

LN_2 = math.log(2)
EPSILON = 1e-12  # the shortest length that a feature is divided by, as in F.normalize

# On two CPU cores with 1 MiB of level-2 cache each the fastest of 256…2048 rows × 1024…4096 columns; 2 MiB in float32.
TILE_ROWS, TILE_COLUMNS = 512, 1024


def part(of: Tensor, rows: slice) -> Tensor:
    """of[rows]; in a small batch slices that hold everything would be a good part of the time (so would `len`)."""
    return of if rows.stop - rows.start == of.shape[0] else of[rows]


class Side(NamedTuple):
    """One tower's features, or a block of them, as the tiles use them."""

    features: Tensor  # (n, D), a factor of the products
    inverse_norms: Tensor  # (n, 1), 1 / max(|x|, 1e-12), or ones
    unit_length: Tensor  # (), see tiles_triton; here nobody uses it

    def block(self, rows: slice) -> "Side":
        features = part(self.features, rows)
        return self if features is self.features else Side(features, self.inverse_norms[rows], self.unit_length)


class Tile(NamedTuple):
    """What a block of rows (images) and a block of columns (texts) make of the N×N matrix."""

    x: Side
    y: Side
    rows: slice
    columns: slice
    number: int  # in each pass it is the same, from 0
    memory: Tensor  # of the whole loss; the next tile works in it again. On a CPU fresh pages cost more than arithmetic

    @property
    def diagonal(self) -> int:
        """Row i matches column i + diagonal."""
        return self.rows.start - self.columns.start


def computing_dtype(features: Tensor) -> torch.dtype:
    return torch.float64 if features.dtype == torch.float64 else torch.float32


def tile_shape(features: Tensor, chunk_size: int | None) -> tuple[int, int]:
    """How many rows and columns one tile has."""
    return chunk_size or TILE_ROWS, TILE_COLUMNS


def inverse_norms(features: Tensor, normalize: bool) -> Tensor:
    """1 / max(|x|, 1e-12), or ones, (N, 1)."""
    if not normalize:
        return features.new_ones(len(features), 1, dtype=computing_dtype(features))
    norms = torch.linalg.vector_norm(features, dim=1, keepdim=True, dtype=computing_dtype(features))
    return norms.clamp_min_(EPSILON).reciprocal_()


def prepare(features: Tensor, normalize: bool) -> Side:
    """One tower as the tiles use it: normalised once, and not rounded to the features' own dtype."""
    inverse = inverse_norms(features, normalize)
    return Side(features * inverse, inverse, inverse)


def unit(block: Side) -> Tensor:
    """The normalised features, (n, D)."""
    return block.features


def restore(rows: Side, columns: Side) -> Tensor:
    """What coefficients @ columns.features must be multiplied with to be the gradient for the rows' raw features."""
    return rows.inverse_norms


def accumulate(total: Tensor, coefficients: Tensor, features: Tensor, first: bool) -> None:
    """total += coefficients @ features; the first time there is nothing in total yet."""
    total.addmm_(coefficients, features, beta=0 if first else 1)


def log2_sum_exp2(parts: Tensor) -> Tensor:
    """Combines the log-sum-exps of several blocks, (blocks, n), to those of all of them, (n,)."""
    return parts[0] if len(parts) == 1 else torch.logsumexp(parts * LN_2, dim=0) / LN_2


def kept_tiles(count: int, width: int, steps: tuple[int, int]) -> tuple[int, int]:
    """How many tiles keep their cosines for the second pass, and how many there are.

    As many as are together no larger than the features, 2·N·D numbers. What is not kept shares one more place, so where
    that would be a single tile, it is kept as well.
    """
    rows, columns = (min(step, count) for step in steps)
    kept, tiles = 2 * count * width // (rows * columns), math.ceil(count / rows) * math.ceil(count / columns)
    return (kept if kept < tiles - 1 else tiles), tiles


def memory(x: Side, steps: tuple[int, int], keep: bool) -> Tensor:
    """(places, R, C): one for each tile that keeps its cosines, one for those of the others, and two to work in."""
    count, width = x.features.shape
    kept = kept_tiles(count, width, steps)[0] if keep else 0
    return x.features.new_empty(kept + 3, *(min(step, count) for step in steps))


def _cosines(tile: Tile, again: bool = False) -> tuple[Tensor, Tensor, Tensor]:
    """The cosines of a tile, and memory for twice as much, (R, C) each; `again`: in the second pass."""
    kept = tile.number < tile.memory.shape[0] - 3
    places = (tile.memory[place] for place in (tile.number if kept else -3, -2, -1))
    shape = tile.x.features.shape[0], tile.y.features.shape[0]
    cosines, first, second = (place if place.shape == shape else place[: shape[0], : shape[1]] for place in places)
    if not (kept and again):
        torch.mm(tile.x.features, tile.y.features.T, out=cosines)
    return cosines, first, second


def log_sum_exps(tile: Tile, scale: Tensor) -> tuple[Tensor, Tensor]:
    """log2(Σ exp2(logit)) over each row and over each column of one tile, matching pairs left out.

    scale: (), the logit scale / ln 2. Returns (R,) and (C,); where nothing is left, about the lowest number, which can
    be taken off itself, unlike -inf.
    """
    cosines, logits, other = _cosines(tile)
    torch.mul(cosines, scale, out=logits).diagonal(tile.diagonal).fill_(torch.finfo(logits.dtype).min)
    row_max, column_max = logits.amax(dim=1, keepdim=True), logits.amax(dim=0)  # (R, 1) and (C,)
    row_sums = torch.sub(logits, row_max, out=other).exp2_().sum(dim=1)
    column_sums = logits.sub_(column_max).exp2_().sum(dim=0)
    return row_sums.log2_().add_(row_max[:, 0]), column_sums.log2_().add_(column_max)


def coefficients(
    tile: Tile, scale: Tensor, row_lse: Tensor, column_lse: Tensor, pair: Tensor, center: Tensor
) -> tuple[Tensor, Tensor]:
    """G = P^row + P^col, with `pair` in the place of matching pairs, for one tile; and Σ G (cosine - center).

    row_lse, column_lse: (R,) and (C,), log2 of the whole sums, matching pairs included. pair: (R,). center: ().
    Returns (R, C) and ().
    """
    cosines, column_part, g = _cosines(tile, again=True)
    torch.mul(cosines, scale, out=column_part)
    torch.sub(column_part, row_lse[:, None], out=g).exp2_()
    g.add_(column_part.sub_(column_lse).exp2_())
    places = g.diagonal(tile.diagonal)
    first = max(0, -tile.diagonal)
    places.copy_(pair[first : first + len(places)])
    return g, cosines.sub_(center).mul_(g).sum()


def sigmoid_coefficients(tile: Tile, scale: Tensor, bias: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The sigmoid loss of one tile, and its coefficients. With t the logit, or minus the logit of a matching pair:

    Returns G = σ(t), or -σ(t) for a matching pair, (R, C), Σ softplus(t) (), Σ G cosine (), Σ G ().
    scale, bias: (), of the logits themselves, in no unit.
    """
    cosines, t, g = _cosines(tile)
    torch.mul(cosines, scale, out=t).add_(bias).diagonal(tile.diagonal).neg_()
    torch.sigmoid(t, out=g).diagonal(tile.diagonal).neg_()
    return g, F.softplus(t).sum(), cosines.mul_(g).sum(), g.sum()
