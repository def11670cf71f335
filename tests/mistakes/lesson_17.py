"""Wrong answers to the exercises of lesson 17, The fused loss."""

import torch
import torch.nn.functional as F

from mistakes import Hinted

MISTAKES = {
    "loss_from_others": [
        Hinted(lambda others, pairs: torch.logaddexp(others, pairs) - pairs, "lost digits"),
        Hinted(lambda others, pairs: (1 + (others - pairs).exp()).log(), "lost digits"),
        Hinted(lambda others, pairs: torch.log1p((others - pairs).exp()), "overflows float32"),
        lambda others, pairs: (others - pairs).exp(),
        Hinted(lambda others, pairs: F.softplus(pairs - others), "which one is subtracted"),
        Hinted(lambda others, pairs: -(pairs - torch.logaddexp(others, pairs)), "lost digits"),
        lambda others, pairs: F.relu(others - pairs),
        Hinted(lambda others, pairs: F.softplus(others - pairs).mean(), "no mean"),
        Hinted(lambda others, pairs: -F.sigmoid(pairs - others).log(), "lost digits"),
    ],
    "sums_kernel": [
        Hinted((" & (rows[:, None] != columns[None, :])", ""), "counts in its own sum"),
        Hinted(
            (
                "rows[:, None] != columns[None, :])",
                "tl.arange(0, BLOCK)[:, None] != tl.arange(0, BLOCK)[None, :])",
            ),
            "not in the tile",
        ),
        Hinted(("logits = scale * product_tile", "logits = product_tile"), "no scale yet"),
        Hinted(
            (("tl.exp2(logits", "tl.exp(logits"), ("tl.log2(tl.sum", "tl.log(tl.sum")), "tl.exp2 and tl.log2"
        ),  # in units of 1, not of ln 2
        Hinted(('tl.where(largest == -float("inf"), 0.0, largest)', "largest"), "no logit is left"),
        Hinted(
            (
                "counted = (rows < N)[:, None] & (columns < N)[None, :] & (rows[:, None] != columns[None, :])",
                "counted = rows[:, None] != columns[None, :]",
            ),
            "rows *and* columns",
        ),
        ("counted = (rows < N)[:, None] & (columns < N)[None, :]", "counted = (rows < N)[:, None]"),
        ("counted = (rows < N)[:, None] & (columns < N)[None, :]", "counted = (columns < N)[None, :]"),
        ("tl.constexpr(0)", "tl.constexpr(1)"),
        Hinted(("column_lse + i * N", "column_lse + j * N"), "line i of column_lse"),
        Hinted(("tl.constexpr(0)), mask=columns < N)", "tl.constexpr(0)))"), "condition in the mask"),
        Hinted(("tl.sum(tl.exp2(logits", "tl.sum(tl.exp(logits"), "exp2, not exp"),
        Hinted(("largest = tl.max(logits, axis)", "largest = tl.zeros_like(tl.max(logits, axis))"), "before exp2"),
    ],
    "coefficients_kernel": [
        Hinted(
            ("rows[:, None] == columns[None, :], on", "rows[:, None] - first == columns[None, :], on"),
            "counted from the first row of all",
        ),
        Hinted((" + tl.exp2(scale * cosines - of_columns[None, :])", ""), "over the rows only"),
        Hinted(("of_columns[None, :])", "of_rows[:, None])"), "of the *column*"),
        Hinted(("on_diagonal[:, None], G)", "G - 2.0, G)"), "do not subtract 1"),
        Hinted(("G = tl.where(rows[:, None] == columns[None, :], on_diagonal[:, None], G)", "pass"), "still missing"),
        Hinted(("out + (rows - first)[:, None]", "out + rows[:, None]"), "condition in the mask"),
        Hinted(
            (
                ("        G = tl.where(rows", "        softmax = G\n        G = tl.where(rows"),
                ("G * cosines, 0.0", "softmax * cosines, 0.0"),
            ),
            "on its diagonal here",
        ),
        Hinted(("tl.where(inside, G * cosines, 0.0)", "G * cosines"), "is NaN"),
        Hinted(
            ("tl.where(inside, G * cosines, 0.0)", "tl.where(inside, G * scale * cosines, 0.0)"), "not times the logit"
        ),
        Hinted(
            ("i * tl.num_programs(1) + j", "i * tl.num_programs(0) + j"), "a place in it for each block of *columns*"
        ),
        Hinted(("mask=rows < last, other=0.0)  # (BLOCK,)", ")  # (BLOCK,)"), "condition in the mask"),
    ],
}
