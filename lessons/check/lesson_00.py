"""The checks of lesson 00, Two towers in a minute."""

import torch
import torch.nn.functional as F
from hypothesis import strategies as st
from torch import Tensor

from check.cases import expect, features
from check.verdict import exercise


@exercise(
    "a feature must not win just by being long: which rows of which tensors have to be brought to length 1?",
    steps=(
        "which number says how well a picture and a label fit? You need it for every picture and every label",
        "bring every row of both tensors to length 1 (F.normalize with dim=1); one product gives all cosines, (P, C)",
        "row p of that matrix belongs to picture p: .argmax(dim=1) is the index of its largest cosine",
    ),
)
def nearest_label(attempt, draw):
    width = draw(st.integers(1, 3))
    images, labels = draw(features(width=width)), draw(features(width=width))
    cosine = F.normalize(images, dim=1) @ F.normalize(labels, dim=1).T  # (P, C)
    best = cosine.argmax(dim=1)  # (P,)
    got = attempt(images, labels)
    if isinstance(got, Tensor) and got.shape == best.shape and got.dtype == torch.int64:
        inside = got.clamp(0, len(labels) - 1)
        if torch.equal(got, inside) and (cosine.gather(1, got[:, None])[:, 0] > cosine.amax(dim=1) - 1e-5).all():
            return  # of labels that are equally near, either is right
    suspects = {  # where a small case fits several of them, the commonest mistake comes first
        "the labels still have their lengths: a long one wins just by being long": (images @ labels.T).argmax(dim=1),
        "these are the cosines themselves: which label has the largest one in its row?": cosine,
        "that is the largest cosine of each picture: return the index of its label": cosine.amax(dim=1),
        "the shape is (P,): .argmax without keepdim": best[:, None],
        "that is the nearest picture of each label: along which axis do the labels of one picture lie?": cosine.argmax(
            0
        ),
        "that is the smallest distance, which depends on lengths: compare directions": torch.cdist(
            images, labels
        ).argmin(dim=1),
        "argmin finds the label that fits worst: a larger cosine is nearer": cosine.argmin(dim=1),
    }
    expect(got, best, suspects=suspects, image_features=images, label_features=labels)
