"""The checks of lesson 09, Do you need 4096?."""

from typing import Any

import torch
from hypothesis import strategies as st

import minclip
from check.cases import expect_and_differentiate, features
from check.verdict import exercise


@exercise(
    "each softmax runs over the pairs of one group alone, in both directions; all groups count the same.",
    steps=(
        "a group is a batch of its own. Which logits does it need, and which not?",
        "normalise, then .unflatten(0, (-1, group)): a product of two such stacks is (groups, group, group)",
        "in each matrix the right one is on the diagonal, in rows and in columns; then the mean of everything",
    ),
)
def grouped_loss(attempt, draw):
    group, groups, width = (draw(st.integers(1, 3)) for _ in range(3))
    image, text = draw(features(group * groups, width)), draw(features(group * groups, width))
    scale = draw(st.sampled_from([1.0, 3.0, 100.0]))

    def reference(image, text, scale, group):
        each = zip(image.split(group), text.split(group), strict=True)
        return torch.stack([minclip.clip_loss(*one, scale) for one in each]).mean()

    case: dict[str, Any] = {"image_features": image, "text_features": text, "scale": scale, "group": group}
    expect_and_differentiate(attempt, reference, [image, text], scale, group, **case)
