"""The tiles of the loss in plain PyTorch: on any device, also in float64.

Everything about logits is in units of log 2, because exp2 is several times faster than exp: on a CPU (MKL's exp falls
to a fortieth of its speed where results are denormal, as they are for logits 90 below the largest) as on a GPU.
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


class Side(NamedTuple):
    """One tower's features, or a block of them, as the tiles use them."""

    features: Tensor  # (n, D), a factor of the products
    inverse_norms: Tensor  # (n, 1), 1 / max(|x|, 1e-12), or ones
    unit_length: Tensor  # (), see tiles_triton; 1 here

    def block(self, rows: slice) -> "Side":
        if rows.stop - rows.start == len(self.features):
            return self  # in a small batch slices are a good part of the time
        return Side(self.features[rows], self.inverse_norms[rows], self.unit_length)


class Tile(NamedTuple):
    """What a block of rows (images) and a block of columns (texts) make of the N×N matrix."""

    x: Side
    y: Side
    rows: slice
    columns: slice
    alone: bool  # no other tiles: in `scratch` the second pass finds the cosines of the first
    scratch: Tensor  # memory that every tile of a pass uses again: on a CPU fresh pages cost more than the arithmetic

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
    return Side(features * inverse, inverse, inverse.new_ones(()))


def unit(block: Side) -> Tensor:
    """The normalised features, (n, D)."""
    return block.features


def restore(rows: Side, columns: Side) -> Tensor:
    """What coefficients @ columns.features must be multiplied with to be the gradient for the rows' raw features."""
    return rows.inverse_norms


def accumulate(total: Tensor, coefficients: Tensor, features: Tensor) -> None:
    """total += coefficients @ features."""
    total.addmm_(coefficients, features)


def log2_sum_exp2(parts: Tensor) -> Tensor:
    """Combines the log-sum-exps of several blocks, (blocks, n), to those of all of them, (n,)."""
    return parts[0] if len(parts) == 1 else torch.logsumexp(parts * LN_2, dim=0) / LN_2


def lowest(dtype: torch.dtype) -> float:
    """In the place of -inf, whose difference with itself is not a number."""
    return torch.finfo(dtype).min


def scratch(x: Side, y: Side, steps: tuple[int, int], coefficients: bool) -> Tensor:
    return x.features.new_empty(3, min(steps[0], len(x.features)), min(steps[1], len(y.features)))


def _parts(tile: Tile) -> tuple[Tensor, ...]:
    """Three times the memory of one tile, (R, C)."""
    return tile.scratch[:, : len(tile.x.features), : len(tile.y.features)].unbind()


def log_sum_exps(tile: Tile, scale: Tensor) -> tuple[Tensor, Tensor]:
    """log2(Σ exp2(logit)) over each row and over each column of one tile, matching pairs left out.

    scale: (), the logit scale / ln 2. Returns (R,) and (C,), `lowest` or little more where nothing is left.
    """
    cosines, logits, other = _parts(tile)
    torch.mm(tile.x.features, tile.y.features.T, out=cosines)  # (R, C)
    torch.mul(cosines, scale, out=logits).diagonal(tile.diagonal).fill_(lowest(logits.dtype))
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
    cosines, column_part, g = _parts(tile)
    if not tile.alone:
        torch.mm(tile.x.features, tile.y.features.T, out=cosines)  # (R, C)
    torch.mul(cosines, scale, out=column_part)
    torch.sub(column_part, row_lse[:, None], out=g).exp2_()
    g.add_(column_part.sub_(column_lse).exp2_())
    _put_pairs(g, pair, tile.diagonal)
    return g, cosines.sub_(center).mul_(g).sum()


def sigmoid_coefficients(
    tile: Tile, scale: Tensor, bias: Tensor, pair: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The coefficients of the sigmoid loss for one tile, and its loss without the matching pairs.

    scale, bias: (), the logit scale and bias / ln 2. pair: (R,).
    Returns G = σ(logit) with `pair` in the place of matching pairs (R, C), Σ softplus(logit) (), Σ G cosine (), Σ G ().
    """
    cosines, logits, g = _parts(tile)
    torch.mm(tile.x.features, tile.y.features.T, out=cosines)  # (R, C)
    torch.mul(cosines, scale, out=logits).add_(bias).mul_(LN_2)
    torch.sigmoid(logits, out=g)
    losses = F.softplus(logits)
    losses.diagonal(tile.diagonal).zero_()
    _put_pairs(g, pair, tile.diagonal)
    return g, losses.sum(), cosines.mul_(g).sum(), g.sum()


def _put_pairs(g: Tensor, pair: Tensor, diagonal: int) -> None:
    places = g.diagonal(diagonal)
    first = max(0, -diagonal)
    places.copy_(pair[first : first + len(places)])
