"""The checks of lesson 16, A first Triton kernel."""

from typing import Any

import torch
from hypothesis import strategies as st

from check.cases import expect
from check.interpreter import fenced, launch, numbers
from check.verdict import exercise


@exercise("the load ends at N and at D, the store at N; what can stand elsewhere and add nothing?", cases=20)
def squared_lengths_kernel(attempt, draw):
    rows, width = draw(st.integers(1, 9)), draw(st.integers(1, 9))
    x, out = numbers(draw, rows, width), fenced(torch.full((rows,), torch.nan))
    launch(attempt, (-(-rows // 4),), x, out, rows, width, BLOCK_N=4, BLOCK_D=16)
    expect(out, (x * x).sum(dim=1), N=rows, D=width, BLOCK_N=4, BLOCK_D=16, x=x)


@exercise("the rows of x end at N, the rows of y at M, the features of both at D; the store has N and M.", cases=15)
def product_kernel(attempt, draw):
    rows, columns, width = draw(st.integers(1, 9)), draw(st.integers(1, 9)), draw(st.integers(1, 9))
    x, y, out = (
        numbers(draw, rows, width),
        numbers(draw, columns, width),
        fenced(torch.full((rows, columns), torch.nan)),
    )
    blocks: dict[str, Any] = {"BLOCK_N": 4, "BLOCK_M": 8, "BLOCK_D": 4}
    launch(attempt, (-(-rows // 4), -(-columns // 8)), x, y, out, rows, columns, width, **blocks)
    expect(out, x @ y.T, N=rows, M=columns, D=width, **blocks, x=x, y=y)
