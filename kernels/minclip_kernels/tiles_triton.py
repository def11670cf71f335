"""The same tile functions as tiles_torch.py, as Triton kernels: a matrix product whose tiles never leave the chip.

Each kernel multiplies BLOCK_M rows with BLOCK_N columns and reduces the product in registers. Nothing is added by
atomics: every block writes its sums to a place of its own, and torch adds them in a fixed order.

The features go into the products as they came, so that no normalised copy is rounded to bfloat16 or float16: the norms
are multiplied to the float32 results. What the backward pass writes is G'_ij = G_ij r_i q_j / (unit_x unit_y), which
is at most 8192 in size: float16 then holds coefficients down to a few 1e-8 with all their digits.

Under TRITON_INTERPRET=1 the kernels run on CPU tensors. The interpreter multiplies bfloat16 wrongly and rounds to it
by cutting off, so there features become float32 before, and G' becomes bfloat16 after.
"""

import functools
import os
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from minclip_kernels.tiles_torch import LN_2, Side, Tile, inverse_norms, log2_sum_exp2

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"  # @triton.jit decides now, too
LARGEST_CHUNK = 512 * 2**20  # bytes of coefficients in memory at once


@dataclass(frozen=True)
class Blocking:
    block_m: int = 64
    block_n: int = 128
    block_k: int = 64
    group_m: int = 8  # this many blocks of rows share the columns that are in the level-2 cache
    num_warps: int = 4
    num_stages: int = 4


INTERPRETER_BLOCKING = Blocking(block_n=64)


@triton.jit
def _cosines(
    x, y, x_norms, y_norms, row_count, column_count, width,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, GROUP_M: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """One block of the product in float32, the norms that make cosines of it, and its rows and columns."""
    program = tl.program_id(0)
    row_blocks, column_blocks = tl.cdiv(row_count, BLOCK_M), tl.cdiv(column_count, BLOCK_N)
    group = program // (GROUP_M * column_blocks)
    group_rows = tl.minimum(row_blocks - group * GROUP_M, GROUP_M)
    place = program % (GROUP_M * column_blocks)
    row_block, column_block = group * GROUP_M + place % group_rows, place // group_rows

    rows = row_block * BLOCK_M + tl.arange(0, BLOCK_M)
    columns = column_block * BLOCK_N + tl.arange(0, BLOCK_N)
    ks = tl.arange(0, BLOCK_K)
    x_block = x + rows.to(tl.int64)[:, None] * width + ks[None, :]
    y_block = y + columns.to(tl.int64)[None, :] * width + ks[:, None]
    product = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32)
    for start in range(0, width, BLOCK_K):
        inside = ks < width - start
        x_tile = tl.load(x_block, mask=(rows < row_count)[:, None] & inside[None, :], other=0.0)
        y_tile = tl.load(y_block, mask=(columns < column_count)[None, :] & inside[:, None], other=0.0)
        product = tl.dot(x_tile, y_tile, product, input_precision=PRECISION)
        x_block += BLOCK_K
        y_block += BLOCK_K

    r = tl.load(x_norms + rows, mask=rows < row_count, other=0.0)
    q = tl.load(y_norms + columns, mask=columns < column_count, other=0.0)
    return product, r[:, None] * q[None, :], rows, columns, row_block, column_block


@triton.jit
def _log_sum_exp(logits, axis: tl.constexpr):
    """log2 Σ exp2 over one axis, with the true maximum; -inf where every logit is."""
    largest = tl.max(logits, axis)
    empty = largest == -float("inf")
    largest = tl.where(empty, 0.0, largest)
    total = tl.sum(tl.exp2(logits - tl.expand_dims(largest, axis)), axis)
    return tl.where(empty, -float("inf"), largest + tl.log2(tl.where(empty, 1.0, total)))


