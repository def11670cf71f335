"""Wrong answers to the exercises of lesson 09, Do you need 4096?."""

import minclip
from mistakes import Hinted

MISTAKES = {
    "grouped_loss": [
        Hinted(lambda x, y, scale, group: minclip.clip_loss(x, y, scale), "whole batch"),
        Hinted(lambda x, y, scale, group: minclip.clip_loss(x[:group], y[:group], scale), "first group alone"),
        Hinted(
            lambda x, y, scale, group: sum(map(minclip.clip_loss, x.split(group), y.split(group), [scale] * len(x))),
            "added up",
        ),
        ("(-1, group)", "(group, -1)"),
        Hinted((".unflatten(0, (-1, group))", ".unflatten(0, (group, -1)).transpose(0, 1)"), "every n-th"),
        Hinted(("(of_pictures + of_texts) / 2", "of_pictures"), "one direction"),
        Hinted(("(of_pictures + of_texts) / 2", "((of_pictures + of_texts) / 2).detach()"), "no .detach()"),
        ("F.normalize(image_features, dim=1)", "image_features"),
        ("logits = scale * ", "logits = "),
    ],
}
