"""The checks of lesson 02, arange or identity?."""

import torch
import torch.nn.functional as F

from check.cases import cross_entropy, expect, expect_and_differentiate, pairs_of_features
from check.verdict import exercise


@exercise(
    "multiply entry by entry, not as matrices; the softmax runs along a row; the mean is over N rows, not N² entries.",
)
def onehot_loss(attempt, draw):
    image, text = pairs_of_features(draw)
    logits = image @ text.T
    expect_and_differentiate(attempt, cross_entropy, [logits], logits=logits)


@exercise("a label is the place of the one in its row, so the labels of the identity are 0, 1, … N-1.")
def arange_loss(attempt, draw):
    image, text = pairs_of_features(draw)
    logits = image @ text.T
    expect_and_differentiate(attempt, lambda z: -z.log_softmax(dim=1).diagonal().mean(), [logits], logits=logits)


@exercise("each half is softmax minus one-hot; then think of the mean over N and of the half.")
def logit_gradient(attempt, draw):
    image, text = pairs_of_features(draw)
    logits = (image @ text.T).requires_grad_()
    labels = torch.arange(len(logits))
    ((F.cross_entropy(logits, labels) + F.cross_entropy(logits.T, labels)) / 2).backward()
    expect(attempt(logits.detach()), logits.grad, logits=logits)