@triton.jit
def log_sum_exp_kernel(
    x, y, x_norms, y_norms, scale, row_lse, column_lse, row_count, column_count, width, diagonal,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, GROUP_M: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Writes one log-sum-exp per row of the block to row_lse (column blocks, R), per column to column_lse."""
    product, norms, rows, columns, row_block, column_block = _cosines(
        x, y, x_norms, y_norms, row_count, column_count, width, BLOCK_M, BLOCK_N, BLOCK_K, GROUP_M, PRECISION
    )
    counted = (rows < row_count)[:, None] & (columns < column_count)[None, :]
    counted &= columns[None, :] != rows[:, None] + diagonal
    logits = tl.where(counted, product * norms * tl.load(scale), -float("inf"))
    row_place = row_lse + column_block.to(tl.int64) * row_count + rows
    column_place = column_lse + row_block.to(tl.int64) * column_count + columns
    tl.store(row_place, _log_sum_exp(logits, tl.constexpr(1)), mask=rows < row_count)
    tl.store(column_place, _log_sum_exp(logits, tl.constexpr(0)), mask=columns < column_count)


@triton.jit
def coefficients_kernel(
    x, y, x_norms, y_norms, scale, center, row_lse, column_lse, pair, weight, out, moments,
    row_count, column_count, width, diagonal,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, GROUP_M: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Writes G' = (P^row + P^col, or `pair`) r q weight to out (R, C), and Σ G (cosine - center) to moments."""
    product, norms, rows, columns, _, _ = _cosines(
        x, y, x_norms, y_norms, row_count, column_count, width, BLOCK_M, BLOCK_N, BLOCK_K, GROUP_M, PRECISION
    )
    inside = (rows < row_count)[:, None] & (columns < column_count)[None, :]
    row_sums = tl.load(row_lse + rows, mask=rows < row_count, other=0.0)
    column_sums = tl.load(column_lse + columns, mask=columns < column_count, other=0.0)
    pairs = tl.load(pair + rows, mask=rows < row_count, other=0.0)
    cosines = product * norms
    logits = cosines * tl.load(scale)
    g = tl.exp2(logits - row_sums[:, None]) + tl.exp2(logits - column_sums[None, :])
    g = tl.where(columns[None, :] == rows[:, None] + diagonal, pairs[:, None], g)
    tl.store(moments + tl.program_id(0), tl.sum(tl.where(inside, g * (cosines - tl.load(center)), 0.0)))
    place = out + rows.to(tl.int64)[:, None] * column_count + columns[None, :]
    tl.store(place, (g * (norms * tl.load(weight))).to(out.dtype.element_ty), mask=inside)


@triton.jit
def sigmoid_kernel(
    x, y, x_norms, y_norms, scale, bias, weight, out, sums, row_count, column_count, width, diagonal,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, GROUP_M: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Writes G' = ±σ(t) r q weight to out; Σ softplus(t), Σ G cosine and Σ G to sums (blocks, 3). See tiles_torch."""
    product, norms, rows, columns, _, _ = _cosines(
        x, y, x_norms, y_norms, row_count, column_count, width, BLOCK_M, BLOCK_N, BLOCK_K, GROUP_M, PRECISION
    )
    inside = (rows < row_count)[:, None] & (columns < column_count)[None, :]
    matching = columns[None, :] == rows[:, None] + diagonal
    cosines = product * norms
    logits = cosines * tl.load(scale) + tl.load(bias)
    t = tl.where(inside, tl.where(matching, -logits, logits), -float("inf"))
    small = tl.exp2(-tl.abs(t))
    g = tl.where(t >= 0, 1.0, small) / (1.0 + small)
    g = tl.where(matching, -g, g)
    place = sums + tl.program_id(0).to(tl.int64) * 3
    tl.store(place + 1, tl.sum(g * cosines))
    tl.store(place + 2, tl.sum(g))
    # log(1 + small) = 2 artanh(w) as a series, w <= 1/3: right to the last digits however small it is, unlike log2
    w = small / (2.0 + small)
    v = w * w
    series = 1 / 3 + v * (1 / 5 + v * (1 / 7 + v * (1 / 9 + v * (1 / 11 + v * (1 / 13)))))
    tl.store(place, tl.sum(0.6931471805599453 * tl.maximum(t, 0.0) + 2 * w * (1.0 + v * series)))
    place = out + rows.to(tl.int64)[:, None] * column_count + columns[None, :]
    tl.store(place, (g * (norms * tl.load(weight))).to(out.dtype.element_ty), mask=inside)


def choose_blocking(kernel, architecture: str, dtype: torch.dtype) -> Blocking:
    """For an architecture, "sm_90" or "gfx942", and a dtype of the features; `aot.py` checks each choice."""
    if architecture == "interpreter":
        return INTERPRETER_BLOCKING
    blocking = Blocking()
    if architecture.startswith("gfx"):
        blocking = Blocking(num_stages=2)  # 64 KiB of shared memory
    elif architecture in ("sm_86", "sm_89", "sm_120"):
        blocking = Blocking(num_stages=3)  # 99 KiB
    if dtype == torch.float32:  # no tensor cores: twice the threads hold the same product
        blocking = replace(blocking, block_k=32, num_warps=8)
    if kernel is sigmoid_kernel:  # the longest epilogue: the whole width spills registers
        blocking = replace(blocking, block_n=64, num_warps=4)
    return blocking


def tile_shape(features: Tensor, chunk_size: int | None) -> tuple[int, int]:
    """Whole rows, as many as LARGEST_CHUNK holds; the kernels cut them into blocks."""
    count = len(features)
    return chunk_size or max(64, LARGEST_CHUNK // (features.element_size() * count) // 64 * 64), count


def prepare(features: Tensor, normalize: bool) -> Side:
    """The raw features, row after row in memory, and a unit of length that makes the largest norm 64 units."""
    inverse = inverse_norms(features, normalize)
    return Side(features.contiguous(), inverse, inverse.max() / 64)


def unit(block: Side) -> Tensor:
    """The normalised features, (n, D) in float32."""
    return block.features * block.inverse_norms


def restore(rows: Side, columns: Side) -> Tensor:
    """What coefficients @ columns.features must be multiplied with to be the gradient for the rows' raw features."""
    return rows.unit_length * columns.unit_length


def accumulate(total: Tensor, coefficients: Tensor, features: Tensor, first: bool) -> None:
    """See tiles_torch.accumulate; with float32 sums."""
    if features.is_cuda and features.dtype != torch.float32 and torch.version.hip is None:
        product = torch.mm(coefficients, features, out_dtype=torch.float32)
        total.copy_(product) if first else total.add_(product)
    else:  # elsewhere torch has no out_dtype, or needs none
        total.addmm_(coefficients.float(), features.float(), beta=0 if first else 1)


def memory(x: Side, steps: tuple[int, int], keep: bool) -> Tensor:
    """Empty: on a GPU torch gives the memory of one block of rows to the next, and no cosines are kept."""
    return x.features.new_empty(0)


def log_sum_exps(tile: Tile, scale: Tensor) -> tuple[Tensor, Tensor]:
    """See tiles_torch.log_sum_exps; -inf where nothing is left."""
    grid = _grid(log_sum_exp_kernel, tile)
    row_lse = scale.new_empty(grid.column_blocks, len(tile.x.features))
    column_lse = scale.new_empty(grid.row_blocks, len(tile.y.features))
    _launch(log_sum_exp_kernel, grid, tile, scale, row_lse, column_lse)
    return log2_sum_exp2(row_lse), log2_sum_exp2(column_lse)


def coefficients(
    tile: Tile, scale: Tensor, row_lse: Tensor, column_lse: Tensor, pair: Tensor, center: Tensor
) -> tuple[Tensor, ...]:
    """See tiles_torch.coefficients; G' in the features' dtype."""
    return _with_moments(coefficients_kernel, 1, tile, scale, center, row_lse, column_lse, pair)


def sigmoid_coefficients(tile: Tile, scale: Tensor, bias: Tensor) -> tuple[Tensor, ...]:
    """See tiles_torch.sigmoid_coefficients; G' in the features' dtype."""
    return _with_moments(sigmoid_kernel, 3, tile, scale / LN_2, bias / LN_2)


def _with_moments(kernel, moments: int, tile: Tile, *arguments: Tensor) -> tuple[Tensor, ...]:
    """G' of a tile, (R, C), and the sums of what each of its blocks adds up."""
    grid = _grid(kernel, tile)
    x, weight = tile.x.features, 1 / restore(tile.x, tile.y)
    out = x.new_empty(len(x), len(tile.y.features), dtype=torch.float32 if INTERPRETED else x.dtype)
    sums = weight.new_empty(grid.row_blocks * grid.column_blocks, moments)
    _launch(kernel, grid, tile, *arguments, weight, out, sums)
    return out.to(x.dtype), *sums.sum(dim=0)


@functools.cache
def architecture(device: torch.device) -> str:
    """ "sm_90" or "gfx942", for instance; "interpreter" where nothing is compiled."""
    if INTERPRETED:
        return "interpreter"
    if torch.version.hip is not None:
        return torch.cuda.get_device_properties(device).gcnArchName.split(":")[0]
    return "sm_{}{}".format(*torch.cuda.get_device_capability(device))


class Grid(NamedTuple):
    """How a kernel cuts a tile, and how many blocks then lie below and beside each other."""

    blocking: Blocking
    row_blocks: int
    column_blocks: int


def _grid(kernel, tile: Tile) -> Grid:
    x = tile.x.features
    blocking = choose_blocking(kernel, architecture(x.device), x.dtype)
    rows, columns = triton.cdiv(len(x), blocking.block_m), triton.cdiv(len(tile.y.features), blocking.block_n)
    return Grid(blocking, rows, columns)


def _launch(kernel, grid: Grid, tile: Tile, *arguments: Tensor) -> None:
    x, y, blocking = tile.x.features, tile.y.features, grid.blocking
    if INTERPRETED:
        x, y = x.float(), y.float()
    with torch.cuda.device_of(x):  # Triton launches on the current device
        kernel[(grid.row_blocks * grid.column_blocks,)](
            x, y, tile.x.inverse_norms, tile.y.inverse_norms, *arguments, len(x), len(y), x.shape[1], tile.diagonal,
            BLOCK_M=blocking.block_m, BLOCK_N=blocking.block_n, BLOCK_K=blocking.block_k, GROUP_M=blocking.group_m,
            PRECISION="ieee" if torch.get_float32_matmul_precision() == "highest" else "tf32",
            num_warps=blocking.num_warps, num_stages=blocking.num_stages, enable_fp_fusion=True,
        )  # fmt: skip
