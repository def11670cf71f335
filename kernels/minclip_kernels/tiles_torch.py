# pyright: strict
"""The tiles in plain PyTorch: on any device, also in float64.

The features are normalised once, in float32 at least. A tile is one product of a block of rows with
a block of columns, small enough for the processor's cache, and works in memory that the next tile
uses again: on a CPU fresh pages cost more than the arithmetic. As many tiles as `memory` holds keep
their exponentials from the first pass for the second, which then needs neither the product nor the
exponentials again.

A tile takes one exponential per logit, relative to its largest logit, for its rows and its columns
alike. Where that leaves a row or a column with a sum below SMALLEST_SUM, digits are lost; such a
tile is computed exactly, with the maximum of each row and each column, and is never kept. Reading
that sum would make a GPU wait, so there every tile is computed exactly.
"""

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from minclip_kernels.tiles import (
    EPSILON,
    LN_2,
    SMALLEST_SUM,
    Gradients,
    Problem,
    Softmax,
    Sums,
    computing_dtype,
)

# The fastest of 256…2048 rows × 1024…4096 columns on two CPU cores: 4 MiB in float32.
TILE_ROWS, TILE_COLUMNS = 512, 2048
KEPT_BYTES = 128 * 2**20
LARGEST_INVERSE_NORM = (1 - 1e-6) / EPSILON  # less a rounding in float32


class Tower(NamedTuple):
    """The features of images or of texts, at length one; unchanged without `normalize`."""

    unit: Tensor  # (n, D)
    inverse_norms: Tensor  # (n, 1), 1 / max(|x|, 1e-12), or ones


@dataclass
class Tile:
    """A block of rows (images) and a block of columns (texts), R × C."""

    rows: slice
    columns: slice
    logits: Tensor  # (R, C), memory for its logits, and then for their exponentials
    is_kept: bool  # whether no other tile uses that memory
    top: Tensor | None = None  # its largest logit, (); None where it is computed exactly


