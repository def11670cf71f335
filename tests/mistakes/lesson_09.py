"""Wrong answers to the exercises of lesson 09, Do you need 4096?."""

import torch
import torch.nn.functional as F

import minclip
from mistakes import Hinted


def masked_with_zero(image_features, text_features, scale, group):
    """Logits between groups that are 0, and not gone."""
    logits = scale * F.normalize(image_features, dim=1) @ F.normalize(text_features, dim=1).T
    number = torch.arange(len(logits)) // group
    logits = logits.masked_fill(number[:, None] != number, 0.0)
    labels = torch.arange(len(logits))
    return (F.cross_entropy(logits, labels) + F.cross_entropy(logits.T, labels)) / 2


MISTAKES = {
    "grouped_loss": [
        Hinted(lambda x, y, scale, group: minclip.clip_loss(x, y, scale), "whole batch"),
        Hinted(lambda x, y, scale, group: minclip.clip_loss(x[:group], y[:group], scale), "first group alone"),
        Hinted(
            lambda x, y, scale, group: sum(map(minclip.clip_loss, x.split(group), y.split(group), [scale] * len(x))),
            "added up",
        ),
        ("(-1, group)", "(group, -1)"),
        Hinted(
            lambda x, y, scale, group: (
                sum(map(minclip.clip_loss, x.chunk(group), y.chunk(group), [scale] * group)) / group
            ),
            "not how many groups",
        ),
        Hinted((".unflatten(0, (-1, group))", ".unflatten(0, (group, -1)).transpose(0, 1)"), "every n-th"),
        Hinted(("(of_pictures + of_texts) / 2", "of_pictures"), "one direction"),
        Hinted(("(of_pictures + of_texts) / 2", "((of_pictures + of_texts) / 2).detach()"), "no .detach()"),
        ("F.normalize(image_features, dim=1)", "image_features"),
        Hinted(
            (
                ("F.normalize(image_features, dim=1)", "image_features"),
                ("F.normalize(text_features, dim=1)", "text_features"),
            ),
            "normalise them first",
        ),
        Hinted(masked_with_zero, "e⁰ = 1"),
        ("logits = scale * ", "logits = "),
    ],
}
