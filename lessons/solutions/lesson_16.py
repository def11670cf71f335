"""Solutions to the exercises of lesson 16, A first Triton kernel."""

import triton
import triton.language as tl


@triton.jit
def add_kernel(x, y, out, N, BLOCK: tl.constexpr):
    places = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)  # (BLOCK,)
    mine = places < N
    total = tl.load(x + places, mask=mine, other=0.0) + tl.load(y + places, mask=mine, other=0.0)
    tl.store(out + places, total, mask=mine)


@triton.jit
def transpose_kernel(x, out, N, D, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr):
    rows = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)  # (BLOCK_N,)
    columns = tl.program_id(1) * BLOCK_D + tl.arange(0, BLOCK_D)  # (BLOCK_D,)
    both = (rows < N)[:, None] & (columns < D)[None, :]  # (BLOCK_N, BLOCK_D)
    tile = tl.load(x + rows[:, None] * D + columns[None, :], mask=both, other=0.0)
    tl.store(out + columns[None, :] * N + rows[:, None], tile, mask=both)


@triton.jit
def squared_lengths_kernel(x, out, N, D, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr):
    rows = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)  # (BLOCK_N,)
    columns = tl.arange(0, BLOCK_D)  # (BLOCK_D,)
    inside = (rows < N)[:, None] & (columns < D)[None, :]  # (BLOCK_N, BLOCK_D)
    tile = tl.load(x + rows[:, None] * D + columns[None, :], mask=inside, other=0.0)  # (BLOCK_N, BLOCK_D)
    tl.store(out + rows, tl.sum(tile * tile, axis=1), mask=rows < N)


@triton.jit
def row_maximum_kernel(x, out, D, BLOCK: tl.constexpr):
    row = tl.program_id(0)
    largest = -float("inf")
    for start in range(0, D, BLOCK):
        columns = start + tl.arange(0, BLOCK)  # (BLOCK,)
        piece = tl.load(x + row * D + columns, mask=columns < D, other=-float("inf"))  # (BLOCK,)
        largest = tl.maximum(largest, tl.max(piece, axis=0))
    tl.store(out + row, largest)


@triton.jit
def log_sum_exp(tile, axis: tl.constexpr):
    """Over one axis of a tile."""
    top = tl.max(tile, axis)
    return top + tl.log(tl.sum(tl.exp(tile - tl.expand_dims(top, axis)), axis))


@triton.jit
def row_lse_kernel(x, out, N, D, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr):
    rows = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)  # (BLOCK_N,)
    columns = tl.arange(0, BLOCK_D)  # (BLOCK_D,)
    real = (rows < N)[:, None] & (columns < D)[None, :]  # (BLOCK_N, BLOCK_D)
    tile = tl.load(x + rows[:, None] * D + columns[None, :], mask=real, other=-float("inf"))
    largest = tl.max(tile, axis=1)  # (BLOCK_N,)
    sums = tl.sum(tl.exp(tile - tl.expand_dims(largest, 1)), axis=1)  # (BLOCK_N,)
    tl.store(out + rows, largest + tl.log(sums), mask=rows < N)


@triton.jit
def tile_lse_kernel(x, row_lse, column_lse, N, M, BLOCK_N: tl.constexpr, BLOCK_M: tl.constexpr):
    i, j = tl.program_id(0), tl.program_id(1)
    rows = i * BLOCK_N + tl.arange(0, BLOCK_N)  # (BLOCK_N,)
    columns = j * BLOCK_M + tl.arange(0, BLOCK_M)  # (BLOCK_M,)
    within = (rows < N)[:, None] & (columns < M)[None, :]  # (BLOCK_N, BLOCK_M)
    tile = tl.load(x + rows[:, None] * M + columns[None, :], mask=within, other=-float("inf"))
    tl.store(row_lse + j * N + rows, log_sum_exp(tile, tl.constexpr(1)), mask=rows < N)
    tl.store(column_lse + i * M + columns, log_sum_exp(tile, tl.constexpr(0)), mask=columns < M)


@triton.jit
def diagonal_kernel(x, out, N, M, BLOCK_N: tl.constexpr, BLOCK_M: tl.constexpr):
    j = tl.program_id(1)
    rows = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)  # (BLOCK_N,)
    columns = j * BLOCK_M + tl.arange(0, BLOCK_M)  # (BLOCK_M,)
    legal = (rows < N)[:, None] & (columns < M)[None, :]  # (BLOCK_N, BLOCK_M)
    tile = tl.load(x + rows[:, None] * M + columns[None, :], mask=legal, other=0.0)
    pairs = tl.sum(tl.where(rows[:, None] == columns[None, :], tile, 0.0), axis=1)  # (BLOCK_N,)
    is_here = (rows >= j * BLOCK_M) & (rows < (j + 1) * BLOCK_M)
    tl.store(out + rows, pairs, mask=(rows < N) & is_here)


@triton.jit
def product_tile(x, y, rows, columns, N, M, D, BLOCK_D: tl.constexpr):
    """x[rows] @ y[columns].T, zero where a row or a column is beyond the edge."""
    tile = tl.zeros((rows.shape[0], columns.shape[0]), dtype=tl.float32)
    for start in range(0, D, BLOCK_D):
        ks = start + tl.arange(0, BLOCK_D)  # (BLOCK_D,)
        a = tl.load(x + rows[:, None] * D + ks[None, :], mask=(rows < N)[:, None] & (ks < D)[None, :], other=0.0)
        b = tl.load(y + columns[None, :] * D + ks[:, None], mask=(columns < M)[None, :] & (ks < D)[:, None], other=0.0)
        tile = tl.dot(a, b, tile, input_precision="ieee")
    return tile


@triton.jit
def product_kernel(x, y, out, N, M, D, BLOCK_N: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_D: tl.constexpr):
    rows = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)  # (BLOCK_N,)
    columns = tl.program_id(1) * BLOCK_M + tl.arange(0, BLOCK_M)  # (BLOCK_M,)
    tile = product_tile(x, y, rows, columns, N, M, D, BLOCK_D)  # (BLOCK_N, BLOCK_M)
    inside = (rows < N)[:, None] & (columns < M)[None, :]
    tl.store(out + rows[:, None] * M + columns[None, :], tile, mask=inside)
