"""The checks of lesson 09, Do you need 4096?"""

from typing import Any

import torch
import torch.nn.functional as F
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

    def one_way(image, text):
        logits = scale * F.normalize(image, dim=1) @ F.normalize(text, dim=1).T
        return F.cross_entropy(logits, torch.arange(len(logits)))

    right = reference(image, text, scale, group)
    suspects = {
        "the groups are added up: take their mean, so that the step stays as large with any group size": right * groups,
        "each picture competes with the whole batch: cut it into groups first": minclip.clip_loss(image, text, scale),
        "that is the first group alone: all groups count": minclip.clip_loss(image[:group], text[:group], scale),
        "a group is `group` pairs that stand one after another, not every n-th pair of the batch": torch.stack(
            [minclip.clip_loss(image[i::groups], text[i::groups], scale) for i in range(groups)]
        ).mean(),
        "`group` is how many pairs are in a group, not how many groups there are": torch.stack(
            [minclip.clip_loss(*one, scale) for one in zip(image.chunk(group), text.chunk(group), strict=True)]
        ).mean(),
        "one direction is missing: each text also chooses among the pictures of its group": torch.stack(
            [one_way(*one) for one in zip(image.split(group), text.split(group), strict=True)]
        ).mean(),
    }
    case: dict[str, Any] = {"image_features": image, "text_features": text, "scale": scale, "group": group}
    expect_and_differentiate(attempt, reference, [image, text], scale, group, suspects=suspects, **case)
