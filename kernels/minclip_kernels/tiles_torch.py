"""The tiles of the loss in plain PyTorch: on any device, also in float64.

A tile is what a block of rows (images) and a block of columns (texts) make of the N×N matrix. Everything about
logits is in units of log 2, because exp2 is several times faster than exp: on a CPU (MKL's exp falls to a fortieth of
its speed where results are denormal, as they are for logits 90 below the largest) as on a GPU.
"""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

LN_2 = math.log(2)

# On two CPU cores with 1 MiB of level-2 cache each the fastest of 256…2048 rows × 1024…4096 columns; 2 MiB in float32.
TILE_ROWS, TILE_COLUMNS = 512, 1024


class Side(NamedTuple):
    """One tower's features, or a block of them, as the tiles use them."""

    features: Tensor  # (n, D), a factor of the products
    inverse_norms: Tensor  # (n,), 1 / max(|x|, 1e-12), or ones
    unit: Tensor  # (), see tiles_triton; 1 here

    def block(self, rows: slice) -> "Side":
        return Side(self.features[rows], self.inverse_norms[rows], self.unit)


def tile_shape(features: Tensor, chunk_size: int | None) -> tuple[int, int]:
    """How many rows and columns one tile has."""
    return chunk_size or TILE_ROWS, TILE_COLUMNS


def prepare(features: Tensor, inverse_norms: Tensor) -> Side:
    """Normalises once, in float32 or float64: nothing is rounded to the features' own dtype."""
    return Side(features * inverse_norms[:, None], inverse_norms, inverse_norms.new_ones(()))


def scratch(rows: Side, columns: Side, steps: tuple[int, int], coefficients: bool) -> Tensor:
    """Memory that every tile of a pass uses again: on a CPU fresh pages cost more than the arithmetic."""
    size = min(steps[0], len(rows.features)) * min(steps[1], len(columns.features))
    return rows.features.new_empty(3 if coefficients else 2, size)


def _tiles(scratch: Tensor, rows: Side, columns: Side) -> list[Tensor]:
    shape = len(rows.features), len(columns.features)
    return [part[: shape[0] * shape[1]].view(shape) for part in scratch]


def restore(rows: Side, columns: Side) -> Tensor:
    """What coefficients @ columns.features must be multiplied with to be the gradient for the rows' raw features."""
    return rows.inverse_norms[:, None]


def accumulate(total: Tensor, coefficients: Tensor, features: Tensor) -> None:
    """total += coefficients @ features."""
    total.addmm_(coefficients, features)


def log2_sum_exp2(parts: Tensor) -> Tensor:
    """Combines the log-sum-exps of several blocks, (blocks, n), to those of all of them, (n,)."""
    return parts[0] if len(parts) == 1 else torch.logsumexp(parts * LN_2, dim=0) / LN_2


def log_sum_exps(
    rows: Side, columns: Side, scale: Tensor, diagonal: int, scratch: Tensor
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """log2(Σ exp2(logit)) over each row and over each column of one tile, matching pairs left out.

    rows, columns: (R, D) and (C, D). scale: (), the logit scale / ln 2. diagonal: row i matches column i + diagonal.
    Returns (R,) and (C,), -inf where nothing is left.
    """
    logits, other = _tiles(scratch, rows, columns)
    torch.mm(rows.features, columns.features.T, out=logits)  # (R, C)
    logits.mul_(scale).diagonal(diagonal).fill_(-torch.inf)
    lowest = torch.finfo(logits.dtype).min  # in place of the maximum -inf: -inf minus itself is not a number
    row_max = logits.amax(dim=1, keepdim=True).clamp_min(lowest)  # (R, 1)
    column_max = logits.amax(dim=0, keepdim=True).clamp_min(lowest)  # (1, C)
    row_sums = torch.sub(logits, row_max, out=other).exp2_().sum(dim=1)
    column_sums = logits.sub_(column_max).exp2_().sum(dim=0)
    return row_sums.log2_().add_(row_max[:, 0]), column_sums.log2_().add_(column_max[0])


def coefficients(
    rows: Side, columns: Side, scale: Tensor, diagonal: int, row_lse: Tensor, column_lse: Tensor, pair: Tensor,
    center: Tensor, scratch: Tensor,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """G = P^row + P^col, with `pair` in the place of matching pairs, for one tile; and Σ G (cosine - center).

    row_lse, column_lse: (R,) and (C,), log2 of the whole sums, matching pairs included. pair: (R,). center: ().
    Returns (R, C) and ().
    """
    cosines, column_part, tile = _tiles(scratch, rows, columns)
    torch.mm(rows.features, columns.features.T, out=cosines)  # (R, C)
    torch.mul(cosines, scale, out=column_part)
    torch.sub(column_part, row_lse[:, None], out=tile).exp2_()
    tile.add_(column_part.sub_(column_lse).exp2_())
    _put_pairs(tile, pair, diagonal)
    return tile, cosines.sub_(center).mul_(tile).sum()


def sigmoid_tile(
    rows: Side, columns: Side, scale: Tensor, bias: Tensor, diagonal: int, pair: Tensor, scratch: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The coefficients of the sigmoid loss for one tile, and its loss without the matching pairs.

    scale, bias: (), the logit scale and bias / ln 2. pair: (R,).
    Returns G = σ(logit) with `pair` in the place of matching pairs (R, C), Σ softplus(logit) (), Σ G cosine (), Σ G ().
    """
    cosines, logits, tile = _tiles(scratch, rows, columns)
    torch.mm(rows.features, columns.features.T, out=cosines)  # (R, C)
    torch.mul(cosines, scale, out=logits).add_(bias).mul_(LN_2)
    torch.sigmoid(logits, out=tile)
    losses = F.softplus(logits)
    losses.diagonal(diagonal).zero_()
    _put_pairs(tile, pair, diagonal)
    return tile, losses.sum(), cosines.mul_(tile).sum(), tile.sum()


def _put_pairs(tile: Tensor, pair: Tensor, diagonal: int) -> None:
    places = tile.diagonal(diagonal)
    first = max(0, -diagonal)
    places.copy_(pair[first : first + len(places)])
