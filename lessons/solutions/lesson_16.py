import triton
import triton.language as tl


@triton.jit
def squared_lengths_kernel(x, out, N, D, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr):
    rows = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)  # (BLOCK_N,)
    columns = tl.arange(0, BLOCK_D)  # (BLOCK_D,)
    inside = (rows < N)[:, None] & (columns < D)[None, :]  # (BLOCK_N, BLOCK_D)
    tile = tl.load(x + rows[:, None] * D + columns[None, :], mask=inside, other=0.0)  # (BLOCK_N, BLOCK_D)
    tl.store(out + rows, tl.sum(tile * tile, axis=1), mask=rows < N)


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
