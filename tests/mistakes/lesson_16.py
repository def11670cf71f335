"""Wrong answers to the exercises of lesson 16, each with words of the hint that fits it."""

from mistakes import Hinted

EDGE, OTHER, NEVER = "condition in the mask", "choose the `other`", "never written"
LOSES = "subtract the largest"

MISTAKES = {
    "add_kernel": [
        Hinted(("x + places, mask=mine, other=0.0) + tl", "x + places) + tl"), EDGE),
        Hinted(("total, mask=mine)", "total)"), EDGE),
        Hinted(("mine = places < N", "mine = places <= N"), EDGE),
        Hinted(("x + places, mask=mine, other=0.0", "x + places, mask=mine"), OTHER),
        Hinted(("places = tl.program_id(0) * BLOCK + tl.arange", "places = tl.arange"), NEVER),
        Hinted(("places = tl.program_id(0) * BLOCK + tl.arange", "places = tl.program_id(0) + tl.arange"), NEVER),
        Hinted(("mine = places < N", "mine = places < BLOCK"), NEVER),
        ("tl.load(y + places", "tl.load(x + places"),
    ],
    "transpose_kernel": [
        Hinted(
            ("out + columns[None, :] * N + rows[:, None]", "out + rows[:, None] * D + columns[None, :]"), "old order"
        ),
        Hinted(
            (
                "both = (rows < N)[:, None] & (columns < D)[None, :]",
                "both = (rows < N)[:, None] & (columns >= 0)[None, :]",
            ),
            EDGE,
        ),
        Hinted(
            (
                "both = (rows < N)[:, None] & (columns < D)[None, :]",
                "both = (rows >= 0)[:, None] & (columns < D)[None, :]",
            ),
            EDGE,
        ),
        Hinted(("mask=both, other=0.0)\n    tl.store(out + columns", "mask=both)\n    tl.store(out + columns"), OTHER),
        ("out + columns[None, :] * N", "out + columns[None, :] * D"),
        ("out + columns[None, :] * N + rows[:, None]", "out + rows[:, None] * N + columns[None, :]"),
        Hinted(("tile, mask=both)", "tile)"), EDGE),
        ("columns = tl.program_id(1) * BLOCK_D", "columns = tl.program_id(0) * BLOCK_D"),
    ],
    "squared_lengths_kernel": [
        Hinted(("mask=inside", "mask=(rows < N)[:, None]"), EDGE),  # the next row's columns
        Hinted(("mask=inside", "mask=(columns < D)[None, :]"), EDGE),  # rows behind the matrix
        Hinted((", axis=1), mask=rows < N)", ", axis=1))"), EDGE),  # writes behind the vector
        (
            "rows[:, None] * D + columns[None, :], mask=inside",
            "rows[:, None] * BLOCK_D + columns[None, :], mask=inside",
        ),
        Hinted(("tl.sum(tile * tile", "tl.sum(tile"), "not of their squares"),
        Hinted(("mask=inside, other=0.0", "mask=inside"), OTHER),  # right in the interpreter alone
        Hinted(("tl.sum(tile * tile, axis=1)", "tl.sqrt(tl.sum(tile * tile, axis=1))"), "is the length"),
    ],
    "row_maximum_kernel": [
        Hinted(('mask=columns < D, other=-float("inf"))', "mask=columns < D, other=0.0)"), "zero is larger"),
        Hinted(('largest = -float("inf")', "largest = 0.0"), "zero is larger"),
        Hinted(("range(0, D, BLOCK)", "range(0, BLOCK, BLOCK)"), "first piece"),
        Hinted(("tl.maximum(largest, tl.max(piece, axis=0))", "tl.max(piece, axis=0)"), "last piece"),
        Hinted(('mask=columns < D, other=-float("inf"))', ")"), EDGE),
        Hinted(('mask=columns < D, other=-float("inf"))', "mask=columns < D)"), OTHER),
        ("x + row * D + columns", "x + row + columns"),
        ("tl.maximum(largest, tl.max(piece, axis=0))", "tl.maximum(largest, tl.sum(piece, axis=0))"),
    ],
    "row_lse_kernel": [
        ("tl.exp(tile - tl.expand_dims(largest, 1))", "tl.exp(tile)"),
        Hinted((("tile - tl.expand_dims(largest, 1)", "tile"), ("largest + tl.log(sums)", "tl.log(sums)")), LOSES),
        Hinted(('mask=real, other=-float("inf")', "mask=real, other=0.0"), "every masked element counts"),
        Hinted(("largest + tl.log(sums)", "tl.log(sums)"), "added back"),
        Hinted(('mask=real, other=-float("inf")', "mask=real"), OTHER),
        Hinted(("largest + tl.log(sums), mask=rows < N", "largest + tl.log(sums)"), EDGE),
        ("tl.log(sums)", "tl.log2(sums)"),
        Hinted(
            ("real = (rows < N)[:, None] & (columns < D)[None, :]", "real = (rows < N)[:, None] & (columns >= 0)"), EDGE
        ),
    ],
    "tile_lse_kernel": [
        ("column_lse + i * M", "column_lse + j * M"),
        Hinted(
            (
                "log_sum_exp(tile, tl.constexpr(0)), mask=columns",
                "tl.max(tile, 0) + tl.log(tl.sum(tl.exp(tile - tl.max(tile, 1)[:, None]), 0)), mask=columns",
            ),
            "columns from that of the column",
        ),
        ("row_lse + j * N", "row_lse + i * N"),
        Hinted(("row_lse + j * N + rows", "row_lse + rows"), "line j of row_lse"),
        Hinted((("tile - tl.expand_dims(top, axis)", "tile"), ("top + tl.log", "tl.log")), LOSES),
        ("log_sum_exp(tile, tl.constexpr(0)), mask=columns", "tl.max(tile, axis=0), mask=columns"),
        Hinted(('mask=within, other=-float("inf")', "mask=within"), OTHER),
        ('mask=within, other=-float("inf")', "mask=within, other=0.0"),
        Hinted(("tl.constexpr(0)), mask=columns < M)", "tl.constexpr(0)))"), EDGE),
    ],
    "diagonal_kernel": [
        Hinted(("mask=(rows < N) & is_here", "mask=rows < N"), "the last one wins"),
        Hinted(("mask=(rows < N) & is_here", "mask=is_here"), EDGE),
        Hinted(
            ("is_here = (rows >= j * BLOCK_M) & (rows < (j + 1) * BLOCK_M)", "is_here = rows == tl.program_id(1)"),
            NEVER,
        ),
        ("is_here = (rows >= j * BLOCK_M) & (rows < (j + 1) * BLOCK_M)", "is_here = rows // BLOCK_N == j"),
        ("tl.where(rows[:, None] == columns[None, :], tile, 0.0)", "tile"),
        (
            "rows[:, None] == columns[None, :], tile",
            "tl.arange(0, BLOCK_N)[:, None] == tl.arange(0, BLOCK_M)[None, :], tile",
        ),
        ("rows[:, None] * M + columns[None, :], mask=legal", "rows[:, None] * N + columns[None, :], mask=legal"),
        Hinted(("mask=(rows < N) & is_here", "mask=(rows < N) & (pairs != 0.0)"), "not what it is"),
        Hinted(("legal = (rows < N)[:, None] & (columns < M)[None, :]", "legal = (columns < M)[None, :]"), EDGE),
    ],
    "product_kernel": [
        ("mask=(rows < N)[:, None] & (ks < D)[None, :]", "mask=(rows < N)[:, None]"),
        Hinted(("mask=(rows < N)[:, None] & (ks < D)[None, :]", "mask=(ks < D)[None, :]"), EDGE),
        Hinted(("mask=(columns < M)[None, :] & (ks < D)[:, None]", "mask=(ks < D)[:, None]"), EDGE),
        Hinted(
            (
                "inside = (rows < N)[:, None] & (columns < M)[None, :]\n    tl.store(out + rows[:, None] * M",
                "inside = (rows < N)[:, None]\n    tl.store(out + rows[:, None] * M",
            ),
            EDGE,
        ),
        Hinted(("range(0, D, BLOCK_D)", "range(0, BLOCK_D, BLOCK_D)"), "first step only"),
        Hinted(("tile = tl.dot(a, b, tile,", "tile = tl.dot(a, b,"), "last step only"),
        ("out + rows[:, None] * M", "out + rows[:, None] * N"),
        Hinted(
            ('tile = tl.dot(a, b, tile, input_precision="ieee")', "tile = tl.dot(a, b, tile)"), 'input_precision="ieee"'
        ),  # TF32
        Hinted(('tile = tl.dot(a, b, tile, input_precision="ieee")', "tile += tl.dot(a, b)"), 'input_precision="ieee"'),
    ],
}
