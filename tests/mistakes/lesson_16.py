"""Wrong answers to the exercises of lesson 16, A first Triton kernel."""

from mistakes import Hinted

MISTAKES = {
    "squared_lengths_kernel": [
        ("mask=inside", "mask=(rows < N)[:, None]"),  # the next row's columns
        ("mask=inside", "mask=(columns < D)[None, :]"),  # rows behind the matrix
        (", axis=1), mask=rows < N)", ", axis=1))"),  # writes behind the vector
        ("rows[:, None] * D", "rows[:, None] * BLOCK_D"),
        ("tl.sum(tile * tile", "tl.sum(tile"),
        ("mask=inside, other=0.0", "mask=inside"),  # right in the interpreter alone
    ],
    "product_kernel": [
        ("mask=(rows < N)[:, None] & (ks < D)[None, :]", "mask=(rows < N)[:, None]"),
        ("mask=(rows < N)[:, None] & (ks < D)[None, :]", "mask=(ks < D)[None, :]"),
        ("mask=(columns < M)[None, :] & (ks < D)[:, None]", "mask=(ks < D)[:, None]"),
        ("inside = (rows < N)[:, None] & (columns < M)[None, :]", "inside = (rows < N)[:, None]"),
        ("range(0, D, BLOCK_D)", "range(0, BLOCK_D, BLOCK_D)"),  # the first step only
        ("tile = tl.dot(a, b, tile,", "tile = tl.dot(a, b,"),  # the last step only
        ("rows[:, None] * M", "rows[:, None] * N"),
        Hinted(
            ('tile = tl.dot(a, b, tile, input_precision="ieee")', "tile = tl.dot(a, b, tile)"), 'input_precision="ieee"'
        ),  # TF32
        ('tile = tl.dot(a, b, tile, input_precision="ieee")', "tile += tl.dot(a, b)"),
    ],
}
