"""Wrong answers to the exercises of lesson 17, The fused loss."""

import torch
import torch.nn.functional as F

from mistakes import Hinted

MISTAKES = {
    "loss_from_others": [
        lambda others, pairs: torch.logaddexp(others, pairs) - pairs,  # small losses are lost
        lambda others, pairs: (1 + (others - pairs).exp()).log(),  # these, and large ones overflow
        lambda others, pairs: (others - pairs).exp(),
        lambda others, pairs: F.softplus(pairs - others),  # the sign
        lambda others, pairs: -(pairs - torch.logaddexp(others, pairs)),
        lambda others, pairs: F.relu(others - pairs),
        lambda others, pairs: torch.log1p((others - pairs).exp()).mean(),
        lambda others, pairs: -F.sigmoid(pairs - others).log(),
    ],
    "sums_kernel": [
        (" & (rows[:, None] != columns[None, :])", ""),  # the pair kept
        ('tl.where(largest == -float("inf"), 0.0, largest)', "largest"),
        ("counted = (rows < N)[:, None] & (columns < N)[None, :]", "counted = (rows < N)[:, None]"),
        ("counted = (rows < N)[:, None] & (columns < N)[None, :]", "counted = (columns < N)[None, :]"),
        ("tl.constexpr(0)", "tl.constexpr(1)"),
        ("column_lse + i * N", "column_lse + j * N"),
        ("tl.constexpr(0)), mask=columns < N)", "tl.constexpr(0)))"),
        ("tl.sum(tl.exp2(logits", "tl.sum(tl.exp(logits"),
        ("largest = tl.max(logits, axis)", "largest = tl.zeros_like(tl.max(logits, axis))"),  # overflows
    ],
    "coefficients_kernel": [
        ("rows[:, None] == columns[None, :], on", "rows[:, None] - first == columns[None, :], on"),
        (" + tl.exp2(scale * cosines - of_columns[None, :])", ""),
        ("of_columns[None, :])", "of_rows[:, None])"),
        ("on_diagonal[:, None], G)", "G - 2.0, G)"),
        ("out + (rows - first)[:, None]", "out + rows[:, None]"),
        ("tl.where(inside, G * cosines, 0.0)", "G * cosines"),
        ("tl.where(inside, G * cosines, 0.0)", "tl.where(inside, G * scale * cosines, 0.0)"),
        Hinted(
            ("i * tl.num_programs(1) + j", "i * tl.num_programs(0) + j"), "a place in it for each block of *columns*"
        ),
        ("mask=rows < last, other=0.0)  # (BLOCK,)", "other=0.0)  # (BLOCK,)"),
    ],
}