class TorchTiles:
    """See `tiles.Tiles`."""

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        self.is_on_cpu = problem.image.device.type == "cpu"
        self.image, self.text = (
            _prepare(features, problem.normalize) for features in (problem.image, problem.text)
        )
        rows, columns = len(problem.image), len(problem.text)
        size = min(problem.chunk_size or TILE_ROWS, rows), min(TILE_COLUMNS, columns)
        places = list(itertools.product(_blocks(rows, size[0]), _blocks(columns, size[1])))
        kept = min(self._count_kept(math.prod(size)), len(places))
        # One for each tile that is kept, one shared by all others, and one for coefficients.
        matrices = self.image.unit.new_empty(kept + 2, *size).unbind()
        self.rows_of_tile, self.coefficients = size[0], matrices[-1]
        self.tiles = [
            Tile(*place, _corner(matrices[min(index, kept)], *place), index < kept)
            for index, place in enumerate(places)
        ]

    def _count_kept(self, tile_size: int) -> int:
        """Return how many tiles of `tile_size` numbers `memory` holds for a second pass."""
        if not self.is_on_cpu or not any(self.problem.needs):
            return 0  # On a GPU every tile is computed exactly, and needs its logits again.
        memory, x, y = self.problem.memory, self.image.unit, self.text.unit
        if memory is None:
            memory = max(x.nbytes + y.nbytes, KEPT_BYTES)
        return memory // (x.element_size() * tile_size)

    def log_sum_exps(self, scale: Tensor) -> Sums:
        """See `tiles.Tiles`."""
        # In float64, so that combining many tiles rounds no more than a single one does.
        rows, columns = (
            torch.full_like(tower.inverse_norms[:, 0], -torch.inf, dtype=torch.float64)
            for tower in (self.image, self.text)
        )
        pulls = None if self.problem.shares is None else torch.zeros_like(rows)
        for tile in self.tiles:
            row_lse, column_lse, row_pulls = self._sums_of_tile(tile, scale)
            torch.logaddexp2(rows[tile.rows], row_lse, out=rows[tile.rows])
            torch.logaddexp2(columns[tile.columns], column_lse, out=columns[tile.columns])
            if pulls is not None and row_pulls is not None:
                pulls[tile.rows] += row_pulls
        pulls = None if pulls is None else pulls.to(scale.dtype)
        return Sums(rows.to(scale.dtype), columns.to(scale.dtype), self._pair_cosines(), pulls)

    def _pair_cosines(self) -> Tensor:
        x = self.image.unit
        y = self.text.unit[self.problem.offset : self.problem.offset + len(x)]
        blocks = _blocks(len(x), self.rows_of_tile)
        return torch.cat([x[rows].mul(y[rows]).sum(dim=1) for rows in blocks])

    def _sums_of_tile(self, tile: Tile, scale: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """Return the log-sum-exps over rows (R,) and columns (C,), and the pulls, of one tile."""
        logits = self._logits(tile, scale)
        targets = self._targets(tile)
        pulls = None if targets is None else targets.mul_(logits).sum(dim=1)
        if self.is_on_cpu:
            top = logits.amax(dim=1).max()
            exponentials = logits.sub_(top).exp2_()
            rows, columns = exponentials.sum(dim=1), exponentials.sum(dim=0)
            # A sum that is NaN passes: the exact way would not help.
            if not min(rows.min().item(), columns.min().item()) < SMALLEST_SUM:
                tile.top = top
                return rows.log2_().add_(top), columns.log2_().add_(top), pulls
            logits = self._logits(tile, scale)
        logits *= LN_2
        return logits.logsumexp(dim=1) / LN_2, logits.logsumexp(dim=0) / LN_2, pulls

    def softmax_gradients(self, softmax: Softmax, weight: float) -> Gradients:
        """See `tiles.Tiles`."""
        total = torch.zeros_like(softmax.scale)

        def write_coefficients(tile: Tile, g: Tensor) -> None:
            row_lse = softmax.row_lse[tile.rows, None]  # (R, 1)
            column_lse = softmax.column_lse[tile.columns]  # (C,)
            if tile.top is None:
                logits = self._logits(tile, softmax.scale)
                torch.sub(logits, row_lse, out=g).exp2_().add_(logits.sub_(column_lse).exp2_())
            else:
                if not tile.is_kept:  # Another tile has left its own there since the first pass.
                    self._logits(tile, softmax.scale).sub_(tile.top).exp2_()
                row_factors = (tile.top - row_lse).exp2_()
                column_factors = (tile.top - column_lse).exp2_()
                torch.add(row_factors, column_factors, out=g).mul_(tile.logits)
            targets = self._targets(tile)
            if targets is not None:
                g -= targets
            pairs = self._pairs(tile, g)
            first = max(tile.rows.start, tile.columns.start - self.problem.offset)
            torch.neg(softmax.missing[first : first + len(pairs)], out=pairs)
            total.add_(g.sum())

        image, text, moment = self._gradients(write_coefficients, softmax.scale, weight)
        return Gradients(image, text, (moment - softmax.center * total) * weight)

    def sigmoid_gradients(
        self, scale: Tensor, bias: Tensor, weight: float
    ) -> tuple[Gradients, Tensor, Tensor]:
        """See `tiles.Tiles`."""
        losses, total = torch.zeros_like(scale), torch.zeros_like(scale)
        natural_scale = scale * LN_2

        def write_coefficients(tile: Tile, g: Tensor) -> None:
            t = self._product(tile, natural_scale).add_(bias * LN_2)
            self._pairs(tile, t).neg_()
            # Adding 0 · t turns an infinite feature into NaN, where the loss may be 0.
            losses.add_(F.softplus(t).sum()).add_(t.sum(), alpha=0)
            self._pairs(tile, torch.sigmoid(t, out=g)).neg_()
            total.add_(g.sum())

        image, text, moment = self._gradients(write_coefficients, scale, weight)
        return Gradients(image, text, moment * weight), losses * weight, total * weight

    def _gradients(
        self, write_coefficients: Callable[[Tile, Tensor], None], scale: Tensor, weight: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return the gradients of both towers, added up over all tiles, and Σ G cos unweighted."""
        x, y = self.image.unit, self.text.unit
        needs_image, needs_text, needs_scale = self.problem.needs
        # Either tower's gradient also gives Σ G cos.
        wants_image = needs_image or (needs_scale and not needs_text)
        image = x.new_empty(x.shape if wants_image else (0,))
        text = y.new_empty(y.shape if needs_text else (0,))
        for tile in self.tiles:
            rows, columns = tile.rows, tile.columns
            g = _corner(self.coefficients, rows, columns)  # (R, C)
            write_coefficients(tile, g)
            if wants_image:
                image[rows].addmm_(g, y[columns], beta=int(columns.start > 0))
            if needs_text:
                text[columns].addmm_(g.T, x[rows], beta=int(rows.start > 0))
        factor = scale * (LN_2 * weight)
        moments = [
            self._through_normalization(gradient, tower, factor)
            for gradient, tower in ((image, self.image), (text, self.text))
            if len(gradient)
        ]
        moment = moments[0] if moments else torch.zeros_like(scale)
        return image if needs_image else x.new_empty(0), text, moment

    def _through_normalization(self, gradient: Tensor, tower: Tower, factor: Tensor) -> Tensor:
        """Turn Σ G · unit features into the gradients of raw features, in place, times `factor`.

        The component along the feature is removed: `F.normalize` is constant in that direction,
        but for features shorter than 1e-12, whose divisor is constant instead.
        Returns Σ ⟨gradient, unit feature⟩ (), which is Σ G cos.
        """
        moments: list[Tensor] = []
        for rows in _blocks(len(gradient), self.rows_of_tile):
            block, unit, inverse_norms = gradient[rows], tower.unit[rows], tower.inverse_norms[rows]
            along = block.mul(unit).sum(dim=1, keepdim=True)  # (R, 1)
            moments.append(along.sum())
            if self.problem.normalize:
                along *= inverse_norms < LARGEST_INVERSE_NORM
                block.addcmul_(unit, along, value=-1)
            block *= inverse_norms * factor
        return torch.stack(moments).sum()

    def _logits(self, tile: Tile, scale: Tensor) -> Tensor:
        """Compute the logits of a tile, with pairs and dropped entries at the lowest number.

        The lowest finite number, because −inf − (−inf) would be NaN in an empty row or column.
        """
        logits = self._product(tile, scale)
        lowest = torch.finfo(logits.dtype).min
        if self.problem.ids is not None and self.problem.shares is None:
            logits.masked_fill_(self._equal_ids(tile, *self.problem.ids), lowest)
        self._pairs(tile, logits).fill_(lowest)
        return logits

    def _equal_ids(self, tile: Tile, row_ids: Tensor, column_ids: Tensor) -> Tensor:
        """Return where a row and a column of a tile carry the same id, (R, C), pairs included."""
        return row_ids[tile.rows, None] == column_ids[tile.columns]

    def _targets(self, tile: Tile) -> Tensor | None:
        """Return the targets of a tile outside its pairs, (R, C), if there are any."""
        if self.problem.ids is None or self.problem.shares is None:
            return None
        row_shares, column_shares = self.problem.shares
        targets = row_shares[tile.rows, None] + column_shares[tile.columns]
        targets *= self._equal_ids(tile, *self.problem.ids)
        self._pairs(tile, targets).fill_(0)
        return targets

    def _product(self, tile: Tile, scale: Tensor) -> Tensor:
        """Compute a tile's logits, pairs included, in its memory."""
        x, y = self.image.unit[tile.rows], self.text.unit[tile.columns]
        if self.is_on_cpu:  # Reading the scale waits for no GPU and lets the product apply it.
            return tile.logits.addmm_(x, y.T, beta=0, alpha=scale.item())
        return torch.mm(x, y.T, out=tile.logits).mul_(scale)

    def _pairs(self, tile: Tile, matrix: Tensor) -> Tensor:
        """Return a view of the pairs in a tile, empty where it holds none."""
        return matrix.diagonal(tile.rows.start + self.problem.offset - tile.columns.start)


def _corner(matrix: Tensor, rows: slice, columns: slice) -> Tensor:
    """Return as many rows and columns of a matrix as a tile has."""
    return matrix[: rows.stop - rows.start, : columns.stop - columns.start]


def _blocks(count: int, size: int) -> list[slice]:
    """Return slices of `size` rows that make up `count` rows; the last one may be shorter."""
    return [slice(start, min(start + size, count)) for start in range(0, count, size)]


def _prepare(features: Tensor, normalize: bool) -> Tower:
    """Return features (n, D) in the dtype that the loss is computed in, at length one if asked."""
    dtype = computing_dtype(features)
    if not normalize:
        return Tower(features.to(dtype), features.new_ones(len(features), 1, dtype=dtype))
    norms = torch.linalg.vector_norm(features, dim=1, keepdim=True, dtype=dtype)  # pyright: ignore
    inverse_norms = cast(Tensor, norms).clamp_min_(EPSILON).reciprocal_()  # (n, 1)
    return Tower(features * inverse_norms, inverse_norms)
