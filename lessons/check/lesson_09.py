"""The checks of lesson 09, Do you need 4096?"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from hypothesis import strategies as st
from torch import Tensor

import minclip
from check.cases import cross_entropy, expect_and_differentiate, features
from check.verdict import Wrong, exercise


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
    case: dict[str, Any] = {"image_features": image, "text_features": text, "scale": scale, "group": group}
    try:
        expect_and_differentiate(attempt, _loss_of_groups, [image, text], scale, group, **case)
    except Wrong as wrong:
        raise Wrong(str(wrong), _why_no_grouped_loss(attempt) or wrong.hint) from None


def _loss_of_groups(image: Tensor, text: Tensor, scale: float, group: int) -> Tensor:
    each = zip(image.split(group), text.split(group), strict=True)
    return torch.stack([minclip.clip_loss(*one, scale) for one in each]).mean()


def _why_no_grouped_loss(attempt: Callable[..., Any]) -> str:
    """A hint for the mistake that leads to the attempt's loss of a batch in which each mistake gives another number."""
    image = torch.tensor([[1.0, 2.0], [3.0, -1.0], [0.5, 1.0], [-2.0, 1.0], [1.0, -4.0], [-1.0, -1.0]])
    text = torch.tensor([[2.0, 1.0], [1.0, 1.0], [-1.0, 3.0], [1.0, -2.0], [-3.0, 1.0], [0.5, 4.0]])
    scale, group, groups = 2.0, 2, 3
    logits = scale * F.normalize(image, dim=1) @ F.normalize(text, dim=1).T
    raw = scale * image @ text.T
    apart = torch.arange(6)[:, None] // group != torch.arange(6) // group  # (6, 6), pairs of different groups
    places = [range(first, first + group) for first in range(0, 6, group)]
    every_third = [range(first, 6, groups) for first in range(groups)]

    def mean_of(matrix: Tensor, groups: list[range], directions: int = 2) -> Tensor:
        each = [matrix[list(group)][:, list(group)] for group in groups]
        ways = [[cross_entropy(one), cross_entropy(one.T)][:directions] for one in each]
        return torch.stack([torch.stack(way).mean() for way in ways]).mean()

    causes = {
        "the groups are added up: take their mean, so that the step stays as large with any group size": groups
        * mean_of(logits, places),
        "each picture competes with the whole batch: cut it into groups first": mean_of(logits, [range(6)]),
        "that is the first group alone: all groups count": mean_of(logits, places[:1]),
        "a group is `group` pairs that stand one after another, not every n-th pair of the batch": mean_of(
            logits, every_third
        ),
        "`group` is how many pairs are in a group, not how many groups there are": mean_of(
            logits, [range(3), range(3, 6)]
        ),
        "one direction is missing: each text also chooses among the pictures of its group": mean_of(logits, places, 1),
        "a logit of 0 still counts in a softmax, because e⁰ = 1: cut the groups apart, or fill with −inf": mean_of(
            logits.masked_fill(apart, 0.0), [range(6)]
        ),
        "the features come with any length: normalise them first": mean_of(raw, places),
    }
    found = attempt(image, text, scale, group)
    if not isinstance(found, Tensor) or found.numel() != 1:
        return ""
    return next((hint for hint, cause in causes.items() if torch.isclose(found, cause, rtol=1e-4, atol=1e-5)), "")
