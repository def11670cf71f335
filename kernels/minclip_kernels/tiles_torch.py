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
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from minclip_kernels.tiles import (
    EPSILON,
    LN_2,
    SMALLEST_SUM,
    Equals,
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

    def step(self, size: int) -> Iterator[slice]:
        """Blocks of `size` rows."""
        count = self.unit.shape[0]
        return (slice(start, min(start + size, count)) for start in range(0, count, size))

    def block(self, rows: slice) -> "Tower":
        return Tower(part(self.unit, rows), part(self.inverse_norms, rows))


@dataclass(frozen=True)
class Tile:
    """A block of rows (images) and a block of columns (texts)."""

    index: int
    rows: slice
    columns: slice


class TorchTiles:
    """See `tiles.Tiles`."""

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        self.is_on_cpu = problem.image.device.type == "cpu"
        self.image = _prepare(problem.image, problem.normalize)
        self.text = _prepare(problem.text, problem.normalize)
        rows, columns = len(problem.image), len(problem.text)
        self.size = min(problem.chunk_size or TILE_ROWS, rows), min(TILE_COLUMNS, columns)
        row_blocks, column_blocks = self.image.step(self.size[0]), self.text.step(self.size[1])
        places = itertools.product(row_blocks, column_blocks)
        self.tiles = [Tile(index, *place) for index, place in enumerate(places)]
        self.kept = self._tiles_to_keep() if problem.second_pass else 0
        # A matrix for each tile that is kept, one shared by all others, and one for coefficients.
        self.matrices = self.image.unit.new_empty(self.kept + 2, *self.size)
        # The largest logit of each tile, or None where the tile is computed exactly.
        self.tops: list[Tensor | None] = []

    def _tiles_to_keep(self) -> int:
        x, y = self.image.unit, self.text.unit
        if not self.is_on_cpu:  # There every tile is computed exactly, and needs its logits again.
            return 0
        memory = self.problem.memory
        if memory is None:
            memory = max(x.nbytes + y.nbytes, KEPT_BYTES)
        return min(memory // (x.element_size() * math.prod(self.size)), len(self.tiles))

    def _pair_cosines(self) -> Tensor:
        texts = self.text.unit[self.problem.offset :]
        blocks = self.image.step(self.size[0])
        blocks = [part(self.image.unit, r).mul(part(texts, r)).sum(dim=1) for r in blocks]
        return blocks[0] if len(blocks) == 1 else torch.cat(blocks)

    def log_sum_exps(self, scale: Tensor) -> Sums:
        """See `tiles.Tiles`."""
        if len(self.tiles) == 1:
            rows, columns, pulls = self._sums_of_tile(self.tiles[0], scale)
            return Sums(rows, columns, self._pair_cosines(), pulls)
        # In float64, so that combining many tiles rounds no more than a single one does.
        rows, columns = (
            torch.full_like(tower.inverse_norms[:, 0], -torch.inf, dtype=torch.float64)
            for tower in (self.image, self.text)
        )
        pulls = torch.zeros_like(rows)
        for tile in self.tiles:
            row_lse, column_lse, row_pulls = self._sums_of_tile(tile, scale)
            torch.logaddexp2(rows[tile.rows], row_lse, out=rows[tile.rows])
            torch.logaddexp2(columns[tile.columns], column_lse, out=columns[tile.columns])
            if row_pulls is not None:
                pulls[tile.rows] += row_pulls
        rows, columns, pulls = (total.to(scale.dtype) for total in (rows, columns, pulls))
        return Sums(rows, columns, self._pair_cosines(), pulls)

    def _sums_of_tile(self, tile: Tile, scale: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """Return the log-sum-exps over rows (R,) and columns (C,), and the pulls, of one tile."""
        logits = self._logits(tile, scale, self._place(tile))
        targets = self._targets(tile)
        pulls = None if targets is None else targets.mul_(logits).sum(dim=1)
        if self.is_on_cpu:
            top = logits.amax(dim=1).max()
            shares = logits.sub_(top).exp2_()
            rows, columns = shares.sum(dim=1), shares.sum(dim=0)
            # A sum that is NaN passes: the exact way would not help.
            if not min(rows.min(), columns.min()) < SMALLEST_SUM:
                self.tops.append(top)
                return rows.log2_().add_(top), columns.log2_().add_(top), pulls
            logits = self._logits(tile, scale, self._place(tile))
        self.tops.append(None)
        logits *= LN_2
        return logits.logsumexp(dim=1) / LN_2, logits.logsumexp(dim=0) / LN_2, pulls

    def softmax_gradients(self, softmax: Softmax, weight: float, needs: list[bool]) -> Gradients:
        """See `tiles.Tiles`."""
        total = torch.zeros_like(softmax.scale)

        def coefficients(tile: Tile) -> Tensor:
            row_lse = part(softmax.row_lse, tile.rows)[:, None]  # (R, 1)
            column_lse = part(softmax.column_lse, tile.columns)  # (C,)
            top, g = self.tops[tile.index], self._matrix(tile, -1)
            if top is None:
                logits = self._logits(tile, softmax.scale, -2)
                torch.sub(logits, row_lse, out=g).exp2_().add_(logits.sub_(column_lse).exp2_())
            else:
                row_factors, column_factors = (top - row_lse).exp2_(), (top - column_lse).exp2_()
                torch.add(row_factors, column_factors, out=g).mul_(
                    self._shares(tile, softmax.scale, top)
                )
            targets = self._targets(tile)
            if targets is not None:
                g -= targets
            torch.neg(self._rows_with_pairs(tile, softmax.missing), out=self._pairs(tile, g))
            total.add_(g.sum())
            return g

        gradients = self._gradients(coefficients, softmax.scale, weight, needs)
        return gradients._replace(scale=gradients.scale - softmax.center * total * weight)

    def sigmoid_gradients(
        self, scale: Tensor, bias: Tensor, weight: float, needs: list[bool]
    ) -> tuple[Gradients, Tensor, Tensor]:
        """See `tiles.Tiles`."""
        losses, total = torch.zeros_like(scale), torch.zeros_like(scale)
        natural_scale = scale * LN_2

        def coefficients(tile: Tile) -> Tensor:
            t, g = self._product(tile, natural_scale, -2).add_(bias * LN_2), self._matrix(tile, -1)
            self._pairs(tile, t).neg_()
            # Adding 0 · t turns an infinite feature into NaN, where the loss may be 0.
            losses.add_(F.softplus(t).sum()).add_(t.sum(), alpha=0)
            self._pairs(tile, torch.sigmoid(t, out=g)).neg_()
            total.add_(g.sum())
            return g

        gradients = self._gradients(coefficients, scale, weight, needs)
        return gradients, losses * weight, total * weight

    def _gradients(
        self,
        coefficients: Callable[[Tile], Tensor],
        scale: Tensor,
        weight: float,
        needs: list[bool],
    ) -> Gradients:
        """Return the gradients, added up over all tiles. Either tower's sum also gives Σ G cos."""
        x, y = self.image.unit, self.text.unit
        wants_image = needs[0] or (needs[2] and not needs[1])
        image = x.new_empty(x.shape) if wants_image else x.new_empty(0)
        text = y.new_empty(y.shape) if needs[1] else y.new_empty(0)
        for tile in self.tiles:
            g = coefficients(tile)  # (R, C)
            if wants_image:
                total, beta = part(image, tile.rows), int(tile.columns.start > 0)
                total.addmm_(g, part(y, tile.columns), beta=beta)
            if needs[1]:
                total, beta = part(text, tile.columns), int(tile.rows.start > 0)
                total.addmm_(g.T, part(x, tile.rows), beta=beta)
        moments = [
            self._through_normalization(gradient, tower, scale * (LN_2 * weight))
            for gradient, tower in ((image, self.image), (text, self.text))
            if gradient.numel()
        ]
        moment = moments[0] * weight if moments else torch.zeros_like(scale)
        return Gradients(image if needs[0] else x.new_empty(0), text, moment)

    def _through_normalization(self, gradient: Tensor, tower: Tower, factor: Tensor) -> Tensor:
        """Turn gradients of unit features into those of raw features, in place, times `factor`.

        The component along the feature is removed: `F.normalize` is constant in that direction,
        but for features shorter than 1e-12, whose divisor is constant instead.
        Returns Σ ⟨gradient, unit feature⟩ (), which is Σ G cos.
        """
        moments: list[Tensor] = []
        for rows in tower.step(self.size[0]):
            block, (unit, inverse_norms) = part(gradient, rows), tower.block(rows)
            along = block.mul(unit).sum(dim=1, keepdim=True)  # (R, 1)
            moments.append(along.sum())
            if self.problem.normalize:
                along *= inverse_norms < LARGEST_INVERSE_NORM
                block.addcmul_(unit, along, value=-1)
            block *= inverse_norms * factor
        return moments[0] if len(moments) == 1 else torch.stack(moments).sum()

    def _logits(self, tile: Tile, scale: Tensor, place: int) -> Tensor:
        """Return the logits of a tile with pairs and dropped entries at the lowest number.

        The lowest finite number, because −inf − (−inf) would be NaN in an empty row or column.
        """
        logits = self._product(tile, scale, place)
        lowest = torch.finfo(logits.dtype).min
        equals = self.problem.equals
        if equals is not None and equals.row_shares is None:
            logits.masked_fill_(self._equal_ids(tile, equals), lowest)
        self._pairs(tile, logits).fill_(lowest)
        return logits

    def _equal_ids(self, tile: Tile, equals: Equals) -> Tensor:
        """Return where a row and a column of a tile carry the same id, (R, C), pairs included."""
        return equals.row_ids[tile.rows, None] == equals.column_ids[tile.columns]

    def _targets(self, tile: Tile) -> Tensor | None:
        """Return the targets of a tile outside its pairs, (R, C), if there are any."""
        equals = self.problem.equals
        if equals is None or equals.row_shares is None or equals.column_shares is None:
            return None
        shares = equals.row_shares[tile.rows, None] + equals.column_shares[tile.columns]
        targets = shares.mul_(self._equal_ids(tile, equals))
        self._pairs(tile, targets).fill_(0)
        return targets

    def _shares(self, tile: Tile, scale: Tensor, top: Tensor) -> Tensor:
        """Return exp2(logit − top) of a tile, as the first pass left it or computed again."""
        place = self._place(tile)
        if place >= 0:
            return self._matrix(tile, place)
        return self._logits(tile, scale, place).sub_(top).exp2_()

    def _product(self, tile: Tile, scale: Tensor, place: int) -> Tensor:
        """Return the logits of a tile, (R, C), in one of the matrices."""
        x, y = part(self.image.unit, tile.rows), part(self.text.unit, tile.columns)
        out = self._matrix(tile, place)
        if self.is_on_cpu:  # Reading the scale waits for no GPU and lets the product apply it.
            return out.addmm_(x, y.T, beta=0, alpha=scale.item())
        return torch.mm(x, y.T, out=out).mul_(scale)

    def _place(self, tile: Tile) -> int:
        """Return which matrix holds the exponentials of a tile; −2 is shared."""
        return tile.index if tile.index < self.kept else -2

    def _matrix(self, tile: Tile, place: int) -> Tensor:
        rows, columns = tile.rows.stop - tile.rows.start, tile.columns.stop - tile.columns.start
        matrix = self.matrices[place]
        return matrix if matrix.shape == (rows, columns) else matrix[:rows, :columns]

    def _pairs(self, tile: Tile, matrix: Tensor) -> Tensor:
        """Return a view of the pairs in a tile, empty where it holds none."""
        return matrix.diagonal(tile.rows.start + self.problem.offset - tile.columns.start)

    def _rows_with_pairs(self, tile: Tile, of: Tensor) -> Tensor:
        """Return the part of `of` (n,) that belongs to the rows of `_pairs`."""
        first = max(tile.rows.start, tile.columns.start - self.problem.offset)
        last = min(tile.rows.stop, tile.columns.stop - self.problem.offset)
        return of[first : max(first, last)]


def part(of: Tensor, rows: slice) -> Tensor:
    """Return of[rows]. In a small batch slices of everything would take a good part of the time."""
    return of if rows.stop - rows.start == of.shape[0] else of[rows]


def _prepare(features: Tensor, normalize: bool) -> Tower:
    dtype = computing_dtype(features)
    if not normalize:
        return Tower(features.to(dtype), features.new_ones(len(features), 1, dtype=dtype))
    features = features.to(dtype)
    # In the memory of the result: fresh pages would cost more than the arithmetic.
    unit = features.mul(features)
    inverse_norms = unit.sum(dim=1, keepdim=True).sqrt_().clamp_min_(EPSILON).reciprocal_()
    return Tower(torch.mul(features, inverse_norms, out=unit), inverse_norms)
